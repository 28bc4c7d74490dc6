"""The multimodal bench by itself: which streets it draws, what a missing sensor becomes, and what its scores are of."""

import numpy as np
import pytest

from pipeline.evaluate.modality_subsets import subset_runs
from pipeline.synth.street_world import STREET_CLASSES
from pipeline.ticks import RGB
from tests.bench.multimodal_report import ON_RGB, WITHOUT_MEMORY, judge
from tests.bench.multimodal_runs import MODALITIES, Scene, confusions, difference, draw_scenes, scene_tick, score


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return draw_scenes("clear_day", 3)


def test_slices_hold_what_their_names_say(scenes: list[Scene]) -> None:
    at_night = draw_scenes("night_failure", 3)
    brightness = [np.mean([scene.images[RGB].mean() for scene in part]) for part in (scenes, at_night)]
    assert brightness[0] > 1.5 * brightness[1]
    assert all(set(scene.images) == set(MODALITIES) for scene in [*scenes, *at_night])
    assert len({scene.truth.tobytes() for scene in [*scenes, *at_night]}) == 6


def test_a_missing_sensor_is_zeros_or_is_not_there(scenes: list[Scene]) -> None:
    scene = scenes[0]
    for protocol in ("skipped", "zero_filled"):
        run = next(run for run in subset_runs(MODALITIES, protocol) if run.present == (RGB, "event"))
        images = scene_tick(scene, run).images
        assert tuple(images) == ((RGB, "event") if protocol == "skipped" else MODALITIES)
        for name, image in images.items():
            assert np.array_equal(image, scene.images[name] if name in run.present else np.zeros_like(image))


def test_truth_scores_one_and_shifted_classes_nothing(scenes: list[Scene]) -> None:
    right = confusions([scene.truth for scene in scenes], scenes)
    shown = {STREET_CLASSES[label] for label in np.unique([scene.truth for scene in scenes])}
    found = score(right)
    assert {name for name, iou in found.class_iou.items() if iou == 1.0} == shown
    assert found.miou == pytest.approx(len(shown) / len(STREET_CLASSES))  # an absent class counts 0
    wrong = confusions([(scene.truth + 1) % len(STREET_CLASSES) for scene in scenes], scenes)
    apart = difference(right, wrong)
    assert apart.points == pytest.approx(100 * found.miou)
    assert difference(right, right).low == difference(right, right).high == 0.0


def test_a_goal_is_missed_held_or_not_run() -> None:
    gains = {"night_failure": 4.9, "clear_day": 0.1}
    report = {
        "slices": {name: {"complete_less_rgb": {"points": points}} for name, points in gains.items()},
        "variants": {},
        "checks": {"bf16_equals_fp32": 0.9951, "batch_equals_alone": 0.999999},
    }
    assert [goal["holds"] for goal in judge(report)] == [False, True, None, None, None, True, False]
    apart = {name: {"model_less_this": {"points": points}} for name, points in {**gains, "mixed": -0.1}.items()}
    report["variants"] = {ON_RGB: apart, WITHOUT_MEMORY: apart}
    assert [goal["holds"] for goal in judge(report)] == [False, True, False, True, False, True, False]
