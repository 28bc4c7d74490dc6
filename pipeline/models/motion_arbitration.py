"""Choosing among the candidates of the prompted and the unprompted decode, by quality and by where it should be."""

# Axes: R rows, K candidates, h w cells of the logit grid, 4 as (x0, y0, x1, y1).

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.models.motion_kalman import Box4, box_iou


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One mask that the decoder offers.

    Attributes:
        prompted: it comes from the decode with the motion prompt.
        predicted_iou: the decoder's estimate, 0..1.
        object_score: logit that the object is in view, of that decode.
        box: of the mask, in pixels of the decoded frame; None if it is empty.
        area: of the mask, in cells of the logits' grid.
    """

    prompted: bool
    predicted_iou: float
    object_score: float
    box: Box4 | None
    area: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The winner: its place and its score."""

    index: int
    score: float


def arbitrate(
    candidates: Sequence[Candidate], expected_box: Box4 | None, weight: float, max_area: float | None = None
) -> Choice:
    """The candidate with the best (1 - weight) predicted IoU + weight IoU(its box, the expected box).

    Source: spec of MGP, arbitration [I], with the score of SAMURAI (arXiv 2411.11922). Candidates whose object score
    is not above 0 take no part; if none is left, the object is absent and the unprompted decode says so, by its best
    predicted IoU. Ties go to the first: put unprompted candidates first.

    Where look-alikes touch, the mask of both is as sure as that of one, so a mask too large for the object takes no
    part beside one that is not. Not in the spec [U].

    Args:
        expected_box: where motion has the object, in pixels of the decoded frame; None ignores the weight.
        max_area: in cells; None allows any.

    Raises:
        ValueError: there is no unprompted candidate, or the weight is not in 0..1.
    """
    if not any(not candidate.prompted for candidate in candidates) or not 0 <= weight <= 1:
        raise ValueError(
            f"{len(candidates)} candidates, weight {weight}; expected an unprompted candidate and a weight in 0..1. "
            "Decode without the motion prompt too."
        )
    weight = 0.0 if expected_box is None else weight
    in_view = [place for place, candidate in enumerate(candidates) if candidate.object_score > 0]
    if not in_view:
        unprompted = [place for place, candidate in enumerate(candidates) if not candidate.prompted]
        index = max(unprompted, key=lambda place: candidates[place].predicted_iou)
        return Choice(index=index, score=candidates[index].predicted_iou)
    if max_area is not None:
        in_view = [place for place in in_view if candidates[place].area <= max_area] or in_view
    scores = {
        place: (1 - weight) * candidates[place].predicted_iou
        + weight * (iou_with(candidates[place], expected_box) or 0.0)
        for place in in_view
    }
    index = max(in_view, key=lambda place: scores[place])
    return Choice(index=index, score=scores[index])


def iou_with(candidate: Candidate, box: Box4 | None) -> float | None:
    """IoU of a candidate's box with another, None without either."""
    return None if candidate.box is None or box is None else box_iou(candidate.box, box)


def candidate_boxes(logits_RKhw: Tensor, frame_size: tuple[int, int]) -> Tensor:
    """Boxes of candidate masks, (R, K, 4) float32 in pixels of the decoded frame; all zero where a mask is empty.

    The edges are those of the rows' and columns' largest logits, interpolated to the frame's pixels, on the device.

    Args:
        logits_RKhw: over the whole frame.
        frame_size: (height, width).
    """
    x0, x1 = _extents(logits_RKhw.amax(dim=-2), frame_size[1])
    y0, y1 = _extents(logits_RKhw.amax(dim=-1), frame_size[0])
    boxes_RK4 = torch.stack([x0, y0, x1, y1], dim=-1)
    # A thin mask of a fine grid on a coarse frame is never lost: `_extents` does not go below the grid.
    return boxes_RK4 * ((x1 > x0) & (y1 > y0))[..., None]


def box_or_none(box: Sequence[float]) -> Box4 | None:
    """One row of `candidate_boxes` as a box; None for an empty mask."""
    x0, y0, x1, y1 = box
    return (x0, y0, x1, y1) if x1 > x0 and y1 > y0 else None


def _extents(profile_RKn: Tensor, side: int) -> tuple[Tensor, Tensor]:
    fine = max(side, profile_RKn.shape[-1])
    above_RKn = F.interpolate(profile_RKn.float(), size=fine, mode="linear", align_corners=False) > 0
    places_n = torch.arange(fine, device=above_RKn.device)
    first_RK = torch.where(above_RKn, places_n, fine).amin(dim=-1)
    last_RK = torch.where(above_RKn, places_n, -1).amax(dim=-1)
    return torch.where(first_RK < fine, first_RK, 0) * (side / fine), (last_RK + 1) * (side / fine)
