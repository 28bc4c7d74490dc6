"""The way out of a lake: committed rows for DuckDB, pandas, polars and Arrow; masks decoded on request."""

import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import duckdb
import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ConfigError, StorageError
from pipeline.io.commit_log import (
    find_run_ids,
    outstanding_errors,
    read_commits,
    read_errors,
    read_runs,
    run_exists,
)
from pipeline.io.outcome_tables import commit_rows, error_rows, run_rows
from pipeline.io.part_files import PartFiles, visible_rows_sql
from pipeline.io.parts import PART_TABLES
from pipeline.io.storage import Store, open_store
from pipeline.io.visibility import END, VisiblePart, visible_parts
from pipeline.masks import rle
from pipeline.query_macros import create_macros


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskChunk:
    """Some consecutive processed frames of one object, N of them.

    Attributes:
        frame_index, pts_us, present, confidence: (N,), as in the masks table.
        masks: bool (N, H, W) at the decoded frame's size; all False where the object is absent.
    """

    run_id: str
    video_id: str
    object_id: int
    query_id: str | None
    label: str | None
    frame_index: NDArray[np.int32]
    pts_us: NDArray[np.int64]
    present: NDArray[np.bool_]
    confidence: NDArray[np.float32]
    masks: NDArray[np.bool_]


def open_run(uri: str | os.PathLike[str], run_id: str | None = None) -> "Run":
    """Open what a lake's runs have committed so far.

    Args:
        uri: root of the lake, as given to `--output`: a local path, `s3://`, ...
        run_id: one run; by default all of them are read together, told apart by their column run_id.

    Raises:
        ConfigError: there is no run, or none of this name.
        StorageError: the lake, or a commit in it, cannot be read.
    """
    return Run(open_store(uri), run_id)


class Run:
    """One run of a lake, or all: SQL views masks, tracks, frames, errors, commits and runs, and the masks themselves.

    The views show what was committed when the Run was opened or last refreshed. Not to be shared between threads.

    Attributes:
        run_ids: the runs that are read.
        connection: the DuckDB connection that holds the views.
    """

    def __init__(self, store: Store, run_id: str | None = None) -> None:
        self.store = store
        self.connection = duckdb.connect()
        self.connection.execute("SET parquet_metadata_cache = true")
        self.run_ids: tuple[str, ...] = ()
        self._wanted = run_id
        self._parts: tuple[VisiblePart, ...] = ()
        self.refresh()
        create_macros(self.connection)

    def __enter__(self) -> "Run":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Run({self.store.root_uri!r}, {', '.join(self.run_ids)})"

    def close(self) -> None:
        """End the connection; relations that came from it end as well."""
        self.connection.close()

    def refresh(self) -> None:
        """Read the commits, errors and run records anew, so that the views show what was committed since."""
        self.run_ids = self._find_runs()
        commits = [commit for run_id in self.run_ids for commit in read_commits(self.store, run_id)]
        errors = [error for run_id in self.run_ids for error in read_errors(self.store, run_id)]
        records = [record for record in read_runs(self.store) if record.run_id in self.run_ids]
        self._parts = visible_parts(commits)
        self._register_files()
        for table in PART_TABLES:
            self._create_view(table)
        self.connection.register("commits", commit_rows(commits))
        self.connection.register("errors", error_rows(outstanding_errors(commits, errors)))
        self.connection.register("runs", run_rows(records))

    def sql(self, text: str, params: Sequence[Any] | None = None) -> duckdb.DuckDBPyRelation:
        """The answer to a query, as a DuckDB relation: print it, or take `.df()`, `.pl()`, `.arrow()`, `.fetchall()`.

        Args:
            text: SQL over masks, tracks, frames, errors, commits, runs and the macros of `query_macros`.
            params: values for the `?` in the text.
        """
        return self.connection.sql(text, params=params)

    def masks(
        self,
        video_id: str,
        *,
        object_id: int | None = None,
        query_id: str | None = None,
        frames: tuple[int, int] | None = None,
        run_id: str | None = None,
        frames_per_chunk: int = 64,
    ) -> Iterator[MaskChunk]:
        """Decoded masks of a video, object by object, frame by frame, a chunk in memory at a time.

        Args:
            object_id, query_id: one object, or those of one query; by default all objects.
            frames: [start, stop) of source frames; by default all.
            run_id: whose masks, when the Run holds several runs that have the video.

        Raises:
            ValueError: no such video, object or query, or several runs have the video.
        """
        if frames_per_chunk < 1:
            raise ValueError(f"frames_per_chunk {frames_per_chunk}: expected at least 1.")
        run_id = self._run_of(video_id, run_id)
        parts = [visible for visible in self._parts if visible.run_id == run_id and video_id in visible.video_ids]
        rows = visible_rows_sql(self.store, "masks", parts)
        masklets = self._masklets(rows, {"run_id": run_id, "video_id": video_id}, object_id, query_id)
        return self._chunks(rows, masklets, frames or (0, END), frames_per_chunk)

    def _find_runs(self) -> tuple[str, ...]:
        if self._wanted is not None and run_exists(self.store, self._wanted):
            return (self._wanted,)
        found = find_run_ids(self.store)
        if not found:
            raise ConfigError(
                f"{self.store.root_uri}: no runs. Expected the root of a lake, as it was given to --output: "
                "the folder that holds _runs and _commits."
            )
        if self._wanted is not None:
            raise ConfigError(f"{self.store.root_uri}: no run {self._wanted!r}. Runs there: {', '.join(found)}.")
        return found

    def _register_files(self) -> None:
        if self.store.is_local:
            return
        if self.connection.filesystem_is_registered(PartFiles.protocol):
            self.connection.unregister_filesystem(PartFiles.protocol)
        self.connection.register_filesystem(PartFiles(self.store, [visible.part for visible in self._parts]))

    def _create_view(self, table: str) -> None:
        rows = visible_rows_sql(self.store, table, self._parts)
        try:
            self.connection.execute(f"CREATE OR REPLACE VIEW {table} AS {rows}")
        except duckdb.IOException as error:
            raise StorageError(f"{self.store.root_uri}: a committed part of {table} is missing: {error}.") from error

    def _run_of(self, video_id: str, run_id: str | None) -> str:
        """The one run whose masks of a video are meant."""
        found = sorted({visible.run_id for visible in self._parts if video_id in visible.video_ids})
        if run_id in found or (run_id is None and len(found) == 1):
            return run_id or found[0]
        where = f"{self.store.root_uri}, video {video_id!r}"
        if len(found) > 1 and run_id is None:
            raise ValueError(f"{where}: runs {', '.join(found)} have it. Name one with run_id.")
        raise ValueError(
            f"{where}: nothing committed in run {run_id or ', '.join(self.run_ids)}. "
            "The views commits and errors tell which videos ended how."
        )

    def _masklets(
        self, rows: str, names: Mapping[str, str], object_id: int | None, query_id: str | None
    ) -> list["_Masklet"]:
        """The objects of a video that are meant."""
        every = self.connection.execute(
            f"SELECT object_id, any_value(query_id), any_value(label) FROM ({rows}) WHERE video_id = ? "
            "GROUP BY object_id ORDER BY object_id",
            [names["video_id"]],
        ).fetchall()
        meant = [row for row in every if object_id in (None, row[0]) and query_id in (None, row[1])]
        if not meant:
            there = ", ".join(f"{row[0]} (query {row[1]!r})" for row in every) or "none"
            raise ValueError(
                f"video {names['video_id']!r}: no object with object_id {object_id}, query_id {query_id!r} "
                f"(None: any). Objects there: {there}."
            )
        return [_Masklet(**names, object_id=row[0], query_id=row[1], label=row[2]) for row in meant]

    def _chunks(
        self, rows: str, masklets: Sequence["_Masklet"], frames: tuple[int, int], frames_per_chunk: int
    ) -> Iterator[MaskChunk]:
        for masklet in masklets:
            found = self.connection.cursor().execute(
                f"SELECT frame_index, pts_us, present, confidence, height, width, rle FROM ({rows}) "
                "WHERE video_id = ? AND object_id = ? AND frame_index >= ? AND frame_index < ? ORDER BY frame_index",
                [masklet.video_id, masklet.object_id, *frames],
            )
            while some := found.fetchmany(frames_per_chunk):
                for _, of_one_size in itertools.groupby(some, key=lambda row: row[4:6]):
                    yield _decoded(masklet, list(of_one_size))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Masklet:
    """Names of one object."""

    run_id: str
    video_id: str
    object_id: int
    query_id: str | None
    label: str | None


def _decoded(masklet: _Masklet, rows: Sequence[tuple[Any, ...]]) -> MaskChunk:
    """A chunk from rows (frame_index, pts_us, present, confidence, height, width, rle) of one size."""
    frame_index, pts_us, present, confidence, heights, widths, counts = zip(*rows, strict=True)
    height, width = heights[0], widths[0]
    masks = np.zeros((len(rows), height, width), np.bool_)
    for mask, mask_counts in zip(masks, counts, strict=True):
        if mask_counts is not None:
            mask[:] = rle.decode(mask_counts, height, width)
    return MaskChunk(
        run_id=masklet.run_id,
        video_id=masklet.video_id,
        object_id=masklet.object_id,
        query_id=masklet.query_id,
        label=masklet.label,
        frame_index=np.array(frame_index, np.int32),
        pts_us=np.array(pts_us, np.int64),
        present=np.array(present, np.bool_),
        confidence=np.array(confidence, np.float32),
        masks=masks,
    )
