"""A start for the mask decoder's attention from which clicks and boxes are soon understood."""

import torch
from torch import Tensor, nn

from pipeline.models.sam2_core import Sam2Core

SHARE_OF_HEADS = 0.5
GAIN = 1.5
"""Of the shared projection, against an orthogonal one."""


@torch.no_grad()
def compare_places(core: Sam2Core, *, seed: int) -> None:
    """Let half of the heads between prompt tokens and the image look for equal places, in both directions.

    Queries and keys both carry codes of their places; with one projection for both, a token meets its own place from
    the first step on. From independent projections that had learnt to refer, clicks were still not understood after
    280 steps; from this start, after 120. What the decoder knew is kept by the other heads.
    """
    generator = torch.Generator().manual_seed(seed)
    for layer in core.model.sam_mask_decoder.transformer.layers:
        for attention in (layer.cross_attn_token_to_image, layer.cross_attn_image_to_token):
            width, inner = attention.q_proj.weight.shape[1], attention.q_proj.weight.shape[0]
            rows = inner // attention.num_heads * round(SHARE_OF_HEADS * attention.num_heads)
            shared = _orthogonal(inner, width, generator)[:rows] * GAIN
            for projection in (attention.q_proj, attention.k_proj):
                _take_rows(projection, shared)


def _orthogonal(height: int, width: int, generator: torch.Generator) -> Tensor:
    matrix = torch.empty(height, width)
    nn.init.orthogonal_(matrix, generator=generator)
    return matrix


def _take_rows(projection: nn.Linear, rows: Tensor) -> None:
    projection.weight[: len(rows)] = rows.to(projection.weight)
    projection.bias[: len(rows)] = 0
