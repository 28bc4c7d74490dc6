"""MoSAM's temporal memory selection: rate the frames of a bounded pool and read the best, not the latest."""

import math
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from pipeline.models.memory import MemoryBank, MemoryEntry, MemorySelection, PointerRead
from pipeline.models.memory_policies_tracking import PoolPolicy, keep_only, with_entry

TemporalMode = Literal["fifo", "threshold", "topk"]

RIM_LOGIT = -1.0
"""Certainty is measured where logits exceed this: the object and a rim around it. Not stated in the paper."""

CELLS_PER_TOKEN = 16
"""Cells of the mask logits' grid (stride 4) per memory token (stride 16)."""

MIN_TOKENS = 4
"""A mask of less than this many tokens' area is no memory, unless the object is small. Not stated in the paper."""

MIN_SHARE = 0.5
"""An object is small if this share of its area, as it was prompted, is less; then this is what a mask needs. Ours."""


class SelectedFrames(PoolPolicy):
    """Candidates t-1, t-2, ... are rated and ranked; the best k are read, with the prompted frames, which always are.

    Source: MoSAM, arXiv 2505.00739. Its figure shows strided candidates, a rating and top-k [figure]; the score is
    "temporal IoU quality" [second-hand], and frames without objects are unreliable [stated]. The formula, k, the
    pool's size, t-1 and the recency guard are not stated in the paper: they are ours.

    Attributes:
        mode: "topk" ranks by quality; "threshold" takes the newest whose predicted IoU exceeds `min_predicted_iou`.
        pool_frames: accepted frames to choose from, first in, first out.
        stride: only every stride-th frame becomes a candidate, and the one just passed.
        recency: taken off a candidate's quality, times its age as a share of the pool: objects change their look.
        tie_margin: qualities are compared in steps of this size; within a step the newer wins.
        min_predicted_iou: of "threshold" mode.
        accept_predicted_iou: a frame below it never enters the pool.
    """

    mode: Literal["threshold", "topk"] = "topk"
    pool_frames: int = Field(default=32, ge=1)
    stride: int = Field(default=1, ge=1)
    recency: float = Field(default=0.05, ge=0)
    tie_margin: float = Field(default=0.01, gt=0)
    min_predicted_iou: float = Field(default=0.5, ge=0, le=1)
    accept_predicted_iou: float = Field(default=0.3, ge=0, le=1)

    def select(self, bank: MemoryBank, frame_index: int) -> MemorySelection:
        """The prompted frames, the frame just passed if the object was on it, and the best of the others."""
        pool = [entry for entry in self.in_order(bank) if entry.features_Chw is not None]
        newest = self.newest(bank, frame_index)
        ranked = self._ranked(pool)
        if newest is not None and newest.object_score > 0:
            ranked = [newest, *(entry for entry in ranked if entry is not newest)]
        pointers = [
            PointerRead(entry=entry, time_difference=rank)
            for rank, entry in enumerate(pool[: self.max_pointers - 1], start=1)
        ]
        return self.selection(bank, frame_index, ranked[: self.num_recent], pointers)

    def remember(self, bank: MemoryBank, entry: MemoryEntry) -> MemoryBank:
        """Accepted frames enter; the one just passed stays until the next comes, then only if on the stride."""
        if not entry.is_conditioning and not self.accepts(bank, entry):
            return bank
        bank = with_entry(bank, entry)
        candidates = [e for e in self.in_order(bank) if e is entry or e.frame_index % self.stride == 0]
        return keep_only(bank, candidates[: self.pool_frames], [])

    def accepts(self, bank: MemoryBank, entry: MemoryEntry) -> bool:
        """Whether a tracked frame may be remembered: the object is in view, and its mask is not a mere guess."""
        large = entry.num_inside is None or entry.num_inside >= _least_inside(bank)
        return entry.object_score > 0 and entry.predicted_iou > self.accept_predicted_iou and large

    def _ranked(self, pool: list[MemoryEntry]) -> list[MemoryEntry]:
        """The pool, best first; `pool` is newest first."""
        if self.mode == "threshold":
            return [entry for entry in pool if entry.predicted_iou > self.min_predicted_iou]
        scores = [quality(entry) - self.recency * age / self.pool_frames for age, entry in enumerate(pool)]
        order = sorted(range(len(pool)), key=lambda i: (-math.floor(scores[i] / self.tie_margin), i))
        return [pool[i] for i in order]


def _least_inside(bank: MemoryBank) -> float:
    """Cells that a mask needs to be remembered."""
    shown = [entry.num_inside for entry in bank.conditioning.values() if entry.num_inside]
    return min([MIN_TOKENS * CELLS_PER_TOKEN, *(MIN_SHARE * num_inside for num_inside in shown)])


def quality(entry: MemoryEntry) -> float:
    """q = sigmoid(object score) x predicted IoU x certainty; an entry that brings no certainty counts as certain."""
    presence = 0.5 * (1 + math.tanh(entry.object_score / 2))
    return presence * entry.predicted_iou * (1.0 if entry.certainty is None else entry.certainty)


def mask_certainty(logits_Rhw: Tensor) -> tuple[Tensor, Tensor]:
    """Per row the mean of |2 sigmoid(L) - 1| over L > RIM_LOGIT (0 where there is none), and the cells inside."""
    rim_Rhw = logits_Rhw > RIM_LOGIT
    certainty_Rhw = torch.where(rim_Rhw, torch.tanh(logits_Rhw / 2).abs(), 0.0)
    mean_R = certainty_Rhw.flatten(1).sum(1) / rim_Rhw.flatten(1).sum(1).clamp(min=1)
    return mean_R, (logits_Rhw > 0).flatten(1).sum(1)
