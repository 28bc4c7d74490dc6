"""The seam in SAM2: encode_image, attend, decode, encode_memory over upstream's modules; the only import of sam2.

Upstream's submodules and checkpoints are used as they are. What chooses, moves and joins (`track_step`,
`forward_image`, `_prepare_memory_conditioned_features`, the forwards of MaskDecoder and MemoryAttention) is ours.

Axes: B images, R rows (one object on one frame), D decoder channels, C memory channels, K mask candidates, T further
prompt tokens, P points, H W pixels of the model's square image, h w the tensor's own grid (stride 16 for features and
memory, stride 4 for mask logits).
"""

from collections.abc import Hashable, Mapping, Sequence
from inspect import signature
from typing import Any

import torch
import torch.nn.functional as F
from sam2.modeling.backbones.hieradet import Hiera
from sam2.modeling.backbones.image_encoder import FpnNeck, ImageEncoder
from sam2.modeling.memory_attention import MemoryAttention, MemoryAttentionLayer
from sam2.modeling.memory_encoder import CXBlock, Fuser, MaskDownSampler, MemoryEncoder
from sam2.modeling.position_encoding import PositionEmbeddingSine
from sam2.modeling.sam.mask_decoder import MaskDecoder
from sam2.modeling.sam.transformer import RoPEAttention, TwoWayTransformer
from sam2.modeling.sam2_base import SAM2Base
from torch import Tensor, nn

from pipeline.models import image_encoding
from pipeline.models.image_encoding import BetweenStages, ImageFeatures, StageState
from pipeline.models.mask_decoding import (
    DecoderPrompts,
    DecoderSwitches,
    MaskCandidates,
    MaskOutput,
    decode_candidates,
    embed_prompts,
    shrink,
    take,
)
from pipeline.models.memory import MemorySelection
from pipeline.models.memory_attention import Rotation, condition_on_memory, gather_memory, rotation_table
from pipeline.models.sam2_variants import Sam2Config, check_fit

MASK_SCALE, MASK_BIAS = 20.0, -10.0
"""Logits of a mask taken as output: +10 inside, -10 outside (SAM2's released code)."""

MEMORY_DROPOUT = 0.1
"""Of memory attention in training (SAM2's released configurations)."""


class Sam2Core(nn.Module):
    """SAM2 as calls without state: nothing of any video is kept between them.

    Attributes:
        config: what it was built from.
        model: upstream's SAM2Base, which holds modules and weights; its own methods are never called.
    """

    def __init__(self, config: Sam2Config, model: nn.Module) -> None:
        super().__init__()
        self.config = config
        self.model: Any = model
        self._rotations: dict[torch.device, Rotation] = {}

    @property
    def device(self) -> torch.device:
        device: torch.device = self.model.no_mem_embed.device
        return device

    def encode_image(self, images_B3HW: Tensor, *, between_stages: BetweenStages | None = None) -> ImageFeatures:
        """Features of normalised images, square at the config's size.

        Args:
            between_stages: its return is both a pyramid level and the next stage's input.
        """
        return self.to_features(self.continue_stages(self.begin_stages(images_B3HW), between_stages))

    def begin_stages(self, images_B3HW: Tensor, num_stages: int = 2) -> StageState:
        """Patch and position embedding and the first 1 or 2 stages: the part that no adapter changes.

        Raises:
            ValueError: images of another size, or a number of stages that would skip a `between_stages` call.
        """
        side = self.config.image_size
        if images_B3HW.ndim != 4 or images_B3HW.shape[1:] != (3, side, side):
            raise ValueError(
                f"images are {tuple(images_B3HW.shape)}; expected (batch, 3, {side}, {side}). "
                "Resize or pad to the model's square, or build it with another image_size."
            )
        if num_stages not in (1, 2):
            raise ValueError(f"num_stages is {num_stages}; expected 1 or 2: from stage 2 on adapters may step in.")
        return image_encoding.begin(self.model.image_encoder.trunk, images_B3HW, num_stages)

    def next_stage(self, state: StageState) -> StageState:
        """One more stage, for callers that change a map before the stage that reads it."""
        return image_encoding.advance(self.model.image_encoder.trunk, state)

    def continue_stages(self, state: StageState, between_stages: BetweenStages | None = None) -> list[Tensor]:
        """The remaining stages: four maps (B, channels, h, w), strides 4 to 32.

        Args:
            between_stages: called for stages 2, 3 and 4, stage 2 also where `state` already holds it.
        """
        return image_encoding.finish(self.model.image_encoder.trunk, state, between_stages)

    def to_features(self, maps: Sequence[Tensor]) -> ImageFeatures:
        """Feature pyramid of the four stage maps."""
        return image_encoding.pyramid(self.model.image_encoder.neck, self.model.sam_mask_decoder, maps)

    def attend(self, features: ImageFeatures, selections: Sequence[MemorySelection]) -> Tensor:
        """Condition each row's features on what its selection reads: (R, D, h, w).

        Rows of equal `MemorySelection.shape` run as one batch, the others group by group; a caller that needs
        results independent of who shares the batch passes rows of one shape only, always equally many. A row with
        an empty selection gets the learned no-memory embedding.

        Raises:
            ValueError: not one selection per row, or a temporal position the model does not have.
        """
        if len(features) != len(selections):
            raise ValueError(f"{len(features)} rows of features but {len(selections)} selections; expected as many.")
        groups: dict[Hashable, list[int]] = {}
        for row, selection in enumerate(selections):
            groups.setdefault(selection.shape, []).append(row)
        if len(groups) == 1:
            return self._attend_alike(features, selections)
        parts = [self._attend_alike(features.rows(g), [selections[row] for row in g]) for g in groups.values()]
        order = [row for group in groups.values() for row in group]
        return torch.cat(parts)[torch.tensor(order, device=self.device).argsort()]

    def _attend_alike(self, features: ImageFeatures, selections: Sequence[MemorySelection]) -> Tensor:
        map_RDhw = features.map_BDhw
        if selections[0].is_empty:
            empty: Tensor = map_RDhw + self.model.no_mem_embed.view(1, -1, 1, 1)
            return empty
        rotation = self._rotation()
        tokens = gather_memory(self.model, self.config, selections, rotation, map_RDhw.dtype)
        return condition_on_memory(self.model.memory_attention, map_RDhw, features.pos_BDhw, rotation, tokens)

    def _rotation(self) -> Rotation:
        device, grid = self.device, self.config.grid
        if device not in self._rotations:
            self._rotations[device] = rotation_table(self.config.d_model, grid, grid, device)
        return self._rotations[device]

    def encode_prompts(
        self,
        num_rows: int,
        *,
        points_RP2: Tensor | None = None,
        labels_RP: Tensor | None = None,
        boxes_R4: Tensor | None = None,
        mask_logits_R1hw: Tensor | None = None,
        extra_RTD: Tensor | None = None,
    ) -> DecoderPrompts:
        """Prompts as decoder tokens; with none given, what SAM2 asks on a frame that is only tracked.

        Args:
            points_RP2: (x, y) in pixels of the model's square image.
            labels_RP: 1 for the object, 0 for background, -1 for padding.
            boxes_R4: (x0, y0, x1, y1) in the same pixels; they become two corner points ahead of the others.
            mask_logits_R1hw: a mask's logits, resized to stride 4 if they are not.
            extra_RTD: tokens appended as they are, e.g. a projected sentence.

        Raises:
            ValueError: points without labels or the reverse.
        """
        sparse_RTD, dense_RDhw = embed_prompts(
            self.model.sam_prompt_encoder, num_rows, points_RP2, labels_RP, boxes_R4, mask_logits_R1hw
        )
        if extra_RTD is not None:
            sparse_RTD = torch.cat([sparse_RTD, extra_RTD], dim=1)
        return DecoderPrompts(sparse_RTD=sparse_RTD, dense_RDhw=dense_RDhw)

    def decode(
        self,
        pix_RDhw: Tensor,
        high_res: Sequence[Tensor],
        prompts: DecoderPrompts,
        *,
        multimask: bool,
        gate_absent: bool = True,
    ) -> MaskOutput:
        """One mask per row: of the candidates, the one whose predicted IoU is best.

        Args:
            pix_RDhw: conditioned features, from `attend`.
            high_res: of the same rows' ImageFeatures.
            multimask: choose among the candidates; otherwise the single-mask token, or what replaces it when it is
                unstable.
            gate_absent: paint out masks of objects out of view; training leaves them.
        """
        candidates = self.decode_candidates(pix_RDhw, high_res, prompts, multimask=multimask, gate_absent=gate_absent)
        return self.choose(candidates, candidates.predicted_iou_RK.argmax(dim=1))

    def decode_candidates(
        self,
        pix_RDhw: Tensor,
        high_res: Sequence[Tensor],
        prompts: DecoderPrompts,
        *,
        multimask: bool,
        gate_absent: bool = True,
    ) -> MaskCandidates:
        """All that the decoder offers, for callers who choose by their own rule; arguments as in `decode`."""
        config = self.config
        dynamic = config.dynamic_multimask_via_stability and not self.training
        switches = DecoderSwitches(
            multimask=multimask,
            own_tokens=config.use_multimask_token_for_obj_ptr,
            stability_delta=config.dynamic_multimask_stability_delta if dynamic else None,
            stability_thresh=config.dynamic_multimask_stability_thresh if dynamic else None,
            gate_absent=gate_absent,
        )
        image_pe = self.model.sam_prompt_encoder.get_dense_pe()
        return decode_candidates(self.model.sam_mask_decoder, pix_RDhw, image_pe, high_res, prompts, switches)

    def choose(self, candidates: MaskCandidates, index_R: Tensor) -> MaskOutput:
        """Take one candidate per row and make its object pointer."""
        logits_R1hw, iou_R, token_RD = take(candidates, index_R)
        pointer_RD = self.model.obj_ptr_proj(token_RD)
        if self.config.pred_obj_scores:
            score_R1 = candidates.object_score_R1
            present_R1 = score_R1.sigmoid() if self.config.soft_no_obj_ptr else (score_R1 > 0).to(pointer_RD.dtype)
            pointer_RD = self._blend_absent(pointer_RD, present_R1)
        return MaskOutput(
            low_res_logits_R1hw=logits_R1hw,
            predicted_iou_R=iou_R,
            object_score_R1=candidates.object_score_R1,
            object_pointer_RD=pointer_RD,
            early_token_RD=candidates.early_token_RD,
        )

    def take_mask(self, features: ImageFeatures, mask_R1HW: Tensor) -> MaskOutput:
        """A given mask as output: nothing is predicted but its object pointer.

        Args:
            features: of the frame itself, R rows.
            mask_R1HW: 0 or 1, at the model's image size.
        """
        mask_R1HW = mask_R1HW.float()
        high_res_logits = mask_R1HW * MASK_SCALE + MASK_BIAS
        side = self.config.image_size // 4
        prompts = self.encode_prompts(len(features), mask_logits_R1hw=self.model.mask_downsample(mask_R1HW))
        read = self.decode(features.map_BDhw, features.high_res, prompts, multimask=False)
        present_R1 = mask_R1HW.flatten(1).any(dim=1, keepdim=True).float()
        pointer_RD = read.object_pointer_RD
        if self.config.pred_obj_scores:
            pointer_RD = self._blend_absent(pointer_RD, present_R1)
        return MaskOutput(
            low_res_logits_R1hw=shrink(high_res_logits, (side, side)),
            predicted_iou_R=torch.ones_like(read.predicted_iou_R),
            object_score_R1=present_R1 * MASK_SCALE + MASK_BIAS,
            object_pointer_RD=pointer_RD,
            early_token_RD=read.early_token_RD,
        )

    def _blend_absent(self, pointer_RD: Tensor, present_R1: Tensor) -> Tensor:
        if self.config.fixed_no_obj_ptr:
            pointer_RD = present_R1 * pointer_RD
        blended: Tensor = pointer_RD + (1 - present_R1) * self.model.no_obj_ptr
        return blended

    def enlarge(self, low_res_logits_R1hw: Tensor) -> Tensor:
        """Mask logits at the model's image size, as the memory encoder sees them: (R, 1, H, W)."""
        side = self.config.image_size
        return F.interpolate(low_res_logits_R1hw, size=(side, side), mode="bilinear", align_corners=False)

    def encode_memory(
        self,
        features: ImageFeatures,
        mask_logits_R1HW: Tensor,
        object_score_R1: Tensor,
        *,
        is_mask_from_points: bool,
    ) -> Tensor:
        """Memory features of frames and their masks: (R, C, h, w) in the config's memory dtype.

        Args:
            features: of the frames themselves, not conditioned on memory.
            mask_logits_R1HW: at the model's image size.
            is_mask_from_points: the frame was prompted; its mask is binarised if the config says so.
        """
        config, encoder = self.config, self.model.memory_encoder
        if is_mask_from_points and config.binarize_mask_from_pts_for_mem_enc and not self.training:
            mask = (mask_logits_R1HW > 0).float()
        else:
            mask = mask_logits_R1HW.sigmoid()
        mask = mask * config.sigmoid_scale_for_mem_enc + config.sigmoid_bias_for_mem_enc
        fused = encoder.fuser(encoder.pix_feat_proj(features.map_BDhw) + encoder.mask_downsampler(mask))
        memory_RChw: Tensor = encoder.out_proj(fused)
        if config.no_obj_embed_spatial:
            absent_R1 = (object_score_R1 <= 0).to(memory_RChw.dtype)
            memory_RChw = memory_RChw + (absent_R1 * self.model.no_obj_embed_spatial)[:, :, None, None]
        return memory_RChw.to(getattr(torch, config.memory_dtype))


def build_sam2(config: Sam2Config, *, device: torch.device | str = "cpu", seed: int | None = None) -> Sam2Core:
    """A model with random weights, in eval mode; `seed` makes them reproducible without touching torch's own state."""
    config = Sam2Config(**config.model_dump())  # Copying with changes does not check them.
    if seed is None:
        return _build(config).to(device).eval()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _build(config).to(device).eval()


def load_sam2(core: Sam2Core, tensors: Mapping[str, Any]) -> None:
    """Load a checkpoint in the official layout, with or without its outer "model" key; all keys must fit.

    Raises:
        WeightsError: keys are missing or unexpected, or shapes differ; names up to ten of each.
    """
    given: Mapping[str, Tensor] = tensors["model"] if isinstance(tensors.get("model"), Mapping) else tensors
    check_fit(core.model.state_dict(), given)
    core.model.load_state_dict(dict(given), strict=True)


def _build(config: Sam2Config) -> Sam2Core:
    model = SAM2Base(**upstream_arguments(config))
    model.sam_mask_decoder = mask_decoder(config)
    return Sam2Core(config, model)


def upstream_arguments(config: Sam2Config) -> dict[str, Any]:
    """What SAM2Base, or upstream's predictor, is constructed from: its three modules and its switches."""
    return {
        "image_encoder": _image_encoder(config),
        "memory_attention": _memory_attention(config),
        "memory_encoder": _memory_encoder(config),
        "use_mask_input_as_output_without_sam": True,
        "directly_add_no_mem_embed": True,
        "use_high_res_features_in_sam": True,
        "use_obj_ptrs_in_encoder": True,
        "use_mlp_for_obj_ptr_proj": True,
        "pred_obj_scores_mlp": config.pred_obj_scores,
        **_fields_of(config, SAM2Base),
    }


def _fields_of(config: Sam2Config, module: Any) -> dict[str, Any]:
    """The config's fields that are parameters of a module's constructor: names are upstream's."""
    return config.model_dump(include=set(signature(module.__init__).parameters) & set(Sam2Config.model_fields))


def _image_encoder(config: Sam2Config) -> nn.Module:
    trunk = Hiera(**_fields_of(config, Hiera))
    neck = FpnNeck(
        position_encoding=PositionEmbeddingSine(num_pos_feats=config.d_model),
        d_model=config.d_model,
        backbone_channel_list=list(reversed(config.channels)),
        fpn_top_down_levels=[2, 3],
        fpn_interp_model="nearest",
    )
    encoder: nn.Module = ImageEncoder(trunk=trunk, neck=neck, scalp=1)
    return encoder


def _memory_attention(config: Sam2Config) -> nn.Module:
    shared = {"embedding_dim": config.d_model, "num_heads": 1, "dropout": MEMORY_DROPOUT}
    grid = (config.grid, config.grid)
    layer = MemoryAttentionLayer(
        activation="relu",
        d_model=config.d_model,
        dim_feedforward=config.memory_feedforward_dim,
        dropout=MEMORY_DROPOUT,
        pos_enc_at_attn=False,
        pos_enc_at_cross_attn_keys=True,
        pos_enc_at_cross_attn_queries=False,
        self_attention=RoPEAttention(feat_sizes=grid, **shared),
        cross_attention=RoPEAttention(feat_sizes=grid, rope_k_repeat=True, kv_in_dim=config.mem_dim, **shared),
    )
    attention: nn.Module = MemoryAttention(
        d_model=config.d_model, pos_enc_at_input=True, layer=layer, num_layers=config.num_memory_layers
    )
    return attention


def _memory_encoder(config: Sam2Config) -> nn.Module:
    encoder: nn.Module = MemoryEncoder(
        in_dim=config.d_model,
        out_dim=config.mem_dim,
        position_encoding=PositionEmbeddingSine(num_pos_feats=config.mem_dim),
        mask_downsampler=MaskDownSampler(embed_dim=config.d_model, kernel_size=3, stride=2, padding=1),
        fuser=Fuser(CXBlock(dim=config.d_model), num_layers=2),
    )
    return encoder


def mask_decoder(config: Sam2Config) -> nn.Module:
    """Upstream's mask decoder with the config's own widths and number of candidates, which SAM2Base fixes."""
    decoder: nn.Module = MaskDecoder(
        transformer_dim=config.d_model,
        transformer=TwoWayTransformer(
            depth=2, embedding_dim=config.d_model, mlp_dim=config.decoder_mlp_dim, num_heads=8
        ),
        use_high_res_features=True,
        pred_obj_scores_mlp=config.pred_obj_scores,
        **_fields_of(config, MaskDecoder),
    )
    return decoder
