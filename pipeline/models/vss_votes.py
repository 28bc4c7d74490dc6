"""Masklets vote on a network's label map: who votes for which class, who wins, who is painted over whom.

Source: "Evaluating SAM2 for Video Semantic Segmentation", arXiv 2512.01774: a masklet takes the class that most of
its pixels have, and paints it; other pixels keep the network's label.
Not stated in the paper: scopes beyond one frame, the purity gate, ties, and the order of overlapping masklets.

Votes are float64 and exact: counts are whole numbers, probabilities are rounded to multiples of 2**-16 first, so a sum
does not depend on the order of its terms. Axes: O masklets, C classes, H W pixels, N pixels of a chunk.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

VOID = 255
"""Label of pixels without a class: they neither vote nor are they given out as a region."""

NO_CLASS = -1
"""The class of a masklet that paints nothing."""

_PROBABILITY_STEPS = 2.0**16
_CHUNK_PIXELS = 1 << 16
_CHUNK_MASKS = 16


class VoteRules(BaseModel):
    """How masklets vote and paint.

    Attributes:
        vote: "hard" counts pixels by the network's label (the paper), "soft" sums the network's probabilities.
        scope: votes of one "frame" (the paper's formula, read literally), of the "window" so far, or of the whole
            "track", older frames counting less.
        track_decay: weight of all earlier frames against the next one, for "track".
        min_purity: a masklet paints only if its class has at least this share of its votes; 0 always paints, which
            is what the paper does.
        overlap: where masklets overlap, the smallest in "area" is on top, or that of the best "score" (predicted
            IoU), or the one with the purest "vote".
        rim_px: pixels this close to the masklet's rim do not vote; networks are least sure there.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    vote: Literal["hard", "soft"] = "hard"
    scope: Literal["frame", "window", "track"] = "window"
    track_decay: float = Field(default=0.97, ge=0, le=1)
    min_purity: float = Field(default=0.5, ge=0, le=1)
    overlap: Literal["area", "score", "vote"] = "area"
    rim_px: int = Field(default=0, ge=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ballots:
    """Votes of masklets for classes.

    Attributes:
        votes_OC: what decides.
        probability_OC: summed probabilities, which break ties; equal to hard votes where a network gives none.
    """

    votes_OC: Tensor
    probability_OC: Tensor

    def followed_by(self, later: "Ballots", *, decay: float = 1.0) -> "Ballots":
        """These, weighted by `decay`, and those of a later frame."""
        return Ballots(
            votes_OC=decay * self.votes_OC + later.votes_OC,
            probability_OC=decay * self.probability_OC + later.probability_OC,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdicts:
    """What the votes came to, per masklet.

    Attributes:
        winner_O: class with the most votes; NO_CLASS where nobody voted.
        painted_O: the same, but NO_CLASS also where the winner's share is below the gate.
        purity_O: the winner's share of all votes.
        margin_O: its lead over the second, as a share of all votes: the masklet's confidence.
    """

    winner_O: Tensor
    painted_O: Tensor
    purity_O: Tensor
    margin_O: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class PaintedFrame:
    """A label map after painting.

    Attributes:
        labels_HW: int64.
        painter_HW: index of the masklet that painted a pixel, -1 where the network's label stays.
    """

    labels_HW: Tensor
    painter_HW: Tensor


def tally(
    labels_HW: Tensor,
    masks_OHW: Tensor,
    *,
    num_classes: int,
    rules: VoteRules,
    probabilities_CHW: Tensor | None = None,
) -> Ballots:
    """One frame's votes.

    Args:
        labels_HW: the network's labels, int64; VOID does not vote.
        masks_OHW: bool, at the labels' size; they may overlap.
        probabilities_CHW: the network's, 0..1; None where it gives labels only.

    Raises:
        ValueError: "soft" votes of a network without probabilities.
    """
    if rules.vote == "soft" and probabilities_CHW is None:
        raise ValueError("vote 'soft' needs probabilities, and this network gives labels only. Use vote 'hard'.")
    voters_OHW = without_rim(masks_OHW, rules.rim_px) & (labels_HW != VOID)
    hard_OC = _count_labels(labels_HW, voters_OHW, num_classes)
    soft_OC = hard_OC if probabilities_CHW is None else _sum_probabilities(probabilities_CHW, voters_OHW)
    return Ballots(votes_OC=hard_OC if rules.vote == "hard" else soft_OC, probability_OC=soft_OC)


def decide(ballots: Ballots, previous_O: Tensor, *, min_purity: float) -> Verdicts:
    """Who wins: most votes, then the larger probability, then the class of the frame before, then the lower id.

    Args:
        previous_O: winners of the frame before, NO_CLASS where there is none.
    """
    votes_OC, probability_OC = ballots.votes_OC, ballots.probability_OC
    num_masklets, num_classes = votes_OC.shape
    if not num_masklets:
        none = previous_O.new_zeros(0)
        return Verdicts(winner_O=none, painted_O=none, purity_O=none.double(), margin_O=none.double())
    classes_C = torch.arange(num_classes, device=votes_OC.device)
    best_O = votes_OC.amax(dim=1)
    tied_OC = votes_OC == best_O[:, None]
    tied_OC &= probability_OC == probability_OC.masked_fill(~tied_OC, -torch.inf).amax(dim=1, keepdim=True)
    was_OC = tied_OC & (classes_C == previous_O[:, None])
    tied_OC = torch.where(was_OC.any(dim=1, keepdim=True), was_OC, tied_OC)
    winner_O = torch.where(tied_OC, classes_C, num_classes).amin(dim=1)
    total_O = votes_OC.sum(dim=1)
    any_O, scale_O = total_O > 0, total_O.clamp(min=torch.finfo(torch.float64).tiny)
    second_O = votes_OC.scatter(1, winner_O[:, None], 0.0).amax(dim=1)
    purity_O = torch.where(any_O, best_O / scale_O, 0.0)
    winner_O = torch.where(any_O, winner_O, NO_CLASS)
    return Verdicts(
        winner_O=winner_O,
        painted_O=torch.where(any_O & (purity_O >= min_purity), winner_O, NO_CLASS),
        purity_O=purity_O,
        margin_O=torch.where(any_O, (best_O - second_O) / scale_O, 0.0),
    )


def paint(
    labels_HW: Tensor,
    masks_OHW: Tensor,
    verdicts: Verdicts,
    *,
    ids_O: Tensor,
    quality_O: Tensor,
    rules: VoteRules,
) -> PaintedFrame:
    """Write each masklet's class over the network's labels, what is to be on top last.

    Args:
        labels_HW: int64; pixels that no masklet paints keep their value exactly.
        masks_OHW: bool.
        ids_O: names of the masklets, unique; they order what is otherwise equal.
        quality_O: predicted IoU.
    """
    height, width = labels_HW.shape
    top_HW = torch.zeros(height, width, dtype=torch.int32, device=labels_HW.device)
    painting = (verdicts.painted_O != NO_CLASS).nonzero()[:, 0]
    if not len(painting):
        return PaintedFrame(labels_HW=labels_HW.clone(), painter_HW=top_HW - 1)
    masks_OHW = masks_OHW[painting]
    order = _painting_order(
        masks_OHW.flatten(1).sum(1), quality_O[painting], verdicts.purity_O[painting], ids_O[painting], rules.overlap
    ).to(labels_HW.device)
    place_O = torch.empty_like(order).scatter_(0, order, torch.arange(1, len(order) + 1, device=order.device)).int()
    for start in range(0, len(order), _CHUNK_MASKS):
        part = slice(start, start + _CHUNK_MASKS)
        top_HW = torch.maximum(top_HW, (masks_OHW[part] * place_O[part, None, None]).amax(dim=0))
    painter_HW = torch.cat([order.new_full((1,), -1), painting[order]])[top_HW.long()]
    painted_HW = torch.where(painter_HW >= 0, verdicts.painted_O[painter_HW.clamp(min=0)], labels_HW)
    return PaintedFrame(labels_HW=painted_HW, painter_HW=painter_HW)


def without_rim(masks_OHW: Tensor, rim_px: int) -> Tensor:
    """The masks less what lies within `rim_px` (chessboard distance) of their outside; the frame's edge is no rim."""
    if rim_px == 0 or not len(masks_OHW):
        return masks_OHW
    outside = (~masks_OHW).float().unsqueeze(1)
    near: Tensor = F.max_pool2d(outside, 2 * rim_px + 1, stride=1, padding=rim_px)
    return masks_OHW & (near.squeeze(1) == 0)


def _count_labels(labels_HW: Tensor, voters_OHW: Tensor, num_classes: int) -> Tensor:
    masklet_N, pixel_N = voters_OHW.flatten(1).nonzero(as_tuple=True)
    cells_N = masklet_N * num_classes + labels_HW.flatten()[pixel_N]
    counts = torch.bincount(cells_N, minlength=len(voters_OHW) * num_classes)
    return counts.view(len(voters_OHW), num_classes).double()


def _sum_probabilities(probabilities_CHW: Tensor, voters_OHW: Tensor) -> Tensor:
    num_classes = probabilities_CHW.shape[0]
    total_OC = torch.zeros(len(voters_OHW), num_classes, dtype=torch.float64, device=voters_OHW.device)
    flat_CN, voters_ON = probabilities_CHW.flatten(1), voters_OHW.flatten(1)
    for start in range(0, flat_CN.shape[1], _CHUNK_PIXELS):
        part = slice(start, start + _CHUNK_PIXELS)
        exact_CN = (flat_CN[:, part].double() * _PROBABILITY_STEPS).round() / _PROBABILITY_STEPS
        total_OC += voters_ON[:, part].double() @ exact_CN.T
    return total_OC


def _painting_order(area_O: Tensor, quality_O: Tensor, purity_O: Tensor, ids_O: Tensor, overlap: str) -> Tensor:
    """Indices of the masklets, what is painted first first: a total order, so that theirs does not matter."""
    area, quality, purity, ids = (x.cpu().numpy() for x in (area_O, quality_O, purity_O, ids_O))
    # np.lexsort goes by its last key first. Large areas, low quality and high ids are painted first.
    keys = [-ids, quality, -area]
    if overlap == "score":
        keys = [-ids, -area, quality]
    elif overlap == "vote":
        keys.append(purity)
    return torch.from_numpy(np.lexsort(keys))
