"""SAM2's mask decoder, run over its own modules: every candidate, the early token, and the choice among them.

Axes: R rows, T prompt tokens, D decoder channels, K mask candidates, h w the tensor's own grid (stride 16 for
features, stride 4 for mask logits).
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor

ABSENT_LOGIT = -1024.0
"""Mask logit everywhere when the object is out of view (`NO_OBJ_SCORE` of SAM2's released code)."""

PRESENT_SCORE = 10.0
"""Object score of models without an object score head."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderPrompts:
    """What the decoder is asked, per row.

    Attributes:
        sparse_RTD: points, box corners, padding and further tokens such as text, in this order.
        dense_RDhw: the mask prompt on the feature grid, or the learned "no mask".
    """

    sparse_RTD: Tensor
    dense_RDhw: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskCandidates:
    """What the decoder offers before anyone chooses.

    Attributes:
        logits_RKhw: float32; ABSENT_LOGIT everywhere where the object is out of view.
        predicted_iou_RK: the decoder's own estimate per candidate.
        tokens_RKD: output token per candidate, or (R, 1, D) where all share the single-mask token.
        object_score_R1: logit that the object is in view.
        early_token_RD: query of mask token 0 after the first of the two decoder layers.
    """

    logits_RKhw: Tensor
    predicted_iou_RK: Tensor
    tokens_RKD: Tensor
    object_score_R1: Tensor
    early_token_RD: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskOutput:
    """One mask per row.

    Attributes:
        low_res_logits_R1hw: float32, stride 4.
        predicted_iou_R: the decoder's estimate of this mask.
        object_score_R1: logit that the object is in view.
        object_pointer_RD: what memory keeps of the object, blended with the learned absent pointer.
        early_token_RD: see MaskCandidates.
    """

    low_res_logits_R1hw: Tensor
    predicted_iou_R: Tensor
    object_score_R1: Tensor
    object_pointer_RD: Tensor
    early_token_RD: Tensor

    def rows(self, rows: slice) -> Self:
        """Some of the rows, as views."""
        return type(self)(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderSwitches:
    """What the decoder is to do with its candidates.

    Attributes:
        multimask: offer all candidates but the single-mask token's.
        own_tokens: each candidate's pointer comes from its own token rather than the single-mask token.
        stability_delta, stability_thresh: an unstable single mask gives way to the best candidate if both are set:
            stability is the IoU between the masks cut `stability_delta` above and below zero.
        gate_absent: paint out the masks of objects that are out of view.
    """

    multimask: bool
    own_tokens: bool
    stability_delta: float | None = None
    stability_thresh: float | None = None
    gate_absent: bool = True


def embed_prompts(
    encoder: Any,
    num_rows: int,
    points_RP2: Tensor | None,
    labels_RP: Tensor | None,
    boxes_R4: Tensor | None,
    mask_logits_R1hw: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Sparse tokens and dense embedding of sam2's PromptEncoder, as SAM2 asks for them.

    A box becomes two corner points (labels 2 and 3) ahead of the others; no points at all become one padding point;
    the encoder pads with another.

    Raises:
        ValueError: points without labels or the reverse.
    """
    if (points_RP2 is None) != (labels_RP is None):
        raise ValueError("points_RP2 and labels_RP belong together; give both or neither.")
    device = encoder.no_mask_embed.weight.device
    coords = [] if points_RP2 is None else [points_RP2.float()]
    labels = [] if labels_RP is None else [labels_RP.to(torch.int32)]
    if boxes_R4 is not None:
        coords.insert(0, boxes_R4.float().reshape(num_rows, 2, 2))
        labels.insert(0, torch.tensor([[2, 3]], dtype=torch.int32, device=device).expand(num_rows, 2))
    if not coords:
        coords.append(torch.zeros(num_rows, 1, 2, device=device))
        labels.append(torch.full((num_rows, 1), -1, dtype=torch.int32, device=device))
    if mask_logits_R1hw is not None and mask_logits_R1hw.shape[-2:] != encoder.mask_input_size:
        mask_logits_R1hw = shrink(mask_logits_R1hw.float(), encoder.mask_input_size)
    sparse_RTD, dense_RDhw = encoder(
        points=(torch.cat(coords, dim=1), torch.cat(labels, dim=1)), boxes=None, masks=mask_logits_R1hw
    )
    return sparse_RTD, dense_RDhw


def shrink(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize (R, 1, h, w) bilinearly with antialiasing, as SAM2 does with masks."""
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False, antialias=True)


def decode_candidates(
    decoder: Any,
    image_RDhw: Tensor,
    image_pe_1Dhw: Tensor,
    high_res: Sequence[Tensor],
    prompts: DecoderPrompts,
    switches: DecoderSwitches,
) -> MaskCandidates:
    """Run sam2's MaskDecoder module by module.

    Source: Kirillov et al., Segment Anything, arXiv 2304.02643, appendix A "Lightweight mask decoder"; occlusion and
    high-resolution additions of SAM 2, arXiv 2408.00714, appendix C.1.
    """
    learned_TD = _learned_tokens(decoder)
    num_rows, num_masks = prompts.sparse_RTD.shape[0], int(decoder.num_mask_tokens)
    tokens_RTD = torch.cat([learned_TD.expand(num_rows, -1, -1), prompts.sparse_RTD], dim=1)
    first_mask = learned_TD.shape[0] - num_masks
    out_RTD, image_RND, early_RTD = _two_way(
        decoder.transformer, image_RDhw + prompts.dense_RDhw, image_pe_1Dhw, tokens_RTD
    )
    masks_RKD = out_RTD[:, first_mask : first_mask + num_masks]
    iou_RK: Tensor = decoder.iou_prediction_head(out_RTD[:, first_mask - 1])
    score_R1 = _object_score(decoder.pred_obj_score_head, out_RTD[:, 0]) if decoder.pred_obj_scores else None
    wanted = _wanted(switches, num_masks)
    logits_RKhw = _mask_logits(
        decoder, image_RND.transpose(1, 2).reshape(image_RDhw.shape), high_res, masks_RKD, wanted
    )
    logits_RKhw, iou_RK = _offer(logits_RKhw, iou_RK[:, wanted], switches)
    if score_R1 is None:
        score_R1 = torch.full_like(iou_RK[:, :1], PRESENT_SCORE)
    elif switches.gate_absent:
        logits_RKhw = torch.where(score_R1[:, :, None, None] > 0, logits_RKhw, ABSENT_LOGIT)
    return MaskCandidates(
        logits_RKhw=logits_RKhw.float(),
        predicted_iou_RK=iou_RK,
        tokens_RKD=masks_RKD[:, wanted] if switches.multimask and switches.own_tokens else masks_RKD[:, :1],
        object_score_R1=score_R1,
        early_token_RD=early_RTD[:, first_mask],
    )


def take(candidates: MaskCandidates, index_R: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """One candidate per row: logits (R, 1, h, w), predicted IoU (R,), output token (R, D)."""
    rows = torch.arange(index_R.shape[0], device=index_R.device)
    own = candidates.tokens_RKD.shape[1] > 1
    token_RD = candidates.tokens_RKD[rows, index_R] if own else candidates.tokens_RKD[:, 0]
    logits_Rhw = candidates.logits_RKhw[rows, index_R]
    return logits_Rhw.unsqueeze(1), candidates.predicted_iou_RK[rows, index_R], token_RD


def stability(logits: Tensor, delta: float) -> Tensor:
    """IoU between the masks cut `delta` above and `delta` below zero, over the last two axes; 1 when both are empty."""
    inner = (logits > delta).flatten(-2).sum(-1).float()
    outer = (logits > -delta).flatten(-2).sum(-1).float()
    return torch.where(outer > 0, inner / outer.clamp(min=1), 1.0)


def _learned_tokens(decoder: Any) -> Tensor:
    """[object score, IoU, mask 0, mask 1, ...], the first only where the model has that head."""
    parts = [decoder.obj_score_token.weight] if decoder.pred_obj_scores else []
    return torch.cat([*parts, decoder.iou_token.weight, decoder.mask_tokens.weight])


def _two_way(
    transformer: Any, image_RDhw: Tensor, image_pe_1Dhw: Tensor, tokens_RTD: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens and image after both layers and the final attention, and the tokens after the first layer."""
    queries, keys = tokens_RTD, image_RDhw.flatten(2).transpose(1, 2)
    pe = image_pe_1Dhw.flatten(2).transpose(1, 2)
    early: Tensor | None = None
    for layer in transformer.layers:
        queries, keys = layer(queries=queries, keys=keys, query_pe=tokens_RTD, key_pe=pe)
        early = queries if early is None else early
    assert early is not None
    gathered = transformer.final_attn_token_to_image(q=queries + tokens_RTD, k=keys + pe, v=keys)
    return transformer.norm_final_attn(queries + gathered), keys, early


def _object_score(head: Any, token_RD: Tensor) -> Tensor:
    """The head's logit, (R, 1).

    Its last layer has one output. As a matrix-vector product a CPU sums it in an order that depends on the row's
    place in the batch (measured: last bit), so each row is summed by itself.
    """
    *hidden, last = head.layers
    for layer in hidden:
        token_RD = F.relu(layer(token_RD))
    score_R1: Tensor = (token_RD * last.weight[0]).sum(dim=1, keepdim=True) + last.bias
    return score_R1


def _wanted(switches: DecoderSwitches, num_masks: int) -> slice:
    """Mask tokens whose masks can be offered: no others are computed."""
    if switches.multimask:
        return slice(1, num_masks)
    return slice(0, num_masks) if switches.stability_thresh is not None else slice(0, 1)


def _mask_logits(
    decoder: Any, image_RDhw: Tensor, high_res: Sequence[Tensor], masks_RKD: Tensor, wanted: slice
) -> Tensor:
    up1, norm, act1, up2, act2 = decoder.output_upscaling
    stride_4, stride_8 = high_res
    fine = act1(norm(up1(image_RDhw) + stride_8))
    fine = act2(up2(fine) + stride_4)
    heads = decoder.output_hypernetworks_mlps[wanted]
    weights = torch.stack([head(token) for head, token in zip(heads, masks_RKD[:, wanted].unbind(1), strict=True)], 1)
    logits_RKhw: Tensor = (weights @ fine.flatten(2)).view(*weights.shape[:2], *fine.shape[-2:])
    return logits_RKhw


def _offer(logits_RKhw: Tensor, iou_RK: Tensor, switches: DecoderSwitches) -> tuple[Tensor, Tensor]:
    """All candidates, or the single mask, or the best candidate in its place where it is unstable."""
    if switches.multimask or switches.stability_thresh is None or switches.stability_delta is None:
        return logits_RKhw, iou_RK
    single = stability(logits_RKhw[:, 0], switches.stability_delta) >= switches.stability_thresh
    best = 1 + iou_RK[:, 1:].argmax(dim=1)
    index = torch.where(single, torch.zeros_like(best), best)
    rows = torch.arange(index.shape[0], device=index.device)
    return logits_RKhw[rows, index].unsqueeze(1), iou_RK[rows, index].unsqueeze(1)
