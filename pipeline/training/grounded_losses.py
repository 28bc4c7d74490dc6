"""What grounded fusion is trained by beside the masks: word evidence, the whole expression's, and helper heads."""

# Axes: C clips, T frames, F = C*T, E expressions of a clip, B = C*E, G = B*T rows, L tokens, N objects with slot 0 for
# background, K fusion width, H W image, h w the stride-8 grid.

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.models.grounded_fusion import Evidence
from pipeline.synth.world import COLOURS, MOTIONS, SHAPES, SIZES, TEXTURES
from pipeline.training.grounded_clips import GRID_STRIDE, GroundedBatch

BACKGROUND_WEIGHT = 0.1
"""Of cells that no object owns, in the loss of the whole expression's evidence."""

_TRAIT_SIZES = (len(COLOURS), len(SHAPES), len(SIZES), len(MOTIONS))
_TRAIT_WEIGHTS = (0.3, 0.5, 0.3, 1.0)
_TEXTURE = len(_TRAIT_SIZES)
_FOREGROUND_WEIGHT, _VELOCITY_WEIGHT = 0.5, 1.0
_SURE = -1e-4
"""Log evidence nearer to 0 than this is cut, or its complement would have no logarithm."""


class HelperHeads(nn.Module):
    """Traits of the object in each cell, read off the grounding map; in training only."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.traits = nn.ModuleList(nn.Conv2d(width, size, 1) for size in _TRAIT_SIZES)
        self.velocity = nn.Conv2d(width, 2, 1)
        self.texture = nn.Conv2d(width, len(TEXTURES), 1)


def helper_losses(
    heads: HelperHeads, ground_FKhw: Tensor, batch: GroundedBatch, *, texture_weight: float = 0.0
) -> dict[str, Tensor]:
    """Cross-entropy of colour, shape, size, motion and, if it weighs, texture, and L1 of the velocity.

    All on cells that an object owns.
    """
    owner_Fhw = batch.cells_CThw.flatten(0, 1)
    is_owned = owner_Fhw > 0
    clip_F = torch.arange(batch.num_clips, device=owner_Fhw.device).repeat_interleave(batch.num_frames)
    traits_FhwK = batch.traits_CNK[clip_F[:, None, None], owner_Fhw]
    losses = {}
    names = ("colour", "shape", "size", "motion")
    for place, (name, head, weight) in enumerate(zip(names, heads.traits, _TRAIT_WEIGHTS, strict=True)):
        each = F.cross_entropy(head(ground_FKhw), traits_FhwK[..., place], reduction="none")
        losses[name] = weight * _mean_where(each, is_owned)
    if texture_weight > 0:
        each = F.cross_entropy(heads.texture(ground_FKhw), traits_FhwK[..., _TEXTURE], reduction="none")
        losses["texture"] = texture_weight * _mean_where(each, is_owned)
    frame_F = torch.arange(batch.num_frames, device=owner_Fhw.device).repeat(batch.num_clips)
    velocity_Fhw2 = batch.velocities_CTN2[clip_F[:, None, None], frame_F[:, None, None], owner_Fhw]
    off = (heads.velocity(ground_FKhw).permute(0, 2, 3, 1) - velocity_Fhw2 / GRID_STRIDE).abs().sum(dim=-1)
    losses["velocity"] = _VELOCITY_WEIGHT * _mean_where(off, is_owned)
    return losses


def foreground_loss(logits_F1hw: Tensor, batch: GroundedBatch) -> Tensor:
    """Cross-entropy of "some object owns this cell"."""
    is_owned = (batch.cells_CThw.flatten(0, 1) > 0).float()
    return _FOREGROUND_WEIGHT * F.binary_cross_entropy_with_logits(logits_F1hw.squeeze(1), is_owned)


def word_loss(evidence: Evidence, batch: GroundedBatch) -> Tensor:
    """Cross-entropy of each word on the cells of each object of which it is surely true or false."""
    owner_Ghw = _per_expression(batch.cells_CThw, batch).flatten(0, 1)
    truth_GLN = batch.word_truth_BLN.repeat_interleave(batch.num_frames, dim=0)
    num_words = truth_GLN.shape[1]
    index_GLc = owner_Ghw.flatten(1)[:, None].expand(-1, num_words, -1)
    truth_GLc = truth_GLN.gather(2, index_GLc)
    each = F.binary_cross_entropy_with_logits(
        evidence.word_logits_FLhw.flatten(2), (truth_GLc == 1).float(), reduction="none"
    )
    weight = batch.word_weight_BL.repeat_interleave(batch.num_frames, dim=0)[..., None] * (truth_GLc >= 0)
    return _mean_where(each, weight)


def expression_loss(evidence: Evidence, batch: GroundedBatch) -> Tensor:
    """Cross-entropy of the whole expression's evidence with the share of each cell that is meant."""
    meant = F.avg_pool2d(batch.targets_BTHW.flatten(0, 1).float()[:, None], GRID_STRIDE)
    log_yes = evidence.log_evidence_F1hw.clamp(max=_SURE)
    each = -(meant * log_yes + (1 - meant) * torch.log(-torch.expm1(log_yes)))
    owned = _per_expression(batch.cells_CThw, batch).flatten(0, 1)[:, None] > 0
    return _mean_where(each, torch.where(owned | (meant > 0), 1.0, BACKGROUND_WEIGHT))


def _per_expression(of_clips: Tensor, batch: GroundedBatch) -> Tensor:
    return of_clips.repeat_interleave(batch.num_expressions, dim=0)


def _mean_where(each: Tensor, weight: Tensor) -> Tensor:
    weight = weight.to(each.dtype)
    return (each * weight).sum() / weight.sum().clamp(min=1.0)
