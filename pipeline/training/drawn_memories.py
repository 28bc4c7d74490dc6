"""Memories drawn at random, for weights that will read chosen ones: a policy for training alone."""

from typing import Self

import numpy as np
from pydantic import Field

from pipeline.models.memory import Horizon, MemoryBank, MemorySelection, PointerRead
from pipeline.models.memory_policies import RecentFrames
from pipeline.models.memory_policies_tracking import PoolPolicy, pool_settings
from pipeline.models.sam2_variants import Sam2Config


class DrawnFrames(PoolPolicy):
    """Each frame passed is accepted or not by lot; of the accepted, a few by lot are read, coded by rank.

    What a rule such as MoSAM's (arXiv 2505.00739) reads depends on scores that change while weights are trained.
    Weights that have read any choice with any gaps bear every rule's.

    Attributes:
        seed: of the lots; the same frame of the same seed always reads the same frames.
        accepted_share: how often a frame is accepted; the one just passed always is.
        reach: frames back that can be read.
    """

    seed: int = Field(ge=0)
    accepted_share: float = Field(default=0.7, ge=0, le=1)
    reach: int = Field(default=24, ge=1)

    @classmethod
    def of(cls, config: Sam2Config, *, seed: int, accepted_share: float) -> Self:
        """With as many reads as the model has places for."""
        return cls(**pool_settings(RecentFrames.of(config)), seed=seed, accepted_share=accepted_share)

    @property
    def horizon(self) -> Horizon:
        return Horizon(features=self.reach, pointers=self.reach)

    def select(self, bank: MemoryBank, frame_index: int) -> MemorySelection:
        """The prompted frames, the frame just passed and some others; which ones is the same for all rows."""
        pool = self.in_order(bank)
        lots_N = np.random.default_rng((self.seed, frame_index)).random((2, len(pool)))
        accepted = [place for place in range(len(pool)) if place == 0 or lots_N[0, place] < self.accepted_share]
        others = sorted(accepted[1:], key=lambda place: lots_N[1, place])
        pointers = [
            PointerRead(entry=pool[place], time_difference=rank)
            for rank, place in enumerate(accepted[: self.max_pointers - 1], start=1)
        ]
        chosen = [pool[place] for place in (*accepted[:1], *others[: self.num_recent - 1])]
        return self.selection(bank, frame_index, chosen, pointers)
