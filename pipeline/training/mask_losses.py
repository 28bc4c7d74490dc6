"""Losses of masks row by row, weighed by where there is something to see."""

# Axes: R rows (one object or expression on one frame), K mask candidates, H W pixels.

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

FOCAL_WEIGHT, DICE_WEIGHT, PRESENCE_WEIGHT, IOU_WEIGHT = 20.0, 1.0, 0.5, 0.5
"""Source of focal and dice: SAM 2, arXiv 2408.00714, appendix D.2.1."""

_ALPHA = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class RowScores:
    """What a decode of rows with K candidates is scored by.

    Attributes:
        logits_RKHW: masks, at the targets' size; those of absent objects not painted out.
        predicted_iou_RK, object_score_R: the decoder's own estimates.
        targets_RHW: bool; empty where the object is out of view.
    """

    logits_RKHW: Tensor
    predicted_iou_RK: Tensor
    object_score_R: Tensor
    targets_RHW: Tensor


def row_losses(scores: RowScores, *, presence_weight: float = PRESENCE_WEIGHT) -> dict[str, Tensor]:
    """Focal, dice (where visible), presence and predicted-IoU loss; scalars, means over rows.

    Of several candidates only the one with the least mask loss is taught, but every estimate of IoU is. Source: SAM,
    arXiv 2304.02643, section 3 "Resolving ambiguity"; SAM 2, appendix D.2.1.
    """
    targets_RKHW = scores.targets_RHW[:, None].float().expand_as(scores.logits_RKHW)
    focal_RK, dice_RK = _focal(scores.logits_RKHW, targets_RKHW), _dice(scores.logits_RKHW, targets_RKHW)
    visible_R = scores.targets_RHW.flatten(1).any(dim=1)
    mask_RK = FOCAL_WEIGHT * focal_RK + DICE_WEIGHT * dice_RK * visible_R[:, None]
    best_R = mask_RK.detach().argmin(dim=1, keepdim=True)
    iou_RK = mask_iou(scores.logits_RKHW, targets_RKHW)
    off_RK = (scores.predicted_iou_RK - iou_RK).abs() * visible_R[:, None]
    num_visible = visible_R.sum().clamp(min=1)
    return {
        "focal": FOCAL_WEIGHT * focal_RK.gather(1, best_R).mean(),
        "dice": DICE_WEIGHT * (dice_RK.gather(1, best_R)[:, 0] * visible_R).sum() / num_visible,
        "presence": presence_weight * F.binary_cross_entropy_with_logits(scores.object_score_R, visible_R.float()),
        "iou": IOU_WEIGHT * off_RK.mean(dim=1).sum() / num_visible,
    }


@torch.no_grad()
def row_metrics(scores: RowScores) -> Mapping[str, Tensor]:
    """J of visible rows by the candidate that claims to be best, and the share of empty rows called empty."""
    chosen_R = scores.predicted_iou_RK.argmax(dim=1)
    rows = torch.arange(len(chosen_R), device=chosen_R.device)
    logits_RHW = scores.logits_RKHW[rows, chosen_R]
    present_R = scores.object_score_R > 0
    logits_RHW = torch.where(present_R[:, None, None], logits_RHW, -1.0)
    visible_R = scores.targets_RHW.flatten(1).any(dim=1)
    j_R = mask_iou(logits_RHW[:, None], scores.targets_RHW[:, None].float())[:, 0]
    empty_R = ~(logits_RHW > 0).flatten(1).any(dim=1)
    return {
        "train_j": (j_R * visible_R).sum() / visible_R.sum().clamp(min=1),
        "train_empty": (empty_R & ~visible_R).sum() / (~visible_R).sum().clamp(min=1),
    }


@torch.no_grad()
def mask_iou(logits_RKHW: Tensor, targets_RKHW: Tensor) -> Tensor:
    """IoU of the masks above 0 with the targets, (R, K); 0 where both are empty."""
    inside = (logits_RKHW > 0).flatten(2).float()
    targets = targets_RKHW.flatten(2)
    shared = (inside * targets).sum(dim=2)
    return shared / (inside.sum(dim=2) + targets.sum(dim=2) - shared).clamp(min=1)


def _focal(logits: Tensor, targets: Tensor) -> Tensor:
    cross_entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    inside = logits.sigmoid()
    miss = inside + targets - 2 * inside * targets
    balance = _ALPHA * targets + (1 - _ALPHA) * (1 - targets)
    return (balance * miss.square() * cross_entropy).flatten(2).mean(dim=2)


def _dice(logits: Tensor, targets: Tensor) -> Tensor:
    inside, targets = logits.sigmoid().flatten(2), targets.flatten(2)
    shared = 2 * (inside * targets).sum(dim=2)
    return 1 - (shared + 1) / (inside.sum(dim=2) + targets.sum(dim=2) + 1)
