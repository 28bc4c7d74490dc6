"""The rules of a manifest's values, each by itself: ManifestRow and what nests in it."""

import json
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

MIN_SIDE_PX = 16
"""The image encoder's stride: a smaller picture has no feature cell."""

MAX_INDEX = 2**62
"""Beyond it Arrow's int64 would overflow."""


def refuse_bool(value: Any) -> Any:
    """The value itself, unless it is a boolean, which Python takes for a number."""
    if isinstance(value, bool):
        raise ValueError("expected a number")
    return value


def _as_name(value: Any) -> Any:
    """A number may name something: 7 is "7"."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _without_nulls(value: Any) -> Any:
    """A mapping without its empty fields: Arrow's structs have them all; Arrow's maps are lists of pairs."""
    if isinstance(value, list) and all(isinstance(pair, tuple) for pair in value):
        value = dict(value)
    return {key: entry for key, entry in value.items() if entry is not None} if isinstance(value, dict) else value


def _as_expression(value: Any) -> Any:
    return {"text": value} if isinstance(value, str) else _without_nulls(value)


def _as_tags(value: Any) -> Any:
    """Tags are texts; numbers and booleans become what JSON calls them."""
    tags = _without_nulls(value)
    if not isinstance(tags, dict):
        return tags
    return {key: json.dumps(tag) if isinstance(tag, bool | int | float) else tag for key, tag in tags.items()}


Name = Annotated[str, Field(min_length=1, max_length=512), BeforeValidator(_as_name)]
Index = Annotated[int, Field(ge=0, le=MAX_INDEX), BeforeValidator(refuse_bool)]
Number = Annotated[float, Field(allow_inf_nan=False), BeforeValidator(refuse_bool)]
Texts = Annotated[dict[str, str], BeforeValidator(_without_nulls)]


class ExpressionRow(BaseModel):
    """One expression, as text alone or with its id and the words that tell motion."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    text: str
    id: Name | None = None
    motion_words: tuple[str, ...] | None = None


class PromptRow(BaseModel):
    """One object shown on one frame, by points, a box or a mask."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    object_id: Annotated[int, Field(ge=1, lt=2**31), BeforeValidator(refuse_bool)]
    frame: Index
    id: Name | None = None
    points: tuple[tuple[Number, Number, Number], ...] = ()
    box: tuple[Number, Number, Number, Number] | None = None
    mask_rle: Annotated[dict[str, Any], BeforeValidator(_without_nulls)] | None = None


class ManifestRow(BaseModel):
    """A row's columns; their meaning stands in schemas/manifest.py."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    video_uri: Annotated[str, Field(min_length=1)]
    video_id: Name | None = None
    dataset: Name | None = None
    expressions: tuple[Annotated[ExpressionRow, BeforeValidator(_as_expression)], ...] = ()
    prompts: tuple[Annotated[PromptRow, BeforeValidator(_without_nulls)], ...] = ()
    modalities: Texts = Field(default_factory=dict)
    modality_order: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    crop: tuple[Index, Index, Index, Index] | None = None
    start_frame: Index = 0
    end_frame: Index | None = None
    stride: Annotated[int, Field(ge=1, lt=2**31), BeforeValidator(refuse_bool)] = 1
    max_side: Annotated[int, Field(ge=MIN_SIDE_PX, lt=2**31), BeforeValidator(refuse_bool)] | None = None
    fps: Annotated[Number, Field(gt=0)] | None = None
    tags: Annotated[dict[str, str], BeforeValidator(_as_tags)] = Field(default_factory=dict)
