"""One step of SAMWISE for a batch of rows: segment with memory, question the memory, remember."""

# Axes: R rows (one expression on one frame), S prompt tokens, E decoder width, C memory channels, H W the model's
# square.

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pipeline.models.conditional_memory import CmeFusion, fuse_mask_logits, is_evaluation_due
from pipeline.models.image_encoding import ImageFeatures
from pipeline.models.mask_decoding import MaskOutput
from pipeline.models.memory import MemoryBank, MemoryEntry, MemorySelection
from pipeline.models.memory_policies import LastFrames
from pipeline.models.samwise_network import SamwiseNetwork


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpressionMemory:
    """What one expression of one video remembers; a value, never changed in place.

    Attributes:
        bank: its entries count frames from 0, the first since the video or the last reset began.
        position: number of the next frame, so counted.
        last_switch: frame of the last memory switch, 0 before the first.
    """

    bank: MemoryBank
    position: int = 0
    last_switch: int = 0

    @classmethod
    def empty(cls) -> "ExpressionMemory":
        return cls(bank=MemoryBank())

    def is_cme_due(self, *, window: int) -> bool:
        """Whether the memory is questioned on the next frame."""
        return is_evaluation_due(self.position, self.last_switch, window=window)

    def followed_by(self, entry: MemoryEntry, *, switched: bool, policy: LastFrames) -> "ExpressionMemory":
        """The memory after one more frame, without what the policy can no longer read."""
        bank = MemoryBank()
        for kept in self.bank:
            bank.add(kept)
        bank.add(replace(entry, frame_index=self.position))
        bank.forget(policy.horizon)
        last_switch = self.position if switched else self.last_switch
        return ExpressionMemory(bank=bank, position=self.position + 1, last_switch=last_switch)


@dataclass(frozen=True, slots=True, kw_only=True)
class RowBatch:
    """Rows of equal memory shape and equal number of prompt tokens.

    Attributes:
        features: R rows.
        selections: what each row reads.
        prompt_RSE: as `SamwiseNetwork.fuse` gives it, per row.
        cme_due: rows whose memory is questioned.
    """

    features: ImageFeatures
    selections: Sequence[MemorySelection]
    prompt_RSE: Tensor
    cme_due: Sequence[bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class RowResults:
    """What a step gives.

    Attributes:
        output: the masks to give out; a switch never changes them, only what is remembered.
        logits_R1HW: their logits at the model's size.
        switched_R: bool, the conditional memory encoder chose to switch.
        memory_RChw: memory features to store.
    """

    output: MaskOutput
    logits_R1HW: Tensor
    switched_R: Tensor
    memory_RChw: Tensor


def segment_rows(network: SamwiseNetwork, batch: RowBatch, *, fusion: CmeFusion) -> RowResults:
    """Segment, question and remember one frame per row, on the whole batch at every step.

    Source: SAMWISE (CVPR 2025), "Conditional Memory Encoder"; the decision is the larger logit, a tie keeps.
    """
    output = network.segment(batch.features, batch.selections, batch.prompt_RSE)
    logits_R1HW = network.core.enlarge(output.low_res_logits_R1hw)
    switched_R = torch.zeros(len(batch.selections), dtype=torch.bool, device=logits_R1HW.device)
    to_remember_R1HW = logits_R1HW
    if network.cme is not None and any(batch.cme_due):
        # All rows run, due or not: the batch size decides the last bits.
        memory_less = network.segment_without_memory(batch.features, batch.prompt_RSE)
        keep_switch_R2 = network.cme(output.object_pointer_RD, memory_less.early_token_RD)
        due_R = torch.tensor(list(batch.cme_due), device=logits_R1HW.device)
        switched_R = due_R & (keep_switch_R2[:, 1] > keep_switch_R2[:, 0])
        memory_less_R1HW = network.core.enlarge(memory_less.low_res_logits_R1hw)
        fused_R1HW = fuse_mask_logits(logits_R1HW, memory_less_R1HW, fusion=fusion)
        to_remember_R1HW = torch.where(switched_R[:, None, None, None], fused_R1HW, logits_R1HW)
    memory_RChw = network.remember(batch.features, to_remember_R1HW, output.object_score_R1)
    return RowResults(output=output, logits_R1HW=logits_R1HW, switched_R=switched_R, memory_RChw=memory_RChw)
