"""SAMWISE's three stages on the device: steps of several videos in one batch of fixed size."""

# Axes: R rows (one expression on one frame), B expressions, T frames of a clip, L text tokens, S prompt tokens,
# H W the model's square, y x the decoded frame.

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from pipeline.models.conditional_memory import CmeFusion
from pipeline.models.image_encoding import ImageFeatures, StageState
from pipeline.models.letterbox import from_square, to_square
from pipeline.models.mask_decoding import stability
from pipeline.models.memory import MemoryEntry
from pipeline.models.samwise_clip import DECODE, ENCODE, FUSE, Buckets, ClipInFlight, ClipStep, Expression, RowMask
from pipeline.models.samwise_network import FusedClip, SamwiseNetwork
from pipeline.models.samwise_rows import ExpressionMemory, RowBatch, RowResults, segment_rows
from pipeline.ticks import Image, Mask

T = TypeVar("T")

STABILITY_MARGIN = 1.0
"""Logits above and below the threshold between which a mask's stability is measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRequest:
    """One video's part of a batch.

    Attributes:
        clip, step: what is done and what comes next.
        expressions: of the video, all of them.
        images_hw3: the step's frames, resized; for ENCODE only.
        inner_size: (h, w) of the frame inside the square.
        frame_size: (y, x) of the decoded frame.
    """

    clip: ClipInFlight
    step: ClipStep
    expressions: Sequence[Expression]
    images_hw3: Sequence[Image]
    inner_size: tuple[int, int]
    frame_size: tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class SamwiseStages:
    """Runs batches; chooses nothing and keeps nothing.

    Each batch is filled up to its bucket with copies of its first row: at a fixed batch size the neighbours
    change no bit of a row.

    Attributes:
        buckets: batch size per stage.
        cme_window, cme_fusion: when the memory is questioned, and what it sees after a switch.
        threshold: probability above which a pixel is inside.
    """

    network: SamwiseNetwork
    buckets: Buckets
    device: torch.device
    cme_window: int
    cme_fusion: CmeFusion
    threshold: float

    def run(self, stage: str, requests: Sequence[StepRequest]) -> list[ClipInFlight]:
        """Each request's clip with one more step done; all of one stage and group."""
        stages = {ENCODE: self._encode, FUSE: self._fuse, DECODE: self._decode}
        return stages[stage](requests)

    def _encode(self, requests: Sequence[StepRequest]) -> list[ClipInFlight]:
        images = [image for request in requests for image in request.images_hw3]
        square = to_square(
            images,
            num_rows=self.buckets.encode,
            image_size=self.network.architecture.sam2.image_size,
            device=self.device,
        )
        prefix = self.network.encode_prefix(square)
        return [request.clip.after_encoding(prefix.rows(places)) for request, places in _places(requests)]

    def _fuse(self, requests: Sequence[StepRequest]) -> list[ClipInFlight]:
        num_frames = requests[0].clip.num_frames
        # Each clip by itself, whoever else is here: what its expressions share is computed once.
        clips = [
            self.network.relate(_laid_out(_joined(request.clip.prefix)), num_frames=num_frames) for request in requests
        ]
        seen = [clip for clip, request in zip(clips, requests, strict=True) for _ in request.step.expressions]
        expressions = [request.expressions[i] for request in requests for i in request.step.expressions]
        expressions = _filled(expressions, self.buckets.fuse)
        fused = self.network.fuse_related(
            _laid_out(_joined(_filled(seen, self.buckets.fuse))),
            torch.tensor([expression.token_ids for expression in expressions], device=self.device),
            num_frames=num_frames,
            motion_BL=_motion_weights(expressions, self.device),
        )
        done = []
        for request, places in _places(requests):
            frames = range(places.start * num_frames, places.stop * num_frames)
            prompt_BSE = fused.prompt_BSE[places.start : places.stop].clone()
            part = FusedClip(features=fused.features.rows(frames), prompt_BSE=prompt_BSE)
            done.append(request.clip.after_fusing(part))
        return done

    def _decode(self, requests: Sequence[StepRequest]) -> list[ClipInFlight]:
        results = segment_rows(self.network, self._row_batch(requests), fusion=self.cme_fusion)
        masks = self._row_masks(results, [request for request in requests for _ in request.step.expressions])
        clips = []
        for request, places in _places(requests):
            rows = masks[places.start : places.stop]
            old = [request.clip.memories[index] for index in request.step.expressions]
            new = [self._remembered(m, results, row, masks[row]) for m, row in zip(old, places, strict=True)]
            clips.append(request.clip.after_decoding(request.step, new, rows))
        return clips

    def _row_batch(self, requests: Sequence[StepRequest]) -> RowBatch:
        features, prompts = zip(*(_rows_of(request) for request in requests), strict=True)
        joined, prompt_RSE = ImageFeatures.join(features), torch.cat(prompts)
        policy = self.network.memory_policy
        selections = [s for request in requests for s in request.clip.selections(request.step, policy)]
        assert len({selection.shape for selection in selections}) == 1, "a group has one memory shape"
        memories = [request.clip.memories[i] for request in requests for i in request.step.expressions]
        rows = _filled(list(range(len(selections))), self.buckets.decode)
        due = [memory.is_cme_due(window=self.cme_window) for memory in memories]
        return RowBatch(
            features=_rows_laid_out(joined.rows(rows)),
            selections=[selections[row] for row in rows],
            prompt_RSE=prompt_RSE[torch.tensor(rows, device=self.device)],
            cme_due=[due[row] for row in rows],
        )

    def _row_masks(self, results: RowResults, where: Sequence[StepRequest]) -> list[RowMask]:
        """Masks at frame size and their numbers; each row alone, since frames differ in size."""
        cut = math.log(self.threshold / (1 - self.threshold))
        masks: list[Mask] = []
        stabilities: list[Tensor] = []
        for row, request in enumerate(where):
            logits_yx = from_square(results.logits_R1HW[row : row + 1], request.inner_size, request.frame_size)[0, 0]
            masks.append((logits_yx > cut).cpu().numpy())
            stabilities.append(stability(logits_yx - cut, STABILITY_MARGIN))
        output, num_rows = results.output, len(where)
        numbers = torch.stack(
            [
                output.object_score_R1[:num_rows, 0].float(),
                output.predicted_iou_R[:num_rows].float(),
                torch.stack(stabilities).float(),
                results.switched_R[:num_rows].float(),
            ],
            dim=1,
        ).tolist()
        return [
            RowMask(mask_yx=mask, object_score=score, predicted_iou=iou, stability=stable, switched=bool(switched))
            for mask, (score, iou, stable, switched) in zip(masks, numbers, strict=True)
        ]

    def _remembered(self, memory: ExpressionMemory, results: RowResults, row: int, mask: RowMask) -> ExpressionMemory:
        entry = MemoryEntry(
            frame_index=memory.position,
            # Clones: a view would keep the whole batch, other videos' rows included.
            pointer_D=results.output.object_pointer_RD[row].clone(),
            features_Chw=results.memory_RChw[row].clone(),
            object_score=mask.object_score,
            predicted_iou=mask.predicted_iou,
        )
        return memory.followed_by(entry, switched=mask.switched, policy=self.network.memory_policy)


def _rows_of(request: StepRequest) -> tuple[ImageFeatures, Tensor]:
    """Features and prompts of a DECODE step's expressions on its one frame."""
    clip = request.clip
    parts = [(fused, rows) for fused, rows in zip(clip.fused, request.step.rows, strict=True) if rows]
    features = ImageFeatures.join([fused.features.rows(rows) for fused, rows in parts])
    prompts = [fused.prompt_BSE[[row // clip.num_frames for row in rows]] for fused, rows in parts]
    return features, torch.cat(prompts)


def _places(requests: Sequence[StepRequest]) -> Iterator[tuple[StepRequest, range]]:
    """Where in the batch each request's rows stand."""
    start = 0
    for request in requests:
        stop = start + request.step.size
        yield request, range(start, stop)
        start = stop


def _joined(parts: Sequence[StageState]) -> StageState:
    if len(parts) == 1:
        return parts[0]
    return StageState(maps=tuple(torch.cat(level) for level in zip(*(part.maps for part in parts), strict=True)))


def _laid_out(state: StageState) -> StageState:
    """The same maps, channels last, as Hiera gives them.

    Picking and joining may or may not change the layout, and a convolution's last bits depend on it.
    """
    return StageState(maps=tuple(x.contiguous(memory_format=torch.channels_last) for x in state.maps))


def _rows_laid_out(features: ImageFeatures) -> ImageFeatures:
    fine, middle, coarse = (
        x.contiguous(memory_format=torch.channels_last) for x in (*features.high_res, features.map_BDhw)
    )
    return ImageFeatures(high_res=(fine, middle), map_BDhw=coarse, pos_BDhw=features.pos_BDhw)


def _filled(rows: Sequence[T], size: int) -> list[T]:
    """The rows and as many copies of the first as are missing."""
    return [*rows, *[rows[0]] * (size - len(rows))]


def _motion_weights(expressions: Sequence[Expression], device: torch.device) -> Tensor | None:
    """Per expression the mean over its motion tokens, as weights; None when they have none."""
    if not expressions[0].motion_tokens:
        return None
    weights_BL = torch.zeros(len(expressions), len(expressions[0].token_ids))
    for row, expression in enumerate(expressions):
        weights_BL[row, list(expression.motion_tokens)] = 1 / len(expression.motion_tokens)
    return weights_BL.to(device)
