"""Low-rank adapters inside Hiera's attention: beside each qkv projection, folded into it for inference."""

# Axes: D_in channels a block reads, D_out channels it writes per query, key or value (twice D_in where a stage ends).

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.errors import WeightsError

FOLD_TOLERANCE = 1e-4
"""Greatest difference of a folded projection from the unfolded one, relative to its largest output."""

_NUM_PROBES = 64


class LoraQkv(nn.Module):
    """A qkv projection with low-rank updates of the query and the value, scale 1, without dropout.

    The updates are D_in wide, as what they read: the first D_in channels of the output and the last D_in. Where a
    stage ends (D_out = 2 D_in) only the first half of the query and the last half of the value are adapted.

    Source: Hu et al., LoRA, arXiv 2106.09685, section 4; placement and widths of MemorySAM, arXiv 2503.06700, and its
    released code. Departs from it: added out of place.

    Attributes:
        qkv: D_in to 3 D_out, with bias.
        linear_a_q, linear_a_v: D_in to rank. linear_b_q, linear_b_v: rank to D_in, zero at first.
    """

    def __init__(self, qkv: nn.Linear, *, rank: int) -> None:
        super().__init__()
        width = qkv.in_features
        self.qkv = qkv
        self.linear_a_q = nn.Linear(width, rank, bias=False)
        self.linear_b_q = nn.Linear(rank, width, bias=False)
        self.linear_a_v = nn.Linear(width, rank, bias=False)
        self.linear_b_v = nn.Linear(rank, width, bias=False)
        for down, up in ((self.linear_a_q, self.linear_b_q), (self.linear_a_v, self.linear_b_v)):
            nn.init.kaiming_uniform_(down.weight, a=math.sqrt(5))
            nn.init.zeros_(up.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(..., D_in) to (..., 3 D_out)."""
        rest = self.qkv.out_features - self.qkv.in_features
        query = F.pad(self.linear_b_q(self.linear_a_q(x)), (0, rest))
        value = F.pad(self.linear_b_v(self.linear_a_v(x)), (rest, 0))
        projected: Tensor = self.qkv(x)
        return projected + query + value

    def folded(self) -> nn.Linear:
        """One projection that gives the same up to rounding; multiplied in float64."""
        width, weight = self.qkv.in_features, self.qkv.weight.detach().double()
        weight[:width] += self.linear_b_q.weight.detach().double() @ self.linear_a_q.weight.detach().double()
        weight[-width:] += self.linear_b_v.weight.detach().double() @ self.linear_a_v.weight.detach().double()
        folded = nn.Linear(width, self.qkv.out_features, device=weight.device, dtype=self.qkv.weight.dtype)
        with torch.no_grad():
            folded.weight.copy_(weight)
            folded.bias.copy_(self.qkv.bias)
        return folded.requires_grad_(False).train(self.training)


def add_lora(trunk: Any, *, rank: int) -> None:
    """Adapt the qkv of every block of sam2's Hiera, in place; the output is unchanged until B is trained."""
    for block in trunk.blocks:
        block.attn.qkv = LoraQkv(block.attn.qkv, rank=rank)


def fold_lora(trunk: Any, *, tolerance: float = FOLD_TOLERANCE) -> float:
    """Replace every adapted projection by one plain one, in place, after comparing both on seeded noise.

    Returns:
        The largest difference over all blocks, relative to the block's largest output; 0.0 if nothing was adapted.

    Raises:
        WeightsError: the difference exceeds the tolerance (adapters that are not finite, or out of all proportion).
    """
    folded = {place: block.attn.qkv.folded() for place, block in enumerate(trunk.blocks) if _is_adapted(block)}
    worst = 0.0
    for place, plain in folded.items():
        difference = _relative_difference(trunk.blocks[place].attn.qkv, plain)
        if not difference <= tolerance:
            raise WeightsError(
                f"block {place}: folding its adapters changes the output by {difference:.2e} of its range, more than "
                f"{tolerance:.0e}. Look at these weights, or run them unfolded (fold_lora=False)."
            )
        worst = max(worst, difference)
    for place, plain in folded.items():
        trunk.blocks[place].attn.qkv = plain
    return worst


def _is_adapted(block: Any) -> bool:
    return isinstance(block.attn.qkv, LoraQkv)


def _relative_difference(adapted: LoraQkv, plain: nn.Linear) -> float:
    generator = torch.Generator().manual_seed(0)
    probe = torch.randn(_NUM_PROBES, plain.in_features, generator=generator).to(plain.weight)
    with torch.no_grad():
        expected = adapted(probe)
        difference = (plain(probe) - expected).abs().max() / expected.abs().max().clamp(min=1e-12)
    return float(difference)
