"""Batches of multimodal training scenes: drawn by position, augmented, read ahead, some modalities dropped."""

# Axes: M modalities, B scenes, S the model's square.

import functools
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipeline.models.memorysam_input import to_square
from pipeline.training.clips import item_at
from pipeline.training.memorysam_augment import Augmentation, augmented
from pipeline.training.memorysam_losses import IGNORED_LABEL
from pipeline.training.memorysam_scenes import Labels, MultimodalSample, MultimodalSource

_DRAW_STREAM, _KEEP_STREAM = 7, 8


@dataclass(frozen=True, slots=True, kw_only=True)
class MultimodalBatch:
    """Scenes on one grid.

    Attributes:
        modalities: M names, in the order of the memory; the same for all scenes.
        images_MB3SS: float32, normalised.
        labels_BSS: int64, IGNORED_LABEL where unknown or beyond a scene.
    """

    modalities: tuple[str, ...]
    images_MB3SS: Tensor
    labels_BSS: Tensor
    sample_ids: tuple[str, ...]


class SceneReader:
    """Draws and augments scenes by their position in an endless order, those announced ahead of time on threads.

    A scene is a function of seed and position alone.

    Args:
        num_threads: 0 draws in the caller's thread.
    """

    def __init__(
        self,
        source: MultimodalSource,
        *,
        modalities: Sequence[str],
        augmentation: Augmentation,
        image_size: int,
        seed: int,
        num_threads: int = 0,
    ) -> None:
        self._modalities, self._image_size, self._seed = tuple(modalities), image_size, seed
        self._draw = functools.partial(
            draw_scene, source, modalities=self._modalities, augmentation=augmentation, image_size=image_size, seed=seed
        )
        self._pool = ThreadPoolExecutor(num_threads, thread_name_prefix="scenes") if num_threads else None
        self._coming: dict[int, Future[MultimodalSample]] = {}

    def read(self, positions: Sequence[int], *, device: torch.device, drop: float = 0.0) -> MultimodalBatch:
        """The scenes at these positions; an error of drawing one is raised here.

        Args:
            drop: probability with which each modality is left out of the whole batch; at least one stays.
        """
        samples = [self._coming.pop(p).result() if p in self._coming else self._draw(p) for p in positions]
        kept = kept_modalities(self._modalities, drop=drop, seed=self._seed, position=positions[0])
        squares = [
            to_square(
                [sample.images[name] for sample in samples],
                [name] * len(samples),
                num_rows=len(samples),
                image_size=self._image_size,
                device=device,
            )
            for name in kept
        ]
        labels_BSS = torch.from_numpy(np.stack([self._padded(sample.labels) for sample in samples]))
        return MultimodalBatch(
            modalities=kept,
            images_MB3SS=torch.stack(squares),
            labels_BSS=labels_BSS.to(device).long(),
            sample_ids=tuple(sample.sample_id for sample in samples),
        )

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

    def _padded(self, labels: Labels) -> Labels:
        height, width = labels.shape
        margins = ((0, self._image_size - height), (0, self._image_size - width))
        return np.pad(labels, margins, constant_values=IGNORED_LABEL)


def draw_scene(
    source: MultimodalSource,
    position: int,
    *,
    modalities: Sequence[str],
    augmentation: Augmentation,
    image_size: int,
    seed: int,
) -> MultimodalSample:
    """The augmented scene at a position of the endless order, at most `image_size` high and wide."""
    generator = np.random.default_rng((_DRAW_STREAM, seed, position))
    sample = source.draw(item_at(position, num_items=source.num_items, seed=seed), modalities)
    images, labels = augmented(sample.images, sample.labels, augmentation, generator, image_size=image_size)
    return MultimodalSample(sample_id=sample.sample_id, images=images, labels=labels)


def kept_modalities(modalities: Sequence[str], *, drop: float, seed: int, position: int) -> tuple[str, ...]:
    """Those that a batch beginning at this position keeps, in order; one at random where chance would drop all."""
    if not drop:
        return tuple(modalities)
    generator = np.random.default_rng((_KEEP_STREAM, seed, position))
    keeps = generator.random(len(modalities)) >= drop
    keeps[int(generator.integers(len(modalities)))] |= not keeps.any()
    return tuple(name for name, keep in zip(modalities, keeps, strict=True) if keep)
