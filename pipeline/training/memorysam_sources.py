"""Where multimodal training scenes come from: generated streets, and folders in DELIVER's layout."""

# Axes: y x an image as stored.

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PilImage
from PIL import UnidentifiedImageError

from pipeline.errors import ConfigError, DecodeError
from pipeline.models.memorysam_input import ModalityImage
from pipeline.synth.street import sample_street
from pipeline.synth.street_config import StreetConfig, street_config
from pipeline.synth.world import Split
from pipeline.ticks import RGB, Image
from pipeline.training.memorysam_losses import IGNORED_LABEL

Labels = NDArray[np.uint8]

DELIVER_FOLDERS = {
    RGB: ("img", "_rgb"),
    "hha": ("hha", "_depth"),
    "depth": ("depth", "_depth"),
    "lidar": ("lidar", "_lidar"),
    "event": ("event", "_event"),
}
"""Modality to folder and mark in the file names of DELIVER. Its own loader calls "hha" the depth modality."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MultimodalSample:
    """One scene.

    Attributes:
        sample_id: names data set, scene and frame, for error messages.
        images: modality to uint8 or float32 (y, x, 3), all of one size.
        labels: (y, x), class ids, IGNORED_LABEL where unknown.
    """

    sample_id: str
    images: Mapping[str, ModalityImage]
    labels: Labels

    def __post_init__(self) -> None:
        sizes = {name: image.shape for name, image in self.images.items()}
        if any(shape != (*self.labels.shape, 3) for shape in sizes.values()):
            raise ValueError(f"{self.sample_id}: labels {self.labels.shape}, images {sizes}; expected one size.")


class MultimodalSource(Protocol):
    """A data set as a function from an item's number to a scene."""

    @property
    def num_items(self) -> int | None:
        """Items of one epoch; None for a source without end."""
        ...

    def draw(self, item: int, modalities: Sequence[str]) -> MultimodalSample:
        """The item's scene at its own size with these modalities.

        Raises:
            ConfigError: the source has no such modality.
            DecodeError: a picture cannot be read.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class StreetSource:
    """Scenes of the procedural streets; item i is the first frame of street i.

    Attributes:
        num_streets: an epoch of this many, which come again and again; None never repeats one.
    """

    config: StreetConfig
    seed: int
    split: Split = "train"
    num_streets: int | None = None

    @property
    def num_items(self) -> int | None:
        return self.num_streets

    def draw(self, item: int, modalities: Sequence[str]) -> MultimodalSample:
        beside_rgb = tuple(name for name in modalities if name != RGB)
        try:
            config = self.config.derive(num_frames=1, modalities=beside_rgb)
        except ValueError as error:
            raise ConfigError(f"modalities {list(modalities)} of generated streets: {error}") from error
        street = sample_street(config, self.seed, self.split, item % (1 << 32))
        frame = street.frames[0]
        drawn: dict[str, Image] = {RGB: frame.rgb, **{str(name): image for name, image in frame.modalities.items()}}
        images = {name: drawn[name] for name in modalities}
        return MultimodalSample(sample_id=street.video_id, images=images, labels=frame.labels)


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
        unknown = [name for name in modalities if name not in DELIVER_FOLDERS]
        if unknown:
            raise ConfigError(f"modalities {unknown}: DELIVER has {', '.join(DELIVER_FOLDERS)}.")
        file = self._files[item]
        raw = _read_picture(self._path(file, "semantic", "_semantic"))
        labels = (raw[..., 0] if raw.ndim == 3 else raw).astype(np.uint8)
        # 0 and 255 both become 255.
        labels = (np.where(labels == IGNORED_LABEL, 0, labels) - 1).astype(np.uint8)
        known = labels[labels != IGNORED_LABEL]
        if known.size and int(known.max()) >= self._num_classes:
            raise DecodeError(
                f"{file}: class {int(known.max())} (stored as {int(known.max()) + 1}); the model has "
                f"{self._num_classes} classes. Train an architecture with as many as the data set."
            )
        images = {
            name: _three_channels(_read_picture(self._path(file, *DELIVER_FOLDERS[name])), labels.shape)
            for name in modalities
        }
        return MultimodalSample(sample_id=f"deliver:{file}", images=images, labels=labels)

    def _path(self, file: Path, folder: str, mark: str) -> Path:
        # The mark is replaced in the file's own name, never in the folders above it.
        return self._root / folder / file.parent / file.name.replace("_rgb", mark)


def open_source(data: str, *, seed: int, num_classes: int) -> MultimodalSource:
    """A source by name: `streets[:PRESET]` or `deliver:ROOT`.

    Raises:
        ConfigError: no such source, preset or layout.
    """
    kind, _, place = data.partition(":")
    if kind == "streets":
        try:
            return StreetSource(config=street_config(place or "street_modal"), seed=seed)
        except ValueError as error:
            raise ConfigError(f"data {data!r}: {error}") from error
    if kind == "deliver" and place:
        return DeliverFolder(Path(place), split="train", num_classes=num_classes)
    raise ConfigError(f"data {data!r}: expected streets[:PRESET] or deliver:ROOT.")


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
        raise DecodeError(f"{file}: {pixels.dtype} pixels; expected 8 bits a channel, as DELIVER stores them.")
    return pixels
