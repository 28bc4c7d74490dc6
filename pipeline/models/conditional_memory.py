"""Conditional memory encoder: notices that memory holds the wrong object, and what to write instead."""

# Axes: R rows (expression, frame), D decoder width, h w logit grid.

from typing import Literal, cast

import torch
from torch import Tensor, nn

from pipeline.models.attention import multihead_attention

CmeFusion = Literal["reweight", "all_mask", "avg"]

MEMORY_LESS_WEIGHT = 10.0
"""How strongly a memory-less foreground logit overrides the memory's. Source: SAMWISE (CVPR 2025)."""


class ConditionalMemoryEncoder(nn.Module):
    """Compares the tracked object with what the text alone finds: keep (class 0) or switch (class 1).

    Parameter names are those of the official checkpoints; `norm2` is part of them and unused.
    Source: SAMWISE (CVPR 2025), "Conditional Memory Encoder".
    """

    def __init__(self, width: int = 256, *, feedforward_width: int = 128, num_heads: int = 8) -> None:
        super().__init__()
        self.transformerBlock = _DecisionBlock(width, feedforward_width, num_heads)
        self.decision_token = nn.Embedding(1, width)
        self.decision_class_head = nn.Linear(width, 2)

    def forward(self, pointer_RD: Tensor, early_token_RD: Tensor) -> Tensor:
        """Logits (R, 2) of keep and switch.

        Args:
            pointer_RD: object pointers of the decode with memory, projected and blended.
            early_token_RD: mask-token query after the first decoder layer of the decode without memory.
        """
        decision_RD = self.decision_token.weight.expand_as(pointer_RD)
        tokens_R3D = torch.stack([decision_RD, pointer_RD.detach(), early_token_RD.detach()], dim=1)
        return cast(Tensor, self.decision_class_head(self.transformerBlock(tokens_R3D)[:, 0]))


def is_evaluation_due(position: int, last_switch: int, *, window: int) -> bool:
    """Whether the memory encoder is questioned at frame `position` of the video.

    `last_switch` is 0 before the first switch. With window 4: from frame 5 on, at every frame until a switch at
    k, and again from k + 3 on.
    """
    return position > window and position - last_switch >= window - 1


def fuse_mask_logits(with_memory: Tensor, memory_less: Tensor, *, fusion: CmeFusion) -> Tensor:
    """The logits that the memory encoder sees after a switch; the mask given out stays `with_memory`."""
    if fusion == "reweight":
        return torch.where(memory_less > 0, MEMORY_LESS_WEIGHT * memory_less, with_memory)
    if fusion == "all_mask":
        return memory_less
    return (with_memory + memory_less) / 2


class _DecisionBlock(nn.Module):
    """One post-norm transformer layer over three tokens."""

    def __init__(self, width: int, feedforward_width: int, num_heads: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.self_attn = nn.MultiheadAttention(width, num_heads, dropout=dropout, batch_first=True)
        self.linear1 = nn.Linear(width, feedforward_width)
        self.linear2 = nn.Linear(feedforward_width, width)
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)
        self.norm3 = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens_R3D: Tensor) -> Tensor:
        attended = multihead_attention(self.self_attn, tokens_R3D, tokens_R3D)
        tokens_R3D = self.norm1(tokens_R3D + self.dropout(attended))
        widened = self.dropout(self.linear1(tokens_R3D).relu())
        return cast(Tensor, self.norm3(tokens_R3D + self.dropout(self.linear2(widened))))
