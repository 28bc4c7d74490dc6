"""The SAMWISE network: SAM2, a text encoder, the adapters between them, prompt projections and the CME."""

# Axes: B expressions, T frames of a clip, F = B*T, L text tokens, D text width, E decoder width, S prompt tokens
# (1, or 2 with motion), R rows (one expression on one frame), H W the model's square, h w the tensor's own grid.

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from pipeline.models.conditional_memory import ConditionalMemoryEncoder
from pipeline.models.cross_modal_adapter import CrossModalAdapter
from pipeline.models.detail_stem import DetailStem
from pipeline.models.grounded_fusion import Evidence, GroundedFusion
from pipeline.models.image_encoding import ImageFeatures, StageState
from pipeline.models.mask_decoding import MaskOutput
from pipeline.models.memory import MemorySelection
from pipeline.models.memory_policies import LastFrames
from pipeline.models.sam2_core import Sam2Core, build_sam2
from pipeline.models.samwise_architecture import SamwiseArchitecture
from pipeline.models.text_encoder import TextEncoder, build_text_encoder

FIRST_FUSED_STAGE = 2
"""Hiera stage, counted from 1, after which the first adapter sits; what lies before is shared by expressions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FusedClip:
    """A clip as one or more expressions see it.

    Attributes:
        features: F rows, frames of an expression are neighbours.
        prompt_BSE: decoder prompt per expression: the context tokens (the sentence, and with grounded fusion the
            evidence), then the motion token if there is one.
        evidence: of grounded fusion, for training.
    """

    features: ImageFeatures
    prompt_BSE: Tensor
    evidence: Evidence | None = None


class SamwiseNetwork(nn.Module):
    """Weights and the calls that use them; nothing of any video is kept.

    Source: Cuttano et al., SAMWISE, CVPR 2025, arXiv 2411.17646.

    Attributes:
        core: SAM2.
        text_encoder, adapters: the adapters sit after Hiera stages 2, 3, 4 and the configured text layers.
        grounding: grounded fusion, which takes the adapters' place; else None.
        project_text, project_motion: sentence and motion vectors to decoder prompts; the latter may be None.
        cme: the conditional memory encoder, or None.
        detail: the detail stem, or None.
    """

    def __init__(self, architecture: SamwiseArchitecture) -> None:
        super().__init__()
        self.architecture = architecture
        sam2, text = architecture.sam2, architecture.text
        self.core: Sam2Core = build_sam2(sam2)
        self.text_encoder = build_text_encoder(text)
        is_grounded = architecture.fusion == "grounded"
        self.adapters = nn.ModuleList() if is_grounded else _adapters(architecture)
        self.grounding: GroundedFusion | None = _grounding(architecture) if is_grounded else None
        self.project_text = PromptProjection(text.width, sam2.d_model)
        self.project_motion = PromptProjection(text.width, sam2.d_model) if architecture.motion_prompt else None
        self.cme: ConditionalMemoryEncoder | None = None
        if architecture.cme:
            self.cme = ConditionalMemoryEncoder(sam2.d_model, feedforward_width=architecture.cme_feedforward_width)
        self.detail: DetailStem | None = None
        if architecture.detail_stem:
            # Last, so that without it the same seed draws the same weights for all else.
            self.detail = DetailStem(fine_width=sam2.channels[0], width=architecture.adapter_width)

    @property
    def memory_policy(self) -> LastFrames:
        """Which memories a frame reads: the last ones only, as many as SAM2's tables have room for."""
        sam2 = self.architecture.sam2
        return LastFrames(num_recent=sam2.num_maskmem - 1, num_pointers=sam2.max_obj_ptrs_in_encoder - 1)

    @property
    def num_context_tokens(self) -> int:
        """Prompt tokens ahead of the motion token."""
        return 1 if self.grounding is None else 2

    def encode_prefix(self, images_F3HW: Tensor) -> StageState:
        """What is the same for every expression of a video and needs no other frame.

        With adapters patch embedding and Hiera stages 1 and 2; grounded fusion takes the motion stem's description
        of each frame, the detail stem's map at stride 8, and stage 1.
        """
        if self.grounding is None:
            return self.core.begin_stages(images_F3HW, num_stages=FIRST_FUSED_STAGE)
        (fine,) = self.core.begin_stages(images_F3HW, num_stages=1).maps
        described = () if self.grounding.stem is None else (self.grounding.stem.describe(images_F3HW),)
        if self.detail is None:
            return StageState(maps=(*described, fine))
        to_fine, detail_FKhw = self.detail(images_F3HW)
        return StageState(maps=(*described, detail_FKhw, fine + to_fine))

    def relate(self, prefix: StageState, *, num_frames: int) -> StageState:
        """Whole clips before any text, shared by their expressions.

        With adapters the prefix itself; with grounded fusion the maps of Hiera stages 1 and 2, to which motion and the
        grounding map were added, and the grounding map.
        """
        if self.grounding is None:
            return prefix
        fine, motion = self.grounding.see_motion(prefix.maps[0], prefix.maps[-1], num_frames=num_frames)
        _, middle = self.core.next_stage(StageState(maps=(fine,))).maps
        seen = [part for part in (motion, None if self.detail is None else prefix.maps[-2]) if part is not None]
        return StageState(maps=self.grounding.relate(fine, middle, seen, num_frames=num_frames))

    def fuse(
        self,
        prefix: StageState,
        token_ids_BL: Tensor,
        *,
        num_frames: int,
        motion_BL: Tensor | None = None,
        keep_BL: Tensor | None = None,
        mask_text_padding: bool = True,
    ) -> FusedClip:
        """Vision and text of whole clips, mixed stage by stage; `relate` and `fuse_related` in one."""
        return self.fuse_related(
            self.relate(prefix, num_frames=num_frames),
            token_ids_BL,
            num_frames=num_frames,
            motion_BL=motion_BL,
            keep_BL=keep_BL,
            mask_text_padding=mask_text_padding,
        )

    def fuse_related(
        self,
        clip: StageState,
        token_ids_BL: Tensor,
        *,
        num_frames: int,
        motion_BL: Tensor | None = None,
        keep_BL: Tensor | None = None,
        mask_text_padding: bool = True,
    ) -> FusedClip:
        """Clips as expressions see them.

        Args:
            clip: from `relate`, F rows; frames of an expression are neighbours.
            num_frames: T.
            motion_BL: float weights over tokens that sum to 1 per row; adds the motion prompt.
            keep_BL: bool, False at padding; None when there is none.
            mask_text_padding: vision does not read padding. The reference's training does let it.

        Raises:
            ValueError: a motion prompt is asked of a network without its projection.
        """
        if motion_BL is not None and self.project_motion is None:
            raise ValueError("motion_BL given, but the network has no project_motion. Build it with motion_prompt.")
        if self.grounding is None:
            text = _TextStream(self, token_ids_BL, num_frames, keep_BL, mask_text_padding)
            features = self.core.to_features(self.core.continue_stages(clip, text.between_stages))
            finished_BLD, told, evidence = text.finish(), [], None
        else:
            features, finished_BLD, token_BE, evidence = self._ground(clip, token_ids_BL, keep_BL, num_frames)
            told = [token_BE]
        encoder = cast(TextEncoder, self.text_encoder)
        prompts = [self.project_text(encoder.sentence(finished_BLD, token_ids_BL)), *told]
        if motion_BL is not None and self.project_motion is not None:
            prompts.append(self.project_motion(torch.einsum("bl,bld->bd", motion_BL, finished_BLD)))
        return FusedClip(features=features, prompt_BSE=torch.stack(prompts, dim=1), evidence=evidence)

    def _ground(
        self, clip: StageState, token_ids_BL: Tensor, keep_BL: Tensor | None, num_frames: int
    ) -> tuple[ImageFeatures, Tensor, Tensor, Evidence]:
        """Features, finished text, evidence token and evidence of grounded fusion."""
        assert self.grounding is not None
        fine, middle, ground = clip.maps
        fusion, encoder = self.grounding, cast(TextEncoder, self.text_encoder)
        text_BLD = encoder.run_layers(
            encoder.embed(token_ids_BL), start=0, stop=self.architecture.text.num_layers, keep_BL=keep_BL
        )
        text_BLD = encoder.finish(text_BLD)
        sentence_BD = encoder.sentence(text_BLD, token_ids_BL)
        finished = [text_BLD]

        def between_stages(stage: int, map_FChw: Tensor) -> Tensor:
            if stage == FIRST_FUSED_STAGE:
                return map_FChw + fusion.read_middle(ground, text_BLD, sentence_BD, keep_BL, num_frames=num_frames)
            if stage > FIRST_FUSED_STAGE + 1:
                return map_FChw
            delta, text_delta = fusion.read_coarse(map_FChw, text_BLD, keep_BL, num_frames=num_frames)
            finished.append(text_BLD + text_delta)
            return map_FChw + delta

        state = StageState(maps=(fine, middle))
        features = self.core.to_features(self.core.continue_stages(state, between_stages))
        evidence = fusion.words(ground, text_BLD, keep_BL, num_frames=num_frames)
        to_8, to_16 = fusion.words.for_decoder(evidence)
        features = ImageFeatures(
            high_res=(features.high_res[0], features.high_res[1] + to_8),
            map_BDhw=features.map_BDhw + to_16,
            pos_BDhw=features.pos_BDhw,
        )
        token_BE = fusion.words.prompt(evidence, ground, num_frames=num_frames)
        return features, finished[-1], token_BE, evidence

    def segment(
        self,
        features: ImageFeatures,
        selections: Sequence[MemorySelection],
        prompt_RSE: Tensor,
        *,
        gate_absent: bool = True,
    ) -> MaskOutput:
        """One mask per row, by the single-mask token; empty selections segment without memory.

        Args:
            gate_absent: masks of objects out of view become ABSENT_LOGIT everywhere; training leaves them.
        """
        pix_REhw = self.core.attend(features, selections)
        prompts = self.core.encode_prompts(len(features), extra_RTD=prompt_RSE)
        return self.core.decode(pix_REhw, features.high_res, prompts, multimask=False, gate_absent=gate_absent)

    def segment_without_memory(
        self, features: ImageFeatures, prompt_RSE: Tensor, *, gate_absent: bool = True
    ) -> MaskOutput:
        """What the CME compares with: no memory, and never the motion prompt."""
        nothing = [MemorySelection()] * len(features)
        return self.segment(features, nothing, prompt_RSE[:, : self.num_context_tokens], gate_absent=gate_absent)

    def remember(self, features: ImageFeatures, mask_logits_R1HW: Tensor, object_score_R1: Tensor) -> Tensor:
        """Memory features (R, C, h, w) of frames and the masks to remember, at the model's image size."""
        return self.core.encode_memory(features, mask_logits_R1HW, object_score_R1, is_mask_from_points=False)


class PromptProjection(nn.Module):
    """Three linear layers from text width to decoder width, ReLU between them."""

    def __init__(self, text_width: int, decoder_width: int) -> None:
        super().__init__()
        widths = (text_width, decoder_width, decoder_width)
        self.layers = nn.ModuleList(nn.Linear(width, decoder_width) for width in widths)

    def forward(self, text_BD: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            text_BD = layer(text_BD).relu()
        return cast(Tensor, self.layers[-1](text_BD))


def _adapters(architecture: SamwiseArchitecture) -> nn.ModuleList:
    return nn.ModuleList(
        CrossModalAdapter(
            vision_width=channels,
            text_width=architecture.text.width,
            width=architecture.adapter_width,
            block_side=side,
            hsa=architecture.hsa,
            num_heads=architecture.adapter_heads,
        )
        for channels, side in zip(architecture.sam2.channels[1:], architecture.block_sides, strict=True)
    )


def _grounding(architecture: SamwiseArchitecture) -> GroundedFusion:
    fine, middle, coarse, _ = architecture.sam2.channels
    return GroundedFusion(
        channels=(fine, middle, coarse),
        text_width=architecture.text.width,
        width=architecture.adapter_width,
        decoder_width=architecture.sam2.d_model,
        block_sides=architecture.block_sides[:2],
        num_heads=architecture.adapter_heads,
        hsa=architecture.hsa,
        motion_stem=architecture.motion_stem,
    )


class _TextStream:
    """The text on its way through the encoder, stopped wherever an adapter sits."""

    def __init__(
        self,
        network: SamwiseNetwork,
        token_ids_BL: Tensor,
        num_frames: int,
        keep_BL: Tensor | None,
        mask_text_padding: bool,
    ) -> None:
        self._network = network
        self._encoder = cast(TextEncoder, network.text_encoder)
        self._num_frames = num_frames
        self._keep_BL = keep_BL
        self._vision_keep_BL = keep_BL if mask_text_padding else None
        self._layers_done = 0
        self._text_BLD = self._encoder.embed(token_ids_BL)

    def between_stages(self, stage: int, map_FChw: Tensor) -> Tensor:
        level = stage - FIRST_FUSED_STAGE
        self._run_to(self._network.architecture.text_fusion_layers[level])
        vision_delta, text_delta = self._network.adapters[level](
            map_FChw, self._text_BLD, num_frames=self._num_frames, keep_BL=self._vision_keep_BL
        )
        self._text_BLD = self._text_BLD + text_delta
        return map_FChw + cast(Tensor, vision_delta)

    def finish(self) -> Tensor:
        self._run_to(self._network.architecture.text.num_layers)
        return self._encoder.finish(self._text_BLD)

    def _run_to(self, layer: int) -> None:
        self._text_BLD = self._encoder.run_layers(
            self._text_BLD, start=self._layers_done, stop=layer, keep_BL=self._keep_BL
        )
        self._layers_done = layer
