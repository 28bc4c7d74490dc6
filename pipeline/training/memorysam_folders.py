"""Multimodal training scenes from folders in DELIVER's and MCubeS' layouts, as their loaders read them."""

# Axes: y x an image as stored.

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Literal, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PilImage
from PIL import UnidentifiedImageError

from pipeline.decode.frame_folder import read_values
from pipeline.decode.npy_frames import NpyFrames
from pipeline.errors import ConfigError, DecodeError
from pipeline.io.importers.mcubes import MCUBES_FILES, MCUBES_LABELS, MCUBES_LEFT_PX, MCUBES_LISTS
from pipeline.io.importers.scenes import listed_names
from pipeline.io.storage import open_store
from pipeline.models.memorysam_input import ModalityImage
from pipeline.ticks import RGB, Image
from pipeline.training.memorysam_losses import IGNORED_LABEL
from pipeline.training.memorysam_scenes import Labels, MultimodalSample

DELIVER_FOLDERS = {
    RGB: ("img", "_rgb"),
    "hha": ("hha", "_depth"),
    "depth": ("depth", "_depth"),
    "lidar": ("lidar", "_lidar"),
    "event": ("event", "_event"),
}
"""Modality to folder and mark in the file names of DELIVER. Its own loader calls "hha" the depth modality."""


class DeliverFolder:
    """`ROOT/{img,hha,depth,lidar,event,semantic}/<condition>/<split>/<map>/*_{rgb,depth,lidar,event,semantic}*.png`.

    Source: Zhang et al., DELIVER, CVPR 2023, as its loader reads it: labels in channel 0, 0 and 255 unknown, the rest
    less one; four channels cut to three, one repeated; other sensors resized to RGB's size, nearest.

    Args:
        split: "train", "val" or "test".
        num_classes: labels beyond it are refused.

    Raises:
        ConfigError: the layout is not there.
    """

    def __init__(self, root: Path, *, split: str, num_classes: int) -> None:
        self._root, self._num_classes = root, num_classes
        self._files = sorted(file.relative_to(root / "img") for file in (root / "img").glob(f"*/{split}/*/*_rgb*.png"))
        if not self._files:
            raise ConfigError(
                f"{root}: no img/<condition>/{split}/<map>/*_rgb*.png; expected DELIVER's layout. "
                "Name the folder that holds img, hha, event, lidar and semantic."
            )

    @property
    def num_items(self) -> int:
        return len(self._files)

    def draw(self, item: int, modalities: Sequence[str]) -> MultimodalSample:
        _refuse_other_modalities(modalities, DELIVER_FOLDERS, dataset="DELIVER")
        file = self._files[item]
        labels = _first_channel(_read_picture(self._path(file, "semantic", "_semantic")))
        # 0 and 255 both become 255.
        labels = (np.where(labels == IGNORED_LABEL, 0, labels) - 1).astype(np.uint8)
        _refuse_other_classes(labels, self._num_classes, where=f"{file}", stored_more=1)
        images = {
            name: _three_channels(_read_picture(self._path(file, *DELIVER_FOLDERS[name])), labels.shape)
            for name in modalities
        }
        return MultimodalSample(sample_id=f"deliver:{file}", images=images, labels=labels)

    def _path(self, file: Path, folder: str, mark: str) -> Path:
        # The mark is replaced in the file's own name, never in the folders above it.
        return self._root / folder / file.parent / file.name.replace("_rgb", mark)


class McubesFolder:
    """`ROOT/{polL_color,NIR_warped,GT}/*.png`, `ROOT/{polL_aolp_sin,polL_aolp_cos,polL_dolp}/*.npy`, lists of names.

    Source: Liang et al., MCubeS, CVPR 2022, as the loader of DELIVER's code reads it: the left columns are cut off, the
    angle of polarisation is sine, cosine, sine, one channel is repeated, 16 bits of grey and stored floats come as
    floats; labels as stored, 255 unknown. Of colour in 16 bits the upper 8 are read, as bundles of the job are.

    Args:
        split: "train", or "val" and "test", which are one list.
        num_classes: labels beyond it are refused.

    Raises:
        ConfigError, ManifestError: the layout is not there.
    """

    def __init__(self, root: Path, *, split: Literal["train", "val", "test"], num_classes: int) -> None:
        self._root, self._num_classes = root, num_classes
        list_file = f"list_folder/{MCUBES_LISTS[split]}"
        self._names = listed_names(open_store(str(root)), list_file)
        if not self._names:
            raise ConfigError(f"{root / list_file}: names no scene. Expected a name a line, as in MCubeS.")

    @property
    def num_items(self) -> int:
        return len(self._names)

    def draw(self, item: int, modalities: Sequence[str]) -> MultimodalSample:
        _refuse_other_modalities(modalities, MCUBES_FILES, dataset="MCubeS")
        name = self._names[item]
        label_file = self._root / MCUBES_LABELS.format(name)
        labels = _first_channel(_read_picture(label_file))
        _refuse_other_classes(labels, self._num_classes, where=f"{label_file}")
        if labels.shape[1] <= MCUBES_LEFT_PX:
            raise DecodeError(f"{label_file}: {labels.shape[1]} columns; the {MCUBES_LEFT_PX} on the left are cut off.")
        images = {modality: self._image(modality, name, labels.shape) for modality in modalities}
        return MultimodalSample(
            sample_id=f"mcubes:{name}",
            images={modality: image[:, MCUBES_LEFT_PX:].copy() for modality, image in images.items()},
            labels=labels[:, MCUBES_LEFT_PX:].copy(),
        )

    def _image(self, modality: str, name: str, size: tuple[int, ...]) -> ModalityImage:
        files = [self._root / template.format(name) for template in MCUBES_FILES[modality]]
        parts = [_read_values(file) for file in files]
        for file, part in zip(files, parts, strict=True):
            if part.shape[:2] != size:
                raise DecodeError(
                    f"{file}: {part.shape[:2]} (height, width); its labels are {size}. Expected one size."
                )
        if len(parts) == 1:
            return parts[0]
        return cast(ModalityImage, np.stack([part[..., 0] for part in parts], axis=-1))


def _read_values(file: Path) -> ModalityImage:
    """A picture or a `.npy` of one, three channels.

    Raises:
        DecodeError: it cannot be read, or holds what is no number.
    """
    if file.suffix != ".npy":
        return read_values(file)
    image = NpyFrames(file, name=str(file)).read(0)
    if not np.isfinite(image).all():
        raise DecodeError(f"{file}: {1 - float(np.isfinite(image).mean()):.1%} of the values are NaN or infinite.")
    return image


def _first_channel(picture: NDArray[np.uint8]) -> Labels:
    return picture[..., 0] if picture.ndim == 3 else picture


def _refuse_other_modalities(modalities: Sequence[str], known: Collection[str], *, dataset: str) -> None:
    unknown = [name for name in modalities if name not in known]
    if unknown:
        raise ConfigError(f"modalities {unknown}: {dataset} has {', '.join(known)}.")


def _refuse_other_classes(labels: Labels, num_classes: int, *, where: str, stored_more: int = 0) -> None:
    known = labels[labels != IGNORED_LABEL]
    if known.size and int(known.max()) >= num_classes:
        raise DecodeError(
            f"{where}: class {int(known.max())} (stored as {int(known.max()) + stored_more}); the model has "
            f"{num_classes} classes. Train an architecture with as many as the data set."
        )


def _three_channels(picture: NDArray[np.uint8], size: tuple[int, ...]) -> Image:
    picture = np.repeat(picture[..., None], 3, axis=-1) if picture.ndim == 2 else picture[..., :3]
    if picture.shape[:2] == size:
        return np.ascontiguousarray(picture)
    resized = PilImage.fromarray(np.ascontiguousarray(picture)).resize((size[1], size[0]), PilImage.Resampling.NEAREST)
    return np.asarray(resized)


def _read_picture(file: Path) -> NDArray[np.uint8]:
    try:
        with PilImage.open(file) as picture:
            pixels = np.asarray(picture)
    except (OSError, UnidentifiedImageError) as error:
        raise DecodeError(f"{file}: cannot be read as a picture: {error}") from error
    if pixels.dtype != np.uint8:
        raise DecodeError(f"{file}: {pixels.dtype} pixels; expected 8 bits a channel.")
    return pixels
