"""The tracker's three stages: encode frames, measure motion, decode objects; steps of several videos in one batch."""

# Axes: R rows (one object on one frame), H W the model's square, h w the mask logits' grid, y x the decoded frame.

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image as PilImage
from torch import Tensor

from pipeline.models.distractors import alternative_iou
from pipeline.models.frame_selection import mask_certainty
from pipeline.models.image_encoding import ImageFeatures
from pipeline.models.letterbox import to_square
from pipeline.models.mask_decoding import MaskOutput, shrink, stability
from pipeline.models.memory import MemoryEntry, MemorySelection
from pipeline.models.memory_policies_tracking import TrackingPolicy
from pipeline.models.mosam_frame import (
    DECODE,
    ENCODE,
    MASK,
    OBSERVE,
    POINTS,
    TRACK,
    Buckets,
    FrameInFlight,
    ObjectMemory,
    RowResult,
)
from pipeline.models.mosam_prompts import Shown
from pipeline.models.mosam_rows import TrackResult, TrackRows, TrackRules, track_and_choose
from pipeline.models.mosam_session import Progress, Request
from pipeline.models.motion_camera import observe_frame
from pipeline.models.motion_config import MotionConfig
from pipeline.models.motion_encoders import MotionEncoders
from pipeline.models.motion_flow import Flow
from pipeline.models.motion_forecast import forecast
from pipeline.models.motion_update import update
from pipeline.models.sam2_core import Sam2Core
from pipeline.models.tracking import uses_multimask
from pipeline.ticks import Image, ObjectMask, Trace

T = TypeVar("T")

STABILITY_MARGIN = 1.0
"""Logits above and below the threshold between which a mask's stability is measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RowRules:
    """What becomes of a decoded row.

    Attributes:
        policy, reverse_policy: what is remembered, by direction.
        track: how tracked rows are decoded.
        motion: how motion is measured.
        follows_motion: motion is kept up to date after each row.
        keeps_logits: memory entries carry mask logits, by which pixels are selected.
        non_overlap: masks of several objects will be compared.
        has_trace: rows tell why.
        has_object_score: otherwise the score is not reported.
    """

    policy: TrackingPolicy
    reverse_policy: TrackingPolicy
    track: TrackRules
    motion: MotionConfig
    follows_motion: bool
    keeps_logits: bool
    non_overlap: bool
    has_trace: bool
    has_object_score: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class MosamStages:
    """Runs batches; keeps nothing.

    Each batch is filled up to its bucket with copies of its first row: at a fixed batch size the neighbours change no
    bit of a row.
    """

    core: Sam2Core
    buckets: Buckets
    device: torch.device
    flow: Flow | None
    rules: RowRules
    encoders: MotionEncoders | None = None

    def run(self, stage: str, requests: Sequence[Request]) -> list[Progress]:
        """What each request came to; all of one stage and group."""
        stages: dict[str, Callable[[Sequence[Request]], list[Progress]]] = {
            ENCODE: self._encode,
            OBSERVE: self._observe,
            DECODE: self._decode,
        }
        return stages[stage](requests)

    def _encode(self, requests: Sequence[Request]) -> list[Progress]:
        side = self.core.config.image_size
        images = [stretch(frame.image_yx3, side) for request in requests for frame in request.step.frames]
        square = to_square(images, num_rows=self.buckets.encode, image_size=side, device=self.device)
        features = self.core.encode_image(square)
        progress = []
        for request, places in _places(requests):
            positions = [frame.position for frame in request.step.frames]
            own = {p: _own(features.rows([place])) for p, place in zip(positions, places, strict=True)}
            progress.append(Progress(features=own))
        return progress

    def _observe(self, requests: Sequence[Request]) -> list[Progress]:
        """Motion of each request's frame, and what it foretells of each tracked object."""
        config = self.rules.motion
        progress = []
        for request in requests:
            job = request.job
            motions = {i: job.memories[i].motion for i in job.tracked_ids}
            frame = observe_frame(
                job.frame.image_yx3, job.frame.position, job.previous, list(motions.values()), config, self.flow
            )
            forecasts = {}
            if not frame.is_cut:
                forecasts = {i: forecast(motion, frame, config, self.flow) for i, motion in motions.items()}
            progress.append(Progress(job=replace(job, motion=frame, forecasts=forecasts)))
        return progress

    def _decode(self, requests: Sequence[Request]) -> list[Progress]:
        kind = requests[0].step.kind
        decoders = {POINTS: self._shown_points, MASK: self._shown_masks, TRACK: self._tracked}
        features = _joined(requests, self.buckets.decode)
        rows = [(request, object_id) for request in requests for object_id in request.step.object_ids]
        output, found = decoders[kind](features, _filled(rows, self.buckets.decode))
        seen_score_R1 = output.object_score_R1
        if kind == TRACK:
            seen_score_R1 = seen_score_R1 - self.rules.track.present_score
        memory_RChw = self.core.encode_memory(
            features,
            self.core.enlarge(output.low_res_logits_R1hw),
            seen_score_R1,
            is_mask_from_points=kind != TRACK,
        )
        results = self._results(rows, output, memory_RChw, found)
        progress = []
        for request, places in _places(requests):
            own = [(rows[place][1], results[place]) for place in places]
            progress.append(Progress(job=request.job.after_decoding(own)))
        return progress

    def _shown_points(
        self, features: ImageFeatures, rows: Sequence[tuple[Request, int]]
    ) -> tuple[MaskOutput, TrackResult | None]:
        """Objects shown by points or a box, as on an image: without memory, as SAM2 answers a first prompt."""
        shown = [_shown(request.job, object_id) for request, object_id in rows]
        points_RP2 = torch.tensor([entry.points_xy for entry in shown], dtype=torch.float32, device=self.device)
        labels_RP = torch.tensor([entry.labels for entry in shown], dtype=torch.int32, device=self.device)
        prompts = self.core.encode_prompts(len(rows), points_RP2=points_RP2, labels_RP=labels_RP)
        pix_RDhw = self.core.attend(features, [MemorySelection()] * len(rows))
        multimask = uses_multimask(self.core.config, is_first_answer=True, num_points=labels_RP.shape[1])
        return self.core.decode(pix_RDhw, features.high_res, prompts, multimask=multimask), None

    def _shown_masks(
        self, features: ImageFeatures, rows: Sequence[tuple[Request, int]]
    ) -> tuple[MaskOutput, TrackResult | None]:
        side = self.core.config.image_size
        masks = [torch.from_numpy(_shown(request.job, object_id).mask_yx) for request, object_id in rows]
        squares = [(shrink(m[None, None].float().to(self.device), (side, side)) >= 0.5).float() for m in masks]
        return self.core.take_mask(features, torch.cat(squares)), None

    def _tracked(
        self, features: ImageFeatures, rows: Sequence[tuple[Request, int]]
    ) -> tuple[MaskOutput, TrackResult | None]:
        selections = []
        for request, object_id in rows:
            assert request.job.selections is not None
            selections.append(request.job.selections[object_id])
        batch = TrackRows(
            features=features,
            selections=selections,
            forecasts=[request.job.forecasts.get(object_id) for request, object_id in rows],
            frame_sizes=[request.frame_size for request, _ in rows],
        )
        found = track_and_choose(self.core, batch, self.rules.track, self.encoders)
        return found.output, found

    def _results(
        self,
        rows: Sequence[tuple[Request, int]],
        output: MaskOutput,
        memory_RChw: Tensor,
        found: TrackResult | None,
    ) -> list[RowResult]:
        """Masks at frame size, what is told of them, and what is remembered; each row by itself."""
        certainty_R, inside_R = mask_certainty(output.low_res_logits_R1hw[:, 0])
        numbers = torch.stack(
            [output.object_score_R1[:, 0].float(), output.predicted_iou_R.float(), certainty_R, inside_R.float()], dim=1
        ).tolist()
        others = self._alternatives(found, output, len(rows))
        results = []
        for row, (request, object_id) in enumerate(rows):
            score, iou, certainty, inside = numbers[row]
            entry = MemoryEntry(
                frame_index=request.job.frame.position,
                # Clones: a view would keep the whole batch, other videos' rows included.
                pointer_D=output.object_pointer_RD[row].clone(),
                features_Chw=memory_RChw[row].clone(),
                logits_hw=output.low_res_logits_R1hw[row, 0].to(torch.bfloat16) if self.rules.keeps_logits else None,
                object_score=score,
                predicted_iou=iou,
                is_conditioning=found is None,
                num_inside=int(inside),
                certainty=certainty,
                kalman_iou=None if found is None else found.kalman_ious[row],
                alternative_iou=others[row],
            )
            prompted = found is not None and found.prompted[row]
            results.append(self._result(request, object_id, output.low_res_logits_R1hw[row : row + 1], entry, prompted))
        return results

    def _result(
        self, request: Request, object_id: int, logits_11hw: Tensor, entry: MemoryEntry, prompted: bool
    ) -> RowResult:
        logits_11yx = F.interpolate(logits_11hw, size=request.frame_size, mode="bilinear", align_corners=False)
        mask = ObjectMask(
            object_id=object_id,
            mask=(logits_11yx[0, 0] > 0).cpu().numpy(),
            confidence=confidence_of(entry, has_object_score=self.rules.has_object_score),
            object_score=entry.object_score if self.rules.has_object_score else None,
            predicted_iou=entry.predicted_iou,
            stability=float(stability(logits_11yx[0, 0], STABILITY_MARGIN)),
            trace=self._trace(request.job, object_id, entry, prompted) if self.rules.has_trace else None,
        )
        return RowResult(
            mask=mask,
            memory=self._remembered(request.job, object_id, logits_11hw, entry),
            logits_hw=logits_11hw[0, 0].float().cpu().clone() if self.rules.non_overlap else None,
        )

    def _remembered(self, job: FrameInFlight, object_id: int, logits_11hw: Tensor, entry: MemoryEntry) -> ObjectMemory:
        before = job.memories.get(object_id, ObjectMemory())
        motion = before.motion
        if self.rules.follows_motion:
            assert job.motion is not None, "motion is measured before decoding"
            motion = update(
                motion,
                job.motion,
                None if entry.is_conditioning else job.forecasts.get(object_id),
                logits_hw=np.array(logits_11hw[0, 0].float().cpu().numpy()),
                object_score=entry.object_score - self.rules.track.present_score,
                predicted_iou=entry.predicted_iou,
                config=self.rules.motion,
            )
        policy = self.rules.reverse_policy if job.reverse else self.rules.policy
        return before.after(entry, job.frame.frame_index, motion, policy)

    def _trace(self, job: FrameInFlight, object_id: int, entry: MemoryEntry, prompted: bool) -> Trace:
        shown = job.shown_as(object_id)
        if shown is not None:
            return Trace(source="prompted", prompt_kind=shown.kind)
        assert job.selections is not None
        sources = job.memories[object_id].sources
        return Trace(
            source="motion" if prompted else "tracked",
            prompt_kind=self.rules.motion.mode if prompted else None,
            memory_frames=tuple(sorted(sources[read.entry.frame_index] for read in job.selections[object_id].frames)),
            kalman_iou=entry.kalman_iou,
        )

    def _alternatives(self, found: TrackResult | None, output: MaskOutput, num_rows: int) -> list[float | None]:
        if found is None or not self.rules.policy.wants_alternatives:
            return [None] * num_rows
        chosen_Rhw = (output.low_res_logits_R1hw[:num_rows, 0] > 0).cpu().numpy()
        offered_RKhw = (found.candidates.logits_RKhw[:num_rows] > 0).cpu().numpy()
        return [alternative_iou(chosen, offered) for chosen, offered in zip(chosen_Rhw, offered_RKhw, strict=True)]


def stretch(image_yx3: Image, side: int) -> Image:
    """The frame on the model's square, not keeping its aspect ratio; PIL's bicubic resize, as SAM2's predictor."""
    if image_yx3.shape[:2] == (side, side):
        return image_yx3
    return np.array(PilImage.fromarray(image_yx3).resize((side, side), PilImage.Resampling.BICUBIC))


def confidence_of(entry: MemoryEntry, *, has_object_score: bool) -> float:
    """sigmoid(object score) times predicted IoU, in 0..1; predicted IoU alone without an object score head."""
    presence = 0.5 * (1 + math.tanh(entry.object_score / 2)) if has_object_score else 1.0
    return min(1.0, max(0.0, presence * entry.predicted_iou))


def _shown(job: FrameInFlight, object_id: int) -> Shown:
    entry = job.shown_as(object_id)
    assert entry is not None, "only shown objects are decoded as such"
    return entry


def _joined(requests: Sequence[Request], bucket: int) -> ImageFeatures:
    """Features of all rows, filled up, in one layout: a convolution's last bits depend on it."""
    parts = []
    for request in requests:
        assert request.job.features is not None
        parts.append(request.job.features.rows([0] * request.step.size))
    joined = ImageFeatures.join(parts)
    joined = joined.rows(_filled(list(range(len(joined))), bucket))
    fine, middle, coarse = (
        x.contiguous(memory_format=torch.channels_last) for x in (*joined.high_res, joined.map_BDhw)
    )
    return ImageFeatures(high_res=(fine, middle), map_BDhw=coarse, pos_BDhw=joined.pos_BDhw)


def _own(features: ImageFeatures) -> ImageFeatures:
    """A copy that does not keep its batch alive."""
    values = {f.name: getattr(features, f.name) for f in fields(features)}
    fine, middle = (x.clone() for x in features.high_res)
    return ImageFeatures(**{**values, "high_res": (fine, middle), "map_BDhw": features.map_BDhw.clone()})


def _places(requests: Sequence[Request]) -> Iterator[tuple[Request, range]]:
    """Where in the batch each request's places stand."""
    start = 0
    for request in requests:
        stop = start + request.step.size
        yield request, range(start, stop)
        start = stop


def _filled(rows: Sequence[T], size: int) -> list[T]:
    """The rows and as many copies of the first as are missing."""
    return [*rows, *[rows[0]] * (size - len(rows))]
