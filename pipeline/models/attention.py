"""Multi-head attention on `nn.MultiheadAttention` parameters without materialised weights."""

# Axes: B batch, N query tokens, M memory tokens, D width, A attention heads, K width of one head.

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def multihead_attention(
    weights: nn.MultiheadAttention, query_BND: Tensor, memory_BMD: Tensor, *, keep_BM: Tensor | None = None
) -> Tensor:
    """Scaled dot-product attention of `query` over `memory`, with the parameters of a torch module.

    The module's own forward may build the (N, M) weight matrix, 2.1 GB for SAMWISE's first adapter at 1024 px;
    the fused kernel gives the same values up to rounding.

    Args:
        weights: owns in_proj and out_proj; key and value widths equal the query's.
        query_BND, memory_BMD: float; memory serves as key and value.
        keep_BM: bool, True where a memory token may be read; None reads all.

    Returns:
        (B, N, D).
    """
    query_weight, key_weight, value_weight = weights.in_proj_weight.chunk(3)
    query_bias, key_bias, value_bias = weights.in_proj_bias.chunk(3)
    attended_BANK = F.scaled_dot_product_attention(
        _split_heads(F.linear(query_BND, query_weight, query_bias), weights.num_heads),
        _split_heads(F.linear(memory_BMD, key_weight, key_bias), weights.num_heads),
        _split_heads(F.linear(memory_BMD, value_weight, value_bias), weights.num_heads),
        attn_mask=None if keep_BM is None else keep_BM[:, None, None, :],
        dropout_p=weights.dropout if weights.training else 0.0,
    )
    merged_BND = attended_BANK.transpose(1, 2).flatten(2)
    return F.linear(merged_BND, weights.out_proj.weight, weights.out_proj.bias)


def sine_time_code(num_frames: int, width: int) -> Tensor:
    """Sine code of a frame's place in its clip, (num_frames, width); even channels sine, odd ones cosine.

    The angle runs once around the circle over the clip's actual length, so a short last clip has another table.
    Source: SAMWISE (CVPR 2025), hierarchical selective attention, temporal code.
    """
    place_T = torch.arange(1, num_frames + 1, dtype=torch.float32) / (num_frames + 1e-6) * 2 * torch.pi
    channel_D = torch.arange(width)
    wavelength_D = 10000 ** (2 * torch.div(channel_D, 2, rounding_mode="floor") / width)
    angle_TD = place_T[:, None] / wavelength_D
    return torch.where(channel_D % 2 == 0, angle_TD.sin(), angle_TD.cos())


def _split_heads(tokens_BND: Tensor, num_heads: int) -> Tensor:
    batch, length, width = tokens_BND.shape
    return tokens_BND.view(batch, length, num_heads, width // num_heads).transpose(1, 2)
