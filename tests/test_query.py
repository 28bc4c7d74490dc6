"""The way out: what was drawn is what DuckDB, pandas, polars and the decoder give back, from any store."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import ConfigError
from pipeline.io.commit_log import begin_run, commit_unit, compact_commits, record_failure
from pipeline.io.parts import PART_TABLES
from pipeline.io.storage import Store, open_store
from pipeline.query import open_run
from schemas.commit import COMMITS, Commit
from schemas.error_table import ERRORS
from schemas.run import RUNS
from tests.drawn_lake import Drawing, DrawnVideo, drawn_confidence, drawn_mask
from tests.io.test_commit_log import a_run, an_error

CLIP, OTHER = DrawnVideo(video_id="clip"), DrawnVideo(video_id="it's [1]*", num_objects=3)
TABLES = {**{name: table.schema for name, table in PART_TABLES.items()}, "commits": COMMITS, "errors": ERRORS}


def draw(root: str | Path, tmp_path: Path, run_id: str = "run1") -> Drawing:
    return Drawing(store=open_store(root), scratch=tmp_path / "scratch", run_id=run_id)


@pytest.fixture
def drawing(tmp_path: Path) -> Drawing:
    """A lake on a disk under a name full of characters that mean something to SQL and globs."""
    return draw(tmp_path / "lake's [a]*? {b} ü", tmp_path)


def areas(*videos: DrawnVideo) -> dict[tuple[str, int, int], int]:
    return {
        (video.video_id, object_id, frame): int(drawn_mask(object_id, frame).sum())
        for video in videos
        for object_id in range(1, video.num_objects + 1)
        for frame in video.frames
    }


def areas_read(lake: Store, run_id: str | None = None) -> dict[tuple[str, int, int], int]:
    rows = open_run(lake.root_uri, run_id).sql("SELECT video_id, object_id, frame_index, area FROM masks").fetchall()
    assert len({row[:3] for row in rows}) == len(rows)
    return {row[:3]: row[3] for row in rows}


def test_committed_rows_are_read_and_no_others(drawing: Drawing) -> None:
    drawing.commit("unit1", "attempt1", [CLIP])
    drawing.commit("unit2", "attempt1", [OTHER])
    drawing.stage("unit3", "attempt1", [DrawnVideo(video_id="uncommitted")])
    assert areas_read(drawing.store) == areas(CLIP, OTHER)


def test_answers_come_as_pandas_polars_and_arrow(drawing: Drawing) -> None:
    drawing.commit("unit1", "attempt1", [CLIP])
    relation = open_run(drawing.store.root_uri).sql("SELECT * FROM masks ORDER BY object_id, frame_index")
    frame, lazy, table = relation.df(), relation.pl(), relation.arrow().read_all()
    assert isinstance(frame, pd.DataFrame)
    assert isinstance(lazy, pl.DataFrame)
    assert isinstance(table, pa.Table)
    names = PART_TABLES["masks"].schema.names
    assert list(frame.columns) == lazy.columns == table.column_names == names
    expected = list(areas(CLIP).values())
    assert frame.area.tolist() == lazy["area"].to_list() == table["area"].to_pylist() == expected


def test_queries_take_values(drawing: Drawing) -> None:
    drawing.commit("unit1", "attempt1", [CLIP, OTHER])
    run = open_run(drawing.store.root_uri)
    assert run.sql("SELECT count(*) FROM masks WHERE video_id = ?", params=[OTHER.video_id]).fetchall() == [(60,)]


def test_views_of_a_run_without_rows_have_every_column(drawing: Drawing) -> None:
    begin_run(drawing.store, a_run())
    run = open_run(drawing.store.root_uri)
    for name, schema in {**TABLES, "runs": RUNS}.items():
        relation = run.sql(f"SELECT * FROM {name}")
        assert relation.columns == schema.names
    for name, table in PART_TABLES.items():
        empty = run.sql(f"SELECT * FROM {name}").types
        assert empty == run.connection.from_arrow(table.schema.empty_table()).types
    assert run.sql("SELECT count(*) FROM low_confidence_runs(0.5, 3)").fetchall() == [(0,)]


def test_outcomes_are_views_too(drawing: Drawing) -> None:
    begin_run(drawing.store, a_run())
    drawing.commit("unit1", "attempt1", [CLIP, OTHER])
    record_failure(
        drawing.store, "run1", "unit2", [an_error("x", video_id="bad"), an_error(CLIP.item_id, video_id="clip")]
    )
    run = open_run(drawing.store.root_uri, "run1")
    assert run.sql("SELECT video_id, frames, rows FROM commits ORDER BY ALL").fetchall() == [
        ("clip", 20, 40),
        ("it's [1]*", 20, 60),
    ]
    assert run.sql("SELECT video_id, class, retryable FROM errors").fetchall() == [("bad", "DecodeError", False)]
    assert run.sql("SELECT method, n_units, finished FROM runs").fetchall() == [("samwise", 3, None)]
    assert run.sql("SELECT epoch(started) FROM runs").fetchall() == [(100.0,)]


def test_of_two_commits_of_a_video_one_is_read(drawing: Drawing) -> None:
    """A zombie's pack holds "clip" as well; its other video is read, its rows and tracks of "clip" are not."""
    drawing.commit("unit1", "attempt1", [CLIP], committed_at=1.0)
    drawing.commit("unit2", "attempt2", [CLIP, OTHER], committed_at=2.0)
    assert areas_read(drawing.store) == areas(CLIP, OTHER)
    run = open_run(drawing.store.root_uri)
    read = "SELECT DISTINCT video_id, attempt_id FROM masks ORDER BY ALL"
    assert run.sql(read).fetchall() == [("clip", "attempt1"), ("it's [1]*", "attempt2")]
    assert run.sql("SELECT count(*) FROM tracks").fetchall() == [(5,)]
    assert run.sql("SELECT count(*) FROM frames").fetchall() == [(40,)]
    assert sum(len(chunk.masks) for chunk in run.masks("clip")) == 40


def test_of_overlapping_ranges_each_frame_is_read_once(drawing: Drawing) -> None:
    first, second = DrawnVideo(video_id="clip", stop=14), DrawnVideo(video_id="clip", start=10, stop=25)
    drawing.commit("unit1", "attempt1", [second], committed_at=2.0)
    drawing.commit("unit2", "attempt2", [first], committed_at=1.0)
    assert areas_read(drawing.store) == areas(DrawnVideo(video_id="clip", stop=25))
    run = open_run(drawing.store.root_uri)
    assert run.sql("SELECT min(frame_index) FROM masks WHERE attempt_id = 'attempt1'").fetchall() == [(14,)]
    (chunk,) = run.masks("clip", object_id=1)
    assert chunk.frame_index.tolist() == list(range(25))
    assert run.sql("SELECT n_frames FROM tracks WHERE object_id = 1 ORDER BY 1").fetchall() == [(14,), (15,)]


def test_folded_commits_are_read(drawing: Drawing) -> None:
    drawing.commit("unit1", "attempt1", [CLIP])
    compact_commits(drawing.store, "run1", min_commits=1)
    drawing.commit("unit2", "attempt1", [OTHER])
    assert areas_read(drawing.store) == areas(CLIP, OTHER)


def rewritten(drawing: Drawing, commit: Commit, change: object) -> Commit:
    """The commit with its masks part replaced by a changed copy."""
    parts = []
    for part in commit.parts:
        if part.table == "masks":
            path = drawing.store.full_path(part.path)
            with pq.ParquetFile(path) as file:
                table = change(file.read())  # type: ignore[operator]
            pq.write_table(table, path)
            part = replace(part, bytes=Path(path).stat().st_size)
        parts.append(part)
    return replace(commit, parts=tuple(parts))


def test_parts_of_an_earlier_and_a_later_minor_version_are_read_together(drawing: Drawing) -> None:
    """One file lacks `stability` and `bbox`, one has a column that we do not know, in another order."""
    older, newer = DrawnVideo(video_id="older"), DrawnVideo(video_id="newer")
    staged = drawing.stage("unit1", "attempt1", [older])
    commit_unit(drawing.store, rewritten(drawing, staged, lambda table: table.drop_columns(["stability", "bbox"])))
    staged = drawing.stage("unit2", "attempt1", [newer])
    later = pa.array(["?"] * 40)
    commit_unit(
        drawing.store,
        rewritten(
            drawing,
            staged,
            lambda table: table.add_column(0, "mood", later).select(["mood", *table.column_names[::-1]]),
        ),
    )
    drawing.commit("unit3", "attempt1", [CLIP])
    run = open_run(drawing.store.root_uri)
    assert run.sql("FROM masks").columns == PART_TABLES["masks"].schema.names
    assert areas_read(drawing.store) == areas(older, newer, CLIP)
    boxes = run.sql("SELECT video_id, count(bbox), count(bbox.w) FROM masks GROUP BY 1 ORDER BY 1").fetchall()
    present = sum(area > 0 for area in areas(CLIP).values())
    assert boxes == [("clip", present, present), ("newer", present, present), ("older", 0, 0)]


def test_all_runs_are_read_unless_one_is_named(drawing: Drawing, tmp_path: Path) -> None:
    drawing.commit("unit1", "attempt1", [CLIP])
    draw(drawing.store.root_uri, tmp_path, "run2").commit("unit1", "attempt1", [CLIP])
    every = open_run(drawing.store.root_uri)
    assert every.run_ids == ("run1", "run2")
    assert every.sql("SELECT run_id, count(*) FROM masks GROUP BY 1 ORDER BY 1").fetchall() == [
        ("run1", 40),
        ("run2", 40),
    ]
    assert areas_read(drawing.store, "run2") == areas(CLIP)
    with pytest.raises(ValueError, match="runs run1, run2 have it"):
        every.masks("clip")
    assert {chunk.run_id for chunk in every.masks("clip", run_id="run2")} == {"run2"}


def test_refresh_shows_what_was_committed_since(drawing: Drawing) -> None:
    drawing.commit("unit1", "attempt1", [CLIP])
    run = open_run(drawing.store.root_uri)
    drawing.commit("unit2", "attempt1", [OTHER])
    count = "SELECT (SELECT count(*) FROM masks), (SELECT count(*) FROM commits)"
    assert run.sql(count).fetchall() == [(40, 1)]
    run.refresh()
    assert run.sql(count).fetchall() == [(100, 2)]


def test_a_place_without_runs_is_told(tmp_path: Path, drawing: Drawing) -> None:
    with pytest.raises(ConfigError, match=r"no runs\. Expected the root of a lake"):
        open_run(tmp_path / "nothing")
    drawing.commit("unit1", "attempt1", [CLIP])
    with pytest.raises(ConfigError, match=r"no run 'other'\. Runs there: run1\."):
        open_run(drawing.store.root_uri, "other")


def test_masks_are_decoded_a_chunk_at_a_time(drawing: Drawing) -> None:
    strided = DrawnVideo(video_id="clip", start=3, stop=203, stride=2)
    drawing.commit("unit1", "attempt1", [strided])
    chunks = list(open_run(drawing.store.root_uri).masks("clip", frames_per_chunk=16))
    assert [len(chunk.masks) for chunk in chunks] == ([16] * 6 + [4]) * 2
    for object_id in (1, 2):
        mine = [chunk for chunk in chunks if chunk.object_id == object_id]
        assert {(chunk.query_id, chunk.label) for chunk in mine} == {(f"q{object_id}", f"rectangle {object_id}'s")}
        assert np.concatenate([chunk.frame_index for chunk in mine]).tolist() == list(strided.frames)
        for chunk in mine:
            drawn = np.stack([drawn_mask(object_id, frame) for frame in chunk.frame_index])
            assert (chunk.masks == drawn).all()
            assert (chunk.present == drawn.any(axis=(1, 2))).all()
            assert (chunk.pts_us == chunk.frame_index * 40_000).all()
            assert chunk.confidence.tolist() == [drawn_confidence(object_id, frame) for frame in chunk.frame_index]


def test_masks_of_one_query_and_some_frames(drawing: Drawing) -> None:
    drawing.commit("unit1", "attempt1", [CLIP])
    run = open_run(drawing.store.root_uri)
    (chunk,) = run.masks("clip", query_id="q2", frames=(5, 9))
    assert (chunk.object_id, chunk.frame_index.tolist()) == (2, [5, 6, 7, 8])
    assert list(run.masks("clip", query_id="q2", frames=(50, 90))) == []
    with pytest.raises(ValueError, match=r"object_id 3, query_id None .* Objects there: 1 \(query 'q1'\), 2"):
        run.masks("clip", object_id=3)
    with pytest.raises(ValueError, match="'nope': nothing committed in run run1"):
        run.masks("nope")
    with pytest.raises(ValueError, match="frames_per_chunk 0"):
        run.masks("clip", frames_per_chunk=0)


def test_reading_loads_neither_torch_nor_ray_and_says_nothing(drawing: Drawing) -> None:
    drawing.commit("unit1", "attempt1", [CLIP])
    program = (
        "import sys; from pipeline.query import open_run; "
        "print(open_run(sys.argv[1]).sql('SELECT count(*) AS n FROM masks').fetchall(), "
        "sorted({'torch', 'ray', 'sam2', 'transformers', 'av', 'cv2'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program, drawing.store.root_uri],
        capture_output=True,
        text=True,
        check=True,
    )
    assert (done.stdout, done.stderr) == ("[(40,)] []\n", "")
