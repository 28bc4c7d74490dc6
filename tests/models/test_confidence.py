"""Confidence: presence times predicted IoU, and what a model's own calibration makes of it."""

import math
from dataclasses import replace

import numpy as np
import pytest

from pipeline.errors import WeightsError
from pipeline.methods.samwise import build_segmenter, example_prompts, mini
from pipeline.models.confidence import FEATURE, raw_confidence, read_calibration
from pipeline.segmenter import finish, step
from pipeline.ticks import RGB, Tick

CALIBRATION = {"feature": FEATURE, "map": {"scores": [0.2, 0.6], "probabilities": [0.05, 0.9]}}


@pytest.mark.parametrize(
    ("object_score", "predicted_iou", "expected"),
    [(0.0, 0.8, 0.4), (math.log(3), 0.8, 0.6), (None, 0.8, 0.8), (-1000.0, 1.0, 0.0), (1000.0, 1.2, 1.0)],
)
def test_confidence_is_presence_times_predicted_iou(
    object_score: float | None, predicted_iou: float, expected: float
) -> None:
    assert raw_confidence(object_score=object_score, predicted_iou=predicted_iou) == pytest.approx(expected)


def test_a_model_with_a_calibration_gives_mapped_confidences_and_the_same_masks() -> None:
    config, spec = mini(seed=1)
    generator = np.random.default_rng(0)
    frames = generator.integers(0, 255, size=(3, 40, 64, 3), dtype=np.uint8)
    ticks = [Tick(frame_index=i, pts_us=i, images={RGB: frame}) for i, frame in enumerate(frames)]
    prompts = example_prompts(2, (40, 64))

    def outputs(calibration: dict[str, object] | None) -> list[tuple[float, float | None, bytes]]:
        segmenter = build_segmenter(config, replace(spec, calibration=calibration), "cpu")
        session = segmenter.open(prompts, (40, 64))
        for tick in ticks:
            step(segmenter, [session], [tick])
        masks = [thing for tick in finish(segmenter, session) for thing in tick.objects]
        return [(thing.confidence, thing.predicted_iou, thing.mask.tobytes()) for thing in masks]

    plain, mapped = outputs(None), outputs(CALIBRATION)
    assert len({confidence for confidence, *_ in plain}) > 1
    assert [rest for _, *rest in mapped] == [rest for _, *rest in plain]
    expected = np.interp([confidence for confidence, *_ in plain], [0.2, 0.6], [0.05, 0.9])
    np.testing.assert_allclose([confidence for confidence, *_ in mapped], expected, atol=1e-12)


@pytest.mark.parametrize(
    ("calibration", "told"),
    [
        ({"map": CALIBRATION["map"]}, "a calibration of None"),
        ({**CALIBRATION, "feature": "area"}, "a calibration of 'area'"),
        ({"feature": FEATURE}, "no usable map"),
        ({"feature": FEATURE, "map": {"scores": [1, 0], "probabilities": [0, 1]}}, "expected rising scores"),
    ],
)
def test_a_calibration_that_does_not_fit_is_refused(calibration: dict[str, object], told: str) -> None:
    with pytest.raises(WeightsError, match=told):
        read_calibration(calibration, name="m")
