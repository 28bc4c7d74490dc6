"""The loss on MemorySAM's fused labels: cross-entropy over the hardest pixels."""

# Axes: B scenes, K classes, H W pixels.

import math

import torch
from torch import Tensor
from torch.nn import functional as F

IGNORED_LABEL = 255
"""Label of pixels that no one marked: neither trained on nor scored."""

OHEM_PROBABILITY = 0.7
OHEM_MIN_SHARE = 16
"""At least one valid pixel in this many is trained on."""


def ohem_cross_entropy(logits_BKHW: Tensor, labels_BHW: Tensor, *, probability: float = OHEM_PROBABILITY) -> Tensor:
    """Mean cross-entropy over pixels whose true class gets less than `probability`, or over the hardest sixteenth.

    The sixteenth counts valid pixels, and is taken where fewer pixels are that hard.

    Source: Shrivastava et al., OHEM, arXiv 1604.03540, as MemorySAM's released training sets it. Departs from it: a
    batch without a valid pixel gives 0, not NaN.

    Args:
        logits_BKHW: float, at the labels' size.
        labels_BHW: integer, IGNORED_LABEL where unknown.
    """
    labels_BHW = labels_BHW.long()
    losses = F.cross_entropy(logits_BKHW.float(), labels_BHW, ignore_index=IGNORED_LABEL, reduction="none").flatten()
    num_valid = int((labels_BHW != IGNORED_LABEL).sum())
    if num_valid == 0:
        return losses.sum()
    hard = losses[losses > -math.log(probability)]
    fewest = num_valid // OHEM_MIN_SHARE
    if hard.numel() < fewest:
        hard = losses.topk(fewest).values
    if hard.numel() == 0:
        # Fewer than sixteen valid pixels, all of them easy.
        return losses.sum() / num_valid
    return hard.mean()


def pixel_accuracy(logits_BKHW: Tensor, labels_BHW: Tensor) -> Tensor:
    """Share of valid pixels with the right label; 1 where there is none."""
    valid = labels_BHW != IGNORED_LABEL
    right = (logits_BKHW.argmax(dim=1) == labels_BHW) & valid
    return torch.where(valid.any(), right.sum() / valid.sum().clamp(min=1), torch.ones((), device=right.device))
