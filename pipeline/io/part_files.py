"""Committed parts as DuckDB reads them: the SQL for their visible rows, and a file system that knows parts alone."""

import functools
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import duckdb
import fsspec
from fsspec.spec import AbstractBufferedFile

from pipeline.io.parts import PART_TABLES
from pipeline.io.retries import with_retries
from pipeline.io.storage import Store
from pipeline.io.visibility import VisiblePart
from schemas.commit import Part

_SCHEME = "masklake"

# Parts are never overwritten, so that what DuckDB remembers of one never goes stale.
_WRITTEN = datetime(2000, 1, 1, tzinfo=UTC)


def visible_rows_sql(store: Store, table: str, parts: Iterable[VisiblePart]) -> str:
    """A SELECT of the visible rows of those parts that are of a table, in the table's columns and types.

    Columns that a part lacks, because an earlier minor version wrote it, are null; columns that a later one added are
    left out. No part is opened before the query runs. In a store that is not local, the connection needs a registered
    PartFiles.
    """
    types = _column_types(table)
    names = ", ".join(_name(column) for column in types)
    of_table = [visible for visible in parts if visible.part.table == table]
    whole = [visible.part for visible in of_table if not _hidden(visible)]
    selects = [f"SELECT {names} FROM {_read_parquet(store, whole, types)}"] if whole else []
    partial = [visible for visible in of_table if _hidden(visible)]
    if partial:
        selects.append(f"SELECT {names} FROM {_read_without_hidden(store, partial, types)}")
    if not selects:
        nulls = ", ".join(f"CAST(NULL AS {kind}) AS {_name(column)}" for column, kind in types.items())
        return f"SELECT {nulls} WHERE false"
    return " UNION ALL ".join(selects)


class PartFiles(fsspec.AbstractFileSystem):  # type: ignore[misc]
    """The parts that commits name, read-only, for `duckdb.register_filesystem`.

    Sizes come from the commits and existence is believed, so that planning a query over n parts asks the store
    nothing; names are relative to the lake's root, so that its quotes, brackets and stars never reach DuckDB.
    """

    protocol = _SCHEME
    cachable = False

    def __init__(self, store: Store, parts: Iterable[Part]) -> None:
        super().__init__()
        self._store = store
        self._bytes = {part.path: part.bytes for part in parts}

    def open(self, path: str, mode: str = "rb", **_: Any) -> Any:
        """The part as a file; only for reading."""
        name = self._known(path)
        if mode != "rb":
            raise PermissionError(f"{path}: committed parts are never changed; expected mode 'rb', came {mode!r}.")
        return _PartFile(self._store, name, self._bytes[name])

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        name = self._known(path)
        return {"name": name, "size": self._bytes[name], "type": "file"}

    def glob(self, path: str, **_: Any) -> list[str]:
        return [path] if self._strip_protocol(path) in self._bytes else []

    def modified(self, path: str) -> datetime:
        return _WRITTEN

    def _known(self, path: str) -> str:
        name: str = self._strip_protocol(path)
        if name not in self._bytes:
            raise FileNotFoundError(f"{path}: no committed part.")
        return name


class _PartFile(AbstractBufferedFile):  # type: ignore[misc]
    """A part of known size; unlike the store's own file it asks for nothing when it is opened.

    Each read is one request: DuckDB joins the column chunks it wants beforehand (of an 18,000-row part of 36 MB: 3
    reads for every mask, 4 for the areas), which blocks of a megabyte would only cut up again.
    """

    def __init__(self, store: Store, path: str, num_bytes: int) -> None:
        self._uri, self._full_path = store.uri(path), store.full_path(path)
        super().__init__(store.filesystem, path, size=num_bytes, cache_type="none")

    def _fetch_range(self, start: int, end: int) -> bytes:
        try:
            return bytes(
                with_retries(
                    lambda: self.fs.cat_file(self._full_path, start=start, end=end), doing="read", uri=self._uri
                )
            )
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"{self._uri}: this committed part is gone. Restore it, or delete the unit's commit and resume."
            ) from error


@functools.cache
def _column_types(table: str) -> dict[str, str]:
    """Column to the name of its type in DuckDB."""
    with duckdb.connect() as connection:
        relation = connection.from_arrow(PART_TABLES[table].schema.empty_table())
        return {name: str(kind) for name, kind in zip(relation.columns, relation.types, strict=True)}


def _read_parquet(store: Store, parts: Sequence[Part], types: dict[str, str], options: str = "") -> str:
    """A call of read_parquet with our schema instead of union_by_name, which would open every part to plan a query."""
    paths = ", ".join(_text(_duckdb_path(store, part)) for part in parts)
    columns = ", ".join(
        f"{_text(name)}: {{'name': {_text(name)}, 'type': {_text(kind)}, 'default_value': NULL}}"
        for name, kind in types.items()
    )
    return f"read_parquet([{paths}], schema = MAP {{{columns}}}, hive_partitioning = false{options})"


def _read_without_hidden(store: Store, partial: Sequence[VisiblePart], types: dict[str, str]) -> str:
    """The parts' rows but for the hidden ones."""
    by_frame = "frame_index" in types
    rows = [
        f"({_text(_file_name(store, visible.part))}, {_text(hidden.video_id)}, {hidden.start}, {hidden.stop})"
        for visible in partial
        for hidden in visible.hidden
        if by_frame or hidden.tracks_too
    ]
    parts = _read_parquet(store, [visible.part for visible in partial], types, options=", filename = 'part'")
    matches = "found.part = hidden.part AND found.video_id = hidden.video_id"
    if by_frame:
        matches += " AND found.frame_index >= hidden.start AND found.frame_index < hidden.stop"
    return f"{parts} found ANTI JOIN (VALUES {', '.join(rows)}) hidden(part, video_id, start, stop) ON {matches}"


def _hidden(visible: VisiblePart) -> bool:
    return any(visible.part.table != "tracks" or hidden.tracks_too for hidden in visible.hidden)


def _duckdb_path(store: Store, part: Part) -> str:
    """What read_parquet takes for a part, special characters taken literally."""
    path = _file_name(store, part)
    if not store.is_local:
        return path
    return "".join(f"[{character}]" if character in "[*?" else character for character in path)


def _file_name(store: Store, part: Part) -> str:
    """What read_parquet tells as the part's name."""
    return store.full_path(part.path) if store.is_local else f"{_SCHEME}://{part.path}"


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _name(column: str) -> str:
    return '"' + column.replace('"', '""') + '"'
