"""Cross-modal temporal adapter: lets a clip's frames and an expression read each other inside SAM2's encoder."""

# Axes: B expressions, T frames of a clip, F = B*T, C Hiera channels, H W grid, N = H*W, L text tokens,
# D text width, K adapter width, P side of a block, Q = P*P places in a block, G blocks of a frame.

from typing import cast

import torch
from torch import Tensor, nn

from pipeline.models.attention import multihead_attention, sine_time_code

NUM_HEADS = 8
"""Of every attention in the adapter. Source: SAMWISE (CVPR 2025), released configuration."""

HSA_DROPOUT = 0.1
"""On the attention weights of the block attention, in training only."""


class CrossModalAdapter(nn.Module):
    """Adds text to vision and vision to text, after one Hiera stage and one text layer.

    Parameter names are those of the official checkpoints. Source: SAMWISE (CVPR 2025), "Cross-Modal Temporal
    Adapter" and "Hierarchical Selective Attention" (HSA).

    Args:
        vision_width, text_width: C and D.
        width: K, inside the adapter.
        block_side: P of the block attention; 8, 4, 2 after Hiera stages 2, 3, 4.
        hsa: whether frames exchange information at all; False for single images.
        num_heads: of every attention.
    """

    def __init__(
        self,
        *,
        vision_width: int,
        text_width: int,
        width: int = 256,
        block_side: int,
        hsa: bool = True,
        num_heads: int = NUM_HEADS,
    ) -> None:
        super().__init__()
        self.block_side = block_side
        self.proj_vis_down = nn.Sequential(
            nn.Conv2d(vision_width, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        )
        self.proj_vis_up = nn.Sequential(
            nn.ConvTranspose2d(width, vision_width, 1, bias=False), nn.BatchNorm2d(vision_width), nn.ReLU()
        )
        self.proj_text_down = nn.Sequential(nn.Linear(text_width, width, bias=False))
        self.proj_text_up = nn.Sequential(nn.Linear(width, text_width, bias=False))
        self.ca_V2T = CrossAttention(width, num_heads)
        self.ca_T2V = CrossAttention(width, num_heads)
        if hsa:
            self.hsa = BlockAttention(width, num_heads)
            self.norm_pre_HSA = nn.LayerNorm(width)
            self.spatial_pos_embed = nn.Parameter(torch.empty(1, 1, 1, block_side**2, width))
            nn.init.trunc_normal_(self.spatial_pos_embed, std=0.02)

    @property
    def has_hsa(self) -> bool:
        return "hsa" in self._modules

    def forward(
        self, vision_FCHW: Tensor, text_BLD: Tensor, *, num_frames: int, keep_BL: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """What to add to the visual map and to the text; the visual part is never negative.

        Args:
            vision_FCHW: frames of a clip are neighbours: F index = b * num_frames + t.
            text_BLD: one expression per clip.
            keep_BL: bool, False for padding. None lets vision read padded tokens too, as the reference does.

        Returns:
            Two deltas, shaped as the inputs.

        Raises:
            ValueError: with HSA, H or W is not a multiple of the block side; F is no multiple of num_frames.
        """
        if vision_FCHW.shape[0] != text_BLD.shape[0] * num_frames:
            raise ValueError(
                f"{vision_FCHW.shape[0]} maps for {text_BLD.shape[0]} expressions of {num_frames} frames: "
                "expected expressions * num_frames maps."
            )
        vision_FKHW = self.proj_vis_down(vision_FCHW)
        text_BLK = self.proj_text_down(text_BLD)
        query_FNK = tokens(self.relate_frames(vision_FKHW, num_frames=num_frames))
        gate_FNK = self.ca_V2T(query_FNK, _repeat_frames(text_BLK, num_frames), _repeat_frames(keep_BL, num_frames))
        vision_delta_FCHW = self.proj_vis_up(grid(query_FNK * gate_FNK, like=vision_FKHW))
        vision_FNK = tokens(vision_FKHW)
        clip_mean_BNK = vision_FNK.reshape(-1, num_frames, *vision_FNK.shape[1:]).mean(dim=1)
        text_delta_BLD = self.proj_text_up(text_BLK * self.ca_T2V(text_BLK, clip_mean_BNK, None))
        return vision_delta_FCHW, text_delta_BLD

    def relate_frames(self, vision_FKHW: Tensor, *, num_frames: int) -> Tensor:
        """HSA: each block of P x P places attends over itself in all frames of the clip, as a residual.

        Returns:
            (F, K, H, W); the input itself without HSA.

        Raises:
            ValueError: H or W is not a multiple of the block side.
        """
        if not self.has_hsa:
            return vision_FKHW
        blocks_RTQK = cut_blocks(vision_FKHW, num_frames, self.block_side)
        time_TK = sine_time_code(num_frames, vision_FKHW.shape[1]).to(vision_FKHW)
        placed_RTQK = blocks_RTQK + time_TK[None, :, None] + self.spatial_pos_embed[0]
        related_RSK = self.hsa(self.norm_pre_HSA(placed_RTQK.flatten(1, 2)))
        return vision_FKHW + join_blocks(related_RSK.view_as(blocks_RTQK), like=vision_FKHW)


class BlockAttention(nn.Module):
    """Self-attention and a linear layer; the residual is the caller's."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.self_attn = nn.MultiheadAttention(width, num_heads, dropout=HSA_DROPOUT, batch_first=True)
        self.linear = nn.Linear(width, width)

    def forward(self, tokens_RSK: Tensor) -> Tensor:
        return cast(Tensor, self.linear(multihead_attention(self.self_attn, tokens_RSK, tokens_RSK)))


class CrossAttention(nn.Module):
    """Attention of one set of tokens over another; residual and norm are the caller's."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.multihead_attn = nn.MultiheadAttention(width, num_heads, batch_first=True)

    def forward(self, query_BNK: Tensor, memory_BMK: Tensor, keep_BM: Tensor | None) -> Tensor:
        return multihead_attention(self.multihead_attn, query_BNK, memory_BMK, keep_BM=keep_BM)


def cut_blocks(vision_FKHW: Tensor, num_frames: int, side: int) -> Tensor:
    """(F, K, H, W) to (B*G, T, Q, K): one row per block place, frames first, then places row by row."""
    _, width, height, length = vision_FKHW.shape
    if height % side or length % side:
        raise ValueError(
            f"a {height}x{length} map cannot be cut into {side}x{side} blocks: expected multiples of {side}. "
            "Choose an image size divisible by every stage's stride times its block side."
        )
    cut = vision_FKHW.reshape(-1, num_frames, width, height // side, side, length // side, side)
    blocks = cut.permute(0, 3, 5, 1, 4, 6, 2)
    return blocks.reshape(-1, num_frames, side * side, width)


def join_blocks(blocks_RTQK: Tensor, *, like: Tensor) -> Tensor:
    """The inverse of `cut_blocks`."""
    _, width, height, length = like.shape
    num_frames, side = blocks_RTQK.shape[1], round(blocks_RTQK.shape[2] ** 0.5)
    joined = blocks_RTQK.reshape(-1, height // side, length // side, num_frames, side, side, width)
    return joined.permute(0, 3, 6, 1, 4, 2, 5).reshape(like.shape)


def tokens(map_FKHW: Tensor) -> Tensor:
    """A map as tokens, row by row."""
    return map_FKHW.flatten(2).transpose(1, 2)


def grid(tokens_FNK: Tensor, *, like: Tensor) -> Tensor:
    """Tokens as a map again."""
    return tokens_FNK.transpose(1, 2).reshape(like.shape)


def _repeat_frames(per_clip: Tensor | None, num_frames: int) -> Tensor | None:
    return None if per_clip is None else per_clip.repeat_interleave(num_frames, dim=0)
