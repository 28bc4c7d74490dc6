"""The worker: units in, committed rows out, equal to what each video gives alone; packs, ranges, many threads."""

import json
import logging
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pytest
from pydantic import ValidationError

from pipeline.encode import RowContext, encode_tick
from pipeline.engine.engine import Engine
from pipeline.engine.handle import SessionHandle
from pipeline.engine.local import run_local
from pipeline.engine.worker import Worker, WorkerSettings
from pipeline.errors import ConfigError, EngineError
from pipeline.io.commit_log import commit_unit, read_errors
from pipeline.io.storage import open_store
from pipeline.segmenter import Session
from pipeline.ticks import Prompt, Tick, TickMasks
from schemas.commit import Commit, Receipt
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
from tests.fakes import FakeOptions, FakeSegmenter

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    return tmp_path / "lake"


def test_a_units_rows_are_the_masks_that_its_video_gives_alone(tmp_path: Path, lake: Path) -> None:
    item = item_of(write_video(tmp_path / "a.mp4", 11), "left one", "right one", dataset="zoo")
    with Worker(settings_of(lake), segmenter=FakeSegmenter()) as worker:
        receipt = worker(unit_of(item).to_json())
    assert (receipt.status, receipt.videos_ok, receipt.videos_failed) == ("committed", 1, 0)
    assert (receipt.frames, receipt.rows, receipt.errors) == (11, 22, ())
    masks = rows_in(lake)
    assert_rows_are(masks, item, expected_masks(item))
    assert {(row["run_id"], row["dataset"], row["unit_id"]) for row in masks} == {
        (RUN_ID, "zoo", unit_of(item).unit_id)
    }
    assert {row["attempt_id"] for row in masks} == {receipt.attempt_id}
    assert {(row["object_id"], row["label"]) for row in masks} == {(1, "left one"), (2, "right one")}


def test_frames_and_tracks_are_told_with_the_masks(tmp_path: Path, lake: Path) -> None:
    item = item_of(write_video(tmp_path / "a.mp4", 7), "a", "b")
    with Worker(settings_of(lake), segmenter=FakeSegmenter()) as worker:
        receipt = worker(unit_of(item).to_json())
    frames, tracks = rows_in(lake, "frames"), rows_in(lake, "tracks")
    assert [row["frame_index"] for row in frames] == list(range(7))
    infer_seconds = sum(row["infer_us"] for row in frames) / 1e6
    assert infer_seconds == pytest.approx(receipt.device_seconds, rel=0.1, abs=1e-4)
    assert [(row["object_id"], row["n_frames"]) for row in tracks] == [(1, 7), (2, 7)]


def test_a_commit_tells_the_input_the_parts_and_the_time(tmp_path: Path, lake: Path) -> None:
    path = write_video(tmp_path / "a.mp4", 5)
    unit = unit_of(item_of(path, "a"))
    with Worker(settings_of(lake), segmenter=FakeSegmenter()) as worker:
        receipt = worker(unit.to_json())
    (commit,) = commits_in(lake)
    (item,) = commit.items
    assert (commit.unit_id, commit.attempt_id, commit.config_hash) == (unit.unit_id, receipt.attempt_id, "c0ffee")
    assert (item.input_bytes, item.frames, item.objects, item.rows) == (path.stat().st_size, 5, 1, 5)
    assert item.input_etag
    assert 0 < item.device_seconds <= commit.wall_seconds
    assert sorted(part.path for part in commit.parts) == files_in(lake, "data")
    assert sum(part.bytes for part in commit.parts) == receipt.bytes
    assert list((lake.parent / "scratch").iterdir()) == []


def test_a_range_with_a_stride_gives_the_rows_of_its_own_frames(tmp_path: Path, lake: Path) -> None:
    item = item_of(write_video(tmp_path / "a.mp4", 30), "a", start_frame=5, end_frame=22, stride=4, max_side=32)
    with Worker(settings_of(lake), segmenter=FakeSegmenter()) as worker:
        worker(unit_of(item).to_json())
    rows = rows_in(lake)
    assert [row["frame_index"] for row in rows] == [5, 9, 13, 17, 21]
    assert {(row["height"], row["width"]) for row in rows} == {(24, 32)}
    assert_rows_are(rows, item, expected_masks(item))
    (commit,) = commits_in(lake)
    assert (commit.items[0].range_start, commit.items[0].range_end) == (5, 22)


def test_a_pack_of_videos_becomes_visible_by_one_commit(tmp_path: Path, lake: Path) -> None:
    items = [item_of(write_video(tmp_path / f"v{i}.mp4", 3 + i, seed=i), "a") for i in range(3)]
    with Worker(settings_of(lake), segmenter=FakeSegmenter()) as worker:
        receipt = worker(unit_of(*items).to_json())
    assert (receipt.videos_ok, receipt.frames) == (3, 3 + 4 + 5)
    assert len(commits_in(lake)) == 1
    for item in items:
        assert_rows_are(rows_in(lake), item, expected_masks(item))


def test_units_called_from_many_threads_at_once_share_batches_and_mix_nothing(
    tmp_path: Path, lake: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = FakeOptions(clip=2, encode_bucket=6, track_bucket=6)
    items = [item_of(write_video(tmp_path / f"v{i}.mp4", 8 + i, seed=i), *"abc"[: 1 + i % 3]) for i in range(6)]
    submitting: set[SessionHandle] = set()
    all_submit, open_session, submit_tick = threading.Event(), Engine.open, SessionHandle.submit
    everybody = threading.Barrier(6)
    sharing: list[int] = []

    def open_and_wait(engine: Engine, prompts: Sequence[Prompt], frame_size: tuple[int, int]) -> SessionHandle:
        handle = open_session(engine, prompts, frame_size)
        everybody.wait()
        return handle

    def submit_and_tell(handle: SessionHandle, tick: Tick) -> None:
        submit_tick(handle, tick)
        submitting.add(handle)
        if len(submitting) == 6:
            all_submit.set()

    def hook(stage: str, sessions: Sequence[Session]) -> None:
        all_submit.wait()
        sharing.append(len(sessions))

    monkeypatch.setattr(Engine, "open", open_and_wait)
    monkeypatch.setattr(SessionHandle, "submit", submit_and_tell)
    with (
        Worker(settings_of(lake, max_videos=6), segmenter=FakeSegmenter(options, hook)) as worker,
        ThreadPoolExecutor(6) as pool,
    ):
        receipts = list(pool.map(worker, [unit_of(item).to_json() for item in items]))
    assert {receipt.status for receipt in receipts} == {"committed"}
    assert max(sharing) >= 3
    rows = rows_in(lake)
    for item in items:
        assert_rows_are(rows, item, expected_masks(item, options))


def test_a_unit_that_another_attempt_has_committed_is_skipped_and_leaves_no_parts(tmp_path: Path, lake: Path) -> None:
    unit = unit_of(item_of(write_video(tmp_path / "a.mp4", 4), "a"))
    with Worker(settings_of(lake), segmenter=FakeSegmenter()) as worker:
        first = worker(unit.to_json())
        parts = files_in(lake, "data")
        second = worker(unit.to_json())
    assert (first.status, second.status) == ("committed", "skipped")
    assert files_in(lake, "data") == parts
    assert [commit.attempt_id for commit in commits_in(lake)] == [first.attempt_id]


def test_a_unit_committed_under_another_config_is_a_conflict(tmp_path: Path, lake: Path) -> None:
    unit = unit_of(item_of(write_video(tmp_path / "a.mp4", 4), "a"))
    other = Commit(
        run_id=RUN_ID,
        unit_id=unit.unit_id,
        attempt_id="0" * 32,
        config_hash="other",
        items=(),
        parts=(),
        errors=(),
        wall_seconds=0.0,
        committed_at=0.0,
    )
    commit_unit(open_store(lake), other)
    with Worker(settings_of(lake), segmenter=FakeSegmenter()) as worker:
        receipt = worker(unit.to_json())
    assert receipt.status == "failed"
    (error,) = read_errors(open_store(lake), RUN_ID)
    assert (error.stage, error.error_class, error.retryable) == ("commit", "CommitConflict", False)
    assert files_in(lake, "data") == []


def test_a_unit_of_another_method_is_refused(tmp_path: Path, lake: Path) -> None:
    unit = unit_of(item_of(tmp_path / "a.mp4", "a"))
    text = unit.to_json().replace('"fake"', '"other"')
    with (
        Worker(settings_of(lake), segmenter=FakeSegmenter()) as worker,
        pytest.raises(ConfigError, match="'other'; this worker runs 'fake'"),
    ):
        worker(text)


def test_settings_survive_json_and_refuse_what_they_do_not_know(lake: Path) -> None:
    lake.parent.mkdir(exist_ok=True)
    settings = settings_of(lake, method_config={"clip": 3}, snapshot_frames=7)
    assert WorkerSettings.model_validate_json(settings.model_dump_json()) == settings
    with pytest.raises(ValidationError, match="shapshot_frames"):
        WorkerSettings.model_validate(json.loads(settings.model_dump_json()) | {"shapshot_frames": 7})


def test_log_lines_carry_video_and_unit(tmp_path: Path, lake: Path, caplog: pytest.LogCaptureFixture) -> None:
    unit = unit_of(item_of(write_video(tmp_path / "a.mp4", 3), "a"))
    with caplog.at_level(logging.INFO, "pipeline"), Worker(settings_of(lake), segmenter=FakeSegmenter()) as worker:
        worker(unit.to_json())
    (record,) = [record for record in caplog.records if "3 frames" in record.getMessage()]
    assert (record.video_id, record.unit_id) == ("a", unit.unit_id)  # type: ignore[attr-defined]


def test_a_local_run_hands_over_every_receipt_and_closes_its_worker(tmp_path: Path, lake: Path) -> None:
    units = [unit_of(item_of(write_video(tmp_path / f"v{i}.mp4", 4, seed=i), "a")) for i in range(7)]
    receipts: list[Receipt] = []
    settings = settings_of(lake, max_videos=3)
    worker = Worker(settings, segmenter=FakeSegmenter())
    run_local(settings, iter(units), on_receipt=receipts.append, worker=worker)
    assert {receipt.unit_id for receipt in receipts} == {unit.unit_id for unit in units}
    assert {commit.unit_id for commit in commits_in(lake)} == {unit.unit_id for unit in units}
    assert not worker.alive


def test_an_interrupted_local_run_abandons_what_runs_and_keeps_what_is_committed(
    tmp_path: Path, lake: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    units = [unit_of(item_of(write_video(tmp_path / f"v{i}.mp4", 20, seed=i), "a")) for i in range(3)]
    before = set(threading.enumerate())
    closed = threading.Event()

    def encode_late(masks: TickMasks, context: RowContext) -> pa.RecordBatch:
        # The second video cannot end before the worker is closed.
        if context.video_id == "v1":
            closed.wait(20)
        return encode_tick(masks, context)

    def interrupt(receipt: Receipt) -> None:
        raise KeyboardInterrupt

    def close_and_tell() -> None:
        close()
        closed.set()

    settings = settings_of(lake, max_videos=2)
    worker = Worker(settings, segmenter=FakeSegmenter())
    close = worker.close
    monkeypatch.setattr("pipeline.engine.video_run.encode_tick", encode_late)
    monkeypatch.setattr(worker, "close", close_and_tell)
    with pytest.raises(KeyboardInterrupt):
        run_local(settings, units, on_receipt=interrupt, worker=worker)
    assert [commit.unit_id for commit in commits_in(lake)] == [units[0].unit_id]
    assert read_errors(open_store(lake), RUN_ID) == ()
    assert set(threading.enumerate()) <= before
    assert list((lake.parent / "scratch").iterdir()) == []


def test_closing_a_worker_abandons_its_unit_uncommitted_and_unrecorded(tmp_path: Path, lake: Path) -> None:
    unit = unit_of(item_of(write_video(tmp_path / "a.mp4", 20), "a"))
    running = threading.Event()
    released = threading.Event()

    def hook(stage: str, sessions: Sequence[Session]) -> None:
        running.set()
        released.wait()

    worker = Worker(settings_of(lake), segmenter=FakeSegmenter(hook=hook))
    with ThreadPoolExecutor(2) as pool:
        calling = pool.submit(worker, unit.to_json())
        running.wait()
        closing = pool.submit(worker.close)
        with pytest.raises(EngineError, match="abandoned"):
            calling.result()
        released.set()
        closing.result()
    assert commits_in(lake) == ()
    assert read_errors(open_store(lake), RUN_ID) == ()
    assert files_in(lake, "data") == []
    with pytest.raises(EngineError, match="has stopped"):
        worker(unit.to_json())
