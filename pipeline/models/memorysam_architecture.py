"""The numbers that make a MemorySAM: SAM2's, adapter rank, class names; named ones, and those of a checkpoint."""

from collections.abc import Mapping
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from pipeline.errors import WeightsError
from pipeline.models.sam2_variants import SAM2_VARIANTS, Sam2Config, infer_variant
from pipeline.models.samwise_variants import small_sam2
from pipeline.models.semantic_heads import DELIVER_CLASSES, MCUBES_CLASSES

RANK = 4
"""Of the published adapters."""

_MASK_TOKENS = "sam.sam_mask_decoder.mask_tokens.weight"
_ADAPTER_MARK = ".attn.qkv.linear_a_q.weight"


class MemorySamArchitecture(BaseModel):
    """Sizes of a MemorySAM, as a weights registry or a model.json holds them.

    Attributes:
        sam2: SAM2 inside; its `num_multimask_outputs` are the classes K: class c is mask candidate c.
        lora_rank: of the adapters in the encoder; 0 for an encoder without them.
        class_names: of the K classes in order, or empty where nobody wrote them down.

    Raises:
        ValueError: class names that are not K or repeat.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    sam2: Sam2Config
    lora_rank: int = Field(default=RANK, ge=0)
    class_names: tuple[str, ...] = ()

    @property
    def num_classes(self) -> int:
        return self.sam2.num_multimask_outputs

    @model_validator(mode="after")
    def _check(self) -> Self:
        names = self.class_names
        if names and (len(names) != self.num_classes or len(set(names)) != len(names)):
            raise ValueError(
                f"{len(names)} class_names, {len(set(names))} of them different, for {self.num_classes} classes "
                "(sam2.num_multimask_outputs). Give one name per class, or none at all."
            )
        if not self.sam2.use_multimask_token_for_obj_ptr or self.num_classes < 2:
            raise ValueError("a MemorySAM needs at least two classes, and pointers from each mask's own token.")
        return self


def read_architecture(values: Mapping[str, Any], *, name: str) -> MemorySamArchitecture:
    """The architecture that a weights registry or model.json wrote down.

    Raises:
        WeightsError: an unknown key, a missing one, or numbers that do not fit.
    """
    try:
        return MemorySamArchitecture.model_validate(dict(values))
    except ValidationError as error:
        raise WeightsError(f"model {name!r}: its architecture is not a MemorySAM's. {error}") from error


def named_architecture(name: str) -> MemorySamArchitecture:
    """One of the architectures that this package knows.

    Raises:
        WeightsError: there is none of that name.
    """
    if name not in ARCHITECTURES:
        raise WeightsError(f"architecture {name!r}: expected one of {', '.join(ARCHITECTURES)}.")
    return read_architecture(ARCHITECTURES[name], name=name)


def infer_architecture(tensors: Mapping[str, Any]) -> MemorySamArchitecture:
    """The architecture of a checkpoint in the reference's layout (keys `sam.*`): variant, K and rank; no names.

    Raises:
        WeightsError: not such a checkpoint, or SAM2's size is none of the published ones.
    """
    if _MASK_TOKENS not in tensors:
        raise WeightsError(
            f"no tensor {_MASK_TOKENS!r} among {len(tensors)}, beginning with {sorted(tensors)[:3]}: not a MemorySAM "
            "checkpoint, which holds the whole model under 'sam.'. Give the file that the training saved."
        )
    sam2 = SAM2_VARIANTS[infer_variant({key.removeprefix("sam."): value for key, value in tensors.items()})]
    num_classes = int(tensors[_MASK_TOKENS].shape[0]) - 1
    ranks = sorted({int(value.shape[0]) for key, value in tensors.items() if key.endswith(_ADAPTER_MARK)})
    if len(ranks) > 1:
        raise WeightsError(f"adapters of ranks {ranks} in one checkpoint; expected one rank in every block.")
    values = {
        "sam2": {**sam2.model_dump(), "num_multimask_outputs": num_classes},
        "lora_rank": ranks[0] if ranks else 0,
    }
    return read_architecture(values, name="checkpoint")


def memorysam_sam2(variant: str, *, num_classes: int) -> Sam2Config:
    """A published SAM 2.0 with as many mask candidates as classes."""
    return Sam2Config.model_validate(
        {**SAM2_VARIANTS[f"sam2-hiera-{variant}"].model_dump(), "num_multimask_outputs": num_classes}
    )


def _small(num_classes: int, *, is_gated: bool, **sizes: Any) -> Sam2Config:
    values = {**small_sam2(**sizes).model_dump(), "num_multimask_outputs": num_classes}
    if not is_gated:
        values |= {"pred_obj_scores": False, "fixed_no_obj_ptr": False}
    return Sam2Config.model_validate(values)


STREET_CLASSES = (
    "sky",
    "building",
    "vegetation",
    "road",
    "ground",
    "pole",
    "sign",
    "vehicle",
    "person",
    "other",
)
"""Of the procedural streets, in the order of their ids."""

_TINY = MemorySamArchitecture(
    # No object score: the reference leaves its head as SAM2 trained it, and from scratch nothing would train it.
    sam2=_small(len(STREET_CLASSES), is_gated=False, embed_dim=24, stages=(1, 2, 3, 1), d_model=64, image_size=128),
    lora_rank=0,
    class_names=STREET_CLASSES,
)
_MINI = MemorySamArchitecture(
    sam2=_small(4, is_gated=True, embed_dim=8, stages=(1, 1, 2, 1), d_model=32, image_size=64), lora_rank=2
)
_BASE = MemorySamArchitecture(sam2=memorysam_sam2("base-plus", num_classes=25), class_names=DELIVER_CLASSES)
_BASE_MCUBES = MemorySamArchitecture(sam2=memorysam_sam2("base-plus", num_classes=20), class_names=MCUBES_CLASSES)

ARCHITECTURES: dict[str, dict[str, Any]] = {
    "tiny-multimodal": _TINY.model_dump(mode="json"),
    "mini": _MINI.model_dump(mode="json"),
    "memorysam-base": _BASE.model_dump(mode="json"),
    "memorysam-base-mcubes": _BASE_MCUBES.model_dump(mode="json"),
}
"""Plain dicts, as a weights registry writes them; "mini" is for tests."""
