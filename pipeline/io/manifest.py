"""The manifest: what goes in, read and validated whole before anything runs; each bad row told, none in silence."""

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from pipeline.errors import ManifestError
from pipeline.io.detections import Detections
from pipeline.io.manifest_columns import ManifestRow
from pipeline.io.manifest_files import open_manifest
from pipeline.io.manifest_rows import Needs, RowProblem, read_row, stem_of
from pipeline.io.storage import open_store
from pipeline.io.uris import absolute_uri, name_of, parent_uri, readable_uri
from schemas.ids import content_digest
from schemas.work_unit import WorkItem

_MAX_LISTED = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestReading:
    """What a manifest says.

    Attributes:
        uri: absolute, where it was read.
        items: one per good row, in order.
        refused: problems of the bad rows, in order; a row may have several.
        digest: 32 hex digits of the file's bytes.
    """

    uri: str
    items: tuple[WorkItem, ...]
    refused: tuple[RowProblem, ...]
    digest: str

    @property
    def num_refused_rows(self) -> int:
        return len({problem.line for problem in self.refused if problem.file == "manifest"})


def read_manifest(
    uri: str | os.PathLike[str], *, needs: Needs, strict: bool = False, detections: Detections | None = None
) -> ManifestReading:
    """Read and validate a manifest: .jsonl, .ndjson, .csv or .parquet, local or in a store.

    Args:
        needs: which queries the method asks for; a row without them is refused, those of the other kind are left
            alone, and "nothing" leaves all of them.
        detections: further prompts by video id; their own problems join `refused`, and they count in the digest.
        strict: raise if any row is refused, instead of returning it in `refused`.

    Raises:
        ManifestError: the manifest is wrong as a whole (missing, encoding, quoting, unknown or missing column,
            no rows, video ids that are there twice), or has bad rows under `strict`; everything found is listed.
        StorageError: the store failed; another try may succeed.
    """
    where = absolute_uri(uri)
    base, name = parent_uri(where), readable_uri(where)
    items: list[WorkItem] = []
    refused: list[RowProblem] = [] if detections is None else list(detections.refused)
    with open_manifest(where) as file:
        for row in file.rows:
            if isinstance(row, RowProblem):
                refused.append(row)
                continue
            line, columns = row
            if detections is not None:
                columns = detections.added_to(columns, _video_id(columns))
            item, problems = read_row(columns, line=line, base=base, needs=needs)
            refused.extend(problems)
            if item is not None:
                items.append(item)
        digest = file.digest()
    if detections is not None:
        named = [item.video_id for item in items] + [problem.video_id for problem in refused if problem.video_id]
        refused += detections.of_unknown_videos(named)
        digest = content_digest([digest, detections.digest])
    if not items and not refused:
        raise ManifestError(f"{name}: no rows. Expected at least one video.")
    _refuse_repeated_ids(items, name)
    if strict and refused:
        raise ManifestError(_listed([f"{name}, {problem}" for problem in refused]))
    return ManifestReading(uri=where, items=tuple(items), refused=tuple(refused), digest=digest)


def write_manifest(rows: Iterable[Mapping[str, Any]], uri: str | os.PathLike[str]) -> None:
    """Write rows as a .jsonl manifest, whole or not at all; columns that are None are left out.

    Raises:
        ManifestError: another suffix, or a row that `read_manifest` would refuse for a value by itself.
        StorageError: the store refused.
    """
    where = absolute_uri(uri)
    if not where.endswith((".jsonl", ".ndjson")):
        raise ManifestError(f"{where}: manifests are written as .jsonl. Name it so.")
    lines = []
    for number, row in enumerate(rows, start=1):
        given = {column: value for column, value in row.items() if value is not None}
        try:
            ManifestRow.model_validate(given)
        except ValidationError as error:
            raise ManifestError(f"{where}, row {number}: {error}") from error
        lines.append(json.dumps(given, ensure_ascii=False, allow_nan=False))
    open_store(parent_uri(where)).write_whole(name_of(where), "".join(f"{line}\n" for line in lines).encode())


def _video_id(columns: Mapping[str, Any]) -> str:
    """The row's video id as `read_row` will have it, or "" where it will refuse the row."""
    named, uri = columns.get("video_id"), columns.get("video_uri")
    return str(named) if named is not None else stem_of(uri) if isinstance(uri, str) else ""


def _refuse_repeated_ids(items: Iterable[WorkItem], name: str) -> None:
    """Raises ManifestError that lists each video id given to several rows, with their lines."""
    first: dict[str, WorkItem] = {}
    repeated: dict[str, list[WorkItem]] = {}
    for item in items:
        earlier = first.setdefault(item.video_id, item)
        if earlier is not item:
            repeated.setdefault(item.video_id, [earlier]).append(item)
    if repeated:
        raise ManifestError(_listed([_repetition(name, video_id, rows) for video_id, rows in repeated.items()]))


def _repetition(name: str, video_id: str, rows: list[WorkItem]) -> str:
    lines = ", ".join(str(row.line) for row in rows[:10]) + (", ..." if len(rows) > 10 else "")
    told = f"{name}, lines {lines}: video_id {video_id!r} is there {len(rows)} times."
    if len({row.video_uri for row in rows}) > 1 and all(stem_of(row.video_uri) == video_id for row in rows):
        return f"{told} Files of one name in several folders: give each row a video_id."
    return f"{told} Give each row its own, also where the rows are ranges of one video."


def _listed(problems: list[str]) -> str:
    """One line each, cut after so many."""
    more = len(problems) - _MAX_LISTED
    return "\n".join([*problems[:_MAX_LISTED], *([f"... and {more} more."] if more > 0 else [])])
