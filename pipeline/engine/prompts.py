"""What a work item asks, as the prompts of a session."""

from collections.abc import Iterable, Mapping
from typing import Any

from pipeline.errors import PromptError
from pipeline.masks import rle
from pipeline.ticks import Mask, PointPrompt, Prompt
from schemas.work_unit import Query


def prompts_of(queries: Iterable[Query]) -> list[Prompt]:
    """One prompt per query, in their order.

    Raises:
        PromptError: a query asks nothing, or its mask cannot be read.
    """
    return [_prompt_of(query) for query in queries]


def _prompt_of(query: Query) -> Prompt:
    return Prompt(
        object_id=query.object_id,
        query_id=query.query_id,
        text=query.text,
        motion_words=query.motion_words,
        frame_index=query.frame_index,
        points=tuple(PointPrompt(x=x, y=y, positive=sign > 0) for x, y, sign in query.points),
        box=query.box,
        mask=None if query.mask_rle is None else _mask_of(query.mask_rle, query.object_id),
    )


def _mask_of(mask_rle: Mapping[str, Any], object_id: int) -> Mask:
    try:
        height, width = (int(side) for side in mask_rle["size"])
        counts = mask_rle["counts"]
        return rle.decode(counts.encode("ascii") if isinstance(counts, str) else bytes(counts), height, width)
    except (KeyError, TypeError, ValueError) as error:
        raise PromptError(
            f"object {object_id}: mask_rle {type(error).__name__}: {error}. "
            'Expected COCO RLE, {"size": [height, width], "counts": "..."} with compressed counts.'
        ) from error
