"""MoSAM's spatial memory selection: which tokens of a remembered frame are trusted, and how attention learns of it."""

from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.models.memory import MemoryBank, MemoryEntry, MemoryRead, MemorySelection
from pipeline.models.memory_policies_tracking import TrackingPolicy

PixelMode = Literal["off", "drop", "bias"]

MIN_KEPT_SHARE = 0.05
"""A frame of which fewer tokens would survive is left out whole. Not stated in the paper."""

EPSILON = 1e-4
"""Keeps the logarithm of a weight finite."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PixelSelection:
    """Another policy's selection, without the tokens whose mask was in doubt.

    Source: MoSAM, arXiv 2505.00739: a pixel filter by confidence on the chosen frames [figure]. The criterion's form,
    its threshold and how filtered pixels enter attention are not stated in the paper: tokens are dropped as keys after
    their rotary code was applied, since a zeroed key would still take its share of the softmax. Confident background
    stays, which is what rejects look-alikes. Prompted frames are never filtered.

    Attributes:
        policy: chooses the frames.
        mode: "drop" leaves tokens out, "bias" adds the logarithm of their confidence to attention's logits.
        threshold: confidence from which a token is kept: 0.5 is a probability outside 0.25 .. 0.75.
    """

    policy: TrackingPolicy
    mode: Literal["drop", "bias"] = "drop"
    threshold: float = 0.5

    @property
    def wants_alternatives(self) -> bool:
        return self.policy.wants_alternatives

    def select(self, bank: MemoryBank, frame_index: int) -> MemorySelection:
        """The policy's selection with keep masks or weights."""
        selection = self.policy.select(bank, frame_index)
        tracked = [read.entry for read in selection.frames if not read.entry.is_conditioning]
        if not tracked:
            return selection
        by_frame = dict(zip([e.frame_index for e in tracked], token_confidence(tracked), strict=True))
        reads = [
            read if read.entry.is_conditioning else self._filtered(read, by_frame[read.entry.frame_index])
            for read in selection.frames
        ]
        return replace(selection, frames=tuple(read for read in reads if read is not None))

    def remember(self, bank: MemoryBank, entry: MemoryEntry) -> MemoryBank:
        """As the policy."""
        return self.policy.remember(bank, entry)

    def _filtered(self, read: MemoryRead, confidence_hw: Tensor) -> MemoryRead | None:
        if self.mode == "bias":
            return replace(read, weight=confidence_hw + EPSILON)
        keep_hw = confidence_hw >= self.threshold
        inside_hw = token_inside(read.entry)
        if keep_hw.float().mean() < MIN_KEPT_SHARE or not (keep_hw & inside_hw).any():
            return None
        return read if keep_hw.all() else replace(read, keep=keep_hw)


def token_confidence(entries: list[MemoryEntry]) -> Tensor:
    """c = mean over a token of |2 sigmoid(L) - 1|, times sigmoid(object score): (entries, h, w) on the feature grid.

    Raises:
        ValueError: an entry keeps no mask logits.
    """
    logits_Ehw = torch.stack([_logits(entry) for entry in entries])
    grid = _grid(entries[0])
    presence_E = torch.tensor([entry.object_score for entry in entries], device=logits_Ehw.device).sigmoid()
    certainty_Ehw = F.adaptive_avg_pool2d(torch.tanh(logits_Ehw / 2).abs().unsqueeze(1), grid).squeeze(1)
    return certainty_Ehw * presence_E[:, None, None]


def token_inside(entry: MemoryEntry) -> Tensor:
    """Whether a token shows some of the object: bool (h, w) on the feature grid."""
    inside_11hw = (_logits(entry) > 0).float()[None, None]
    return F.adaptive_avg_pool2d(inside_11hw, _grid(entry))[0, 0] > 0


def _grid(entry: MemoryEntry) -> tuple[int, int]:
    assert entry.features_Chw is not None, "a read entry has features"
    height, width = entry.features_Chw.shape[-2:]
    return int(height), int(width)


def _logits(entry: MemoryEntry) -> Tensor:
    if entry.logits_hw is None:
        raise ValueError(f"frame {entry.frame_index} keeps no mask logits, by which pixels are selected.")
    return entry.logits_hw.float()
