"""The log of outcomes: one write makes a unit visible, one tells of its failure; both are read back to resume."""

import itertools
import json
import math
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from typing import Literal, TypeVar

from pipeline.errors import CommitConflict, CommitStateUnknown, ConfigError, StorageError
from pipeline.io.commit_manifests import MANIFESTS, read_manifests, write_manifest
from pipeline.io.storage import MissingFile, Store
from schemas.commit import Commit
from schemas.error_table import ErrorRecord
from schemas.ids import SCHEMA_VERSION, check_run_id
from schemas.run import RunRecord

COMMITS, ERRORS, RUNS = "_commits", "_errors", "_runs"
"""Folders of the lake: `_commits/run=R/<unit>.json`, `_errors/run=R/<unit>.json`, `_runs/R.json`."""

Retry = Literal["none", "retryable", "failed"]
"""Which failures are worked off again: none, those that may pass without a change, or all."""

_RUN_FOLDERS = (COMMITS, ERRORS, MANIFESTS)

# A store answers one small read in 10 to 100 ms, whatever the reader does meanwhile.
_READING_THREADS = 16

Record = TypeVar("Record")


def commit_unit(store: Store, commit: Commit) -> Commit:
    """Make a unit's parts visible, by one write; the parts themselves must lie in the store already.

    The first attempt wins where the store can exclude a second writer. Elsewhere two attempts in the same instant may
    both write and the later one stays: each is whole, and only one is read.

    Returns:
        The commit that stands: this one, or that of an attempt that came first.

    Raises:
        ValueError: two items of the commit overlap.
        CommitConflict: the unit stands committed under another config.
        CommitStateUnknown: the write failed, and so did reading it back.
        StorageError: the write failed and nothing was written.
    """
    _check_ranges(commit)
    path = _outcome_path(COMMITS, commit.run_id, commit.unit_id)
    try:
        if store.write_if_absent(path, commit.to_json().encode()):
            return commit
    except StorageError as error:
        return _read_back(store, path, commit, error)
    return _read_back(store, path, commit, None)


def record_failure(store: Store, run_id: str, unit_id: str, errors: Iterable[ErrorRecord]) -> None:
    """Add failures of a unit to those of earlier attempts: attempts are summed, first_at stays the earliest.

    Two attempts that fail in the same instant may count as one.
    """
    path = _outcome_path(ERRORS, run_id, unit_id)
    try:
        earlier = _errors_from_json(store.read_bytes(path), store.uri(path))
    except MissingFile:
        earlier = ()
    records = [asdict(error) for error in _summed([*earlier, *errors])]
    text = json.dumps({"schema_version": SCHEMA_VERSION, "errors": records}, sort_keys=True, indent=1)
    store.write_whole(path, text.encode())


def read_commits(store: Store, run_id: str) -> tuple[Commit, ...]:
    """Every commit of a run, in the order in which they were made. Two attempts at a unit may both be among them.

    Raises:
        StorageError: one cannot be read, so that nothing can be said of the run.
    """
    # Single files first: folding writes a manifest before it deletes them, so one that vanishes under us is in there.
    single = _read_folder(store, f"{COMMITS}/run={check_run_id(run_id)}", _commit_from_json)
    folded = [_commit_from_json(text.encode(), where) for where, text in read_manifests(store, run_id)]
    unique = {(commit.unit_id, commit.attempt_id): commit for commit in (*folded, *single)}
    return tuple(sorted(unique.values(), key=lambda commit: (commit.committed_at, commit.unit_id, commit.attempt_id)))


def read_errors(store: Store, run_id: str) -> tuple[ErrorRecord, ...]:
    """Every recorded failure of a run, also of items that were committed later; see `outstanding_errors`.

    Raises:
        StorageError: one cannot be read.
    """
    folder = f"{ERRORS}/run={check_run_id(run_id)}"
    return tuple(error for errors in _read_folder(store, folder, _errors_from_json) for error in errors)


def outstanding_errors(commits: Iterable[Commit], errors: Iterable[ErrorRecord]) -> tuple[ErrorRecord, ...]:
    """Failures that no later commit made good, one per item: those recorded alone, and those told in commits."""
    commits = tuple(commits)
    committed = {item.item_id for commit in commits for item in commit.items}
    every = {*errors, *(error for commit in commits for error in commit.errors)}
    return _summed([error for error in every if error.item_id not in committed])


def settled_items(commits: Iterable[Commit], errors: Iterable[ErrorRecord], retry: Retry) -> frozenset[str]:
    """Ids of the items that a resumed run leaves alone: committed ones, and failures that `retry` does not name."""
    commits = tuple(commits)
    failed = [error.item_id for error in outstanding_errors(commits, errors) if not _retried(error, retry)]
    committed = [item.item_id for commit in commits for item in commit.items]
    return frozenset([*committed, *(item_id for item_id in failed if item_id is not None)])


def compact_commits(store: Store, run_id: str, *, min_commits: int = 100) -> int:
    """Fold the run's single commit files into one manifest, so that reading them takes one request instead of many.

    Safe while workers commit and readers read, and at any point of a crash.

    Args:
        min_commits: leave fewer alone.

    Returns:
        Files folded.
    """
    files = [file.path for file in store.list(f"{COMMITS}/run={check_run_id(run_id)}")]
    if not files or len(files) < min_commits:
        return 0
    commits = [commit for commit in _read_all(store, files, _commit_from_json) if commit is not None]
    write_manifest(store, run_id, commits)
    store.delete(files)
    return len(files)


def begin_run(store: Store, record: RunRecord) -> RunRecord:
    """Record the start of a run, or find that it is a resume.

    Returns:
        The record that stands: this one, or the first start's.

    Raises:
        ConfigError: the run exists under another config; its rows and ours would not compare.
    """
    path = _run_path(record.run_id)
    if store.write_if_absent(path, record.to_json().encode()):
        return record
    standing = _run_from_json(store.read_bytes(path), store.uri(path))
    if standing.config_hash != record.config_hash:
        raise ConfigError(
            f"run {record.run_id!r} of {store.root_uri} was begun with another configuration: "
            f"{_differences(standing, record)}. Resume with the first one's, or name another run with --run-id."
        )
    return standing


def finish_run(store: Store, record: RunRecord) -> None:
    """Record how a run ended: the record that `begin_run` returned, with `finished` and counts filled in."""
    store.write_whole(_run_path(record.run_id), record.to_json().encode())


def read_runs(store: Store) -> tuple[RunRecord, ...]:
    """Every run's record, in the order in which they were begun."""
    return tuple(sorted(_read_folder(store, RUNS, _run_from_json), key=lambda record: (record.started, record.run_id)))


def run_exists(store: Store, run_id: str) -> bool:
    """Whether a run has left a record, a commit or an error; lists its own folders alone."""
    folders = (f"{folder}/run={run_id}" for folder in _RUN_FOLDERS)
    return store.exists(_run_path(run_id)) or any(store.list(folder) for folder in folders)


def find_run_ids(store: Store) -> tuple[str, ...]:
    """Every run that has left a record, a commit or an error, sorted."""
    ids = {record.run_id for record in read_runs(store)}
    for folder in _RUN_FOLDERS:
        paths = (file.path.split("/") for file in store.list(folder))
        ids |= {parts[1].removeprefix("run=") for parts in paths if len(parts) == 3 and parts[1].startswith("run=")}
    return tuple(sorted(ids))


def _outcome_path(folder: str, run_id: str, unit_id: str) -> str:
    return f"{folder}/run={check_run_id(run_id)}/{unit_id}.json"


def _run_path(run_id: str) -> str:
    return f"{RUNS}/{check_run_id(run_id)}.json"


def _read_back(store: Store, path: str, commit: Commit, cause: StorageError | None) -> Commit:
    """What stands at the path after a write that failed (or found another there)."""
    try:
        standing = _commit_from_json(store.read_bytes(path), store.uri(path))
    except MissingFile:
        if cause is not None:
            raise cause from None
        raise CommitStateUnknown(_unknown(store, path, "it was there and is gone")) from None
    except StorageError as error:
        raise CommitStateUnknown(_unknown(store, path, str(error))) from (cause or error)
    if standing.config_hash != commit.config_hash:
        raise CommitConflict(
            f"{store.uri(path)}: unit committed under config {standing.config_hash} by attempt {standing.attempt_id}, "
            f"this attempt ran under {commit.config_hash}. Use another run id for another configuration."
        )
    return standing


def _unknown(store: Store, path: str, came: str) -> str:
    return f"{store.uri(path)}: cannot tell whether the commit was written: {came}. Run the unit again; it is safe."


def _check_ranges(commit: Commit) -> None:
    ranges = sorted((item.video_id, item.range_start, item.range_end or math.inf) for item in commit.items)
    for (video_id, start, end), (next_video_id, next_start, next_end) in itertools.pairwise(ranges):
        if video_id == next_video_id and next_start < end:
            raise ValueError(
                f"unit {commit.unit_id}, video {video_id!r}: [{start}, {end}) and [{next_start}, {next_end}) overlap, "
                "so a frame would come twice. Plan each frame of a video once."
            )


def _retried(error: ErrorRecord, retry: Retry) -> bool:
    return retry == "failed" or (retry == "retryable" and error.retryable)


def _summed(errors: Sequence[ErrorRecord]) -> tuple[ErrorRecord, ...]:
    """One record per item, or per line of the manifest: the latest, with the attempts and first_at of all."""
    latest: dict[tuple[str | None, str | None, int | None], ErrorRecord] = {}
    for error in sorted(errors, key=lambda error: (error.last_at, error.unit_id)):
        key = (error.item_id, error.video_id, error.line)
        earlier = latest.get(key)
        latest[key] = (
            error
            if earlier is None
            else replace(
                error,
                attempts=earlier.attempts + error.attempts,
                first_at=min(earlier.first_at, error.first_at),
            )
        )
    return tuple(latest.values())


def _read_folder(store: Store, folder: str, parse: Callable[[bytes, str], Record]) -> list[Record]:
    paths = [file.path for file in store.list(folder)]
    return [record for record in _read_all(store, paths, parse) if record is not None]


def _read_all(store: Store, paths: Sequence[str], parse: Callable[[bytes, str], Record]) -> list[Record | None]:
    """Records in the order of the paths; None for a file that is gone."""

    def read(path: str) -> Record | None:
        try:
            return parse(store.read_bytes(path), store.uri(path))
        except MissingFile:
            return None

    with ThreadPoolExecutor(_READING_THREADS) as pool:
        return list(pool.map(read, paths))


def _commit_from_json(text: bytes, where: str) -> Commit:
    return _parsed(text, where, Commit.from_json)


def _run_from_json(text: bytes, where: str) -> RunRecord:
    return _parsed(text, where, RunRecord.from_json)


def _errors_from_json(text: bytes, where: str) -> tuple[ErrorRecord, ...]:
    return _parsed(text, where, lambda whole: tuple(ErrorRecord(**record) for record in json.loads(whole)["errors"]))


def _parsed(text: bytes, where: str, parse: Callable[[str], Record]) -> Record:
    """The record, if this version of masklake may read it.

    Raises:
        StorageError: not retryable: the file is damaged, or of another major version.
    """
    problem = ""
    try:
        version = json.loads(text)["schema_version"]
        if version.partition(".")[0] == SCHEMA_VERSION.partition(".")[0]:
            return parse(text.decode())
        problem = f"written as {version}; this masklake reads {SCHEMA_VERSION}. Read it with the version that wrote it."
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        problem = f"damaged: {type(error).__name__}: {error}. Restore it, or delete it and run its unit again."
    damaged = StorageError(f"{where}: {problem}")
    damaged.retryable = False
    raise damaged


def _differences(standing: RunRecord, record: RunRecord) -> str:
    names = ("method", "model", "weights_sha256", "precision", "seed", "config_hash")
    pairs = [(name, getattr(standing, name), getattr(record, name)) for name in names]
    return ", ".join(f"{name} {first!r}, now {now!r}" for name, first, now in pairs if first != now)
