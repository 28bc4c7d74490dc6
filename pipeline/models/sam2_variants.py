"""The numbers that make a SAM2: Sam2Config, the published variants, and which of them a checkpoint holds."""

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, model_validator

from pipeline.errors import WeightsError

IMAGE_STRIDE = 16
"""Pixels per cell of the grid on which memory attention works (SAM2 appendix C.1)."""


class Sam2Config(BaseModel):
    """Architecture and inference switches of one SAM2; field names are those of the model's YAML.

    Defaults are what all published SAM 2.1 checkpoints share; SAM 2.0 differs in the four fields that
    `SAM2_VARIANTS` sets for it. Source: Ravi et al., SAM 2, arXiv 2408.00714, appendix C; Hiera numbers from
    Ryali et al., arXiv 2306.00989.

    Attributes:
        embed_dim, num_heads, stages: width and heads of Hiera's first stage (both double per stage), blocks per stage.
        global_att_blocks: blocks that attend over the whole map instead of windows.
        window_spec: window side per stage.
        window_pos_embed_bkg_spatial_size: grid of the learned background position table.
        d_model, mem_dim: channels of image features and object pointers; of memory features.
        image_size: side in pixels of the square the model sees; need not be the one it was trained at.
        num_maskmem: rows of the temporal table: recent memories plus the one for conditioning frames.
        num_memory_layers, memory_feedforward_dim: size of memory attention.
        num_multimask_outputs: mask candidates of the decoder beside the single-mask token.
        decoder_mlp_dim, iou_head_hidden_dim: inner widths of the mask decoder.
        memory_dtype: what memory features are stored in; upstream's predictor stores bfloat16.
        max_cond_frames_in_attn: how many conditioning frames to read; -1 means all.
        dynamic_multimask_via_stability: an unstable single mask gives way to the best candidate (the predictor
            turns this on, the bare model does not).

    Raises:
        ValueError: numbers that SAM2's modules cannot be built from, with the rule they break.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    embed_dim: int
    num_heads: int
    stages: tuple[int, int, int, int]
    global_att_blocks: tuple[int, ...]
    window_spec: tuple[int, int, int, int] = (8, 4, 14, 7)
    window_pos_embed_bkg_spatial_size: tuple[int, int] = (14, 14)
    d_model: int = 256
    mem_dim: int = 64
    image_size: int = 1024
    num_maskmem: int = 7
    num_memory_layers: int = 4
    memory_feedforward_dim: int = 2048
    num_multimask_outputs: int = 3
    decoder_mlp_dim: int = 2048
    iou_head_hidden_dim: int = 256

    sigmoid_scale_for_mem_enc: float = 20.0
    sigmoid_bias_for_mem_enc: float = -10.0
    binarize_mask_from_pts_for_mem_enc: bool = False
    no_obj_embed_spatial: bool = True
    memory_dtype: Literal["float32", "bfloat16"] = "float32"

    max_obj_ptrs_in_encoder: int = 16
    add_tpos_enc_to_obj_ptrs: bool = True
    proj_tpos_enc_in_obj_ptrs: bool = True
    use_signed_tpos_enc_to_obj_ptrs: bool = True
    only_obj_ptrs_in_the_past_for_eval: bool = True

    max_cond_frames_in_attn: int = -1
    memory_temporal_stride_for_eval: int = 1

    pred_obj_scores: bool = True
    fixed_no_obj_ptr: bool = True
    soft_no_obj_ptr: bool = False

    iou_prediction_use_sigmoid: bool = True
    multimask_output_in_sam: bool = True
    multimask_output_for_tracking: bool = True
    use_multimask_token_for_obj_ptr: bool = True
    multimask_min_pt_num: int = 0
    multimask_max_pt_num: int = 1
    dynamic_multimask_via_stability: bool = False
    dynamic_multimask_stability_delta: float = 0.05
    dynamic_multimask_stability_thresh: float = 0.98

    @property
    def channels(self) -> tuple[int, int, int, int]:
        """Channels of the four stages, stride 4 to 32."""
        first = self.embed_dim
        return first, 2 * first, 4 * first, 8 * first

    @property
    def grid(self) -> int:
        """Side of the stride-16 feature grid, in cells."""
        return self.image_size // IMAGE_STRIDE

    @property
    def tokens_per_pointer(self) -> int:
        """Memory tokens that one object pointer is cut into."""
        return self.d_model // self.mem_dim

    @property
    def stage_ends(self) -> tuple[int, int, int, int]:
        """Index of the last block of each stage."""
        a, b, c, d = self.stages
        return a - 1, a + b - 1, a + b + c - 1, a + b + c + d - 1

    @model_validator(mode="after")
    def _check(self) -> Self:
        broken = [rule for rule, holds in _rules(self).items() if not holds]
        if broken:
            raise ValueError(f"these numbers do not make a SAM2: {'; '.join(broken)}.")
        return self


def _rules(c: Sam2Config) -> dict[str, bool]:
    """What upstream's modules assume without saying so, as sentence -> whether it holds."""
    side = 4 * c.window_spec[0]
    memory_frames = c.max_cond_frames_in_attn
    return {
        f"image_size {c.image_size} must be a positive multiple of 32 (four strides, level 3 is doubled onto 2)": (
            c.image_size > 0 and c.image_size % 32 == 0
        ),
        f"image_size {c.image_size} must be a multiple of {side} (4 x window_spec[0], the tiled position window)": (
            c.image_size % side == 0
        ),
        f"embed_dim {c.embed_dim} must be a multiple of num_heads {c.num_heads}": c.embed_dim % c.num_heads == 0,
        "every stage needs at least one block": min(c.stages) >= 1,
        f"global_att_blocks {c.global_att_blocks} must lie in 0..{sum(c.stages) - 1}": all(
            0 <= block < sum(c.stages) for block in c.global_att_blocks
        ),
        "the windows of the first three stages must be even (queries are pooled 2 x 2 inside a window)": all(
            size % 2 == 0 for size in c.window_spec[:3]
        ),
        f"d_model {c.d_model} must be a multiple of 16 (the decoder has 8 heads at half width)": c.d_model % 16 == 0,
        f"mem_dim {c.mem_dim} must be a multiple of 4 (sine code of two axes)": c.mem_dim % 4 == 0,
        f"d_model {c.d_model} must be a multiple of mem_dim {c.mem_dim} (pointers are cut into tokens)": (
            c.mem_dim > 0 and c.d_model % c.mem_dim == 0
        ),
        f"num_maskmem {c.num_maskmem} must be at least 2 (one conditioning and one recent frame)": c.num_maskmem >= 2,
        f"num_memory_layers {c.num_memory_layers} must be at least 1": c.num_memory_layers >= 1,
        f"num_multimask_outputs {c.num_multimask_outputs} must be at least 1": c.num_multimask_outputs >= 1,
        f"max_obj_ptrs_in_encoder {c.max_obj_ptrs_in_encoder} must be at least 2": c.max_obj_ptrs_in_encoder >= 2,
        f"max_cond_frames_in_attn {memory_frames} must be -1 (all) or at least 2": (
            memory_frames == -1 or memory_frames >= 2
        ),
        f"memory_temporal_stride_for_eval {c.memory_temporal_stride_for_eval} must be at least 1": (
            c.memory_temporal_stride_for_eval >= 1
        ),
        "proj_tpos_enc_in_obj_ptrs needs add_tpos_enc_to_obj_ptrs": (
            c.add_tpos_enc_to_obj_ptrs or not c.proj_tpos_enc_in_obj_ptrs
        ),
        "fixed_no_obj_ptr needs pred_obj_scores": c.pred_obj_scores or not c.fixed_no_obj_ptr,
    }


_HIERA: dict[str, dict[str, Any]] = {
    "tiny": {
        "embed_dim": 96,
        "num_heads": 1,
        "stages": (1, 2, 7, 2),
        "global_att_blocks": (5, 7, 9),
        "window_pos_embed_bkg_spatial_size": (7, 7),
    },
    "small": {
        "embed_dim": 96,
        "num_heads": 1,
        "stages": (1, 2, 11, 2),
        "global_att_blocks": (7, 10, 13),
        "window_pos_embed_bkg_spatial_size": (7, 7),
    },
    "base-plus": {
        "embed_dim": 112,
        "num_heads": 2,
        "stages": (2, 3, 16, 3),
        "global_att_blocks": (12, 16, 20),
    },
    "large": {
        "embed_dim": 144,
        "num_heads": 2,
        "stages": (2, 6, 36, 4),
        "global_att_blocks": (23, 33, 43),
        "window_pos_embed_bkg_spatial_size": (7, 7),
        "window_spec": (8, 4, 16, 8),
    },
}

_SAM_2_0: dict[str, Any] = {
    "no_obj_embed_spatial": False,
    "add_tpos_enc_to_obj_ptrs": False,
    "proj_tpos_enc_in_obj_ptrs": False,
    "use_signed_tpos_enc_to_obj_ptrs": False,
}

SAM2_VARIANTS: dict[str, Sam2Config] = {
    f"{family}-hiera-{size}": Sam2Config(**hiera, **changes)
    for family, changes in (("sam2", _SAM_2_0), ("sam2.1", {}))
    for size, hiera in _HIERA.items()
}
"""Published models by name, e.g. "sam2-hiera-base-plus" (2.0) and "sam2.1-hiera-large" (2.1)."""


def predictor_config(config: Sam2Config) -> Sam2Config:
    """The config as `build_sam2_video_predictor` runs it: stability fallback, clicked masks binarised, bfloat16.

    Departs from SAM2: no hole filling, which upstream does only where its CUDA extension was built.
    """
    return config.model_copy(
        update={
            # A model of one mask per prompt never trained the candidates that would stand in.
            "dynamic_multimask_via_stability": config.multimask_output_in_sam,
            "binarize_mask_from_pts_for_mem_enc": True,
            "memory_dtype": "bfloat16",
        }
    )


def infer_variant(tensors: Mapping[str, Any]) -> str:
    """Name in SAM2_VARIANTS of the model whose checkpoint tensors these are.

    Size by width of the patch embedding and number of blocks; 2.1 by the presence of `no_obj_embed_spatial`.

    Raises:
        WeightsError: the tensors are no SAM2, or none of the published sizes.
    """
    patch = tensors.get("image_encoder.trunk.patch_embed.proj.weight")
    if patch is None:
        raise WeightsError(
            f"no tensor 'image_encoder.trunk.patch_embed.proj.weight' among {len(tensors)} keys: not a SAM2 "
            "checkpoint. Pass the mapping under its 'model' key, without prefixes."
        )
    prefix = "image_encoder.trunk.blocks."
    blocks = {int(key[len(prefix) :].split(".")[0]) for key in tensors if key.startswith(prefix)}
    width, depth = int(patch.shape[0]), len(blocks)
    family = "sam2.1" if "no_obj_embed_spatial" in tensors else "sam2"
    for size, hiera in _HIERA.items():
        if hiera["embed_dim"] == width and sum(hiera["stages"]) == depth:
            return f"{family}-hiera-{size}"
    known = ", ".join(f"{size} {h['embed_dim']} x {sum(h['stages'])}" for size, h in _HIERA.items())
    raise WeightsError(
        f"a Hiera of width {width} with {depth} blocks is no published SAM2 (width x blocks: {known}). "
        "Pass its Sam2Config explicitly."
    )


def check_fit(own: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Both mappings have the same keys and shapes.

    Raises:
        WeightsError: they have not; names up to ten missing, unexpected and misshapen keys, and counts all.
    """
    faults = {
        "missing": [key for key in own if key not in given],
        "unexpected": [key for key in given if key not in own],
        "of another shape": [
            f"{key} {tuple(given[key].shape)}, expected {tuple(own[key].shape)}"
            for key in own
            if key in given and given[key].shape != own[key].shape
        ],
    }
    if any(faults.values()):
        told = "; ".join(_name_some(kind, names) for kind, names in faults.items() if names)
        raise WeightsError(
            f"{len(given)} tensors do not fit a model of {len(own)}: {told}. "
            "Build the variant that infer_variant names, or strip what is not SAM2's."
        )


def _name_some(kind: str, names: list[str]) -> str:
    rest = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return f"{len(names)} {kind} ({', '.join(names[:10])}{rest})"
