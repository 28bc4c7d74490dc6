"""Detections: a table of boxes by video and frame, CSV or Parquet, whose objects are to be tracked."""

import csv
import hashlib
import io
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from pipeline.errors import ManifestError
from pipeline.io.manifest_columns import Index, Name, Number, refuse_bool
from pipeline.io.manifest_rows import RowProblem
from pipeline.io.nearest_name import did_you_mean
from pipeline.io.storage import open_store
from pipeline.io.uris import absolute_uri, name_of, parent_uri, readable_uri

DETECTIONS = "detections"
"""How messages call the table, beside the manifest."""

Use = Literal["first", "all"]


class DetectionRow(BaseModel):
    """One box of one object on one frame, in pixels of the decoded frame."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    video_id: Name
    frame: Index
    object_id: Annotated[int, Field(ge=1, lt=2**31), BeforeValidator(refuse_bool)]
    x0: Number
    y0: Number
    x1: Number
    y1: Number
    score: Number | None = None


class DetectionOptions(BaseModel):
    """Which detections become prompts.

    Attributes:
        uri: a .csv or .parquet file with the columns video_id, frame, object_id, x0, y0, x1, y1 and perhaps score.
        use: "first" prompts each object where it is first seen, "all" on every frame on which it was detected.
        min_score: detections below it are left out; those without a score stay.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    uri: str
    use: Use = "first"
    min_score: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Detections:
    """What a detections table asks.

    Attributes:
        prompts: video id to prompts as a manifest's row would have them.
        lines: video id to its first line.
        refused: problems of the bad rows; the others stand.
        digest: 32 hex digits of the file's bytes.
    """

    prompts: Mapping[str, tuple[Mapping[str, Any], ...]]
    lines: Mapping[str, int]
    refused: tuple[RowProblem, ...]
    digest: str

    def added_to(self, columns: Mapping[str, Any], video_id: str) -> Mapping[str, Any]:
        """A manifest row's columns with the video's detections among its prompts."""
        own = columns.get("prompts") or []
        if video_id not in self.prompts or not isinstance(own, list):
            return columns
        return {**columns, "prompts": [*own, *self.prompts[video_id]]}

    def of_unknown_videos(self, known: Iterable[str]) -> list[RowProblem]:
        """A problem for each video that is no row of the manifest."""
        names = set(known)
        return [
            RowProblem(
                line=self.lines[video_id],
                column="video_id",
                reason=f"{video_id!r} is no video of the manifest; its detections are left out.",
                video_id=video_id,
                file=DETECTIONS,
            )
            for video_id in self.lines
            if video_id not in names
        ]


def read_detections(options: DetectionOptions) -> Detections:
    """Read and validate a detections table.

    Raises:
        ManifestError: it is missing, neither CSV nor Parquet, or lacks a column.
        StorageError: the store failed; another try may succeed.
    """
    where = absolute_uri(options.uri)
    name = readable_uri(where)
    try:
        content = open_store(parent_uri(where)).read_bytes(name_of(where))
    except FileNotFoundError as error:
        raise ManifestError(f"{name}: no such file. Check --detections.") from error
    rows: dict[str, list[DetectionRow]] = {}
    lines: dict[str, int] = {}
    refused: list[RowProblem] = []
    for line, raw in _raw_rows(content, name):
        found = _read_row(raw, line)
        if isinstance(found, DetectionRow):
            rows.setdefault(found.video_id, []).append(found)
            lines.setdefault(found.video_id, line)
        else:
            refused.extend(found)
    prompts = {video_id: tuple(_prompts(found, options)) for video_id, found in rows.items()}
    digest = hashlib.sha256(content).hexdigest()[:32]
    return Detections(prompts=prompts, lines=lines, refused=tuple(refused), digest=digest)


def _raw_rows(content: bytes, name: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    suffix = PurePosixPath(name).suffix.lower()
    if suffix == ".parquet":
        try:
            table = pq.read_table(io.BytesIO(content))
        except (pa.ArrowException, OSError) as error:
            raise ManifestError(f"{name}: not a Parquet file that can be read: {error}.") from error
        _check_columns(table.column_names, name)
        yield from enumerate(table.to_pylist(), start=1)
    elif suffix == ".csv":
        try:
            reader = csv.DictReader(io.StringIO(content.decode("utf-8-sig")), strict=True)
            _check_columns(reader.fieldnames or [], name)
            for row in reader:
                yield reader.line_num, row
        except (UnicodeDecodeError, csv.Error) as error:
            raise ManifestError(f"{name}: not CSV in UTF-8: {error}.") from error
    else:
        raise ManifestError(f"{name}: unsupported suffix {suffix!r}. Expected a table of detections: .csv or .parquet.")


def _check_columns(columns: Iterable[str], name: str) -> None:
    columns = list(columns)
    known = list(DetectionRow.model_fields)
    problems = [f"unknown column {c!r}. {did_you_mean(c, known)}" for c in columns if c not in known]
    problems += [f"no column {c!r}." for c in known if c not in columns and c != "score"]
    if problems:
        raise ManifestError("\n".join(f"{name}: {problem}" for problem in problems))


def _read_row(raw: Mapping[str, Any], line: int) -> DetectionRow | list[RowProblem]:
    given = {key: value for key, value in raw.items() if value is not None and value != ""}
    video_id = None if given.get("video_id") is None else str(given["video_id"])
    try:
        row = DetectionRow.model_validate(given)
    except ValidationError as error:
        return [
            RowProblem(
                line=line,
                column=".".join(map(str, detail["loc"])) or None,
                reason=f"{detail.get('input')!r}: {detail['msg']}.",
                video_id=video_id,
                file=DETECTIONS,
            )
            for detail in error.errors(include_url=False)
        ]
    if row.x1 <= row.x0 or row.y1 <= row.y0:
        reason = f"box {[row.x0, row.y0, row.x1, row.y1]}: expected x1 > x0 and y1 > y0."
        return [RowProblem(line=line, column=None, reason=reason, video_id=video_id, file=DETECTIONS)]
    return row


def _prompts(rows: Iterable[DetectionRow], options: DetectionOptions) -> Iterator[Mapping[str, Any]]:
    """Prompts in order of frame and object."""
    seen: set[int] = set()
    for row in sorted(rows, key=lambda row: (row.frame, row.object_id)):
        if row.score is not None and row.score < options.min_score:
            continue
        if options.use == "first" and row.object_id in seen:
            continue
        seen.add(row.object_id)
        yield {
            "object_id": row.object_id,
            "frame": row.frame,
            "id": f"{row.object_id}@{row.frame}",
            "box": [row.x0, row.y0, row.x1, row.y1],
        }
