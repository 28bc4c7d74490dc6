"""Staging: a unit's rows as sorted Parquet parts under attempt-unique names, which no reader sees before a commit."""

import hashlib
import itertools
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import MasklakeError
from pipeline.io.parts import PART_TABLES, PartLimits, part_path, write_parts
from pipeline.io.spill import SortedChunk, SpilledRows, read_chunks, without_dictionaries
from pipeline.io.storage import Store
from schemas.commit import Part
from schemas.ids import SCHEMA_VERSION


class StagedUnit:
    """All that one attempt at one unit has to show, kept on scratch disk until it is closed.

    Args:
        lineage: for the parts' key-value metadata: method, model, weights_sha256, code_version, config_hash, ...
        scratch_dir: local folder; the unit makes one of its own in it, and removes that when it ends.
    """

    def __init__(
        self,
        store: Store,
        run_id: str,
        unit_id: str,
        attempt_id: str,
        lineage: Mapping[str, str],
        scratch_dir: str | Path,
        limits: PartLimits | None = None,
    ) -> None:
        self.store, self.run_id, self.unit_id, self.attempt_id = store, run_id, unit_id, attempt_id
        self._limits = limits or PartLimits()
        self._lineage = {**lineage, "schema_version": SCHEMA_VERSION, **self._names()}
        self._scratch = Path(scratch_dir) / f"{unit_id}-{attempt_id}"
        self._items: dict[str, StagedItem] = {}
        self._uploaded: list[Part] = []
        self._closed = False

    def __enter__(self) -> "StagedUnit":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave no trace of a unit that was not closed."""
        if not self._closed:
            self.abort()

    def item(self, item_id: str) -> "StagedItem":
        """Begin one video of the unit.

        Raises:
            ValueError: it has begun before, or the unit has ended.
        """
        if self._closed or item_id in self._items:
            raise ValueError(f"unit {self.unit_id}: item {item_id!r} was begun before, or the unit has ended.")
        self._scratch.mkdir(parents=True, exist_ok=True)
        stem = self._scratch / f"{len(self._items):05d}"
        self._items[item_id] = StagedItem(item_id, stem, self._names())
        return self._items[item_id]

    def close(self) -> tuple[Part, ...]:
        """Write the kept items' rows as parts and upload them; no reader sees them before they are committed.

        Raises:
            ValueError: an item was neither kept nor dropped, a frame of an object comes twice, or the unit has ended.
            StorageError: an upload failed; `abort` removes what had been uploaded.
        """
        undecided = [item.item_id for item in self._items.values() if item.kept is None]
        if self._closed or undecided:
            raise ValueError(f"unit {self.unit_id}: closed twice, or with items neither kept nor dropped: {undecided}.")
        for table in PART_TABLES:
            self._write_table(table)
        self._end()
        return tuple(self._uploaded)

    def abort(self) -> None:
        """Remove scratch files and uploaded parts, as far as the store lets us: gc removes the rest."""
        for item in self._items.values():
            item.drop()
        self._end()
        with suppress(MasklakeError, OSError):
            self.store.delete([part.path for part in self._uploaded])

    def _names(self) -> dict[str, str]:
        return {"run_id": self.run_id, "unit_id": self.unit_id, "attempt_id": self.attempt_id}

    def _end(self) -> None:
        self._closed = True
        shutil.rmtree(self._scratch, ignore_errors=True)

    def _write_table(self, table: str) -> None:
        rows = read_chunks(_in_key_order(table, [item for item in self._items.values() if item.kept]))
        local = self._scratch / f"{table}.parquet"
        for num_rows in write_parts(table, rows, local, self._names(), self._lineage, self._limits):
            self._upload(local, table, num_rows)

    def _upload(self, local: Path, table: str, num_rows: int) -> None:
        number = sum(part.table == table for part in self._uploaded)
        with local.open("rb") as file:
            md5 = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
        part = Part(
            table=table,
            path=part_path(table, self.run_id, self.unit_id, self.attempt_id, number),
            rows=num_rows,
            bytes=local.stat().st_size,
            md5=md5,
        )
        self._uploaded.append(part)  # before the upload, so that `abort` removes one whose answer was lost
        self.store.upload(local, part.path)


class StagedItem:
    """The rows of one video of a unit. One thread at a time; get it from `StagedUnit.item`.

    Attributes:
        kept: whether the rows will be in the parts; None until `keep` or `drop`.
        video_id: the one video that all rows are of; None before the first row.
    """

    def __init__(self, item_id: str, stem: Path, names: Mapping[str, str]) -> None:
        self.item_id = item_id
        self.kept: bool | None = None
        self.video_id: str | None = None
        self._names = names
        self._saved: dict[str, list[str]] = {table: [] for table in PART_TABLES}
        self._spilled = {
            name: SpilledRows(
                Path(f"{stem}-{name}"), _spilled_schema(name), group_by=table.group_by, order_by=table.order_by
            )
            for name, table in PART_TABLES.items()
        }

    def add_masks(self, batch: pa.RecordBatch) -> None:
        """Take in rows of schema MASKS, in any order. Raises ValueError if they are not of this unit and one video."""
        self._add("masks", batch)

    def add_tracks(self, batch: pa.RecordBatch) -> None:
        """Take in rows of schema TRACKS; as `add_masks`."""
        self._add("tracks", batch)

    def add_frames(self, batch: pa.RecordBatch) -> None:
        """Take in rows of schema FRAMES; as `add_masks`."""
        self._add("frames", batch)

    def num_rows(self, table: str) -> int:
        """Rows taken in so far."""
        return self._spilled[table].num_rows

    def keep(self) -> None:
        """The video is whole: its rows go into the parts."""
        for rows in self._spilled.values():
            rows.seal()
        self.kept = True

    def drop(self) -> None:
        """The video failed: none of its rows goes into the parts."""
        for rows in self._spilled.values():
            rows.drop()
        self.kept = False

    def save(self, store: Store, folder: str) -> dict[str, list[str]]:
        """Put the rows so far into the store, for another attempt to go on from; only what earlier calls did not put.

        Returns:
            Table to paths below the store's root, for `load`.
        """
        for table, rows in self._spilled.items():
            rows.seal()
            for segment in rows.segments[len(self._saved[table]) :]:
                path = f"{folder}/{table}-{self._names['attempt_id']}-{len(self._saved[table]):04d}.arrow"
                store.upload(segment, path)
                self._saved[table].append(path)
        return {table: list(paths) for table, paths in self._saved.items()}

    def load(self, store: Store, saved: Mapping[str, list[str]]) -> None:
        """Begin with the rows of `video_id` that an earlier attempt saved; they become rows of this attempt."""
        for table, paths in saved.items():
            for path in paths:
                self._spilled[table].adopt(store.read_bytes(path))
                self._saved[table].append(path)

    def chunks(self, table: str) -> list[SortedChunk]:
        """Where the rows lie on scratch disk."""
        return self._spilled[table].seal()

    def _add(self, table: str, batch: pa.RecordBatch) -> None:
        if self.kept is not None:
            raise ValueError(f"item {self.item_id}: rows of {table} after it was kept or dropped.")
        self._check(table, batch)
        self._spilled[table].add(batch)

    def _check(self, table: str, batch: pa.RecordBatch) -> None:
        expected = PART_TABLES[table].schema
        if not batch.schema.equals(expected):
            raise ValueError(f"rows of {table}: schema {batch.schema}, expected {expected}.")
        if batch.num_rows == 0:
            return
        if self.video_id is None:
            self.video_id = batch["video_id"][0].as_py()
        for name, value in {**self._names, "video_id": self.video_id}.items():
            came = pc.unique(batch[name]).to_pylist() if name in expected.names else [value]
            if came != [value]:
                raise ValueError(f"rows of {table}, item {self.item_id}: {name} {came}, expected {value!r} alone.")


def _in_key_order(table: str, items: list[StagedItem]) -> list[SortedChunk]:
    """Chunks of all items in the order of the table's key.

    Raises:
        ValueError: they overlap: a frame of an object comes twice.
    """
    found = [(item.video_id or "", chunk) for item in items for chunk in item.chunks(table)]
    found.sort(key=lambda pair: (pair[0], pair[1].group, pair[1].first))
    if PART_TABLES[table].order_by:
        for (video_id, chunk), (next_video_id, following) in itertools.pairwise(found):
            same = (video_id, chunk.group) == (next_video_id, following.group)
            if same and following.first <= chunk.last:
                raise ValueError(
                    f"{table} of video {video_id!r}, object {chunk.group}: frame {following.first} after {chunk.last}. "
                    "Expected each frame once, and ranges of one video apart."
                )
    return [chunk for _, chunk in found]


def _spilled_schema(table: str) -> pa.Schema:
    """What of a table's rows goes to scratch: all but what the unit knows anyway."""
    schema = PART_TABLES[table].schema
    return without_dictionaries(
        pa.schema([field for field in schema if field.name not in ("run_id", "unit_id", "attempt_id")])
    )
