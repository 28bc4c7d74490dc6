"""Rows on scratch disk: they come in frame by frame and go out object by object, in bounded memory."""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

MAX_BUFFERED_ROWS = 512
MAX_BUFFERED_BYTES = 4 * 2**20
"""Rows wait in memory up to either limit, then go to disk, sorted among themselves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SortedChunk:
    """Rows of one group (an object) in one record batch on disk, in ascending order.

    Attributes:
        group: what the rows have in common; 0 in a table that is not grouped.
        first, last: order of the first and last row, such as frame indices.
        segment: the Arrow IPC file that holds them; `batch` is their number in it.
    """

    group: int
    first: int
    last: int
    num_rows: int
    segment: Path
    batch: int


class SpilledRows:
    """A table's rows of one video, in Arrow IPC files of at most one open at a time.

    Args:
        stem: path that the files' names begin with.
        schema: of the rows, without dictionaries (a file of Arrow IPC cannot change one between batches).
        group_by, order_by: int32 columns without nulls to sort by; None for a table that has no such column.
    """

    def __init__(self, stem: Path, schema: pa.Schema, *, group_by: str | None, order_by: str | None) -> None:
        self.segments: list[Path] = []
        self.num_rows = 0
        self._stem, self._schema = stem, schema
        self._group_by, self._order_by = group_by, order_by
        self._pending: list[pa.RecordBatch] = []
        self._pending_rows = self._pending_bytes = 0
        self._writer: pa.RecordBatchFileWriter | None = None
        self._num_written = 0
        self._chunks: list[SortedChunk] = []

    def add(self, batch: pa.RecordBatch) -> None:
        """Take rows in, in any order, columns as in the schema but possibly with dictionaries."""
        self.num_rows += batch.num_rows
        self._pending.append(batch)
        self._pending_rows += batch.num_rows
        self._pending_bytes += batch.get_total_buffer_size()  # nbytes costs 40 times as much
        if self._pending_rows >= MAX_BUFFERED_ROWS or self._pending_bytes >= MAX_BUFFERED_BYTES:
            self._flush()

    def seal(self) -> list[SortedChunk]:
        """Put what is buffered on disk and end the current file; later rows begin another. All chunks so far."""
        self._flush()
        self._end_segment()
        return self._chunks

    def adopt(self, segment: bytes) -> None:
        """Take in a file that another SpilledRows of the same schema has sealed. Only before the first `add`."""
        path = self._next_segment()
        path.write_bytes(segment)
        with pa.OSFile(str(path)) as file:
            reader = pa.ipc.open_file(file)
            for number in range(reader.num_record_batches):
                self._note(reader.get_batch(number), number)
        self.num_rows = sum(chunk.num_rows for chunk in self._chunks)

    def drop(self) -> None:
        """Forget all rows and remove the files."""
        self._forget_pending()
        self._end_segment()
        for segment in self.segments:
            segment.unlink(missing_ok=True)
        self.segments.clear()
        self._chunks.clear()
        self.num_rows = 0

    def _flush(self) -> None:
        if self._pending_rows:
            self._write(_flat(pa.Table.from_batches(self._pending), self._schema))
        self._forget_pending()

    def _forget_pending(self) -> None:
        self._pending.clear()
        self._pending_rows = self._pending_bytes = 0

    def _end_segment(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _write(self, rows: pa.Table) -> None:
        keys = [name for name in (self._group_by, self._order_by) if name]
        rows = rows.sort_by([(name, "ascending") for name in keys]).combine_chunks()
        if self._writer is None:
            self._writer = pa.ipc.new_file(str(self._next_segment()), self._schema)
            self._num_written = 0
        for start, stop in self._group_ranges(rows):
            (batch,) = rows.slice(start, stop - start).to_batches()
            self._writer.write_batch(batch)
            self._note(batch, self._num_written)
            self._num_written += 1

    def _next_segment(self) -> Path:
        self.segments.append(Path(f"{self._stem}-{len(self.segments):04d}.arrow"))
        return self.segments[-1]

    def _group_ranges(self, rows: pa.Table) -> Iterator[tuple[int, int]]:
        edges = [0, rows.num_rows]
        if self._group_by:
            groups = rows[self._group_by].to_numpy()
            edges[1:1] = (np.flatnonzero(np.diff(groups)) + 1).tolist()
        yield from itertools.pairwise(edges)

    def _note(self, batch: pa.RecordBatch, number: int) -> None:
        group = batch[self._group_by][0].as_py() if self._group_by else 0
        order = batch[self._order_by].to_numpy() if self._order_by else np.arange(batch.num_rows)
        twice = order[1:][np.diff(order) == 0]
        if twice.size:
            raise ValueError(f"object {group}: {self._order_by} {twice[0]} comes twice.")
        self._chunks.append(
            SortedChunk(
                group=group,
                first=int(order[0]),
                last=int(order[-1]),
                num_rows=batch.num_rows,
                segment=self.segments[-1],
                batch=number,
            )
        )


def read_chunks(chunks: Iterable[SortedChunk]) -> Iterator[pa.RecordBatch]:
    """The rows of sealed chunks, in the order of the chunks, one at a time in memory."""
    for segment, chunks_of_segment in itertools.groupby(chunks, key=lambda chunk: chunk.segment):
        with pa.OSFile(str(segment)) as file:
            reader = pa.ipc.open_file(file)
            for chunk in chunks_of_segment:
                yield reader.get_batch(chunk.batch)


def without_dictionaries(schema: pa.Schema) -> pa.Schema:
    """The schema with the values' type in place of each dictionary type."""
    kinds = [field.type.value_type if pa.types.is_dictionary(field.type) else field.type for field in schema]
    return pa.schema([field.with_type(kind) for field, kind in zip(schema, kinds, strict=True)])


def _flat(rows: pa.Table, schema: pa.Schema) -> pa.Table:
    """The schema's columns, strings in place of dictionaries."""
    rows = rows.select(schema.names).combine_chunks()  # one dictionary a column, before it is taken away
    columns = [column.combine_chunks() for column in rows.columns]
    return pa.table(
        [column.dictionary_decode() if pa.types.is_dictionary(column.type) else column for column in columns],
        schema=schema,
    )
