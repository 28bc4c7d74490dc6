"""A unit cut off half way goes on from its last snapshot, with the same rows; a bad snapshot costs only time."""

import logging
import os
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.engine.snapshots import Snapshot, read_snapshot, write_snapshot
from pipeline.engine.worker import Worker
from pipeline.errors import StorageError
from pipeline.io.storage import Store, open_store
from pipeline.segmenter import Session
from schemas.commit import Receipt
from schemas.work_unit import WorkItem
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

NUM_FRAMES = 40
EVERY = 8


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    return tmp_path / "lake"


@pytest.fixture
def item(tmp_path: Path) -> WorkItem:
    return item_of(write_video(tmp_path / "long.mp4", NUM_FRAMES), "a", "b")


def dying_after(num_frames: int) -> FakeSegmenter:
    """Its thread ends once it was asked to encode more frames than these."""
    encoded = [0]

    def hook(stage: str, sessions: Sequence[Session]) -> None:
        works = [session.next_work() for session in sessions]
        encoded[0] += sum(work.size for work in works if work is not None and stage == "encode")
        if encoded[0] > num_frames:
            raise SystemExit("the process is lost")

    return FakeSegmenter(FakeOptions(clip=3), hook)


def cut_off(lake: Path, item: WorkItem, *, after: int) -> None:
    with Worker(settings_of(lake, snapshot_frames=EVERY), segmenter=dying_after(after)) as worker:
        assert worker(unit_of(item).to_json()).status == "failed"
    assert commits_in(lake) == ()


def go_on(lake: Path, item: WorkItem) -> tuple[Receipt, int]:
    """The receipt of another worker, and how many frames it encoded."""
    segmenter = FakeSegmenter(FakeOptions(clip=3))
    with Worker(settings_of(lake, snapshot_frames=EVERY), segmenter=segmenter) as worker:
        receipt = worker(unit_of(item).to_json())
    return receipt, sum(rows for stage, rows in segmenter.batches if stage == "encode")


def snapshot_file(lake: Path, item: WorkItem) -> Path:
    return lake / f"_snapshots/run={RUN_ID}/{unit_of(item).unit_id}.pt"


def assert_committed_whole(lake: Path, item: WorkItem, receipt: Receipt) -> None:
    assert (receipt.status, receipt.frames, receipt.rows) == ("committed", NUM_FRAMES, 2 * NUM_FRAMES)
    rows = rows_in(lake)
    assert_rows_are(rows, item, expected_masks(item))
    assert {row["attempt_id"] for row in rows} == {receipt.attempt_id}
    assert [row["frame_index"] for row in rows_in(lake, "frames")] == list(range(NUM_FRAMES))
    assert [row["n_frames"] for row in rows_in(lake, "tracks")] == [NUM_FRAMES] * 2
    assert files_in(lake, "_snapshots") == []


@pytest.mark.parametrize(("after", "redone_at_most"), [(20, 24), (39, 8)])
def test_a_unit_that_was_cut_off_goes_on_from_its_last_snapshot(
    lake: Path, item: WorkItem, after: int, redone_at_most: int
) -> None:
    cut_off(lake, item, after=after)
    assert snapshot_file(lake, item).is_file()
    receipt, encoded = go_on(lake, item)
    assert 0 < encoded <= redone_at_most
    assert_committed_whole(lake, item, receipt)


def test_a_unit_that_is_cut_off_again_and_again_still_comes_out_whole(lake: Path, item: WorkItem) -> None:
    for _ in range(3):
        cut_off(lake, item, after=12)
    receipt, encoded = go_on(lake, item)
    assert encoded < NUM_FRAMES - 2 * EVERY
    assert_committed_whole(lake, item, receipt)


def test_a_range_that_was_cut_off_goes_on_inside_its_stride(lake: Path, tmp_path: Path) -> None:
    item = item_of(write_video(tmp_path / "long.mp4", 90), "a", start_frame=4, end_frame=85, stride=2)
    cut_off(lake, item, after=20)
    receipt, encoded = go_on(lake, item)
    assert encoded < 41
    assert receipt.status == "committed"
    assert_rows_are(rows_in(lake), item, expected_masks(item))


def test_a_snapshot_after_the_last_frame_leaves_only_the_end_to_do(lake: Path, item: WorkItem) -> None:
    # 40 frames and a snapshot every 8: the last one holds the whole video but its unfinished clip.
    class NoCommit(StorageError):
        pass

    with (
        pytest.MonkeyPatch.context() as patch,
        Worker(settings_of(lake, snapshot_frames=EVERY), segmenter=FakeSegmenter()) as worker,
    ):
        patch.setattr("pipeline.engine.worker.commit_unit", _raising(NoCommit("away")))
        assert worker(unit_of(item).to_json()).status == "failed"
    receipt, encoded = go_on(lake, item)
    assert encoded == 0
    assert_committed_whole(lake, item, receipt)


class Trap:
    """Pickles to a call that leaves a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("damage", ["cut", "garbage", "foreign", "rows gone", "input changed", "state broken", "trap"])
def test_a_snapshot_that_cannot_be_used_is_told_and_the_unit_starts_over(
    lake: Path, item: WorkItem, tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    cut_off(lake, item, after=30)
    file = snapshot_file(lake, item)
    store = open_store(lake)
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:-100])
    elif damage == "garbage":
        file.write_bytes(b"no snapshot at all")
    elif damage == "foreign":
        rewrite(store, item, unit_id="0" * 32)
    elif damage == "rows gone":
        store.delete([path for path in files_in(lake, "_snapshots") if "masks" in path][:1])
    elif damage == "input changed":
        os.utime(item.video_uri, (1, 1))
    elif damage == "state broken":
        rewrite(store, item, session={"frame_size": [48, 64], "due": [], "last_frame_index": 3, "session": {}})
    else:
        file.write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    with caplog.at_level(logging.WARNING, "pipeline"):
        receipt, encoded = go_on(lake, item)
    assert "snapshot not used" in caplog.text
    assert encoded == NUM_FRAMES
    assert not (tmp_path / "sprung").exists()
    assert_committed_whole(lake, item, receipt)


def rewrite(store: Store, item: WorkItem, **changes: Any) -> None:
    """The unit's snapshot file with some fields of another kind."""
    path = f"_snapshots/run={RUN_ID}/{unit_of(item).unit_id}.pt"
    content = torch.load(Path(store.full_path(path)), weights_only=True)
    torch.save({**content, **changes}, Path(store.full_path(path)))


def test_a_video_goes_on_when_the_store_takes_no_snapshot(
    lake: Path, item: WorkItem, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("pipeline.engine.video_run.write_snapshot", _raising(StorageError("the store is away")))
    with caplog.at_level(logging.WARNING, "pipeline"):
        receipt, _ = go_on(lake, item)
    assert "no snapshot at frame 7" in caplog.text
    assert_committed_whole(lake, item, receipt)


def test_a_failure_that_no_retry_mends_takes_its_snapshot_with_it(lake: Path, item: WorkItem) -> None:
    def hook(stage: str, sessions: Sequence[Session]) -> None:
        if sessions[0].last_frame_index > 30:  # type: ignore[attr-defined]
            raise RuntimeError("frame 31 breaks the model")

    with Worker(settings_of(lake, snapshot_frames=EVERY), segmenter=FakeSegmenter(hook=hook)) as worker:
        assert worker(unit_of(item).to_json()).status == "failed"
    assert files_in(lake, "_snapshots") == []


def test_packs_take_no_snapshots(lake: Path, item: WorkItem, tmp_path: Path) -> None:
    other = item_of(write_video(tmp_path / "other.mp4", 20, seed=1), "a")
    with Worker(settings_of(lake, snapshot_frames=4), segmenter=dying_after(50)) as worker:
        worker(unit_of(item, other).to_json())
    assert files_in(lake, "_snapshots") == []


def test_a_snapshot_survives_the_store(lake: Path) -> None:
    store = open_store(lake)
    snapshot = Snapshot(
        unit_id="u",
        item_id="i",
        input_etag=None,
        last_frame_index=7,
        frames=8,
        device_seconds=0.5,
        session={"a": torch.arange(3), "b": [1, (2.5, None, "x")], "c": {3: True}},
        tracks={"1": {"histogram": np.arange(5, dtype=np.uint32), "least": np.float32(0.5)}},
        saved={"masks": ["p"]},
    )
    write_snapshot(store, RUN_ID, snapshot)
    read = read_snapshot(store, RUN_ID, "u", "i")
    assert read is not None
    np.testing.assert_array_equal(read.tracks["1"]["histogram"], np.arange(5, dtype=np.uint32))
    assert read.tracks["1"]["histogram"].dtype == np.uint32
    assert torch.equal(read.session["a"], torch.arange(3))
    assert (read.session["b"], read.session["c"], read.tracks["1"]["least"]) == ([1, (2.5, None, "x")], {3: True}, 0.5)
    assert (read.saved, read.input_etag, read.frames) == ({"masks": ["p"]}, None, 8)
    assert read_snapshot(store, RUN_ID, "another", "i") is None


def _raising(error: Exception) -> Any:
    def raise_it(*arguments: Any, **options: Any) -> None:
        raise error

    return raise_it
