"""Later stages of the tiny model's training: memory and prompts, then the head that distrusts the memory."""

# Axes: R rows (one expression on one frame), H W image.

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.models.memory_policies import MemoryPolicy
from pipeline.models.samwise_network import SamwiseNetwork
from pipeline.models.text_free_core import TextFreeCore
from pipeline.synth.config import ClipConfig
from pipeline.training.forecast_prompts import ForecastPrompts, forecast_prompts
from pipeline.training.gradients import BatchLosses, RatioLoss
from pipeline.training.grounded import GroundedLearner, fuse_batch
from pipeline.training.grounded_clips import GroundedBatch
from pipeline.training.grounded_losses import expression_loss, foreground_loss, word_loss
from pipeline.training.loop import LoopConfig
from pipeline.training.losses import CME_CLASS_WEIGHTS
from pipeline.training.mask_losses import row_losses, row_metrics
from pipeline.training.prompt_attention import compare_places
from pipeline.training.rollout import (
    CmeRows,
    TrackedClips,
    choose_objects,
    question_through,
    refer_through,
    track_through,
)
from pipeline.training.tiny_stages import CmeStage, MemoryStage, TrackPhase, TrackStage

_OBJECTS_STREAM = 17


class TrackLearner(GroundedLearner):
    """Tracks objects without text from masks, boxes or clicks; what encodes frames and words is held still.

    Half of the heads between prompts and image start anew, in the given network; see `compare_places`. A resumed
    training takes them from its checkpoint.
    """

    def __init__(self, network: SamwiseNetwork, stage: TrackStage, *, num_threads: int = 0) -> None:
        super().__init__(network, seed=stage.loop.seed, num_threads=num_threads)
        self._stage = stage
        self._tracking = TextFreeCore(network)
        compare_places(network.core, seed=stage.loop.seed)

    def is_trained(self, name: str) -> bool:
        """SAM2 behind its image encoder."""
        return name.startswith("network.core.model.") and not name.startswith("network.core.model.image_encoder.")

    def losses(self, positions: Sequence[int]) -> BatchLosses:
        """Draw the clips at these positions and track some of their objects."""
        phase = self._phase(positions)
        batch = self.draw(phase.clips, positions[:: phase.every])
        generator = step_generator(self._stage.loop, positions)
        per_clip, num_frames = self._stage.objects_per_clip, phase.num_frames
        objects = choose_objects(
            batch, per_clip=per_clip, generator=generator, kinds=phase.kinds, num_frames=num_frames
        )
        images = batch.images_F3HW.view(batch.num_clips, batch.num_frames, *batch.images_F3HW.shape[1:])
        scores = track_through(self._tracking, images[:, :num_frames].flatten(0, 1), objects, num_frames=num_frames)
        return BatchLosses(means=row_losses(scores), metrics=row_metrics(scores), sample_ids=batch.sample_ids)

    def look_ahead(self, positions: Sequence[int]) -> None:
        """Begin to draw the clips at these positions."""
        phase = self._phase(positions)
        self.announce(phase.clips, positions[:: phase.every])

    def recipe(self) -> dict[str, Any]:
        """The stage's settings."""
        return self._stage.model_dump(mode="json", exclude={"loop"})

    def _phase(self, positions: Sequence[int]) -> TrackPhase:
        return self._stage.phase(positions[0] // self._stage.loop.batch_size)


class MemoryLearner(GroundedLearner):
    """Refers with memory in one step, tracks without text from masks, boxes or clicks in the next."""

    def __init__(self, network: SamwiseNetwork, stage: MemoryStage, *, num_threads: int = 0) -> None:
        super().__init__(network, seed=stage.loop.seed, num_threads=num_threads)
        self._stage = stage
        self._tracking = TextFreeCore(network)

    def is_trained(self, name: str) -> bool:
        """All but the helper heads and the memory encoder's."""
        return super().is_trained(name) and not name.startswith("helpers.")

    def losses(self, positions: Sequence[int]) -> BatchLosses:
        """Draw the clips at these positions and run them frame by frame."""
        if self._refers(positions):
            batch, _ = self.part(self._stage.refer_clips, positions)
            return self.refer(batch, turn=positions[0] // self._stage.loop.batch_size // 2)
        batch, generator = self.part(self._stage.track_clips, positions)
        return self.track(batch, generator)

    def look_ahead(self, positions: Sequence[int]) -> None:
        """Begin to draw the clips at these positions."""
        self.announce(self._stage.refer_clips if self._refers(positions) else self._stage.track_clips, positions)

    def recipe(self) -> dict[str, Any]:
        """The stage's settings."""
        return self._stage.model_dump(mode="json", exclude={"loop"})

    def _refers(self, positions: Sequence[int]) -> bool:
        return positions[0] // self._stage.loop.batch_size % 2 == 0

    def part(
        self,
        config: ClipConfig,
        positions: Sequence[int],
        *,
        starts: tuple[int, int] | None = None,
        num_frames: int | None = None,
    ) -> tuple[GroundedBatch, np.random.Generator]:
        """A random part of clips, and the generator that chose it.

        Args:
            starts: lowest and highest first frame; by default any.
            num_frames: of the part; by default the stage's.
        """
        generator, num_frames = step_generator(self._stage.loop, positions), num_frames or self._stage.num_frames
        lowest, highest = starts or (0, config.num_frames - num_frames)
        start = int(generator.integers(lowest, highest + 1))
        return self.draw(config, positions).window(start, num_frames), generator

    def track(
        self,
        batch: TrackedClips,
        generator: np.random.Generator,
        *,
        forecast_share: float = 0.0,
        policy: MemoryPolicy | None = None,
    ) -> BatchLosses:
        """Some objects of the clips through all frames, without text.

        Args:
            forecast_share: of later frames that are told a forecast of the object's motion.
            policy: which memories are read; by default SAM2's own.
        """
        objects = choose_objects(batch, per_clip=self._stage.objects_per_clip, generator=generator)
        forecasts: Sequence[ForecastPrompts | None] = ()
        if forecast_share > 0:
            forecasts = forecast_prompts(objects.targets_BTHW, generator=generator, share=forecast_share)
        scores = track_through(
            self._tracking,
            batch.images_F3HW,
            objects,
            num_frames=batch.num_frames,
            forecasts=forecasts,
            policy=policy,
        )
        metrics = {f"{name}_tracked": value for name, value in row_metrics(scores).items()}
        return BatchLosses(means=row_losses(scores), metrics=metrics, sample_ids=batch.sample_ids)

    def refer(self, batch: GroundedBatch, *, turn: int) -> BatchLosses:
        """The sentences of clips through all frames, with memory.

        Args:
            turn: a count that grows from step to step; see `motion_prompt_every`.
        """
        stage, network = self._stage, self.network
        with_motion = network.project_motion is not None and turn % stage.motion_prompt_every == 0
        ground_FKhw, fused = fuse_batch(network, batch, with_motion_prompt=with_motion)
        scores = refer_through(network, fused, batch)
        assert fused.evidence is not None
        assert network.grounding is not None
        losses = {
            **row_losses(scores, presence_weight=stage.presence_weight),
            "words": stage.evidence_weight * word_loss(fused.evidence, batch),
            "expression": stage.evidence_weight * expression_loss(fused.evidence, batch),
            "foreground": stage.evidence_weight
            * foreground_loss(network.grounding.words.foreground(ground_FKhw), batch),
        }
        return BatchLosses(means=losses, metrics=row_metrics(scores), sample_ids=batch.sample_ids)


def step_generator(loop: LoopConfig, positions: Sequence[int]) -> np.random.Generator:
    """Of the objects of a step, and how they are shown."""
    return np.random.default_rng((_OBJECTS_STREAM, loop.seed, positions[0]))


class CmeLearner(GroundedLearner):
    """Trains the conditional memory encoder alone."""

    def __init__(self, network: SamwiseNetwork, stage: CmeStage, *, num_threads: int = 0) -> None:
        super().__init__(network, seed=stage.loop.seed, num_threads=num_threads)
        self._stage = stage

    def is_trained(self, name: str) -> bool:
        """The memory encoder's head."""
        return name.startswith("network.cme.")

    def losses(self, positions: Sequence[int]) -> BatchLosses:
        """Draw the clips at these positions; the head's weighted cross-entropy on the frames it is asked about."""
        stage = self._stage
        batch = self.draw(self._clips(positions), positions)
        with torch.no_grad():
            _, fused = fuse_batch(self.network, batch)
        rows = question_through(self.network, fused, batch, window=stage.window)
        labels_R = switch_labels(rows, margin=stage.margin)
        weights_2 = torch.tensor(CME_CLASS_WEIGHTS, device=labels_R.device)
        summed = F.cross_entropy(rows.decisions_R2, labels_R, weight=weights_2, reduction="sum")
        right = (rows.decisions_R2.argmax(dim=1) == labels_R).float()
        switch = labels_R.float()
        metrics = {
            "right": right.mean(),
            "switch_share": switch.mean(),
            "switch_found": (right * switch).sum() / switch.sum().clamp(min=1),
        }
        ratio = RatioLoss(numerator=summed, denominator=weights_2[labels_R].sum())
        # The loop wants a mean; the ratio carries the gradient.
        return BatchLosses(
            means={"none": summed.detach() * 0}, ratios={"cme": ratio}, metrics=metrics, sample_ids=batch.sample_ids
        )

    def look_ahead(self, positions: Sequence[int]) -> None:
        """Begin to draw the clips at these positions."""
        self.announce(self._clips(positions), positions)

    def recipe(self) -> dict[str, Any]:
        """The stage's settings."""
        return self._stage.model_dump(mode="json", exclude={"loop"})

    def _clips(self, positions: Sequence[int]) -> ClipConfig:
        is_late = positions[0] // self._stage.loop.batch_size % 2 == 0
        return self._stage.late_clips if is_late else self._stage.plain_clips


@torch.no_grad()
def switch_labels(rows: CmeRows, *, margin: float) -> Tensor:
    """1 where the memory-less mask is better than the tracked one by more than the margin, else 0; int64 (R,).

    Departs from SAMWISE, which has no truth on hand and asks whether the two masks overlap.
    """
    tracked, alone = (_iou_with_truth(x, rows.targets_RHW) for x in (rows.with_memory_R1HW, rows.alone_R1HW))
    return (alone - tracked > margin).long()


def _iou_with_truth(logits_R1HW: Tensor, targets_RHW: Tensor) -> Tensor:
    """IoU, 1 where nothing is there and nothing is predicted."""
    inside = (logits_R1HW[:, 0] > 0).flatten(1)
    targets = targets_RHW.flatten(1)
    shared, either = (inside & targets).sum(1).float(), (inside | targets).sum(1).float()
    return torch.where(either > 0, shared / either.clamp(min=1), 1.0)
