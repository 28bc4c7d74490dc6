"""Named SAMWISE architectures: the official ones, and the small ones that train and run on a CPU."""

from typing import Any

from pipeline.models.closed_vocabulary import SPECIAL_TOKENS, WORDS
from pipeline.models.sam2_variants import SAM2_VARIANTS, Sam2Config
from pipeline.models.samwise_architecture import SamwiseArchitecture
from pipeline.models.text_encoder import TextEncoderConfig

CLIP_TEXT = TextEncoderConfig(
    kind="clip",
    vocabulary_size=49408,
    width=512,
    num_heads=8,
    feedforward_width=2048,
    max_positions=77,
    end_id=49407,
)
"""Text tower of CLIP ViT-B. Source: Radford et al., arXiv 2103.00020, section 2.4."""


def small_sam2(*, embed_dim: int, stages: tuple[int, int, int, int], d_model: int, image_size: int) -> Sam2Config:
    """A SAM 2.0 whose widths all follow from `d_model`, with four memories and four pointers."""
    return Sam2Config(
        **{
            **SAM2_VARIANTS["sam2-hiera-tiny"].model_dump(),
            "embed_dim": embed_dim,
            "stages": stages,
            "global_att_blocks": (stages[0] + stages[1] + stages[2] - 1,),
            "window_spec": (8, 4, 8, 4),
            "window_pos_embed_bkg_spatial_size": (4, 4),
            "d_model": d_model,
            "mem_dim": d_model // 4,
            "image_size": image_size,
            "num_maskmem": 5,
            "max_obj_ptrs_in_encoder": 5,
            "num_memory_layers": 2,
            "memory_feedforward_dim": 4 * d_model,
            "decoder_mlp_dim": 4 * d_model,
            "iou_head_hidden_dim": d_model,
        }
    )


def closed_samwise(sam2: Sam2Config, *, words: tuple[str, ...] = WORDS) -> SamwiseArchitecture:
    """A SAMWISE over a closed vocabulary, its text and adapters as wide as the decoder."""
    width = sam2.d_model
    text = TextEncoderConfig(
        vocabulary_size=len(SPECIAL_TOKENS) + len(words),
        width=width,
        num_layers=2,
        num_heads=4,
        feedforward_width=2 * width,
        max_positions=66,
        dropout=0.0,
    )
    return SamwiseArchitecture(
        sam2=sam2,
        text=text,
        tokenizer="closed",
        vocabulary=words,
        adapter_width=width,
        adapter_heads=4,
        text_fusion_layers=(1, 2, 2),
        cme_feedforward_width=width,
        short_side_px=sam2.image_size,
    )


def grounded_samwise(sam2: Sam2Config, *, words: tuple[str, ...] = WORDS) -> SamwiseArchitecture:
    """The same with grounded fusion and a motion prompt, which need little training to tell motions apart."""
    values = closed_samwise(sam2, words=words).model_dump()
    side = min(8, sam2.grid)
    own = {"fusion": "grounded", "motion_stem": True, "detail_stem": True, "motion_prompt": True}
    return SamwiseArchitecture.model_validate({**values, **own, "block_sides": (side, side, 1)})


_TINY = grounded_samwise(
    # One mask per prompt: drawn objects leave no doubt what a click means, and a single token is trained sooner.
    small_sam2(embed_dim=24, stages=(1, 2, 3, 1), d_model=64, image_size=128).model_copy(
        update={"multimask_output_in_sam": False, "multimask_output_for_tracking": False}
    )
)
_MINI = closed_samwise(small_sam2(embed_dim=8, stages=(1, 1, 2, 1), d_model=32, image_size=64))
_BASE = SamwiseArchitecture(sam2=SAM2_VARIANTS["sam2-hiera-base-plus"])
_BASE_CLIP = SamwiseArchitecture(sam2=SAM2_VARIANTS["sam2-hiera-base-plus"], text=CLIP_TEXT, tokenizer="clip")

ARCHITECTURES: dict[str, dict[str, Any]] = {
    "tiny": _TINY.model_dump(mode="json"),
    "mini": _MINI.model_dump(mode="json"),
    "samwise-base": _BASE.model_dump(mode="json"),
    "samwise-base-clip": _BASE_CLIP.model_dump(mode="json"),
}
"""Plain dicts, as a weights registry writes them: "tiny" is embedded, "mini" is for tests."""
