"""Measurements on generated clips: perfect, empty and swapped predictions have known answers."""

import json

import numpy as np
import pytest

from pipeline.evaluate.mask_sequences import MaskSequence, no_masks
from pipeline.evaluate.shapesref import METRICS, measure_video
from pipeline.evaluate.slices import Measurement, slice_table
from pipeline.synth.clip import Clip, sample_clip
from pipeline.synth.corpus import truth_row
from pipeline.synth.presets import SUITES


def clip_of(suite: str, index: int = 0, *, height: int = 96, width: int = 128) -> Clip:
    return sample_clip(SUITES[suite].derive(height=height, width=width), 3, "test", index)


def perfect(clip: Clip) -> dict[str, MaskSequence]:
    return {said.expression_id: clip.expression_mask(said) for said in clip.expressions}


def measure(clip: Clip, predictions: dict[str, MaskSequence]) -> tuple[Measurement, ...]:
    row = json.loads(json.dumps(truth_row(clip)))
    return measure_video(row, predictions)


def test_perfect_masks_score_1_on_whatever_applies() -> None:
    applied: set[str] = set()
    for suite in ("streaming24", "tracking_bias", "reappears", "plural", "reversed"):
        clip = clip_of(suite)
        for item in measure(clip, perfect(clip)):
            expected = dict.fromkeys(item.values, 1.0) | {
                name: 0.0
                for name in ("opposite_twin", "switch_delay_frames", "switch_delay_censored", "identity_switches")
                if name in item.values
            }
            assert dict(item.values) == expected
            assert item.clip_id == clip.video_id
            applied |= item.values.keys()
    assert applied == METRICS.keys()


def test_the_masks_of_each_others_expression_are_the_opposite_twins() -> None:
    clip = clip_of("reversed")
    right = perfect(clip)
    for item in measure(clip, {"0": right["1"], "1": right["0"]}):
        assert (item.values["right_twin"], item.values["opposite_twin"]) == (0.0, 1.0)
        assert {"motion", "needs_motion", "twin"} <= item.slices
        assert not {"found", "j_before", "switch_delay_frames"} & item.values.keys(), "visible from frame 0 on"


def test_a_referent_found_three_frames_late_has_that_delay() -> None:
    clip = clip_of("tracking_bias")
    (said,) = clip.expressions
    truth = clip.expression_mask(said)
    twin = clip.object_mask({1: 2, 2: 1}[said.target_ids[0]])
    first = int(truth.any(axis=(1, 2)).argmax())
    prediction = truth.copy()
    prediction[: first + 3] = twin[: first + 3]
    (item,) = measure(clip, {"0": prediction})
    assert (item.values["switch_delay_frames"], item.values["found"]) == (3.0, 1.0)
    assert item.values["j_before"] == 0.0
    assert 0 < item.values["j_since"] < 1
    assert item.values["identity_switches"] == 1.0
    assert item.values["absent_frames_empty"] == 0.0
    assert "late" in item.slices


def test_a_referent_never_found_has_no_delay_but_counts_as_not_found() -> None:
    clip = clip_of("tracking_bias")
    (item,) = measure(clip, {"0": no_masks(96, 128, len(clip.frames))})
    assert item.values["found"] == 0.0
    assert "switch_delay_frames" not in item.values
    first = int(clip.expression_mask(clip.expressions[0]).any(axis=(1, 2)).argmax())
    assert item.values["switch_delay_censored"] == len(clip.frames) - first
    assert (item.values["right_twin"], item.values["opposite_twin"]) == (0.0, 0.0)


def test_masks_for_an_expression_without_target_count_against_its_frames() -> None:
    clips = (clip_of("streaming24", index) for index in range(20))
    clip, said = next((clip, said) for clip in clips for said in clip.expressions if said.kind == "none")
    predictions = perfect(clip)
    masks = np.zeros(clip.labels.shape, dtype=np.bool_)
    masks[:6, 10:20, 10:30] = True
    item = measure(clip, {**predictions, said.expression_id: masks})[int(said.expression_id)]
    assert item.values["no_target_frames_empty"] == 18 / 24
    assert item.values["j"] == 18 / 24
    assert "absent_frames_empty" not in item.values
    assert "none" in item.slices


def test_measurements_make_a_table_by_slice() -> None:
    clips = [clip_of("streaming24", index) for index in range(3)]
    items = [item for clip in clips for item in measure(clip, perfect(clip))]
    table = slice_table(items, seed=1, num_resamples=50)
    assert table.row("all", "j").num_items == 9
    assert table.row("all", "j").num_clips == 3
    assert table.row("all", "j_and_f").mean == 1.0


def test_a_row_or_predictions_that_do_not_fit_are_refused() -> None:
    clip = clip_of("reversed")
    with pytest.raises(ValueError, match="no prediction for expressions 0, 1"):
        measure(clip, {})
    with pytest.raises(ValueError, match=r"expected a row of truth\.jsonl"):
        measure_video({"video_id": "v"}, {})
    with pytest.raises(ValueError, match="frames"):
        measure(clip, {name: masks[1:] for name, masks in perfect(clip).items()})  # type: ignore[index]
