"""What SAMWISE is trained by: focal and dice loss on whole clips, and the labels and loss of its memory encoder."""

# Axes: B clips, T frames, h w logit grid, H W target grid, R rows (clip, frame) on which the CME was questioned.

import torch
from torch import Tensor
from torch.nn import functional as F

IGNORED = -1
"""Label of rows that teach the memory encoder nothing."""

CME_CLASS_WEIGHTS = (1.0, 2.0)
"""Of keep and switch. Source: SAMWISE (CVPR 2025), released training code's setting."""

MIN_AREA_PX = 50
"""Two masks both of at most this area are ignored."""

MIN_OVERLAP = 0.1
"""Masks that share less than this of the smaller one show different objects."""

SIZE_MULTIPLE = 32
"""Targets are padded to a multiple of this."""


def match_sizes(mask_logits_BThw: Tensor, targets_BTHW: Tensor) -> tuple[Tensor, Tensor]:
    """Logits and targets on one grid: targets zero-padded to multiples of 32, logits stretched to that size.

    The stretch is the reference's and slightly wrong where H or W is not a multiple of 32.

    Returns:
        Both float, (B, T, H', W').
    """
    height, width = targets_BTHW.shape[-2:]
    padding = (0, -width % SIZE_MULTIPLE, 0, -height % SIZE_MULTIPLE)
    targets = F.pad(targets_BTHW.float(), padding)
    logits = F.interpolate(mask_logits_BThw, size=targets.shape[-2:], mode="bilinear", align_corners=False)
    return logits, targets


def focal_loss(mask_logits_BTHW: Tensor, targets_BTHW: Tensor, *, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Mean over a clip's pixels, mean over clips; scalar.

    Source: Lin et al., ICCV 2017, equation 5, with the class balance alpha.

    Args:
        mask_logits_BTHW, targets_BTHW: float, same shape; targets in {0, 1}.
    """
    cross_entropy = F.binary_cross_entropy_with_logits(mask_logits_BTHW, targets_BTHW, reduction="none")
    inside = mask_logits_BTHW.sigmoid()
    miss = inside + targets_BTHW - 2 * inside * targets_BTHW
    balance = alpha * targets_BTHW + (1 - alpha) * (1 - targets_BTHW)
    return (balance * miss**gamma * cross_entropy).mean()


def dice_loss(mask_logits_BTHW: Tensor, targets_BTHW: Tensor) -> Tensor:
    """One minus the soft dice of a whole clip, add-one smoothed, mean over clips; scalar.

    Source: Milletari et al., 3DV 2016.
    """
    inside = mask_logits_BTHW.sigmoid().flatten(1)
    targets = targets_BTHW.flatten(1)
    shared = 2 * (inside * targets).sum(dim=1)
    return (1 - (shared + 1) / (inside.sum(dim=1) + targets.sum(dim=1) + 1)).mean()


def cme_loss(decision_logits_R2: Tensor, labels_R: Tensor) -> Tensor:
    """Weighted cross-entropy of keep (0) and switch (1) over the rows that are not ignored; 0 if all are."""
    if bool((labels_R == IGNORED).all()):
        return decision_logits_R2.sum() * 0.0
    weights = torch.tensor(CME_CLASS_WEIGHTS, dtype=decision_logits_R2.dtype, device=decision_logits_R2.device)
    return F.cross_entropy(decision_logits_R2, labels_R, weight=weights, ignore_index=IGNORED)


def cme_labels(with_memory_Rhw: Tensor, memory_less_Rhw: Tensor, memory_less_score_R: Tensor) -> Tensor:
    """Whether memory and text disagree on a frame: 1 switch, 0 keep, -1 ignore; int64, (R,).

    A row is ignored when the memory-less decode sees no object or both masks are at most 50 px; it is 1 when
    they share less than a tenth of the smaller one. Exactly one empty mask gives 0, as in the reference, whose
    0/0 compares as False although its authors meant 1.

    Args:
        with_memory_Rhw, memory_less_Rhw: mask logits at the input's resolution.
        memory_less_score_R: object score logit of the memory-less decode.
    """
    tracked, found = with_memory_Rhw > 0, memory_less_Rhw > 0
    tracked_area, found_area = tracked.flatten(1).sum(1), found.flatten(1).sum(1)
    shared = (tracked & found).flatten(1).sum(1)
    overlap = shared / torch.minimum(tracked_area, found_area)
    labels = (overlap < MIN_OVERLAP).long()
    both_tiny = (tracked_area <= MIN_AREA_PX) & (found_area <= MIN_AREA_PX)
    return labels.masked_fill(both_tiny | (memory_less_score_R < 0), IGNORED)
