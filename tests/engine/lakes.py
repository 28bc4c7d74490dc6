"""Small lakes for worker tests: videos of random frames, units that ask for them, and what became visible."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.decode.options import DecodeOptions
from pipeline.decode.video import open_video
from pipeline.engine.prompts import prompts_of
from pipeline.engine.worker import WorkerSettings
from pipeline.io.commit_log import read_commits
from pipeline.io.storage import Store, open_store
from pipeline.masks import rle
from pipeline.ticks import TickMasks
from schemas.commit import Commit
from schemas.work_unit import Query, WorkItem, WorkUnit
from tests.fakes import FakeOptions, FakeSegmenter, masks_alone

RUN_ID = "r1"
SIZE = (48, 64)


def write_video(path: Path, num_frames: int, *, seed: int = 0, size: tuple[int, int] = SIZE) -> Path:
    """An MPEG-4 video of moving noise; what it decodes to is for the decoder to say."""
    random = np.random.default_rng(seed)
    noise = random.integers(0, 256, (*size, 3), dtype=np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.height, stream.width = size
        stream.pix_fmt = "yuv420p"
        stream.gop_size = 12
        for i in range(num_frames):
            frame = av.VideoFrame.from_ndarray(np.roll(noise, 3 * i, axis=1), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def item_of(path: Path, *texts: str, **fields: Any) -> WorkItem:
    queries = tuple(Query(object_id=i + 1, query_id=str(i), text=text) for i, text in enumerate(texts))
    return WorkItem(video_id=path.stem, video_uri=str(path), queries=queries, **fields)


def unit_of(*items: WorkItem) -> WorkUnit:
    return WorkUnit(run_id=RUN_ID, method="fake", config_hash="c0ffee", items=items)


def settings_of(lake: Path, **fields: Any) -> WorkerSettings:
    scratch = lake.parent / "scratch"
    scratch.mkdir(exist_ok=True)
    return WorkerSettings(
        lake=str(lake), method="fake", device="cpu", scratch_dir=str(scratch), lineage={"model": "fake"}, **fields
    )


def expected_masks(item: WorkItem, options: FakeOptions | None = None) -> list[TickMasks]:
    """The item's masks by the fake alone, without an engine or a worker."""
    decode = DecodeOptions(
        start_frame=item.start_frame, end_frame=item.end_frame, stride=item.stride, max_side=item.max_side
    )
    with open_video(item.video_uri, decode) as ticks:
        return masks_alone(FakeSegmenter(options), prompts_of(item.queries), list(ticks))


def commits_in(lake: Path) -> tuple[Commit, ...]:
    return read_commits(open_store(lake), RUN_ID)


def rows_in(lake: Path, table: str = "masks") -> list[Mapping[str, Any]]:
    """Visible rows of a table, from the parts that commits name."""
    store = open_store(lake)
    tables = [
        _read_part(store, part.path) for commit in commits_in(lake) for part in commit.parts if part.table == table
    ]
    return pa.concat_tables(tables).to_pylist() if tables else []


def assert_rows_are(rows: list[Mapping[str, Any]], item: WorkItem, masks: list[TickMasks]) -> None:
    """The item's rows, in key order, hold these masks: each object on each frame, once."""
    mine = [row for row in rows if row["video_id"] == item.video_id]
    expected = sorted(
        ((seen.object_id, tick.frame_index, tick.pts_us, seen.mask) for tick in masks for seen in tick.objects),
        key=lambda row: row[:2],
    )
    keys = [(row["object_id"], row["frame_index"], row["pts_us"]) for row in mine]
    assert keys == [row[:3] for row in expected]
    for row, (*_, mask) in zip(mine, expected, strict=True):
        assert row["present"] == bool(mask.any())
        if row["present"]:
            np.testing.assert_array_equal(rle.decode(row["rle"], row["height"], row["width"]), mask)


def files_in(lake: Path, folder: str) -> list[str]:
    return [file.path for file in open_store(lake).list(folder)]


def _read_part(store: Store, path: str) -> pa.Table:
    return pq.ParquetFile(store.full_path(path)).read()
