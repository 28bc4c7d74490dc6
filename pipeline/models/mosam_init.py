"""Seeded random weights for a SAM2 that nobody trained, settled so that its masks are neither empty nor full."""

# Axes: C channels of the stride-4 mask features, K mask tokens, h w the masks' grid.

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.models.memory import MemorySelection
from pipeline.models.sam2_core import Sam2Core, build_sam2
from pipeline.models.sam2_variants import Sam2Config

PRESENT_BIAS = 2.0
"""Object score of an untrained model, about: sigmoid(2) is 0.88."""

LOGIT_SPREAD = 2.0
"""Standard deviation of an untrained model's mask logits over a frame."""


def random_tracking_core(config: Sam2Config, *, seed: int) -> Sam2Core:
    """A model whose weights depend on the seed alone; torch's own random state is left as it was.

    Freshly drawn weights see no object, or call nearly every pixel alike. One frame of coloured noise is segmented
    and every mask head moved so that half of it is inside: enough to see a whole run at work, and no more.
    """
    core = build_sam2(config, seed=seed)
    decoder: Any = core.model.sam_mask_decoder
    with torch.no_grad():
        if config.pred_obj_scores:
            decoder.pred_obj_score_head.layers[-1].bias += PRESENT_BIAS
        features_Chw, weights_KC = _mask_head_inputs(core)
        mean_C = features_Chw.flatten(1).mean(dim=1)
        for head, weights_C in zip(decoder.output_hypernetworks_mlps, weights_KC, strict=True):
            # The part of the weights that adds the same to every pixel, taken out.
            shift_C = -(weights_C @ mean_C) / (mean_C @ mean_C) * mean_C
            spread = torch.einsum("c,chw->hw", weights_C + shift_C, features_Chw).std()
            last = head.layers[-1]
            last.bias.copy_((last.bias + shift_C) * LOGIT_SPREAD / spread)
            last.weight.mul_(LOGIT_SPREAD / spread)
    return core


def _mask_head_inputs(core: Sam2Core) -> tuple[Tensor, Tensor]:
    """Mask features (C, h, w) of a frame of noise, and what each mask token weighs them by, (K, C)."""
    decoder: Any = core.model.sam_mask_decoder
    caught: dict[int, Tensor] = {}
    watched = [decoder.output_upscaling[-1], *decoder.output_hypernetworks_mlps]
    hooks = [
        module.register_forward_hook(lambda _module, _inputs, output, place=place: caught.update({place: output}))
        for place, module in enumerate(watched)
    ]
    features = core.encode_image(_noise(core.config.image_size))
    pix_RDhw = core.attend(features, [MemorySelection()])
    for multimask in (False, True):
        core.decode_candidates(pix_RDhw, features.high_res, core.encode_prompts(1), multimask=multimask)
    for hook in hooks:
        hook.remove()
    return caught[0][0], torch.stack([caught[place][0] for place in range(1, len(watched))])


def _noise(side: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    coarse_13hw = torch.randn(1, 3, 8, 8, generator=generator)
    fine_13HW = torch.randn(1, 3, side, side, generator=generator) / 4
    return F.interpolate(coarse_13hw, size=(side, side), mode="bilinear") + fine_13HW
