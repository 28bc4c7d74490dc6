"""What a worker makes of faults: each video's failure is recorded with its stage, the rest is committed whole."""

import errno
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import pytest

from pipeline.engine.worker import Worker
from pipeline.errors import CommitStateUnknown, EngineError, StorageError
from pipeline.io.commit_log import read_errors
from pipeline.io.storage import open_store
from schemas.error_table import ErrorRecord
from schemas.work_unit import Query, WorkItem
from tests.engine.lakes import (
    RUN_ID,
    assert_rows_are,
    commits_in,
    expected_masks,
    files_in,
    item_of,
    rows_in,
    settings_of,
    unit_of,
    write_video,
)
from tests.fakes import FakeSegmenter

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    return tmp_path / "lake"


@pytest.fixture
def item(tmp_path: Path) -> WorkItem:
    return item_of(write_video(tmp_path / "good.mp4", 6), "a")


def raising(error: BaseException) -> Callable[..., NoReturn]:
    def raise_it(*arguments: Any, **options: Any) -> NoReturn:
        raise error

    return raise_it


def recorded(lake: Path) -> tuple[ErrorRecord, ...]:
    return read_errors(open_store(lake), RUN_ID)


def bad_items(folder: Path) -> list[tuple[tuple[str, str, bool], WorkItem]]:
    """Items that must fail, each with its (stage, error class, retryable)."""
    video = write_video(folder / "base.mp4", 6)
    garbage = folder / "garbage.mp4"
    garbage.write_bytes(b"this is no video" * 100)
    nothing_asked = Query(object_id=1, query_id="0")
    bad_mask = Query(object_id=1, query_id="0", frame_index=0, mask_rle={"size": [48, 64], "counts": "~~~"})
    return [
        (("open", "DecodeError", False), item_of(folder / "nowhere.mp4", "a")),
        (("open", "ConfigError", False), item_of(video, "a", modalities={"depth": "d.mp4"})),
        (("decode", "DecodeError", False), item_of(garbage, "a")),
        (("prompt", "PromptError", False), replace(item_of(video), queries=(nothing_asked,))),
        (("prompt", "PromptError", False), replace(item_of(video), queries=(bad_mask,))),
        (("prompt", "PromptError", False), item_of(video, "refuse")),
        (("segment", "RuntimeError", False), item_of(video, "poison")),
        (("segment", "DeviceMemoryError", True), item_of(video, "oom")),
        (("segment", "EngineError", False), item_of(video, "twice")),
        (("encode", "ValueError", False), item_of(video, "overconfident")),
    ]


def test_each_failure_of_a_pack_is_told_with_its_stage_and_the_good_videos_are_committed(
    tmp_path: Path, lake: Path, item: WorkItem
) -> None:
    bad = bad_items(tmp_path)
    unit = unit_of(*[failing for _, failing in bad], item)
    with Worker(settings_of(lake), segmenter=FakeSegmenter()) as worker:
        receipt = worker(unit.to_json())
    (commit,) = commits_in(lake)
    assert [done.video_id for done in commit.items] == ["good"]
    assert [(error.stage, error.error_class, error.retryable) for error in commit.errors] == [told for told, _ in bad]
    assert [error.item_id for error in commit.errors] == [failing.item_id for _, failing in bad]
    assert all(error.message for error in commit.errors)
    assert (receipt.status, receipt.videos_ok, receipt.videos_failed) == ("committed", 1, len(bad))
    rows = rows_in(lake)
    assert {row["video_id"] for row in rows} == {"good"}
    assert_rows_are(rows, item, expected_masks(item))
    assert recorded(lake) == ()


def test_a_unit_whose_videos_all_fail_is_recorded_and_leaves_nothing_else(tmp_path: Path, lake: Path) -> None:
    bad = bad_items(tmp_path)
    with Worker(settings_of(lake), segmenter=FakeSegmenter()) as worker:
        receipt = worker(unit_of(*[failing for _, failing in bad]).to_json())
    assert (receipt.status, receipt.videos_failed, receipt.frames) == ("failed", len(bad), 0)
    assert len(recorded(lake)) == len(bad)
    assert len(receipt.errors) == len(bad)
    assert commits_in(lake) == ()
    assert files_in(lake, "data") == []
    assert list((lake.parent / "scratch").iterdir()) == []


def test_the_same_video_twice_in_a_pack_fails_the_second_time(lake: Path, item: WorkItem) -> None:
    with Worker(settings_of(lake), segmenter=FakeSegmenter()) as worker:
        worker(unit_of(item, item).to_json())
    (commit,) = commits_in(lake)
    assert [done.video_id for done in commit.items] == ["good"]
    assert [(error.stage, error.error_class) for error in commit.errors] == [("stage", "ValueError")]
    assert len(rows_in(lake)) == 6


@pytest.mark.parametrize(
    ("place", "error", "stage", "retryable"),
    [
        ("pipeline.engine.video_source.open_video", MemoryError("no memory for frames"), "decode", True),
        ("pipeline.io.mask_files.StagedItem.add_masks", OSError(errno.ENOSPC, "disk full"), "stage", True),
        ("pipeline.io.mask_files.StagedItem.keep", OSError(errno.ENOSPC, "disk full"), "stage", True),
        ("pipeline.io.storage.Store.upload", StorageError("the store is away"), "stage", True),
        ("pipeline.engine.worker.commit_unit", StorageError("the store is away"), "commit", True),
    ],
)
def test_a_fault_of_disk_memory_or_store_is_worth_a_retry_and_shows_no_rows(
    lake: Path,
    item: WorkItem,
    monkeypatch: pytest.MonkeyPatch,
    place: str,
    error: Exception,
    stage: str,
    retryable: bool,
) -> None:
    with Worker(settings_of(lake), segmenter=FakeSegmenter()) as worker:
        with monkeypatch.context() as patch:
            patch.setattr(place, raising(error))
            receipt = worker(unit_of(item).to_json())
        assert receipt.status == "failed"
        (record,) = recorded(lake)
        assert (record.stage, record.error_class, record.retryable) == (stage, type(error).__name__, retryable)
        # A commit whose PUT failed may still arrive, so the parts that it names stay; gc takes them if it does not.
        assert (files_in(lake, "data") == []) == (stage != "commit")
        assert files_in(lake, "_commits") == []
        again = worker(unit_of(item).to_json())
    assert again.status == "committed"
    assert_rows_are(rows_in(lake), item, expected_masks(item))


def test_parts_stay_when_nobody_can_tell_whether_they_were_committed(
    lake: Path, item: WorkItem, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.engine.worker.commit_unit", raising(CommitStateUnknown("no answer")))
    with Worker(settings_of(lake), segmenter=FakeSegmenter()) as worker:
        receipt = worker(unit_of(item).to_json())
    assert receipt.status == "failed"
    (record,) = recorded(lake)
    assert (record.stage, record.error_class, record.retryable) == ("commit", "CommitStateUnknown", True)
    assert len(files_in(lake, "data")) == 3


def test_a_failure_that_cannot_be_recorded_is_raised(
    lake: Path, item: WorkItem, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.io.storage.Store.upload", raising(StorageError("the store is away")))
    monkeypatch.setattr("pipeline.engine.worker.record_failure", raising(StorageError("still away")))
    with (
        Worker(settings_of(lake), segmenter=FakeSegmenter()) as worker,
        pytest.raises(StorageError, match="still away"),
    ):
        worker(unit_of(item).to_json())


def test_attempts_that_fail_are_summed(lake: Path, tmp_path: Path) -> None:
    unit = unit_of(item_of(tmp_path / "nowhere.mp4", "a"))
    with Worker(settings_of(lake), segmenter=FakeSegmenter()) as worker:
        for _ in range(3):
            worker(unit.to_json())
    (record,) = recorded(lake)
    assert record.attempts == 3


def test_ctrl_c_in_a_video_is_not_swallowed_and_nothing_of_its_unit_stays(
    lake: Path, item: WorkItem, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.engine.video_run.encode_tick", raising(KeyboardInterrupt()))
    with Worker(settings_of(lake), segmenter=FakeSegmenter()) as worker:
        with pytest.raises(KeyboardInterrupt):
            worker(unit_of(item).to_json())
        assert worker.statistics().open_sessions <= 1
    assert recorded(lake) == ()
    assert commits_in(lake) == ()
    assert list((lake.parent / "scratch").iterdir()) == []


def test_when_the_device_is_lost_running_videos_are_recorded_and_no_further_unit_is_taken(
    lake: Path, tmp_path: Path, item: WorkItem
) -> None:
    with Worker(settings_of(lake), segmenter=FakeSegmenter()) as worker:
        receipt = worker(unit_of(item_of(Path(item.video_uri), "die")).to_json())
        assert receipt.status == "failed"
        assert not worker.alive
        with pytest.raises(EngineError, match="has stopped"):
            worker(unit_of(item).to_json())
    (record,) = recorded(lake)
    assert (record.stage, record.error_class, record.retryable) == ("segment", "EngineError", True)
    assert commits_in(lake) == ()


def test_failing_videos_leave_no_threads(lake: Path, tmp_path: Path) -> None:
    before = set(threading.enumerate())
    with Worker(settings_of(lake), segmenter=FakeSegmenter()) as worker:
        worker(unit_of(*[failing for _, failing in bad_items(tmp_path)]).to_json())
    assert set(threading.enumerate()) <= before
