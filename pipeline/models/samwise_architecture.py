"""The numbers that make a SAMWISE, by name, and how to read them off a checkpoint's tensors."""

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from pipeline.errors import WeightsError
from pipeline.models.closed_vocabulary import SPECIAL_TOKENS
from pipeline.models.sam2_variants import SAM2_VARIANTS, Sam2Config, infer_variant
from pipeline.models.text_encoder import TextEncoderConfig
from pipeline.models.tokenizers import TokenizerKind

ROBERTA_PREFIX = "text_encoder.model.encoder.sentence_encoder."
CLIP_PREFIX = "text_encoder.clip."
PROMPT_PREFIX = "sam.sam_prompt_encoder."

ROBERTA_HEAD_WIDTH = 64
"""Width of an attention head in every published RoBERTa and CLIP text tower; tensors do not tell it."""

REFERENCE_MARGIN_PX = 4
"""The reference resizes the short side to 1020 and caps the long one at 1024."""


class SamwiseArchitecture(BaseModel):
    """Sizes of a SAMWISE and which of its parts it has; the defaults are the official release's.

    Source: Cuttano et al., SAMWISE, arXiv 2411.17646, and its released configuration.

    Attributes:
        sam2: the segmenter inside; SAM 2.0, not 2.1, in official checkpoints.
        text: the text encoder inside.
        tokenizer: what it reads; "closed" needs `vocabulary`.
        vocabulary: words of the closed tokenizer, in order of their ids.
        fusion: how text and vision meet: SAMWISE's "adapters", or "grounded", the small models' own way.
        motion_stem: "grounded" only: cost volumes between neighbouring frames are read.
        detail_stem: "grounded" only: convolutions beside the encoder see textures and edges.
        adapter_width, adapter_heads: of the three adapters.
        block_sides: side of the blocks that attend across frames, after Hiera stages 2, 3, 4.
        text_fusion_layers: text layers after which the adapters sit; may repeat, may not fall.
        hsa: frames of a clip exchange information.
        cme, cme_feedforward_width: conditional memory encoder.
        motion_prompt: a second prompt token, for the expression's verb.
        short_side_px: what the short side is resized to, if the long one then fits the square.

    Raises:
        ValueError: numbers that do not fit each other.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    sam2: Sam2Config
    text: TextEncoderConfig = TextEncoderConfig()
    tokenizer: TokenizerKind = "roberta"
    vocabulary: tuple[str, ...] = ()
    fusion: Literal["adapters", "grounded"] = "adapters"
    motion_stem: bool = False
    detail_stem: bool = False
    adapter_width: int = Field(default=256, ge=1)
    adapter_heads: int = Field(default=8, ge=1)
    block_sides: tuple[int, int, int] = (8, 4, 2)
    text_fusion_layers: tuple[int, int, int] = (4, 8, 12)
    hsa: bool = True
    cme: bool = True
    cme_feedforward_width: int = Field(default=128, ge=1)
    motion_prompt: bool = False
    short_side_px: int = Field(default=1024 - REFERENCE_MARGIN_PX, ge=1)

    @model_validator(mode="after")
    def _check(self) -> Self:
        broken = [rule for rule, holds in self._rules().items() if not holds]
        if broken:
            raise ValueError(f"these numbers do not make a SAMWISE: {'; '.join(broken)}.")
        return self

    def _rules(self) -> dict[str, bool]:
        layers, grid = self.text_fusion_layers, 2 * self.sam2.grid
        sides = [grid // 2**level for level in range(3)]
        needed = len(SPECIAL_TOKENS) + len(self.vocabulary)
        return {
            f"text_fusion_layers {layers} must rise from 0 to at most {self.text.num_layers}": (
                sorted(layers) == list(layers) and layers[0] >= 0 and layers[-1] <= self.text.num_layers
            ),
            f"adapter_width {self.adapter_width} must be a multiple of adapter_heads {self.adapter_heads}": (
                self.adapter_width % self.adapter_heads == 0
            ),
            f"the grids {sides} must be multiples of the block_sides {self.block_sides}": not self.hsa
            or all(size % side == 0 for size, side in zip(sides, self.block_sides, strict=True)),
            f"short_side_px {self.short_side_px} must not exceed image_size {self.sam2.image_size}": (
                self.short_side_px <= self.sam2.image_size
            ),
            "motion_stem and detail_stem belong to fusion 'grounded'": self.fusion == "grounded"
            or not (self.motion_stem or self.detail_stem),
            "a closed tokenizer needs a vocabulary, and only that one": (
                (self.tokenizer == "closed") == bool(self.vocabulary)
            ),
            f"text.vocabulary_size {self.text.vocabulary_size} must hold {needed} tokens": (
                self.text.vocabulary_size >= needed
            ),
        }


def read_architecture(values: Mapping[str, Any], *, name: str) -> SamwiseArchitecture:
    """The architecture that a weights registry wrote down.

    Raises:
        WeightsError: an unknown key, a missing one, or numbers that do not fit.
    """
    try:
        return SamwiseArchitecture.model_validate(dict(values))
    except ValidationError as error:
        raise WeightsError(f"model {name!r}: its architecture is not a SAMWISE's. {error}") from error


def infer_architecture(tensors: Mapping[str, Any]) -> SamwiseArchitecture:
    """The architecture of a checkpoint in the official layout, without `module.` prefixes.

    Head counts are not in the tensors: 64 channels a head in text, 8 heads in the adapters.

    Raises:
        WeightsError: a part is missing, or SAM2's size is none of the published ones.
    """
    sam = {key.removeprefix("sam."): value for key, value in tensors.items() if key.startswith("sam.")}
    if not sam:
        raise WeightsError(
            f"no tensor 'sam.*' among {len(tensors)}, beginning with {sorted(tensors)[:3]}: not a SAMWISE checkpoint, "
            "which holds SAM2, text encoder and adapters. Give the whole file that SAMWISE's authors published."
        )
    sam2 = SAM2_VARIANTS[infer_variant(sam)]
    if "no_obj_ptr" not in sam:
        sam2 = sam2.model_copy(update={"pred_obj_scores": False, "fixed_no_obj_ptr": False})
    text = _infer_text(tensors)
    position = [tensors.get(f"cmt_adapters.{level}.spatial_pos_embed") for level in range(3)]
    sides = [round(int(p.shape[3]) ** 0.5) for p in position if p is not None]
    cme_inner = tensors.get("conditional_memory_encoder.transformerBlock.linear1.weight")
    return SamwiseArchitecture(
        sam2=sam2,
        text=text,
        tokenizer=text.kind,
        adapter_width=int(_require(tensors, "cmt_adapters.0.proj_text_down.0.weight").shape[0]),
        block_sides=(sides[0], sides[1], sides[2]) if len(sides) == 3 else (8, 4, 2),
        text_fusion_layers=_thirds(text.num_layers),
        hsa="cmt_adapters.0.hsa.linear.weight" in tensors,
        cme=cme_inner is not None,
        cme_feedforward_width=128 if cme_inner is None else int(cme_inner.shape[0]),
        motion_prompt=f"{PROMPT_PREFIX}project_motion_prompts.layers.0.weight" in tensors,
    )


def _infer_text(tensors: Mapping[str, Any]) -> TextEncoderConfig:
    if f"{CLIP_PREFIX}embeddings.token_embedding.weight" in tensors:
        words = tensors[f"{CLIP_PREFIX}embeddings.token_embedding.weight"]
        positions = _require(tensors, f"{CLIP_PREFIX}embeddings.position_embedding.weight")
        layers, inner = f"{CLIP_PREFIX}encoder.layers.", f"{CLIP_PREFIX}encoder.layers.0.mlp.fc1.weight"
    else:
        words = _require(tensors, f"{ROBERTA_PREFIX}embed_tokens.weight")
        positions = _require(tensors, f"{ROBERTA_PREFIX}embed_positions.weight")
        layers, inner = f"{ROBERTA_PREFIX}layers.", f"{ROBERTA_PREFIX}layers.0.fc1.weight"
    vocabulary_size, width = (int(n) for n in words.shape)
    clip = layers.startswith(CLIP_PREFIX)
    return TextEncoderConfig(
        kind="clip" if clip else "roberta",
        vocabulary_size=vocabulary_size,
        width=width,
        num_layers=1 + max(int(key[len(layers) :].split(".")[0]) for key in tensors if key.startswith(layers)),
        num_heads=max(1, width // ROBERTA_HEAD_WIDTH),
        feedforward_width=int(_require(tensors, inner).shape[0]),
        max_positions=int(positions.shape[0]),
        # CLIP's end token is the last of its vocabulary.
        end_id=vocabulary_size - 1 if clip else None,
    )


def _require(tensors: Mapping[str, Any], key: str) -> Any:
    if key not in tensors:
        raise WeightsError(
            f"no tensor {key!r} among {len(tensors)} keys: not a SAMWISE checkpoint in the official layout. "
            "Pass the mapping under its 'model' key, or give the architecture."
        )
    return tensors[key]


def _thirds(num_layers: int) -> tuple[int, int, int]:
    """Layers 4, 8, 12 of twelve; the same cut of other depths."""
    return max(1, num_layers // 3), max(1, 2 * num_layers // 3), num_layers
