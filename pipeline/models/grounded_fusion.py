"""Fusion of the small closed-vocabulary models: motion, a text-free map of the clip, and evidence word by word."""

# Axes: B expressions, T frames of a clip, F = B*T (of clips before text, of expressions after), L text tokens, D text
# width, K fusion width, E decoder width, C1 C2 C3 channels of Hiera stages at strides 4, 8, 16; h w the tensor's grid.

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.models.attention import sine_time_code
from pipeline.models.correlation_stem import MotionStem
from pipeline.models.cross_modal_adapter import BlockAttention, CrossAttention, cut_blocks, grid, join_blocks, tokens

MOTION_WIDTH = 32
FAINTEST = -12.0
"""Log evidence is cut here before the decoder reads it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """Where each word and the whole expression hold, on the stride-8 grid.

    Attributes:
        word_logits_FLhw: per word of the expression and place.
        log_evidence_F1hw: of the whole expression, at most 0; exp of it is a probability.
    """

    word_logits_FLhw: Tensor
    log_evidence_F1hw: Tensor


class GroundedFusion(nn.Module):
    """What stands in place of SAMWISE's adapters in the small models.

    Departures from SAMWISE (CVPR 2025): the motion stem; one map of the clip at stride 8, made without text and shared
    by its expressions, with block attention at stride 8 and attention over the whole clip at stride 16; feature-wise
    modulation by the sentence (FiLM, Perez et al., AAAI 2018); and word evidence: a soft "and" over the words.

    Args:
        channels: C1, C2, C3.
        text_width, width, decoder_width: D, K, E.
        block_sides: of the attention at strides 8 and 16.
        hsa: frames of a clip exchange information through attention.
        motion_stem: cost volumes between neighbouring frames are read.
    """

    def __init__(
        self,
        *,
        channels: tuple[int, int, int],
        text_width: int,
        width: int,
        decoder_width: int,
        block_sides: tuple[int, int],
        num_heads: int,
        hsa: bool,
        motion_stem: bool,
    ) -> None:
        super().__init__()
        fine, middle, coarse = channels
        self.stem = MotionStem(MOTION_WIDTH) if motion_stem else None
        if motion_stem:
            self.motion_to_fine = nn.Conv2d(MOTION_WIDTH, fine, 1)
            self.motion_down = nn.Conv2d(MOTION_WIDTH, width, 3, stride=2, padding=1)
        self.fine_down = nn.Sequential(nn.GELU(), nn.Conv2d(fine, width, 3, stride=2, padding=1))
        self.middle_down = nn.Conv2d(middle, width, 1)
        self.norm_8 = ChannelNorm(width)
        self.hsa_8 = ClipAttention(width, block_sides[0], num_heads) if hsa else None
        self.down_16 = nn.Sequential(nn.Conv2d(width, width, 3, stride=2, padding=1), nn.GELU())
        self.hsa_16 = ClipAttention(width, block_sides[1], num_heads) if hsa else None
        self.up_8 = nn.Conv2d(width, width, 3, padding=1)
        self.norm_ground = ChannelNorm(width)
        self.ground_to_middle = nn.Conv2d(width, middle, 1)
        self.text_down = nn.Linear(text_width, width)
        self.read_8 = CrossAttention(width, num_heads)
        self.film = nn.Linear(text_width, 2 * width)
        self.to_middle = nn.Sequential(ChannelNorm(width), nn.GELU(), nn.Conv2d(width, middle, 1))
        self.coarse_down = nn.Conv2d(coarse, width, 1)
        self.norm_16 = ChannelNorm(width)
        self.hsa_late = ClipAttention(width, block_sides[1], num_heads) if hsa else None
        self.read_16 = CrossAttention(width, num_heads)
        self.tell_text = CrossAttention(width, num_heads)
        self.text_up = nn.Linear(width, text_width)
        self.to_coarse = nn.Sequential(ChannelNorm(width), nn.GELU(), nn.Conv2d(width, coarse, 1))
        self.words = WordEvidence(text_width=text_width, width=width, decoder_width=decoder_width)

    def see_motion(self, described_FChw: Tensor, fine_FChw: Tensor, *, num_frames: int) -> tuple[Tensor, Tensor | None]:
        """Stage 1's map with motion added, and the motion at stride 8; the map itself without a stem."""
        if self.stem is None:
            return fine_FChw, None
        motion = self.stem(described_FChw, num_frames=num_frames)
        return fine_FChw + self.motion_to_fine(motion), cast(Tensor, self.motion_down(motion))

    def relate(
        self, fine_FChw: Tensor, middle_FChw: Tensor, seen_FKhw: Sequence[Tensor], *, num_frames: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Stage 1's map, stage 2's with the grounding map added, and the grounding map of whole clips.

        Args:
            seen_FKhw: what the stems saw.
        """
        x = self.norm_8(sum(seen_FKhw, self.middle_down(middle_FChw) + self.fine_down(fine_FChw)))
        coarse = self.down_16(x if self.hsa_8 is None else (x := self.hsa_8(x, num_frames=num_frames)))
        if self.hsa_16 is not None:
            clips = coarse.view(-1, num_frames, *coarse.shape[1:])
            coarse = (clips + clips.mean(dim=1, keepdim=True)).flatten(0, 1)
            coarse = self.hsa_16(coarse, num_frames=num_frames)
        x = x + self.up_8(F.interpolate(coarse, scale_factor=2.0, mode="nearest"))
        ground_FKhw = self.norm_ground(x)
        return fine_FChw, middle_FChw + self.ground_to_middle(ground_FKhw), ground_FKhw

    def read_middle(
        self, ground_FKhw: Tensor, text_BLD: Tensor, sentence_BD: Tensor, keep_BL: Tensor | None, *, num_frames: int
    ) -> Tensor:
        """What to add to stage 2's map: the grounding map as the expression sees it, (F, C2, h, w)."""
        text_FLK = self.text_down(text_BLD).repeat_interleave(num_frames, dim=0)
        keep_FL = None if keep_BL is None else keep_BL.repeat_interleave(num_frames, dim=0)
        read = grid(self.read_8(tokens(ground_FKhw), text_FLK, keep_FL), like=ground_FKhw)
        gain, shift = self.film(sentence_BD).repeat_interleave(num_frames, dim=0)[..., None, None].chunk(2, dim=1)
        return cast(Tensor, self.to_middle((1 + gain) * (ground_FKhw + read) + shift))

    def read_coarse(
        self, coarse_FChw: Tensor, text_BLD: Tensor, keep_BL: Tensor | None, *, num_frames: int
    ) -> tuple[Tensor, Tensor]:
        """What to add to stage 3's map and to the text: they read each other."""
        x = self.norm_16(self.coarse_down(coarse_FChw))
        if self.hsa_late is not None:
            x = self.hsa_late(x, num_frames=num_frames)
        text_BLK = self.text_down(text_BLD)
        keep_FL = None if keep_BL is None else keep_BL.repeat_interleave(num_frames, dim=0)
        x_FNK = tokens(x)
        mean_BNK = x_FNK.view(-1, num_frames, *x_FNK.shape[1:]).mean(dim=1)
        text_delta = self.text_up(self.tell_text(text_BLK, mean_BNK, None))
        x = x + grid(self.read_16(x_FNK, text_BLK.repeat_interleave(num_frames, dim=0), keep_FL), like=x)
        return self.to_coarse(x), text_delta


class WordEvidence(nn.Module):
    """Each word's map against the grounding map, their soft "and", and how the decoder hears of it.

    S(x) = sum_i gate_i log sigmoid(e_i(x)) + log sigmoid(foreground(x)): a place is meant if all words that say
    something hold there. A departure from SAMWISE that grounds words several times sooner.
    """

    def __init__(self, *, text_width: int, width: int, decoder_width: int) -> None:
        super().__init__()
        self.place = nn.Conv2d(width, width, 1)
        self.key = nn.Linear(text_width, width)
        self.bias = nn.Linear(text_width, 1)
        self.gate = nn.Linear(text_width, 1)
        self.foreground = nn.Conv2d(width, 1, 1)
        self.to_stride_8 = nn.Conv2d(2, decoder_width // 4, 1)
        self.to_stride_16 = nn.Conv2d(2, decoder_width, 3, stride=2, padding=1)
        self.token = nn.Linear(width + 1, decoder_width)

    def forward(self, ground_FKhw: Tensor, text_BLD: Tensor, keep_BL: Tensor | None, *, num_frames: int) -> Evidence:
        key_FLK = self.key(text_BLD).repeat_interleave(num_frames, dim=0)
        bias_FL = self.bias(text_BLD).squeeze(-1).repeat_interleave(num_frames, dim=0)
        place_FKhw = self.place(ground_FKhw)
        logits = torch.einsum("flk,fkhw->flhw", key_FLK, place_FKhw) / math.sqrt(place_FKhw.shape[1])
        logits = logits + bias_FL[..., None, None]
        gate_BL = self.gate(text_BLD).squeeze(-1).sigmoid()
        gate_BL = gate_BL if keep_BL is None else gate_BL * keep_BL
        gate_FL11 = gate_BL.repeat_interleave(num_frames, dim=0)[..., None, None]
        told_F1hw = (gate_FL11 * F.logsigmoid(logits)).sum(dim=1, keepdim=True)
        log_evidence = told_F1hw + F.logsigmoid(self.foreground(ground_FKhw))
        return Evidence(word_logits_FLhw=logits, log_evidence_F1hw=log_evidence)

    def for_decoder(self, evidence: Evidence) -> tuple[Tensor, Tensor]:
        """What to add to the stride-8 decoder features (F, E/4, h, w) and to the stride-16 map (F, E, h/2, w/2)."""
        log_F1hw = evidence.log_evidence_F1hw.clamp(min=FAINTEST)
        both_F2hw = torch.cat([log_F1hw / -FAINTEST, log_F1hw.exp()], dim=1)
        return self.to_stride_8(both_F2hw), self.to_stride_16(both_F2hw)

    def prompt(self, evidence: Evidence, ground_FKhw: Tensor, *, num_frames: int) -> Tensor:
        """A prompt token per expression (B, E): the grounding map where the evidence is, and how strong it gets."""
        weight_F1hw = evidence.log_evidence_F1hw.clamp(min=FAINTEST).exp()
        pooled = _over_clips(weight_F1hw * ground_FKhw, num_frames).sum(dim=-1)
        mass_B1 = _over_clips(weight_F1hw, num_frames).sum(dim=-1)
        peak_B1 = _over_clips(weight_F1hw, num_frames).amax(dim=-1)
        return cast(Tensor, self.token(torch.cat([pooled / mass_B1.clamp(min=1e-3), peak_B1], dim=1)))


class ClipAttention(nn.Module):
    """Block attention over all frames of a clip as a residual, with codes of time and place.

    Source: SAMWISE (CVPR 2025), hierarchical selective attention.
    """

    def __init__(self, width: int, side: int, num_heads: int) -> None:
        super().__init__()
        self.side = side
        self.attention = BlockAttention(width, num_heads)
        self.norm = nn.LayerNorm(width)
        self.place = nn.Parameter(torch.empty(side**2, width))
        nn.init.trunc_normal_(self.place, std=0.02)

    def forward(self, x_FKhw: Tensor, *, num_frames: int) -> Tensor:
        blocks_RTQK = cut_blocks(x_FKhw, num_frames, self.side)
        time_TK = sine_time_code(num_frames, x_FKhw.shape[1]).to(x_FKhw)
        placed = blocks_RTQK + time_TK[None, :, None] + self.place
        related = self.attention(self.norm(placed.flatten(1, 2)))
        return x_FKhw + join_blocks(related.view_as(blocks_RTQK), like=x_FKhw)


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of each place."""

    def forward(self, x_FKhw: Tensor) -> Tensor:
        return super().forward(x_FKhw.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def _over_clips(x_FKhw: Tensor, num_frames: int) -> Tensor:
    """(F, K, h, w) to (B, K, T*h*w)."""
    clips = x_FKhw.flatten(2).view(-1, num_frames, x_FKhw.shape[1], x_FKhw.shape[2] * x_FKhw.shape[3])
    return clips.transpose(1, 2).flatten(2)
