"""The commit protocol under injected faults: whatever a store does, each frame is read from one whole attempt."""

import json
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.errors import CommitConflict, CommitStateUnknown, ConfigError, StorageError
from pipeline.io import commit_log
from pipeline.io.commit_log import (
    begin_run,
    commit_unit,
    compact_commits,
    find_run_ids,
    finish_run,
    outstanding_errors,
    read_commits,
    read_errors,
    read_runs,
    record_failure,
    run_exists,
    settled_items,
)
from pipeline.io.storage import Store, open_store
from schemas.commit import Commit, Part
from schemas.error_table import ErrorRecord
from schemas.run import RunRecord
from tests.drawn_lake import DrawnVideo, committed_item


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "lake")


def a_commit(unit_id: str = "unit1", attempt_id: str = "attempt1", **fields: object) -> Commit:
    path = f"data/masks/run=run1/bucket=00/{unit_id}-{attempt_id}-0000.parquet"
    commit = Commit(
        run_id="run1",
        unit_id=unit_id,
        attempt_id=attempt_id,
        config_hash="config",
        items=(committed_item(DrawnVideo(video_id=f"video-{unit_id}")),),
        parts=(Part(table="masks", path=path, rows=40, bytes=4000, md5="0" * 32),),
        errors=(),
        wall_seconds=2.5,
        committed_at=1.0,
    )
    return replace(commit, **fields)


def an_error(item_id: str | None = "item1", **fields: object) -> ErrorRecord:
    record = ErrorRecord(
        run_id="run1",
        unit_id="unit1",
        video_id="clip",
        video_uri="/videos/clip.mp4",
        stage="decode",
        error_class="DecodeError",
        message="no frames",
        retryable=False,
        first_at=10.0,
        last_at=10.0,
        item_id=item_id,
    )
    return replace(record, **fields)


def a_run(**fields: object) -> RunRecord:
    record = RunRecord(
        run_id="run1",
        method="samwise",
        model="tiny",
        weights_sha256=None,
        code_version="0.1.0",
        config_json="{}",
        config_hash="config",
        input_manifest_hash="manifest",
        seed=0,
        precision="float32",
        device="cpu",
        started=100.0,
        n_units=3,
        n_videos=4,
    )
    return replace(record, **fields)


class FaultyStore(Store):
    """A store whose commits and reads fail as told: `write` "lost" before or "late" after the bytes arrive."""

    write: str = ""
    unreadable: bool = False

    def write_if_absent(self, path: str, data: bytes) -> bool:
        if self.write == "lost":
            raise StorageError("connection reset")
        written = super().write_if_absent(path, data)
        if self.write == "late":
            raise StorageError("connection reset")
        return written

    def read_bytes(self, path: str) -> bytes:
        if self.unreadable:
            raise StorageError("connection refused")
        return super().read_bytes(path)


class StoreWithoutExclusion(Store):
    """A store that does not know `If-None-Match`: the later of two writers at the same instant wins."""

    def write_if_absent(self, path: str, data: bytes) -> bool:
        self.write_whole(path, data)
        return True


def faulty(store: Store, *, write: str = "", unreadable: bool = False) -> FaultyStore:
    broken = FaultyStore(store.root_uri)
    broken.write, broken.unreadable = write, unreadable
    return broken


def test_a_commit_is_read_back_as_it_was_written(root: str) -> None:
    """On a disk, in memory and in S3."""
    store = open_store(root)
    commits = [a_commit("unit1", committed_at=2.0), a_commit("unit2", committed_at=1.0)]
    for commit in commits:
        assert commit_unit(store, commit) == commit
    assert read_commits(store, "run1") == tuple(reversed(commits))
    assert read_commits(store, "another-run") == ()
    assert json.loads(store.read_bytes("_commits/run=run1/unit1.json"))["attempt_id"] == "attempt1"


def test_of_two_attempts_the_first_stays_and_the_second_is_told(root: str) -> None:
    store = open_store(root)
    first, second = a_commit(attempt_id="attempt1"), a_commit(attempt_id="attempt2", committed_at=2.0)
    commit_unit(store, first)
    assert commit_unit(store, second) == first
    assert commit_unit(store, first) == first
    assert read_commits(store, "run1") == (first,)


def test_attempts_racing_on_a_disk_agree_on_one(store: Store) -> None:
    attempts = [a_commit(attempt_id=f"attempt{number}") for number in range(8)]
    stand: list[Commit] = []
    barrier = threading.Barrier(len(attempts))

    def commit(attempt: Commit) -> None:
        barrier.wait()
        stand.append(commit_unit(store, attempt))

    threads = [threading.Thread(target=commit, args=(attempt,)) for attempt in attempts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {commit.attempt_id for commit in stand} == {read_commits(store, "run1")[0].attempt_id}


def test_where_the_last_writer_wins_one_whole_attempt_is_read(store: Store) -> None:
    careless = StoreWithoutExclusion(store.root_uri)
    for number in (1, 2):
        commit_unit(careless, a_commit(attempt_id=f"attempt{number}", committed_at=float(number)))
    assert read_commits(store, "run1") == (a_commit(attempt_id="attempt2", committed_at=2.0),)


def test_another_config_conflicts(store: Store) -> None:
    commit_unit(store, a_commit())
    with pytest.raises(CommitConflict, match="under config config by attempt attempt1, this attempt ran under other"):
        commit_unit(store, a_commit(attempt_id="attempt2", config_hash="other"))
    assert read_commits(store, "run1") == (a_commit(),)


def test_a_write_whose_answer_was_lost_counts_if_it_arrived(store: Store) -> None:
    assert commit_unit(faulty(store, write="late"), a_commit()) == a_commit()
    assert read_commits(store, "run1") == (a_commit(),)


def test_a_write_that_did_not_arrive_fails_as_the_store_said(store: Store) -> None:
    with pytest.raises(StorageError, match="connection reset") as caught:
        commit_unit(faulty(store, write="lost"), a_commit())
    assert not isinstance(caught.value, CommitStateUnknown)
    assert caught.value.retryable
    assert read_commits(store, "run1") == ()


def test_a_failed_write_under_another_attempts_commit_gives_that(store: Store) -> None:
    commit_unit(store, a_commit())
    assert commit_unit(faulty(store, write="lost"), a_commit(attempt_id="attempt2")) == a_commit()


@pytest.mark.parametrize("write", ["lost", "late"])
def test_a_write_that_can_neither_be_confirmed_nor_denied_is_unknown(store: Store, write: str) -> None:
    with pytest.raises(CommitStateUnknown, match="Run the unit again; it is safe") as caught:
        commit_unit(faulty(store, write=write, unreadable=True), a_commit())
    assert caught.value.retryable
    assert commit_unit(store, a_commit(attempt_id="attempt2")).attempt_id in ("attempt1", "attempt2")
    assert len(read_commits(store, "run1")) == 1


def test_overlapping_ranges_in_one_commit_are_refused(store: Store) -> None:
    ranges = [DrawnVideo(video_id="clip", stop=20), DrawnVideo(video_id="clip", start=19, stop=30)]
    overlapping = a_commit(items=tuple(committed_item(video) for video in ranges))
    with pytest.raises(ValueError, match=r"'clip': \[0, 20\) and \[19, 30\) overlap"):
        commit_unit(store, overlapping)
    assert store.list() == []
    to_the_end = replace(committed_item(ranges[0]), range_end=None)
    with pytest.raises(ValueError, match=r"\[0, inf\)"):
        commit_unit(store, a_commit(items=(to_the_end, committed_item(ranges[1]))))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "damaged"),
        (b'{"schema_version": "masks/1.0"}', "damaged: KeyError"),
        (b"[]", "damaged"),
        (b'{"schema_version": "masks/2.0"}', "written as masks/2.0; this masklake reads masks/1.0"),
    ],
)
def test_a_commit_that_cannot_be_read_is_told_and_not_passed_over(store: Store, text: bytes, message: str) -> None:
    commit_unit(store, a_commit())
    store.write_whole("_commits/run=run1/unit2.json", text)
    with pytest.raises(StorageError, match=rf"unit2\.json: {message}") as caught:
        read_commits(store, "run1")
    assert not caught.value.retryable


def test_commits_of_a_later_minor_version_are_read(store: Store) -> None:
    commit_unit(store, a_commit(schema_version="masks/1.7"))
    assert read_commits(store, "run1")[0].schema_version == "masks/1.7"


def test_failures_of_a_unit_add_up(root: str) -> None:
    store = open_store(root)
    other = an_error("item2", video_id="other")
    record_failure(store, "run1", "unit1", [an_error(), other])
    record_failure(store, "run1", "unit1", [an_error(message="still no frames", first_at=20.0, last_at=20.0)])
    expected = an_error(message="still no frames", attempts=2, first_at=10.0, last_at=20.0)
    assert set(read_errors(store, "run1")) == {expected, other}


def test_a_later_commit_makes_an_error_good_whatever_unit_it_came_in(store: Store) -> None:
    video = DrawnVideo(video_id="clip")
    record_failure(store, "run1", "unit1", [an_error(video.item_id), an_error("gone")])
    commits = [a_commit("unit9", items=(committed_item(video),))]
    assert [error.item_id for error in outstanding_errors(commits, read_errors(store, "run1"))] == ["gone"]


def test_errors_told_in_commits_count_once_with_those_recorded_alone() -> None:
    in_pack = an_error("item1", unit_id="pack", last_at=5.0, first_at=5.0)
    later = an_error("item1", unit_id="alone", last_at=9.0, first_at=9.0, message="again")
    commits = [a_commit(errors=(in_pack,))]
    expected = replace(later, attempts=2, first_at=5.0)
    assert outstanding_errors(commits, [later]) == (expected,)
    assert outstanding_errors(commits, [later, in_pack]) == (expected,)


@pytest.mark.parametrize(
    ("retry", "expected"),
    [
        ("none", {"committed", "final", "passing", "in-commit"}),
        ("retryable", {"committed", "final", "in-commit"}),
        ("failed", {"committed"}),
    ],
)
def test_settled_items_are_the_committed_and_the_failures_not_to_retry(
    retry: commit_log.Retry, expected: set[str]
) -> None:
    item = replace(committed_item(DrawnVideo(video_id="clip")), item_id="committed")
    commits = [a_commit(items=(item,), errors=(an_error("in-commit"),))]
    errors = [
        an_error("final"),
        an_error("passing", retryable=True),
        an_error("committed", retryable=True),
        an_error(None, line=3),
    ]
    assert settled_items(commits, errors, retry) == expected


def test_folded_commits_read_as_before(root: str) -> None:
    store = open_store(root)
    commits = tuple(a_commit(f"unit{number}", committed_at=float(number)) for number in range(5))
    for commit in commits[:3]:
        commit_unit(store, commit)
    assert compact_commits(store, "run1", min_commits=4) == 0
    assert compact_commits(store, "run1", min_commits=3) == 3
    assert store.list("_commits") == []
    for commit in commits[3:]:
        commit_unit(store, commit)
    assert read_commits(store, "run1") == commits
    assert compact_commits(store, "run1", min_commits=1) == 2
    assert len(store.list("_manifests/run=run1")) == 2
    assert read_commits(store, "run1") == commits
    assert find_run_ids(store) == ("run1",)


def test_a_crash_at_any_point_of_folding_loses_no_commit(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    commits = tuple(a_commit(f"unit{number}", committed_at=float(number)) for number in range(4))
    for commit in commits:
        commit_unit(store, commit)
    delete = Store.delete
    for survivors in (4, 2):  # none deleted, some deleted

        def dies(self: Store, paths: list[str], survivors: int = survivors) -> None:
            delete(self, paths[survivors:])
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(Store, "delete", dies)
            with pytest.raises(KeyboardInterrupt):
                compact_commits(store, "run1", min_commits=1)
        assert read_commits(store, "run1") == commits
    assert compact_commits(store, "run1", min_commits=1) == 2
    assert read_commits(store, "run1") == commits


def test_a_manifest_that_did_not_arrive_whole_deletes_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    commit_unit(store, a_commit())
    write = Store.write_whole
    monkeypatch.setattr(Store, "write_whole", lambda self, path, data: write(self, path, data[:-10]))
    with pytest.raises(StorageError, match="damaged"):
        compact_commits(store, "run1", min_commits=1)
    assert [file.path for file in store.list("_commits")] == ["_commits/run=run1/unit1.json"]


def test_commits_folded_while_they_are_read_are_read_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reader has listed the single files; before it opens them, another process folds them."""
    commits = tuple(a_commit(f"unit{number}", committed_at=float(number)) for number in range(3))
    for commit in commits:
        commit_unit(store, commit)
    list_files = Store.list

    def then_fold(self: Store, prefix: str = "") -> object:
        listed = list_files(self, prefix)
        if prefix.startswith("_commits"):
            monkeypatch.setattr(Store, "list", list_files)
            compact_commits(store, "run1", min_commits=1)
        return listed

    monkeypatch.setattr(Store, "list", then_fold)
    assert read_commits(store, "run1") == commits


def test_a_run_is_recorded_once_and_resumed_under_the_same_config(root: str) -> None:
    store = open_store(root)
    record = a_run()
    assert begin_run(store, record) == record
    assert begin_run(store, a_run(started=200.0, code_version="0.2.0")) == record
    finished = replace(record, finished=300.0, n_videos_ok=3, n_videos_failed=1, n_frames=60, n_masks=120)
    finish_run(store, finished)
    assert read_runs(store) == (finished,)
    assert find_run_ids(store) == ("run1",)


def test_a_run_is_not_resumed_under_another_config(store: Store) -> None:
    begin_run(store, a_run())
    with pytest.raises(ConfigError, match="model 'tiny', now 'base', config_hash 'config', now 'other'"):
        begin_run(store, a_run(config_hash="other", model="base"))
    assert read_runs(store) == (a_run(),)


@pytest.mark.parametrize("run_id", ["", "../other", "a/b", "-x", "run='1'"])
def test_a_run_id_that_cannot_be_a_folder_is_refused_before_a_write(store: Store, run_id: str) -> None:
    for use in (
        lambda: commit_unit(store, a_commit(run_id=run_id)),
        lambda: record_failure(store, run_id, "unit1", [an_error()]),
        lambda: read_commits(store, run_id),
        lambda: a_run(run_id=run_id),
    ):
        with pytest.raises(ValueError, match="run id"):
            use()
    assert store.list() == []


def test_runs_are_found_by_whatever_they_left(store: Store) -> None:
    begin_run(store, a_run(run_id="begun"))
    commit_unit(store, a_commit(run_id="committed"))
    record_failure(store, "failed", "unit1", [an_error(run_id="failed")])
    commit_unit(store, a_commit(run_id="folded"))
    compact_commits(store, "folded", min_commits=1)
    assert find_run_ids(store) == ("begun", "committed", "failed", "folded")
    assert all(run_exists(store, run_id) for run_id in find_run_ids(store))
    assert not run_exists(store, "fold")
