"""Manifests: many commits folded into one Parquet file, because thousands of small reads are slow."""

import uuid
from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import StorageError
from pipeline.io.storage import Store
from schemas.commit import Commit
from schemas.fields import documented
from schemas.ids import check_run_id

MANIFESTS = "_manifests"
"""Folder of the lake: `_manifests/run=R/<n>-<unique>.parquet`."""

_SCHEMA: pa.Schema = documented(
    ("unit_id", pa.string(), "Work unit that became visible."),
    ("attempt_id", pa.string(), "The attempt whose parts are visible."),
    ("commit", pa.string(), "The commit file's text."),
)


def write_manifest(store: Store, run_id: str, commits: Sequence[Commit]) -> None:
    """Write commits as one more manifest of the run; on return they can be read from it.

    The name ends in random digits: two writers must not replace each other's on a store that cannot exclude.
    """
    number = len(store.list(_folder(run_id)))
    path = f"{_folder(run_id)}/{number:06d}-{uuid.uuid4().hex[:12]}.parquet"
    rows = [[getattr(commit, name) for commit in commits] for name in ("unit_id", "attempt_id")]
    table = pa.table([*rows, [commit.to_json() for commit in commits]], schema=_SCHEMA)
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    store.write_whole(path, sink.getvalue().to_pybytes())
    if [text for _, text in _read_manifest(store, path)] != table["commit"].to_pylist():
        raise StorageError(f"{store.uri(path)}: reads back otherwise than it was written. Nothing was deleted.")


def read_manifests(store: Store, run_id: str) -> Iterator[tuple[str, str]]:
    """(where, commit file's text) of every folded commit of a run."""
    for file in store.list(_folder(run_id)):
        yield from _read_manifest(store, file.path)


def _folder(run_id: str) -> str:
    return f"{MANIFESTS}/run={check_run_id(run_id)}"


def _read_manifest(store: Store, path: str) -> Iterator[tuple[str, str]]:
    try:
        table = pq.read_table(pa.BufferReader(store.read_bytes(path)), columns=["commit"])
    except (pa.ArrowInvalid, KeyError) as error:
        damaged = StorageError(f"{store.uri(path)}: damaged: {error}. Restore it from a backup of the lake.")
        damaged.retryable = False
        raise damaged from error
    for text in table["commit"].to_pylist():
        yield store.uri(path), text
