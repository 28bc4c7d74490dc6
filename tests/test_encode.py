"""Rows against the drawn masks, numpy and pandas; tracks against the same sums done over the whole table at once."""

import pickle
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco

from pipeline.encode import RowContext, TrackAccumulator, encode_tick, frame_row, source_of
from pipeline.ticks import ObjectMask, TickMasks
from schemas.frame_table import FRAMES
from schemas.mask_table import MASKS
from schemas.track_table import SOURCES, TRACKS
from schemas.work_unit import Query
from tests.drawn_lake import HEIGHT, WIDTH, DrawnVideo, context_of, drawn_mask, ticks_of

VIDEO = DrawnVideo(video_id="clip", stop=90, num_objects=3)
CONTEXT = context_of(VIDEO, "run1", "unit1", "attempt1")


def one_object(frame_index: int, mask: np.ndarray[Any, Any], **fields: Any) -> TickMasks:
    seen = ObjectMask(**{"object_id": 1, "mask": mask, "confidence": 0.75, **fields})
    return TickMasks(
        frame_index=frame_index, pts_us=frame_index * 10, height=mask.shape[0], width=mask.shape[1], objects=(seen,)
    )


def test_each_object_has_a_row_on_each_frame_also_when_it_is_absent() -> None:
    for tick_masks in ticks_of(VIDEO):
        batch = encode_tick(tick_masks, CONTEXT)
        assert batch.schema.equals(MASKS)
        for row, object_id in zip(batch.to_pylist(), (1, 2, 3), strict=True):
            mask = drawn_mask(object_id, tick_masks.frame_index)
            assert (row["object_id"], row["frame_index"]) == (object_id, tick_masks.frame_index)
            assert (row["query_id"], row["label"]) == (f"q{object_id}", f"rectangle {object_id}'s")
            assert (row["present"], row["area"]) == (mask.any(), mask.sum())
            assert (row["height"], row["width"]) == (HEIGHT, WIDTH)
            assert (row["rle"] is None, row["bbox"] is None) == (not mask.any(), not mask.any())


def test_the_rle_and_box_are_those_of_pycocotools() -> None:
    mask = np.random.default_rng(0).random((11, 30)) < 0.2
    mask[:, :4] = False
    (row,) = encode_tick(one_object(5, mask), CONTEXT).to_pylist()
    expected = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    assert row["rle"] == expected["counts"]
    assert list(row["bbox"].values()) == coco.toBbox(expected).tolist()


def test_what_a_method_does_not_tell_is_null_and_what_it_tells_stays() -> None:
    mask = np.ones((2, 3), np.bool_)
    (row,) = encode_tick(one_object(0, mask), CONTEXT).to_pylist()
    assert [row[name] for name in ("class_id", "object_score", "predicted_iou", "stability")] == [None] * 4
    told = {"class_id": 7, "object_score": -1.5, "predicted_iou": 0.5, "stability": 0.25}
    (row,) = encode_tick(one_object(0, mask, **told), CONTEXT).to_pylist()
    assert {name: row[name] for name in told} == told


def test_an_object_nobody_asked_for_is_labelled_by_its_class() -> None:
    context = RowContext(
        run_id="r", dataset=None, video_id="v", unit_id="u", attempt_id="a", queries={}, class_names={4: "road"}
    )
    mask = np.ones((2, 3), np.bool_)
    (row,) = encode_tick(one_object(0, mask, class_id=4), context).to_pylist()
    assert (row["dataset"], row["query_id"], row["label"]) == (None, None, "road")
    (row,) = encode_tick(one_object(0, mask, class_id=5), context).to_pylist()
    assert row["label"] is None


def test_a_frame_without_objects_gives_no_mask_row_but_a_frame_row() -> None:
    tick_masks = TickMasks(frame_index=3, pts_us=30, height=4, width=6, objects=())
    assert encode_tick(tick_masks, CONTEXT).num_rows == 0
    (row,) = frame_row(tick_masks, CONTEXT).to_pylist()
    assert (row["frame_index"], row["n_objects"], row["flags"]) == (3, 0, [])


def test_a_frame_row_counts_the_objects_in_view_and_keeps_flags() -> None:
    batch = pa.Table.from_batches([frame_row(tick_masks, CONTEXT, infer_us=9) for tick_masks in ticks_of(VIDEO)])
    assert batch.schema.equals(FRAMES)
    for row in batch.to_pylist():
        frame_index = row["frame_index"]
        assert row["n_objects"] == sum(drawn_mask(object_id, frame_index).any() for object_id in (1, 2, 3))
        assert row["flags"] == (["memory_reset"] if frame_index % 10 == 0 else [])
        assert (row["decode_ok"], row["is_key"], row["infer_us"]) == (True, None, 9)


@pytest.mark.parametrize(
    ("tick_masks", "message"),
    [
        (
            TickMasks(
                frame_index=8,
                pts_us=0,
                height=4,
                width=6,
                objects=(ObjectMask(object_id=2, mask=np.ones((6, 4), np.bool_), confidence=1.0),),
            ),
            r"'clip', frame 8, object 2: mask of shape \(6, 4\), expected \(4, 6\) \(height, width\)",
        ),
        (one_object(8, np.ones((4, 6), np.uint8)), "expected a bool array"),
        (one_object(8, np.ones((4, 6), np.bool_), confidence=1.01), "confidence 1.01, expected 0 to 1"),
        (one_object(8, np.ones((4, 6), np.bool_), confidence=float("nan")), "confidence nan, expected 0 to 1"),
        (
            TickMasks(
                frame_index=8,
                pts_us=0,
                height=4,
                width=6,
                objects=(ObjectMask(object_id=2, mask=np.ones((4, 6), np.bool_), confidence=1.0),) * 2,
            ),
            r"objects \[2, 2\], expected each object once",
        ),
    ],
)
def test_masks_that_break_the_contract_are_refused(tick_masks: TickMasks, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        encode_tick(tick_masks, CONTEXT)


def stretches(rows: pd.DataFrame, shortest: int) -> list[dict[str, int]]:
    """Runs of low confidence by walking over the rows."""
    found, run = [], []
    for row in [*rows.itertuples(), None]:
        if row is not None and row.confidence < 0.5:
            run.append(row.frame_index)
            continue
        if len(run) >= shortest:
            found.append({"start": run[0], "end": run[-1] + 1})
        run = []
    return found


def expected_track(rows: pd.DataFrame) -> dict[str, Any]:
    """A track row by pandas, from all of its mask rows."""
    seen = rows[rows.present]
    first = None if seen.empty else int(seen.frame_index.min())
    last = None if seen.empty else int(seen.frame_index.max())
    between = rows[(rows.frame_index > (first or 0)) & (rows.frame_index < (last or 0))]
    borders = [
        box["x"] == 0 or box["y"] == 0 or box["x"] + box["w"] == WIDTH or box["y"] + box["h"] == HEIGHT
        for box in seen.bbox
    ]
    flags = {"has_gap": not between.present.all(), "never_present": seen.empty, "touches_border": any(borders)}
    return {
        "first_frame": first,
        "last_frame": last,
        "n_frames": len(rows),
        "n_present": len(seen),
        "confidence_mean": pytest.approx(rows.confidence.mean()),
        "confidence_min": pytest.approx(rows.confidence.min()),
        "confidence_p10": pytest.approx(np.quantile(rows.confidence, 0.1, method="inverted_cdf"), abs=0.001),
        "low_conf_runs": stretches(rows, 5),
        "area_mean": None if seen.empty else pytest.approx(seen.area.mean()),
        "area_min": None if seen.empty else seen.area.min(),
        "area_max": None if seen.empty else seen.area.max(),
        "flags": [name for name in sorted(flags) if flags[name]],
    }


def assert_tracks_are_as_pandas_says(batches: list[pa.RecordBatch], context: RowContext) -> None:
    tracks = TrackAccumulator(context)
    for batch in batches:
        tracks.add(batch)
    table = pa.Table.from_batches(batches).to_pandas()
    result = tracks.rows()
    assert result.schema.equals(TRACKS)
    assert result["object_id"].to_pylist() == sorted(table.object_id.unique())
    for row in result.to_pylist():
        expected = expected_track(table[table.object_id == row["object_id"]])
        assert {name: row[name] for name in expected} == expected


@pytest.mark.parametrize("video", [VIDEO, DrawnVideo(video_id="strided", start=40, stop=400, stride=4)])
def test_tracks_are_the_sums_over_the_masks_table(video: DrawnVideo) -> None:
    context = context_of(video, "run1", "unit1", "attempt1")
    assert_tracks_are_as_pandas_says([encode_tick(tick_masks, context) for tick_masks in ticks_of(video)], context)


frames = st.lists(st.tuples(st.booleans(), st.floats(0, 1, width=32), st.integers(0, HEIGHT - 3)), min_size=1)


@settings(max_examples=60, deadline=None)
@given(frames)
def test_tracks_of_any_frames_are_the_sums_over_the_masks_table(drawn: list[tuple[bool, float, int]]) -> None:
    batches = []
    for frame_index, (present, confidence, top) in enumerate(drawn):
        mask = np.zeros((HEIGHT, WIDTH), np.bool_)
        mask[top : top + 3, 5:9] = present
        batches.append(encode_tick(one_object(3 * frame_index, mask, confidence=confidence), CONTEXT))
    assert_tracks_are_as_pandas_says(batches, CONTEXT)


@pytest.mark.parametrize(("num_low", "expected"), [(0, 0.9), (1, 0.1), (2, 0.1)])
def test_a_tenth_of_the_frames_is_enough_for_the_tenth_percentile(num_low: int, expected: float) -> None:
    tracks = TrackAccumulator(CONTEXT)
    mask = np.ones((2, 3), np.bool_)
    for frame_index in range(10):
        confidence = 0.1 if frame_index < num_low else 0.9
        tracks.add(encode_tick(one_object(frame_index, mask, confidence=confidence), CONTEXT))
    assert tracks.rows()["confidence_p10"].to_pylist() == [pytest.approx(expected, abs=0.001)]


def test_tracks_go_on_from_a_snapshot_as_if_nothing_had_happened() -> None:
    batches = [encode_tick(tick_masks, CONTEXT) for tick_masks in ticks_of(VIDEO)]
    whole, first, second = TrackAccumulator(CONTEXT), TrackAccumulator(CONTEXT), TrackAccumulator(CONTEXT)
    for batch in batches:
        whole.add(batch)
    for batch in batches[:47]:
        first.add(batch)
    state = first.state_dict()
    first.add(batches[47])  # what follows must not reach into the snapshot
    second.load_state_dict(state)
    for batch in batches[47:]:
        second.add(batch)
    assert second.rows().equals(whole.rows())


def test_a_track_has_the_class_given_most_often() -> None:
    tracks = TrackAccumulator(CONTEXT)
    mask = np.ones((2, 3), np.bool_)
    for frame_index, class_id in enumerate([5, 3, None, 3, 5, 9]):
        tracks.add(encode_tick(one_object(frame_index, mask, class_id=class_id), CONTEXT))
    (row,) = tracks.rows({1: [4, 6]}).to_pylist()
    assert (row["class_id"], row["merged_from"]) == (3, [4, 6])


def test_a_tracks_memory_does_not_grow_with_the_video() -> None:
    tracks = TrackAccumulator(CONTEXT)
    batch = encode_tick(one_object(0, np.ones((2, 3), np.bool_)), CONTEXT)
    for _ in range(300):
        tracks.add(batch)
    small = len(pickle.dumps(tracks.state_dict()))
    for _ in range(3000):
        tracks.add(batch)
    assert len(pickle.dumps(tracks.state_dict())) < small + 20


@pytest.mark.parametrize(
    ("query", "source"),
    [
        (None, "method"),
        (Query(object_id=1, query_id="0", text="the dog", box=(0.0, 0.0, 1.0, 1.0)), "text"),
        (Query(object_id=1, query_id="0", mask_rle={"size": [1, 1], "counts": "01"}), "mask"),
        (Query(object_id=1, query_id="0", box=(0.0, 0.0, 1.0, 1.0), points=((1.0, 2.0, 1),)), "box"),
        (Query(object_id=1, query_id="0", points=((1.0, 2.0, 1),)), "points"),
    ],
)
def test_a_track_tells_what_it_was_asked_by(query: Query | None, source: str) -> None:
    assert source_of(query) == source
    assert source in SOURCES
