"""Macros against pandas doing the same by brute force over the whole masks table."""

from collections.abc import Callable, Iterator

import pandas as pd
import pytest

from pipeline.io.storage import open_store
from pipeline.query import Run, open_run
from pipeline.query_macros import MACROS, describe_macros
from tests.drawn_lake import HEIGHT, WIDTH, Drawing, DrawnVideo

CLIP = DrawnVideo(video_id="clip", stop=130, num_objects=3)
STRIDED = DrawnVideo(video_id="strided", start=5, stop=305, stride=3)
KEY = ["run_id", "video_id", "object_id"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    place = tmp_path_factory.mktemp("lake")
    for run_id in ("run1", "run2"):
        drawing = Drawing(store=open_store(place / "lake"), scratch=place / "scratch", run_id=run_id)
        drawing.commit("unit1", "attempt1", [CLIP])
        drawing.commit("unit2", "attempt1", [STRIDED])
    with open_run(place / "lake") as opened:
        yield opened


@pytest.fixture(scope="module")
def masks(run: Run) -> pd.DataFrame:
    return run.sql("SELECT * FROM masks").df().sort_values([*KEY, "frame_index"])


def stretches(
    masks: pd.DataFrame, holds: Callable[[pd.DataFrame], "pd.Series[bool]"], shortest: int
) -> list[tuple[str, str, int, int, int, int]]:
    """(key, start, stop, rows) of runs of rows for which `holds`, by walking."""
    found = []
    for key, rows in masks.groupby(KEY, observed=True):
        run: list[int] = []
        for frame, good in [*zip(rows.frame_index, holds(rows), strict=True), (None, False)]:
            if good:
                run.append(frame)
                continue
            if len(run) >= shortest:
                found.append((*key, run[0], run[-1] + 1, len(run)))
            run = []
    return sorted(found)


def test_every_macro_is_documented_and_its_example_runs(run: Run) -> None:
    text = describe_macros()
    for macro in MACROS:
        assert macro.signature in text
        assert run.sql(macro.example).fetchall()


def test_object_in_video_gives_its_rows_in_order(run: Run, masks: pd.DataFrame) -> None:
    rows = run.sql("SELECT run_id, frame_index FROM object_in_video('strided', 2)").fetchall()
    expected = masks[(masks.video_id == "strided") & (masks.object_id == 2)]
    assert rows == list(zip(expected.run_id, expected.frame_index, strict=True))


@pytest.mark.parametrize(("threshold", "shortest"), [(0.5, 10), (0.5, 1), (0.3, 1), (0.9, 20), (0.0, 1)])
def test_low_confidence_runs_are_those_of_a_walk(
    run: Run, masks: pd.DataFrame, threshold: float, shortest: int
) -> None:
    rows = run.sql(
        "SELECT run_id, video_id, object_id, start_frame, stop_frame, num_frames FROM low_confidence_runs(?, ?)",
        params=[threshold, shortest],
    ).fetchall()
    assert rows == stretches(masks, lambda rows: rows.confidence < threshold, shortest)


def test_low_confidence_runs_tell_how_often_the_object_was_there(run: Run, masks: pd.DataFrame) -> None:
    for row in run.sql("FROM low_confidence_runs(0.5, 5)").df().itertuples():
        of_run = masks[
            (masks.run_id == row.run_id)
            & (masks.video_id == row.video_id)
            & (masks.object_id == row.object_id)
            & masks.frame_index.between(row.start_frame, row.stop_frame - 1)
        ]
        assert row.num_present == of_run.present.sum()
        assert row.confidence_mean == pytest.approx(of_run.confidence.mean())
        assert (row.query_id, row.label) == (f"q{row.object_id}", f"rectangle {row.object_id}'s")


def test_low_confidence_runs_are_those_of_the_tracks_table(run: Run) -> None:
    listed = run.sql(
        "SELECT run_id, video_id, object_id, stretch.start, stretch.end "
        "FROM (SELECT run_id, video_id, object_id, unnest(low_conf_runs) AS stretch FROM tracks) ORDER BY ALL"
    ).fetchall()
    found = run.sql(
        "SELECT run_id, video_id, object_id, start_frame, stop_frame FROM low_confidence_runs(0.5, 5) ORDER BY ALL"
    ).fetchall()
    assert listed == found
    assert len(found) > 10


def test_presence_is_that_of_a_walk(run: Run, masks: pd.DataFrame) -> None:
    rows = run.sql("SELECT run_id, object_id, start_frame, stop_frame, num_frames FROM presence('clip')").fetchall()
    expected = stretches(masks[masks.video_id == "clip"], lambda rows: rows.present, 1)
    assert rows == [(name, object_id, *stretch) for name, _, object_id, *stretch in expected]
    seconds = run.sql("SELECT start_frame, stop_frame, start_seconds, last_seconds FROM presence('clip')").fetchall()
    for start, stop, start_seconds, last_seconds in seconds:
        assert (start_seconds, last_seconds) == (pytest.approx(start * 0.04), pytest.approx((stop - 1) * 0.04))


def test_area_by_second_is_that_of_pandas(run: Run, masks: pd.DataFrame) -> None:
    of_video = masks[masks.video_id == "strided"].assign(second=lambda rows: rows.pts_us // 1_000_000)
    expected = of_video.groupby(["run_id", "object_id", "second"], observed=True).area.agg(["count", "mean", "max"])
    rows = run.sql("FROM area_by_second('strided')").df()
    assert rows[["num_frames", "area_mean", "area_max"]].to_numpy() == pytest.approx(expected.to_numpy(dtype=float))
    assert rows.second.tolist() == [second for _, _, second in expected.index]
    assert rows.area_share.to_numpy() == pytest.approx(rows.area_mean.to_numpy() / (HEIGHT * WIDTH))


def test_best_frames_are_those_of_a_sort(run: Run, masks: pd.DataFrame) -> None:
    seen = masks[masks.present].sort_values(["confidence", "frame_index"], ascending=[False, True])
    expected = sorted(
        (*key, place + 1, frame)
        for key, rows in seen.groupby(KEY, observed=True)
        for place, frame in enumerate(rows.frame_index[:4])
    )
    rows = run.sql("SELECT run_id, video_id, object_id, place, frame_index FROM best_frames(4)").fetchall()
    assert rows == expected


def test_coverage_is_that_of_pandas(run: Run, masks: pd.DataFrame) -> None:
    rows = run.sql("FROM coverage()").fetchall()
    expected = []
    for (run_id, video_id), of_video in masks.groupby(["run_id", "video_id"], observed=True):
        by_frame = of_video.groupby("frame_index")
        share = (by_frame.area.sum() / (HEIGHT * WIDTH)).mean()
        num_objects = of_video.object_id.nunique()
        present = by_frame.present.any().mean()
        seen = of_video[of_video.present].object_id.nunique()
        expected.append(
            (run_id, video_id, len(by_frame), num_objects, seen, pytest.approx(present), pytest.approx(share))
        )
    assert rows == expected
