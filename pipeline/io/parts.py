"""Parts: the Parquet files of the tables masks, tracks and frames, their names, order, row groups and metadata."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from schemas.frame_table import FRAMES, FRAMES_KEY
from schemas.ids import bucket_of
from schemas.mask_table import MASKS, MASKS_KEY
from schemas.track_table import TRACKS, TRACKS_KEY

DATA = "data"
"""Folder of the lake that holds the parts of every run and table."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PartTable:
    """A table that is kept in parts: its schema, the order of its rows, and by what a video's rows are sorted."""

    schema: pa.Schema
    key: tuple[str, ...]
    group_by: str | None
    order_by: str | None


PART_TABLES: Mapping[str, PartTable] = {
    "masks": PartTable(schema=MASKS, key=MASKS_KEY, group_by="object_id", order_by="frame_index"),
    "tracks": PartTable(schema=TRACKS, key=TRACKS_KEY, group_by="object_id", order_by=None),
    "frames": PartTable(schema=FRAMES, key=FRAMES_KEY, group_by=None, order_by="frame_index"),
}

_DICTIONARY_COLUMNS = frozenset(
    [field.name for table in PART_TABLES.values() for field in table.schema if pa.types.is_dictionary(field.type)]
    + ["object_id", "class_id", "height", "width", "attempt_id"]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PartLimits:
    """Sizes at which a row group and a part end.

    20k rows a group: 5k scan slower, a million is coarse for remote reads (180k masks at 480x854). The bytes, counted
    in memory, bound what closing a unit holds when masks are large.
    """

    rows_per_group: int = 20_000
    bytes_per_group: int = 16 * 2**20
    bytes_per_part: int = 512 * 2**20


def part_path(table: str, run_id: str, unit_id: str, attempt_id: str, number: int) -> str:
    """Where a part lies below the lake's root; no two attempts share a path."""
    folder = f"{DATA}/{table}/run={run_id}/bucket={bucket_of(unit_id):02d}"
    return f"{folder}/{unit_id}-{attempt_id}-{number:04d}.parquet"


def write_parts(
    table: str,
    rows: Iterator[pa.RecordBatch],
    local: Path,
    names: Mapping[str, str],
    lineage: Mapping[str, str],
    limits: PartLimits,
) -> Iterator[int]:
    """Write rows as one part after the other to the same local file; yields the rows of each when it is complete.

    Args:
        rows: in the table's order; columns as in its schema, without those in `names`, strings for dictionaries.
        local: the caller takes the file away between two parts.
        names: column to the one value that it has on every row.
        lineage: for the file's key-value metadata.
    """
    schema = PART_TABLES[table].schema.with_metadata(lineage)
    following = next(rows, None)
    while following is not None:
        num_rows = 0
        with local.open("wb") as file, _parquet_writer(file, schema, PART_TABLES[table].key) as writer:
            while following is not None and file.tell() < limits.bytes_per_part:
                group, following = _take_group(following, rows, limits)
                writer.write_table(_as_stored(group, schema, names), row_group_size=group.num_rows)
                num_rows += group.num_rows
        yield num_rows
    local.unlink(missing_ok=True)


def _take_group(
    first: pa.RecordBatch, rows: Iterator[pa.RecordBatch], limits: PartLimits
) -> tuple[pa.Table, pa.RecordBatch | None]:
    """The rows of one row group, and the batch that did not fit."""
    batches, num_rows, num_bytes = [first], first.num_rows, first.nbytes
    for batch in rows:
        num_rows += batch.num_rows
        num_bytes += batch.nbytes
        if num_rows > limits.rows_per_group or num_bytes > limits.bytes_per_group:
            return pa.Table.from_batches(batches), batch
        batches.append(batch)
    return pa.Table.from_batches(batches), None


def _as_stored(rows: pa.Table, schema: pa.Schema, names: Mapping[str, str]) -> pa.Table:
    """Rows from scratch in the table's own schema: names of the unit and dictionaries put back."""
    columns = []
    for field in schema:
        column = pa.repeat(names[field.name], rows.num_rows) if field.name in names else rows[field.name]
        columns.append(pc.dictionary_encode(column) if pa.types.is_dictionary(field.type) else column)
    return pa.table(columns, schema=schema)


def _parquet_writer(file: BinaryIO, schema: pa.Schema, key: tuple[str, ...]) -> pq.ParquetWriter:
    return pq.ParquetWriter(
        file,
        schema,
        compression="zstd",
        compression_level=3,
        use_dictionary=[name for name in schema.names if name in _DICTIONARY_COLUMNS],
        # Statistics of the masks would put whole masks into the footer.
        write_statistics=[name for name in schema.names if name != "rle"],
        sorting_columns=pq.SortingColumn.from_ordering(schema, [(name, "ascending") for name in key]),
        write_page_index=True,
    )
