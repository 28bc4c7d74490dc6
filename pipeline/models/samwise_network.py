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
        prompt_BSE: decoder prompt per expression: the sentence, then the motion token if there is one.
    """

    features: ImageFeatures
    prompt_BSE: Tensor


class SamwiseNetwork(nn.Module):
    """Weights and the calls that use them; nothing of any video is kept.

    Source: Cuttano et al., SAMWISE, CVPR 2025, arXiv 2411.17646.

    Attributes:
        core: SAM2.
        text_encoder, adapters: the adapters sit after Hiera stages 2, 3, 4 and the configured text layers.
        project_text, project_motion: sentence and motion vectors to decoder prompts; the latter may be None.
        cme: the conditional memory encoder, or None.
    """

    def __init__(self, architecture: SamwiseArchitecture) -> None:
        super().__init__()
        self.architecture = architecture
        sam2, text = architecture.sam2, architecture.text
        self.core: Sam2Core = build_sam2(sam2)
        self.text_encoder = build_text_encoder(text)
        self.adapters = nn.ModuleList(
            CrossModalAdapter(
                vision_width=channels,
                text_width=text.width,
                width=architecture.adapter_width,
                block_side=side,
                hsa=architecture.hsa,
                num_heads=architecture.adapter_heads,
            )
            for channels, side in zip(sam2.channels[1:], architecture.block_sides, strict=True)
        )
        self.project_text = PromptProjection(text.width, sam2.d_model)
        self.project_motion = PromptProjection(text.width, sam2.d_model) if architecture.motion_prompt else None
        self.cme: ConditionalMemoryEncoder | None = None
        if architecture.cme:
            self.cme = ConditionalMemoryEncoder(sam2.d_model, feedforward_width=architecture.cme_feedforward_width)

    @property
    def memory_policy(self) -> LastFrames:
        """Which memories a frame reads: the last ones only, as many as SAM2's tables have room for."""
        sam2 = self.architecture.sam2
        return LastFrames(num_recent=sam2.num_maskmem - 1, num_pointers=sam2.max_obj_ptrs_in_encoder - 1)

    def encode_prefix(self, images_T3HW: Tensor) -> StageState:
        """Patch embedding and Hiera stages 1 and 2: the same for every expression of a video."""
        return self.core.begin_stages(images_T3HW, num_stages=FIRST_FUSED_STAGE)

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
        """Vision and text of whole clips, mixed stage by stage.

        Args:
            prefix: F rows, frames of an expression are neighbours.
            num_frames: T.
            motion_BL: float weights over tokens that sum to 1 per row; adds the motion prompt.
            keep_BL: bool, False at padding; None when there is none.
            mask_text_padding: vision does not read padding. The reference's training does let it.

        Raises:
            ValueError: a motion prompt is asked of a network without its projection.
        """
        text = _TextStream(self, token_ids_BL, num_frames, keep_BL, mask_text_padding)
        features = self.core.to_features(self.core.continue_stages(prefix, text.between_stages))
        finished_BLD = text.finish()
        encoder = cast(TextEncoder, self.text_encoder)
        prompts = [self.project_text(encoder.sentence(finished_BLD, token_ids_BL))]
        if motion_BL is not None:
            if self.project_motion is None:
                raise ValueError("motion_BL given, but the network has no project_motion. Build it with motion_prompt.")
            prompts.append(self.project_motion(torch.einsum("bl,bld->bd", motion_BL, finished_BLD)))
        return FusedClip(features=features, prompt_BSE=torch.stack(prompts, dim=1))

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
        return self.segment(features, nothing, prompt_RSE[:, :1], gate_absent=gate_absent)

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
