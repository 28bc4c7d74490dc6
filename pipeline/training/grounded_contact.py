"""The contact stage of the tiny model's training: sentences and tracks where things touch, short clips, streets."""

# Axes: C streets, T frames, F = C*T, H W the model's square.

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.models.letterbox import resize_frame, to_square
from pipeline.models.memory_policies import MemoryPolicy
from pipeline.models.samwise_network import SamwiseNetwork
from pipeline.synth.config import ClipConfig
from pipeline.synth.street import Street, sample_street
from pipeline.training.drawn_memories import DrawnFrames
from pipeline.training.gradients import BatchLosses
from pipeline.training.grounded_memory import MemoryLearner, step_generator
from pipeline.training.tiny_stages import ContactStage, Turn

MIN_REGION_PX = 40
"""Regions of a street smaller than this on the first frame, in the model's square, are not tracked."""

_FIRST_INSTANCE = 64
"""Above every class id: sky, road and ground have no instances and are regions by class."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreetBatch:
    """Streets as clips of regions: one per instance, and one per class that has none.

    Attributes:
        images_F3HW: normalised; frames of a street adjacent.
        objects_CTHW: int64 ids of regions, 0 for those too small to be tracked.
    """

    images_F3HW: Tensor
    objects_CTHW: Tensor
    sample_ids: tuple[str, ...]

    @property
    def num_clips(self) -> int:
        return self.objects_CTHW.shape[0]

    @property
    def num_frames(self) -> int:
        return self.objects_CTHW.shape[1]


class ContactLearner(MemoryLearner):
    """Refers with memory, tracks clips and tracks streets, a step each in turns."""

    def __init__(self, network: SamwiseNetwork, stage: ContactStage, *, num_threads: int = 0) -> None:
        super().__init__(network, stage, num_threads=num_threads)
        self._contact = stage

    def losses(self, positions: Sequence[int]) -> BatchLosses:
        """Draw the clips at these positions and run them frame by frame."""
        stage, turn = self._contact, self._turn(positions)
        if turn == "street":
            return self.track(self._streets(positions), step_generator(stage.loop, positions))
        config, items = self._clips(positions)
        if turn == "short":
            return self.refer(self.draw(config, items), turn=self._round(positions))
        if turn == "refer":
            batch, _ = self.part(config, items, starts=stage.starts)
            return self.refer(batch, turn=self._round(positions))
        batch, generator = self.part(config, items, starts=stage.starts, num_frames=stage.num_tracked_frames)
        share = stage.forecast_share if turn == "guided" else 0.0
        return self.track(batch, generator, forecast_share=share, policy=self._policy(generator))

    def _policy(self, generator: np.random.Generator) -> MemoryPolicy | None:
        """Which memories a tracking step reads: SAM2's, or drawn ones."""
        if self._contact.drawn_share == 0 or generator.random() >= self._contact.drawn_share:
            return None
        return DrawnFrames.of(
            self.network.core.config,
            seed=int(generator.integers(1 << 31)),
            accepted_share=float(generator.uniform(0.5, 1.0)),
        )

    def look_ahead(self, positions: Sequence[int]) -> None:
        """Begin to draw the clips at these positions."""
        if self._turn(positions) != "street":
            self.announce(*self._clips(positions))

    def _turn(self, positions: Sequence[int]) -> Turn:
        turns = self._contact.turns
        return turns[positions[0] // self._contact.loop.batch_size % len(turns)]

    def _round(self, positions: Sequence[int]) -> int:
        """How many times all turns were taken; those of one round have the motion prompt all or none of them."""
        return positions[0] // self._contact.loop.batch_size // len(self._contact.turns)

    def _clips(self, positions: Sequence[int]) -> tuple[ClipConfig, Sequence[int]]:
        stage, turn = self._contact, self._turn(positions)
        if turn == "short":
            return stage.short_clips, [2 * position + second for position in positions for second in (0, 1)]
        if turn == "refer":
            return stage.refer_clips, positions
        return stage.track_clips, positions[: stage.tracked_clips_per_step]

    def _streets(self, positions: Sequence[int]) -> StreetBatch:
        stage, core = self._contact, self.network.core
        first = positions[0] // stage.loop.batch_size * stage.streets_per_step
        streets = [
            sample_street(stage.streets, stage.loop.seed, "train", first + place)
            for place in range(stage.streets_per_step)
        ]
        return street_batch(streets, image_size=core.config.image_size, device=core.device)


def street_batch(
    streets: Sequence[Street], *, image_size: int, device: torch.device, min_region_px: int = MIN_REGION_PX
) -> StreetBatch:
    """Streets of equal length, stretched to the model's square as tracking stretches its frames."""
    size = (image_size, image_size)
    frames = [resize_frame(image, size) for street in streets for image in street.rgb()]
    regions = np.stack([_regions(street, size, min_region_px) for street in streets])
    return StreetBatch(
        images_F3HW=to_square(frames, num_rows=len(frames), image_size=image_size, device=device),
        objects_CTHW=torch.from_numpy(regions).to(device),
        sample_ids=tuple(street.video_id for street in streets),
    )


def _regions(street: Street, size: tuple[int, int], min_region_px: int) -> NDArray[np.int64]:
    instances_THW = street.instances().astype(np.int64)
    by_class_THW = street.labels().astype(np.int64) + 1
    regions_THW = np.where(instances_THW > 0, instances_THW + _FIRST_INSTANCE, by_class_THW)
    resized = nearest(regions_THW, size)
    numbers, areas = np.unique(resized[0], return_counts=True)
    return np.where(np.isin(resized, numbers[areas >= min_region_px]), resized, 0)


def nearest(labels_THW: NDArray[np.int64], size: tuple[int, int]) -> NDArray[np.int64]:
    """Label maps stretched to another size, (T, height, width)."""
    height, width = labels_THW.shape[1:]
    rows, columns = (np.arange(new) * old // new for new, old in zip(size, (height, width), strict=True))
    stretched: NDArray[np.int64] = labels_THW[:, rows[:, None], columns[None, :]]
    return stretched
