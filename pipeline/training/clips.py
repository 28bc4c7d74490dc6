"""Training samples: sources that give a sample per item, an endless order of items, and batches padded alike."""

# Axes: B clips, T frames, y x a decoded frame, h w the same frame resized, H W the largest of a batch, L tokens.

import functools
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as PilImage
from torch import Tensor

from pipeline.errors import DecodeError
from pipeline.models.letterbox import MEAN, STD
from pipeline.models.tokenizers import normalize_expression
from pipeline.ticks import Image, Mask

MAX_DRAWS = 100
"""Items tried for one place of a batch before the source counts as showing nothing."""

_ORDER_STREAM, _DRAW_STREAM = range(2)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSample:
    """One clip, one expression, and what it refers to.

    Attributes:
        sample_id: names data set, video, expression and frames, for error messages.
        frames: uint8 (T, h, w, 3), RGB.
        masks: bool (T, h, w): the union of all objects that the expression refers to.
        expression: lower case, single spaces.
    """

    sample_id: str
    frames: NDArray[np.uint8]
    masks: Mask
    expression: str

    def __post_init__(self) -> None:
        if self.frames.shape[:3] != self.masks.shape:
            raise ValueError(f"{self.sample_id}: frames {self.frames.shape}, masks {self.masks.shape}; sizes differ.")


class ClipSource(Protocol):
    """A data set as a function from an item's number to a sample."""

    @property
    def num_items(self) -> int | None:
        """Items of one epoch; None for a source without end."""
        ...

    def draw(self, item: int, generator: np.random.Generator) -> TrainingSample:
        """The item's sample at its own size; what is random about it comes from the generator alone.

        Raises:
            DecodeError: a picture or mask cannot be read.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixed:
    """Several finite sources, one after the other, as one: RefCOCO, RefCOCO+ and RefCOCOg are trained on together."""

    sources: tuple[ClipSource, ...]

    @property
    def num_items(self) -> int:
        return sum(_count(source) for source in self.sources)

    def draw(self, item: int, generator: np.random.Generator) -> TrainingSample:
        for source in self.sources:
            count = _count(source)
            if item < count:
                return source.draw(item, generator)
            item -= count
        raise IndexError(f"item {item} beyond the end of {len(self.sources)} sources")


def draw_sample(source: ClipSource, position: int, *, seed: int, long_side_px: int) -> TrainingSample:
    """The sample at a position of the endless order: a function of its arguments.

    Each epoch is a new permutation of the items. An item of which no chosen frame shows the object is replaced by
    another, drawn at random. Source: SAMWISE's released training code.

    Raises:
        DecodeError: a file cannot be read, or 100 items in a row show nothing.
    """
    generator = np.random.default_rng((_DRAW_STREAM, seed, position))
    item = item_at(position, num_items=source.num_items, seed=seed)
    for _ in range(MAX_DRAWS):
        sample = source.draw(item, generator)
        if sample.masks.any():
            return resize_sample(sample, long_side_px=long_side_px)
        item = int(generator.integers(1 << 32 if source.num_items is None else source.num_items))
    raise DecodeError(
        f"{sample.sample_id}: no frame shows what the expression means, nor in {MAX_DRAWS - 1} items drawn instead. "
        "Check the annotations, or the shares of expressions without a referent."
    )


def item_at(position: int, *, num_items: int | None, seed: int) -> int:
    """Which item stands at a position: the position itself without end, else its place in the epoch's permutation."""
    if num_items is None:
        return position
    epoch, place = divmod(position, num_items)
    return int(_permutation(num_items, seed, epoch)[place])


def resize_sample(sample: TrainingSample, *, long_side_px: int) -> TrainingSample:
    """The sample with its long side at `long_side_px`, pictures bilinear, masks nearest."""
    size = training_size(*sample.masks.shape[1:], long_side_px=long_side_px)
    if size == sample.masks.shape[1:]:
        return sample
    frames = np.stack([_resized(frame, size, PilImage.Resampling.BILINEAR) for frame in sample.frames])
    masks = np.stack([_resized(mask.view(np.uint8), size, PilImage.Resampling.NEAREST) for mask in sample.masks])
    return TrainingSample(
        sample_id=sample.sample_id, frames=frames, masks=masks.astype(np.bool_), expression=sample.expression
    )


def training_size(height: int, width: int, *, long_side_px: int) -> tuple[int, int]:
    """Size of a frame in training: the long side given, the short one rounded, so 480 x 854 becomes 576 x 1024.

    Inference cuts fractions off instead (575), as in the reference; see `letterbox_size`.
    """
    short, long = sorted((height, width))
    new_short = max(1, round(long_side_px * short / long))
    return (new_short, long_side_px) if height <= width else (long_side_px, new_short)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipBatch:
    """Samples on one grid.

    Attributes:
        images_FCHW: float32 (B*T, 3, H, W), normalised, zero beyond a sample's own size; frames of a clip adjacent.
        targets_BTHW: bool, False beyond a sample's own size.
        token_ids_BL, keep_BL: padded at the end; keep is False at padding.
        sample_ids: one per clip.
    """

    images_FCHW: Tensor
    targets_BTHW: Tensor
    token_ids_BL: Tensor
    keep_BL: Tensor
    sample_ids: tuple[str, ...]

    @property
    def num_frames(self) -> int:
        return self.targets_BTHW.shape[1]

    def to(self, device: torch.device) -> Self:
        """The same batch on a device."""
        return type(self)(
            images_FCHW=self.images_FCHW.to(device, non_blocking=True),
            targets_BTHW=self.targets_BTHW.to(device, non_blocking=True),
            token_ids_BL=self.token_ids_BL.to(device, non_blocking=True),
            keep_BL=self.keep_BL.to(device, non_blocking=True),
            sample_ids=self.sample_ids,
        )


def collate(samples: Sequence[TrainingSample], token_ids: Sequence[Sequence[int]], *, pad_id: int) -> ClipBatch:
    """Pad samples of equal length to the largest height and width, and texts to the longest.

    Raises:
        ValueError: no samples, or clips of different lengths.
    """
    lengths = {sample.masks.shape[0] for sample in samples}
    if len(lengths) != 1:
        raise ValueError(f"clips of {sorted(lengths)} frames in one batch; expected one length.")
    height, width = (max(sample.masks.shape[axis] for sample in samples) for axis in (1, 2))
    num_frames, longest = lengths.pop(), max(len(ids) for ids in token_ids)
    images_FCHW = torch.zeros(len(samples) * num_frames, 3, height, width)
    targets_BTHW = torch.zeros(len(samples), num_frames, height, width, dtype=torch.bool)
    token_ids_BL = torch.full((len(samples), longest), pad_id)
    keep_BL = torch.zeros(len(samples), longest, dtype=torch.bool)
    for row, (sample, ids) in enumerate(zip(samples, token_ids, strict=True)):
        h, w = sample.masks.shape[1:]
        images_FCHW[row * num_frames : (row + 1) * num_frames, :, :h, :w] = _normalised(sample.frames)
        targets_BTHW[row, :, :h, :w] = torch.from_numpy(sample.masks)
        token_ids_BL[row, : len(ids)] = torch.tensor(ids)
        keep_BL[row, : len(ids)] = True
    return ClipBatch(
        images_FCHW=images_FCHW,
        targets_BTHW=targets_BTHW,
        token_ids_BL=token_ids_BL,
        keep_BL=keep_BL,
        sample_ids=tuple(sample.sample_id for sample in samples),
    )


class SampleReader:
    """Draws samples, those announced ahead of time on threads: decoding overlaps with the device's work.

    Args:
        num_threads: 0 draws in the caller's thread.
    """

    def __init__(self, source: ClipSource, *, seed: int, long_side_px: int, num_threads: int = 0) -> None:
        self._draw = functools.partial(_draw, source, seed=seed, long_side_px=long_side_px)
        self._pool = ThreadPoolExecutor(num_threads, thread_name_prefix="samples") if num_threads else None
        self._coming: dict[int, Future[TrainingSample]] = {}

    def read(self, positions: Sequence[int]) -> list[TrainingSample]:
        """The samples at these positions; an error of drawing one is raised here."""
        return [
            self._coming.pop(position).result() if position in self._coming else self._draw(position)
            for position in positions
        ]

    def look_ahead(self, positions: Sequence[int]) -> None:
        """Begin to draw these; without threads this does nothing."""
        if self._pool is not None:
            for position in positions:
                if position not in self._coming:
                    self._coming[position] = self._pool.submit(self._draw, position)

    def close(self) -> None:
        """Drop what nobody asked for."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
        self._coming.clear()


def normalised_expression(text: str, where: str) -> str:
    """Lower case with single spaces, as training reads captions.

    Raises:
        DecodeError: there is no text.
    """
    normalised = normalize_expression(text)
    if not normalised:
        raise DecodeError(f"{where}: the expression is empty. Remove it from the annotations.")
    return normalised


def _draw(source: ClipSource, position: int, *, seed: int, long_side_px: int) -> TrainingSample:
    return draw_sample(source, position, seed=seed, long_side_px=long_side_px)


def _count(source: ClipSource) -> int:
    if source.num_items is None:
        raise ValueError(f"{source}: has no end, so nothing can come after it. Mix finite sources only.")
    return source.num_items


@functools.lru_cache(maxsize=4)
def _permutation(num_items: int, seed: int, epoch: int) -> NDArray[np.int64]:
    order = np.random.default_rng((_ORDER_STREAM, seed, epoch)).permutation(num_items)
    order.setflags(write=False)
    return order


def _normalised(frames_Thw3: NDArray[np.uint8]) -> Tensor:
    pixels = torch.from_numpy(frames_Thw3).permute(0, 3, 1, 2).float() / 255
    return (pixels - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


def _resized(picture: Image, size: tuple[int, int], how: PilImage.Resampling) -> Image:
    height, width = size
    return np.asarray(PilImage.fromarray(picture).resize((width, height), how))
