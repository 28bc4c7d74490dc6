"""One row of a manifest: every breach of the rules, told by column, or the work item it becomes."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from pipeline.io.manifest_columns import ExpressionRow, ManifestRow, PromptRow
from pipeline.io.manifest_modalities import RGB, absolute_uris, modality_breaches, order_of
from pipeline.io.nearest_name import did_you_mean
from pipeline.io.uris import name_of
from schemas.manifest import MANIFEST_COLUMNS
from schemas.work_unit import Query, WorkItem

Needs = Literal["expressions", "prompts", "nothing"]
"""What a method asks of a row. Queries of the other kind are left alone, so that jobs can share a manifest."""

Breach = tuple[str | None, str]
"""Column and reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RowProblem:
    """One breach of the rules in one row.

    Attributes:
        line: 1-based; of Parquet the row's number.
        column: "stride", "prompts[0].box", or None where the row cannot be read at all.
        reason: what came and what was expected.
        video_id, video_uri: as the row says, if it does.
        file: "manifest", or which table beside it.
    """

    line: int
    column: str | None
    reason: str
    video_id: str | None = None
    video_uri: str | None = None
    file: str = "manifest"

    def __str__(self) -> str:
        where = "" if self.file == "manifest" else f"{self.file}, "
        return f"{where}line {self.line}{f', {self.column}' if self.column else ''}: {self.reason}"


def read_row(
    raw: Mapping[str, Any], *, line: int, base: str, needs: Needs
) -> tuple[WorkItem | None, tuple[RowProblem, ...]]:
    """The work item of a row, or everything that is wrong with it.

    Args:
        raw: column to value, nested values as lists and dicts; None means left out.
        line: where the row stands, for messages.
        base: URI of the directory that relative URIs start from.
        needs: which queries the method asks for.
    """
    given = {column: value for column, value in raw.items() if value is not None}
    try:
        row = ManifestRow.model_validate(given)
    except ValidationError as error:
        return None, row_problems(raw, line, [_breach(detail) for detail in error.errors(include_url=False)])
    uris, unusable = absolute_uris(row, base)
    breaches: list[Breach] = [*unusable, *modality_breaches(row), *_range_breaches(row)]
    breaches += [*_expression_breaches(row.expressions), *_prompt_breaches(row), *_missing(row, needs)]
    if breaches:
        return None, row_problems(raw, line, breaches)
    return _work_item(row, uris, line, needs), ()


def row_problems(raw: Mapping[str, Any], line: int, breaches: Iterable[Breach]) -> tuple[RowProblem, ...]:
    """Breaches with the names by which the errors table knows the row."""
    video_id, video_uri = (
        value if isinstance(value, str) else None for value in map(raw.get, ("video_id", "video_uri"))
    )
    return tuple(
        RowProblem(line=line, column=column, reason=reason, video_id=video_id, video_uri=video_uri)
        for column, reason in breaches
    )


def _work_item(row: ManifestRow, uris: Mapping[str, str], line: int, needs: Needs) -> WorkItem:
    queries: tuple[Query, ...] = ()
    if needs == "expressions":
        queries = tuple(_expression_query(expression, place) for place, expression in enumerate(row.expressions))
    elif needs == "prompts":
        queries = tuple(_prompt_query(prompt, place) for place, prompt in enumerate(row.prompts))
    return WorkItem(
        video_id=row.video_id or stem_of(uris[RGB]),
        video_uri=uris[RGB],
        queries=queries,
        dataset=row.dataset,
        start_frame=row.start_frame,
        end_frame=row.end_frame,
        stride=row.stride,
        max_side=row.max_side,
        fps=row.fps,
        modalities={name: uri for name, uri in uris.items() if name != RGB},
        modality_order=order_of(row),
        crop=row.crop,
        tags=row.tags,
        line=line,
    )


def stem_of(uri: str) -> str:
    """The default video id: the file's name without its suffix; a directory's whole name if nothing else is left."""
    name = name_of(uri)
    return name.rpartition(".")[0] or name or uri


def _expression_query(expression: ExpressionRow, place: int) -> Query:
    return Query(
        object_id=place + 1,
        query_id=str(place) if expression.id is None else expression.id,
        text=expression.text,
        motion_words=expression.motion_words,
    )


def _prompt_query(prompt: PromptRow, place: int) -> Query:
    return Query(
        object_id=prompt.object_id,
        query_id=str(place) if prompt.id is None else prompt.id,
        frame_index=prompt.frame,
        points=tuple((x, y, int(sign)) for x, y, sign in prompt.points),
        box=prompt.box,
        mask_rle=prompt.mask_rle,
    )


def _range_breaches(row: ManifestRow) -> Iterator[Breach]:
    if row.end_frame is not None and row.end_frame <= row.start_frame:
        yield "end_frame", f"{row.end_frame}: expected more than start_frame {row.start_frame}; the range is half-open."


def _expression_breaches(expressions: tuple[ExpressionRow, ...]) -> Iterator[Breach]:
    for place, expression in enumerate(expressions):
        if not expression.text.strip():
            yield f"expressions[{place}]", "empty; write what to look for, or leave it out."
        lower = expression.text.lower()
        for word in expression.motion_words or ():
            if not word.strip() or word.lower() not in lower:
                yield f"expressions[{place}].motion_words", f"{word!r} is not a word of {_shown(expression.text)}."
    yield from _repeated_ids("expressions", expressions)


def _prompt_breaches(row: ManifestRow) -> Iterator[Breach]:
    shown: set[tuple[int, int]] = set()
    for place, prompt in enumerate(row.prompts):
        where = f"prompts[{place}]"
        if not prompt.points and prompt.box is None and prompt.mask_rle is None:
            yield where, "neither points, box nor mask_rle; give one of them."
        yield from _frame_breaches(row, prompt, f"{where}.frame")
        yield from _geometry_breaches(prompt, where)
        if (prompt.object_id, prompt.frame) in shown:
            yield where, f"object {prompt.object_id} is shown on frame {prompt.frame} twice; merge the two."
        shown.add((prompt.object_id, prompt.frame))
    yield from _repeated_ids("prompts", row.prompts)


def _frame_breaches(row: ManifestRow, prompt: PromptRow, where: str) -> Iterator[Breach]:
    end = math.inf if row.end_frame is None else row.end_frame
    if not row.start_frame <= prompt.frame < end or (prompt.frame - row.start_frame) % row.stride:
        frames = f"[{row.start_frame}, {'end' if row.end_frame is None else row.end_frame})"
        yield (
            where,
            f"{prompt.frame} is not among the frames read: {frames}, every {row.stride}. It counts source frames.",
        )


def _geometry_breaches(prompt: PromptRow, where: str) -> Iterator[Breach]:
    for place, (_, _, sign) in enumerate(prompt.points):
        if sign not in (1.0, -1.0):
            yield f"{where}.points[{place}]", f"sign {sign:g}: expected 1 (on the object) or -1 (beside it)."
    if prompt.box is not None:
        x0, y0, x1, y1 = prompt.box
        if x1 <= x0 or y1 <= y0:
            yield f"{where}.box", f"{[x0, y0, x1, y1]}: expected [x0, y0, x1, y1] with x1 > x0 and y1 > y0."
    if prompt.mask_rle is not None and not _is_rle(prompt.mask_rle):
        yield f"{where}.mask_rle", 'expected COCO\'s {"size": [height, width], "counts": "..."} with compressed counts.'


def _is_rle(rle: Mapping[str, Any]) -> bool:
    size, counts = rle.get("size"), rle.get("counts")
    whole = isinstance(size, list) and len(size) == 2 and all(type(side) is int and side > 0 for side in size)
    return set(rle) == {"size", "counts"} and whole and isinstance(counts, str) and bool(counts)


def _repeated_ids(column: str, entries: Sequence[ExpressionRow | PromptRow]) -> Iterator[Breach]:
    seen: dict[str, int] = {}
    for place, entry in enumerate(entries):
        name = str(place) if entry.id is None else entry.id
        if name in seen:
            yield (
                f"{column}[{place}].id",
                f"{name!r} is also the id of {column}[{seen[name]}]; ids default to positions.",
            )
        seen.setdefault(name, place)


def _missing(row: ManifestRow, needs: Needs) -> Iterator[Breach]:
    if needs == "expressions" and not row.expressions:
        yield "expressions", "none; this job looks for what expressions say. Give at least one."
    if needs == "prompts" and not row.prompts:
        yield "prompts", "none; this job tracks what points, boxes or masks show. Give at least one."


def _breach(detail: ErrorDetails) -> Breach:
    """Column and reason of what pydantic found."""
    *parents, last = detail["loc"]
    if detail["type"] == "extra_forbidden":
        names = {"expressions": ExpressionRow.model_fields, "prompts": PromptRow.model_fields}
        known = names[str(parents[0])] if parents else MANIFEST_COLUMNS
        return _column(detail["loc"]), f"unknown {'key' if parents else 'column'}. {did_you_mean(last, known)}"
    if detail["type"] == "missing":
        return _column(detail["loc"]), "missing."
    message = detail["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    message = message.replace("tuple", "list").replace("dictionary", "object")
    expected = message if message.startswith("expected") else f"expected {message}"
    return _column(detail["loc"]), f"{_shown(detail['input'])}: {expected}."


def _column(location: tuple[int | str, ...]) -> str:
    first, *rest = location
    return str(first) + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in rest)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
