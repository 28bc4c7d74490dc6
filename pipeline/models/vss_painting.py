"""From masklets and a label map to the class regions of a frame: poll, decide, paint, and what is given out.

Axes: O masklets, C classes, H W the decoded frame, h w the mask logits' grid.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Literal

import cv2
import numpy as np
import torch
from torch import Tensor

from pipeline.masks import rle
from pipeline.models.semantic_networks import SemanticMap
from pipeline.models.vss_frames import (
    FrameInFlight,
    FrameRules,
    HeldFrame,
    HeldMask,
    PendingFrame,
    Poll,
    VideoMemory,
)
from pipeline.models.vss_polls import FrameMasks, Opinions, masks_on_frame
from pipeline.models.vss_votes import NO_CLASS, VOID, PaintedFrame, Verdicts, VoteRules, paint
from pipeline.ticks import ObjectMask, TickMasks

Report = Literal["regions", "masklets", "both"]

_SHARES = 2.0**16
"""Confidences are rounded to this many parts of 1, so that their sums do not depend on the order of pixels."""


def held_frame(frame: PendingFrame, masks: FrameMasks, semantic: SemanticMap) -> HeldFrame:
    """A frame put aside until its window has voted."""
    confidence_HW = None
    if semantic.probabilities_CHW is not None:
        confidence_HW = (semantic.confidence_HW * 255).round().to(torch.uint8).cpu()
    return HeldFrame(
        frame_index=frame.frame_index,
        pts_us=frame.pts_us,
        labels_HW=semantic.labels_HW.to(torch.uint8).cpu(),
        confidence_HW=confidence_HW,
        masks=tuple(
            HeldMask(masklet_id=masklet_id, rle=rle.encode(mask.numpy()), predicted_iou=iou, object_score=score)
            for masklet_id, mask, iou, score in zip(
                masks.ids, masks.masks_OHW.cpu(), masks.predicted_iou, masks.object_score, strict=True
            )
        ),
    )


def masks_of_held(held: HeldFrame, device: torch.device) -> FrameMasks:
    """The masklets of a frame that was put aside."""
    height, width = held.labels_HW.shape
    masks = [torch.from_numpy(rle.decode(mask.rle, height, width)) for mask in held.masks]
    masks_OHW = torch.stack(masks) if masks else torch.zeros(0, height, width, dtype=torch.bool)
    return FrameMasks(
        ids=tuple(mask.masklet_id for mask in held.masks),
        masks_OHW=masks_OHW.to(device),
        predicted_iou=tuple(mask.predicted_iou for mask in held.masks),
        object_score=tuple(mask.object_score for mask in held.masks),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Painter:
    """Takes opinions and paints frames; a value without state.

    Attributes:
        num_classes: C.
        opinions: who decides a masklet's class.
        votes: how masklets overlap.
        report: class regions, whose object_id is the class + 1; masklets, whose object_id is C + their own id; or both.
    """

    num_classes: int
    opinions: Opinions
    votes: VoteRules
    report: Report
    rules: FrameRules
    device: torch.device

    def next_frame(self, flight: FrameInFlight, size: tuple[int, int]) -> FrameInFlight:
        """Paint the next frame of the window that ends here; when there is none, finish the frame itself."""
        if flight.num_painted == len(flight.held_to_paint):
            return self._finish(flight, size)
        flight = self._paint_held(flight, size)
        if flight.frame is None and flight.num_painted == len(flight.held_to_paint):
            return replace(flight, done=VideoMemory(position=flight.position, next_id=flight.next_id))
        return flight

    def _paint_held(self, flight: FrameInFlight, size: tuple[int, int]) -> FrameInFlight:
        polls = flight.polls
        if flight.num_painted == 0 and self._votes_on_shared_frame(flight):
            # The frame that the next window begins with is this one's last, seen with this one's masklets.
            polls = self.opinions.polled(polls, masks_on_frame(flight.masklets, size, self.device), flight)
        held = flight.held_to_paint[flight.num_painted]
        labels_HW = held.labels_HW.to(self.device).long()
        confidence_HW = torch.ones_like(labels_HW, dtype=torch.float32)
        if held.confidence_HW is not None:
            confidence_HW = held.confidence_HW.to(self.device).float() / 255
        masks = masks_of_held(held, self.device)
        verdicts, _ = self.opinions.verdicts(polls, masks.ids)
        tick = self._painted(held, labels_HW, confidence_HW, masks, verdicts)
        return replace(flight, polls=polls, released=(*flight.released, tick), num_painted=flight.num_painted + 1)

    def _votes_on_shared_frame(self, flight: FrameInFlight) -> bool:
        shared = flight.frame is not None and self.rules.overlap == 1 and self.rules.propagator == "sam2"
        return shared and self.opinions.revotes_shared_frame

    def _finish(self, flight: FrameInFlight, size: tuple[int, int]) -> FrameInFlight:
        """The frame's own votes; then it is painted, or put aside until its window has voted."""
        assert flight.frame is not None
        assert flight.semantic is not None
        semantic, masks = flight.semantic, masks_on_frame(flight.masklets, size, self.device)
        polls = self.opinions.polled(self._polls_at(flight), masks, flight)
        verdicts, polls = self.opinions.verdicts(polls, masks.ids)
        held, released = () if flight.is_key else flight.memory.held, flight.released
        if self.rules.emit == "window":
            held = (*held, held_frame(flight.frame, masks, semantic))
        else:
            tick = self._painted(flight.frame, semantic.labels_HW, semantic.confidence_HW, masks, verdicts)
            released = (*released, tick)
            polls = {masklet_id: polls[masklet_id] for masklet_id in masks.ids}
        done = VideoMemory(
            position=flight.position + 1,
            window_start=flight.position if flight.is_key else flight.memory.window_start,
            masklets=flight.masklets,
            polls=polls,
            next_id=flight.next_id,
            uncovered_at_key=flight.uncovered_at_key,
            held=held,
            grey_hw=flight.grey_hw,
        )
        return replace(flight, released=released, done=done)

    def _polls_at(self, flight: FrameInFlight) -> Mapping[int, Poll]:
        """Polls so far; as a window begins, those of masklets that go on."""
        if not flight.is_key:
            return flight.polls
        going_on = [masklet.masklet_id for masklet in flight.masklets if masklet.masklet_id in flight.polls]
        return self.opinions.begun({masklet_id: flight.polls[masklet_id] for masklet_id in going_on})

    def _painted(
        self,
        where: PendingFrame | HeldFrame,
        labels_HW: Tensor,
        confidence_HW: Tensor,
        masks: FrameMasks,
        verdicts: Verdicts,
    ) -> TickMasks:
        """Paint a frame and list what is asked for.

        A region's confidence is the mean over its pixels of the painting masklet's margin, or of the network's own
        probability where none painted; a masklet's is its margin.
        """
        on_device = Verdicts(**{f.name: getattr(verdicts, f.name).to(self.device) for f in fields(verdicts)})
        painted = paint(
            labels_HW,
            masks.masks_OHW,
            on_device,
            ids_O=torch.tensor(masks.ids, dtype=torch.long, device=self.device),
            quality_O=torch.tensor(masks.predicted_iou, dtype=torch.float64, device=self.device),
            rules=self.votes,
        )
        painted = filled(painted, self.opinions.fill_px)
        objects: list[ObjectMask] = []
        if self.report != "masklets":
            margin_O = torch.cat([on_device.margin_O.new_zeros(1), on_device.margin_O])
            own_HW = margin_O[painted.painter_HW + 1]
            sure_HW = torch.where(painted.painter_HW >= 0, own_HW, confidence_HW.double())
            objects += _regions(painted.labels_HW, sure_HW, self.num_classes)
        if self.report != "regions":
            objects += _masklet_masks(masks, verdicts, self.num_classes)
        height, width = labels_HW.shape
        return TickMasks(
            frame_index=where.frame_index, pts_us=where.pts_us, height=height, width=width, objects=tuple(objects)
        )


def filled(painted: PaintedFrame, reach_px: int) -> PaintedFrame:
    """Void pixels with the class and painter of the nearest painted pixel within `reach_px` (Euclidean)."""
    is_painted = (painted.painter_HW >= 0).cpu().numpy()
    void = (painted.labels_HW == VOID).cpu().numpy()
    if reach_px == 0 or not is_painted.any() or not void.any():
        return painted
    distance, nearest = cv2.distanceTransformWithLabels(
        (~is_painted).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE, labelType=cv2.DIST_LABEL_PIXEL
    )
    # Names of painted pixels: each has one of its own, which its neighbours beyond the paint share.
    place_of = np.zeros(int(nearest.max()) + 1, np.int64)
    place_of[nearest[is_painted]] = np.flatnonzero(is_painted)
    taken = torch.from_numpy(void & (distance <= reach_px)).to(painted.labels_HW.device)
    source = torch.from_numpy(place_of[nearest]).to(painted.labels_HW.device)
    return PaintedFrame(
        labels_HW=torch.where(taken, painted.labels_HW.flatten()[source], painted.labels_HW),
        painter_HW=torch.where(taken, painted.painter_HW.flatten()[source], painted.painter_HW),
    )


def _regions(labels_HW: Tensor, sure_HW: Tensor, num_classes: int) -> list[ObjectMask]:
    inside = labels_HW != VOID
    classes_N, exact_N = labels_HW[inside], (sure_HW[inside] * _SHARES).round() / _SHARES
    counts = torch.bincount(classes_N, minlength=num_classes).tolist()
    sums = torch.bincount(classes_N, weights=exact_N, minlength=num_classes).tolist()
    labels: np.ndarray = labels_HW.cpu().numpy()
    return [
        ObjectMask(
            object_id=class_id + 1,
            mask=labels == class_id,
            confidence=min(1.0, max(0.0, sums[class_id] / count)),
            class_id=class_id,
        )
        for class_id, count in enumerate(counts)
        if count
    ]


def _masklet_masks(masks: FrameMasks, verdicts: Verdicts, num_classes: int) -> list[ObjectMask]:
    pixels, painted, margins = masks.masks_OHW.cpu().numpy(), verdicts.painted_O.tolist(), verdicts.margin_O.tolist()
    found = [
        ObjectMask(
            object_id=num_classes + masklet_id,
            mask=pixels[row],
            confidence=margins[row],
            object_score=masks.object_score[row],
            predicted_iou=min(1.0, max(0.0, masks.predicted_iou[row])),
            class_id=None if painted[row] == NO_CLASS else painted[row],
        )
        for row, masklet_id in enumerate(masks.ids)
    ]
    return sorted(found, key=lambda seen: seen.object_id)
