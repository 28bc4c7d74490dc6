"""Videos with a class id for every pixel, to train semantic segmentation on: generated streets, and VSPW's layout."""

# Axes: T frames, H W pixels.

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PilImage
from PIL import UnidentifiedImageError

from pipeline.errors import ConfigError, DecodeError
from pipeline.io.vspw_layout import CLASS_NUMBERS
from pipeline.synth.street import iter_street_frames, sample_street
from pipeline.synth.street_config import StreetConfig, street_config
from pipeline.synth.street_world import STREET_CLASSES
from pipeline.synth.world import Split
from pipeline.ticks import Image

VOID = 255
"""Label of pixels that nobody knows."""

Labels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledFrame:
    """One picture and its class ids, VOID where unknown, both (H, W); `name` is for messages."""

    name: str
    rgb: Image
    labels: Labels

    def __post_init__(self) -> None:
        if self.rgb.shape != (*self.labels.shape, 3):
            raise DecodeError(f"{self.name}: picture {self.rgb.shape}, labels {self.labels.shape}; expected one size.")


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledVideo:
    """Frames in order, all of one size."""

    video_id: str
    frames: tuple[LabelledFrame, ...]


class SemanticSource(Protocol):
    """A data set as a function from a number to a video, or to a single frame."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """Name per class id."""
        ...

    @property
    def num_videos(self) -> int | None:
        """None for a source without end."""
        ...

    def video(self, number: int) -> LabelledVideo:
        """A whole video.

        Raises:
            DecodeError: a picture cannot be read, or holds a class that the data set does not name.
        """
        ...

    def frame(self, number: int) -> LabelledFrame:
        """A single frame; consecutive numbers are of different videos. Raises as `video` does."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class StreetVideos:
    """Streets of the procedural world; video i is street i, and frame i its first frame."""

    config: StreetConfig
    seed: int
    split: Split = "train"

    @property
    def class_names(self) -> tuple[str, ...]:
        return STREET_CLASSES

    @property
    def num_videos(self) -> None:
        return None

    def video(self, number: int) -> LabelledVideo:
        street = sample_street(self.config, self.seed, self.split, number)
        frames = tuple(
            LabelledFrame(name=f"{street.video_id} frame {frame.frame_index}", rgb=frame.rgb, labels=frame.labels)
            for frame in street.frames
        )
        return LabelledVideo(video_id=street.video_id, frames=frames)

    def frame(self, number: int) -> LabelledFrame:
        first = next(iter_street_frames(self.config, self.seed, self.split, number))
        return LabelledFrame(name=f"street {number} frame 0", rgb=first.rgb, labels=first.labels)


class VspwFolder:
    """`ROOT/{<split>.txt, label_num_dic_final.json, data/<video>/{origin/*.jpg, mask/*.png}}`.

    Source: Miao et al., VSPW, CVPR 2021, as the published copy is laid out: a mask holds class id + 1; 0, 254 and 255
    are void.

    Raises:
        ConfigError: the layout is not there.
    """

    def __init__(self, root: Path, *, split: str = "train") -> None:
        self._root = root
        self.class_names = _vspw_classes(root)
        listed = root / f"{split}.txt"
        if not listed.is_file():
            raise ConfigError(f"{root}: no {split}.txt; expected VSPW's layout. Name the folder that holds data/.")
        self._videos = listed.read_text(encoding="utf-8").split()
        self._pictures = [sorted((root / "data" / video / "origin").glob("*.jpg")) for video in self._videos]
        empty = [video for video, files in zip(self._videos, self._pictures, strict=True) if not files]
        if empty or not self._videos:
            raise ConfigError(f"{listed}: {len(self._videos)} videos, without pictures in data/<video>/origin: {empty}")

    @property
    def num_videos(self) -> int:
        return len(self._videos)

    def video(self, number: int) -> LabelledVideo:
        place = number % len(self._videos)
        frames = tuple(self._read(picture) for picture in self._pictures[place])
        return LabelledVideo(video_id=self._videos[place], frames=frames)

    def frame(self, number: int) -> LabelledFrame:
        pictures = self._pictures[number % len(self._videos)]
        return self._read(pictures[number // len(self._videos) % len(pictures)])

    def _read(self, picture: Path) -> LabelledFrame:
        raw = _read_picture(picture.parent.parent / "mask" / f"{picture.stem}.png")
        labels = np.where((raw == 0) | (raw >= 254), VOID, raw - np.uint8(1)).astype(np.uint8)
        known = labels[labels != VOID]
        if known.size and int(known.max()) >= len(self.class_names):
            raise DecodeError(f"{picture}: class {int(known.max())}; {CLASS_NUMBERS} names {len(self.class_names)}.")
        return LabelledFrame(name=str(picture), rgb=_read_picture(picture, mode="RGB"), labels=labels)


def open_source(data: str, *, seed: int) -> SemanticSource:
    """A source by name: `streets[:PRESET]` or `vspw:ROOT`.

    Raises:
        ConfigError: no such source, preset or layout.
    """
    kind, _, place = data.partition(":")
    if kind == "streets":
        try:
            return StreetVideos(config=street_config(place or "street_train"), seed=seed)
        except ValueError as error:
            raise ConfigError(f"data {data!r}: {error}") from error
    if kind == "vspw" and place:
        return VspwFolder(Path(place))
    raise ConfigError(f"data {data!r}: expected streets[:PRESET] or vspw:ROOT.")


def _vspw_classes(root: Path) -> tuple[str, ...]:
    file = root / CLASS_NUMBERS
    try:
        numbers = json.loads(file.read_text(encoding="utf-8"))
        named = {int(number): str(name) for name, number in numbers.items() if 0 < int(number) < 254}
    except (OSError, ValueError, AttributeError) as error:
        raise ConfigError(f"{file}: cannot be read as names with numbers: {error}. Expected VSPW's layout.") from error
    if sorted(named) != list(range(1, len(named) + 1)):
        raise ConfigError(f"{file}: numbers {sorted(named)[:5]}...; expected 1 to the number of classes, without gaps.")
    return tuple(named[number] for number in sorted(named))


def _read_picture(file: Path, *, mode: str | None = None) -> NDArray[np.uint8]:
    try:
        with PilImage.open(file) as picture:
            pixels = np.asarray(picture if mode is None else picture.convert(mode))
    except (OSError, UnidentifiedImageError) as error:
        raise DecodeError(f"{file}: cannot be read as a picture: {error}") from error
    if pixels.dtype != np.uint8 or pixels.ndim != (2 if mode is None else 3):
        raise DecodeError(f"{file}: {pixels.dtype} {pixels.shape}; expected 8 bits per pixel and channel.")
    return pixels
