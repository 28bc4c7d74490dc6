"""MemorySAM's semantic prototype memory: class means of early features, drawn towards their running averages."""

# Axes: B scenes, K classes, P channels of the stride-4 features, h w their grid, H W pixels of the labels, N features.

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.training.memorysam_losses import IGNORED_LABEL

SpmmMode = Literal["reference", "masked", "off"]

MOMENTUM = 0.8
REFERENCE_WEIGHT = 256.0 * 256.0
"""Of the reference's loss, which divides by the pixel count twice."""

Sum = Callable[[Sequence[Tensor]], None]
"""Replaces tensors by their sums over all workers, in place."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassSums:
    """Features of a batch added up by class.

    Attributes:
        sums_KP: differentiable.
        counts_K: float32, cells of each class.
    """

    sums_KP: Tensor
    counts_K: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class PrototypeStep:
    """One step of the prototype memory.

    Attributes:
        loss: scalar; its gradient reaches the features through the batch's prototypes alone.
        batch_KP: prototypes of the batch.
        global_KP: running prototypes after the step.
        seen_K: bool, classes that any step has seen.
    """

    loss: Tensor
    batch_KP: Tensor
    global_KP: Tensor
    seen_K: Tensor


def class_sums(features_BPhw: Tensor, labels_BHW: Tensor, *, num_classes: int) -> ClassSums:
    """Sum features over the cells of each class; labels are resized to the features' grid, nearest.

    Args:
        labels_BHW: integer; values outside 0 .. num_classes - 1, IGNORED_LABEL among them, belong to no class.
    """
    labels_BHW = labels_BHW.long()
    if int(labels_BHW.min()) < 0 or bool(((labels_BHW >= num_classes) & (labels_BHW != IGNORED_LABEL)).any()):
        raise ValueError(
            f"labels from {int(labels_BHW.min())} to {int(labels_BHW.max())}; expected 0 .. {num_classes - 1} or "
            f"{IGNORED_LABEL}. Map the data set's ids to the model's classes first."
        )
    resized = F.interpolate(labels_BHW[:, None].float(), size=features_BPhw.shape[-2:], mode="nearest")[:, 0].long()
    features_NP = features_BPhw.float().permute(0, 2, 3, 1).flatten(0, 2)
    # One more row for what belongs to no class; a matrix product adds up in an order that does not vary.
    rows_N = resized.flatten().clamp(max=num_classes)
    belongs_NK = F.one_hot(rows_N, num_classes + 1)[:, :num_classes].to(features_NP.dtype)
    return ClassSums(sums_KP=belongs_NK.t() @ features_NP, counts_K=belongs_NK.sum(dim=0))


def reference_step(sums: ClassSums, global_KP: Tensor, seen_K: Tensor, *, momentum: float = MOMENTUM) -> PrototypeStep:
    """The published code's step, unweighted: P = mean / count, G from zero and decaying where a class is absent.

    Dividing the mean by the count once more makes small classes weigh most; all K P entries are averaged over, and G
    moves before the loss is taken. Source: MemorySAM's released code; multiply the loss by REFERENCE_WEIGHT.
    """
    counts_K1 = sums.counts_K.clamp(min=1)[:, None]
    batch_KP = sums.sums_KP / counts_K1 / counts_K1
    new_KP = momentum * global_KP + (1 - momentum) * batch_KP.detach()
    return PrototypeStep(
        loss=F.mse_loss(batch_KP, new_KP), batch_KP=batch_KP, global_KP=new_KP, seen_K=seen_K | (sums.counts_K > 0)
    )


def masked_step(
    sums: ClassSums,
    global_KP: Tensor,
    seen_K: Tensor,
    *,
    momentum: float = MOMENTUM,
    num_workers: int = 1,
    sum_over_workers: Sum | None = None,
) -> PrototypeStep:
    """The step over present classes alone: P is the mean over all workers' cells, G begins as the first P seen.

    Departs from the reference: no second division, no decay of absent classes, the same G on every worker.

    Args:
        num_workers, sum_over_workers: the loss has the value of the whole batch on every worker, and `num_workers`
            times the gradient of this worker's cells, so that the mean over workers is that of the whole batch.
    """
    total_KP, counts_K = sums.sums_KP.detach().clone(), sums.counts_K.clone()
    if sum_over_workers is not None:
        sum_over_workers([total_KP, counts_K])
    # The value of the sum over all workers, the gradient of this one's part.
    summed_KP = total_KP + num_workers * (sums.sums_KP - sums.sums_KP.detach())
    present_K, counts_K1 = counts_K > 0, counts_K.clamp(min=1)[:, None]
    batch_KP = summed_KP / counts_K1
    moved_KP = momentum * global_KP + (1 - momentum) * batch_KP.detach()
    fresh_KP = torch.where(seen_K[:, None], moved_KP, batch_KP.detach())
    new_KP = torch.where(present_K[:, None], fresh_KP, global_KP)
    squares_K = (batch_KP - new_KP).square().mean(dim=1) * present_K
    return PrototypeStep(
        loss=squares_K.sum() / present_K.sum().clamp(min=1),
        batch_KP=batch_KP,
        global_KP=new_KP,
        seen_K=seen_K | present_K,
    )


class PrototypeMemory(torch.nn.Module):
    """The running prototypes as buffers, which a training checkpoint holds; never part of a model's weights.

    Departs from the reference, which forgets them on a resume.
    """

    global_KP: Tensor
    seen_K: Tensor

    def __init__(self, num_classes: int, num_channels: int) -> None:
        super().__init__()
        self.register_buffer("global_KP", torch.zeros(num_classes, num_channels))
        self.register_buffer("seen_K", torch.zeros(num_classes, dtype=torch.bool))

    def accept(self, step: PrototypeStep) -> None:
        """Go on from a step."""
        self.global_KP.copy_(step.global_KP)
        self.seen_K.copy_(step.seen_K)
