"""MoSAM under the real worker: a killed worker's table is the whole one, and tables agree with each other."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.engine.worker import Worker
from pipeline.masks import rle
from pipeline.masks.geometry import bounding_box
from pipeline.methods import mosam
from pipeline.methods.mosam import MosamSegmenter
from pipeline.segmenter import Segmenter, Session, State
from pipeline.ticks import Prompt
from schemas.commit import Receipt
from schemas.work_unit import Query, WorkItem, WorkUnit
from tests.engine.lakes import RUN_ID, commits_in, files_in, rows_in, settings_of, write_video

pytestmark = pytest.mark.timeout(100)

NUM_FRAMES, KILLED_AT, SNAPSHOT_EVERY = 60, 50, 10
QUERIES = (
    Query(object_id=1, query_id="click", frame_index=0, points=((20, 30, 1),)),
    Query(object_id=2, query_id="box", frame_index=7, box=(30.0, 8.0, 52.0, 30.0)),
)

Rows = Sequence[Mapping[str, Any]]


class MortalSegmenter:
    """MoSAM whose thread ends when a frame's turn comes, as a killed process's does; keeps count of encoded frames."""

    method = MosamSegmenter.method

    def __init__(self, inner: MosamSegmenter, *, dies_at: int | None) -> None:
        self.inner, self.dies_at = inner, dies_at
        self.num_encoded = 0

    @property
    def buckets(self) -> Mapping[str, int]:
        return self.inner.buckets

    def open(self, prompts: Sequence[Prompt], frame_size: tuple[int, int]) -> Session:
        return self.inner.open(prompts, frame_size)

    def restore(self, state: State) -> Session:
        return self.inner.restore(state)

    def run(self, stage: str, sessions: Sequence[Any]) -> None:
        for request in (session.next_request() for session in sessions):
            if self.dies_at is not None and request.job.frame.frame_index >= self.dies_at:
                raise SystemExit("the process is lost")
            self.num_encoded += len(request.step.frames) if stage == "encode" else 0
        self.inner.run(stage, sessions)


@pytest.fixture(scope="module")
def segmenter() -> MosamSegmenter:
    config, model = mosam.mini()
    return mosam.build_segmenter(config.model_copy(update={"rows_per_decode": 2}), model, "cpu")


def work_off(lake: Path, item: WorkItem, segmenter: Segmenter) -> Receipt:
    settings = settings_of(lake, snapshot_frames=SNAPSHOT_EVERY).model_copy(update={"method": "mosam"})
    unit = WorkUnit(run_id=RUN_ID, method="mosam", config_hash="c", items=(item,))
    with Worker(settings, segmenter=segmenter) as worker:
        return worker(unit.to_json())


def told(rows: Rows) -> list[dict[str, Any]]:
    """Rows without the name of the attempt that made them."""
    return [{name: value for name, value in row.items() if name != "attempt_id"} for row in rows]


def test_a_worker_killed_at_frame_50_leaves_a_snapshot_from_which_the_table_comes_out_identical(
    tmp_path: Path, segmenter: MosamSegmenter
) -> None:
    video = write_video(tmp_path / "a.mp4", NUM_FRAMES)
    item = WorkItem(video_id="a", video_uri=str(video), queries=QUERIES)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert work_off(whole, item, MortalSegmenter(segmenter, dies_at=None)).status == "committed"
    assert work_off(broken, item, MortalSegmenter(segmenter, dies_at=KILLED_AT)).status == "failed"
    assert commits_in(broken) == ()
    assert files_in(broken, "_snapshots")
    second = MortalSegmenter(segmenter, dies_at=None)
    receipt = work_off(broken, item, second)
    assert (receipt.status, receipt.frames) == ("committed", NUM_FRAMES)
    assert 0 < second.num_encoded <= NUM_FRAMES - KILLED_AT + 2 * SNAPSHOT_EVERY, "it began again, or did nothing"
    for table in ("masks", "tracks"):
        assert told(rows_in(broken, table)) == told(rows_in(whole, table))
    masks = rows_in(whole)
    assert sum(row["present"] for row in masks) > NUM_FRAMES, "masks so empty would show nothing"
    assert_tables_agree(masks, rows_in(whole, "tracks"), frames=range(NUM_FRAMES), object_ids=(1, 2))


def assert_tables_agree(masks: Rows, tracks: Rows, *, frames: Sequence[int], object_ids: Sequence[int]) -> None:
    """One video's rows: each object on each frame once, masks as their boxes and areas say, tracks as their masks."""
    assert [(row["object_id"], row["frame_index"]) for row in masks] == [
        (object_id, frame) for object_id in object_ids for frame in frames
    ]
    assert [row["object_id"] for row in tracks] == list(object_ids)
    for row in masks:
        assert row["present"] == (row["area"] > 0) == (row["rle"] is not None) == (row["bbox"] is not None)
        if row["present"]:
            mask = rle.decode(row["rle"], row["height"], row["width"])
            box = bounding_box(mask)
            assert box is not None
            assert int(mask.sum()) == row["area"]
            x, y, width, height = (row["bbox"][side] for side in ("x", "y", "w", "h"))
            assert (box.left, box.top, box.right, box.bottom) == (x, y, x + width, y + height)
    for track in tracks:
        mine = [row for row in masks if row["object_id"] == track["object_id"]]
        seen = [row for row in mine if row["present"]]
        shown_on, areas = [row["frame_index"] for row in seen], [row["area"] for row in seen]
        between = [frame for frame in frames if seen and shown_on[0] <= frame <= shown_on[-1]]
        confidence = np.array([row["confidence"] for row in mine])
        assert (track["n_frames"], track["n_present"]) == (len(mine), len(seen))
        assert (track["first_frame"], track["last_frame"]) == ((shown_on[0], shown_on[-1]) if seen else (None, None))
        assert track["confidence_mean"] == pytest.approx(confidence.mean(), abs=1e-5)
        assert track["confidence_min"] == pytest.approx(confidence.min(), abs=1e-6)
        assert (track["area_min"], track["area_max"]) == ((min(areas), max(areas)) if seen else (None, None))
        assert ("never_present" in track["flags"]) == (not seen)
        assert ("has_gap" in track["flags"]) == (between != shown_on)
