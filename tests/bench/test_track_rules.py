"""The tracking benchmark measures what it says, and its verdicts tell every rule that fails."""

import numpy as np
import pytest

from pipeline.synth.track_suites import TrackClip, sample_track_clip, track_suite_config
from tests.bench.track_rules import MUST_LOSE, judge
from tests.bench.track_runs import ABLATIONS, VARIANTS, Measures, mean_measures, measure, variant_config


def measures(j: float, j_second: float | None = None, recall: float | None = None) -> Measures:
    second = j if j_second is None else j_second
    return Measures(j=j, j_and_f=j, j_and_f_last=j, j_second=second, recall=recall, switches=0.0, ms=1.0)


@pytest.fixture(scope="module")
def away() -> TrackClip:
    return sample_track_clip(track_suite_config("disappearance", height=128), 5)


def test_true_masks_score_one_and_empty_ones_only_where_nothing_is_there(away: TrackClip) -> None:
    truth = away.object_mask(1)
    perfect = measure(away, {1: list(truth)}, seconds=6.4)
    assert (perfect.j, perfect.j_and_f, perfect.j_second, perfect.recall, perfect.switches) == (1, 1, 1, 1, 0)
    assert perfect.ms == pytest.approx(100)
    nothing = measure(away, {1: list(np.zeros_like(truth))}, seconds=1)
    empty = ~truth.any(axis=(1, 2))
    assert nothing.j == pytest.approx(empty.mean())
    assert nothing.j_second == pytest.approx(empty[32:].mean())
    assert nothing.recall == 0


def test_a_masklet_that_changes_sides_counts_as_a_switch() -> None:
    clip = sample_track_clip(track_suite_config("crossing", height=128), 5)
    swapped = [clip.object_mask(1 if frame < 40 else 2)[frame] for frame in range(64)]
    found = measure(clip, {1: swapped, 2: list(clip.object_mask(2))}, seconds=1)
    assert found.switches == 1
    assert found.recall is None
    assert found.j_second == pytest.approx((1 + 8 / 32) / 2)


def test_means_leave_out_what_was_not_measured() -> None:
    mean = mean_measures([measures(0.2), measures(0.6, recall=0.5)])
    assert (mean.j, mean.recall) == (pytest.approx(0.4), 0.5)


def test_every_variant_is_another_config() -> None:
    configs = [variant_config(variant, base={}) for variant in VARIANTS]
    assert len({config.model_dump_json() for config in configs}) == len(VARIANTS)


def test_a_rule_that_does_not_hold_is_told_whether_or_not_it_is_claimed() -> None:
    good = {variant: measures(0.9, 0.9) for variant in VARIANTS}
    table = {
        "occlusion": {**good, "temporal_fifo": measures(0.5, 0.4), "mgp_off": measures(0.93, 0.8)},
        "crossing": good,
        "static": {**good, "pixel_off": measures(0.88)},
    }
    by_rule = {(row.suite, row.rule.split(" by ")[0]): row for row in judge(table, "toy")}
    assert by_rule["occlusion", "temporal_fifo loses to full"].verdict == "PASS"
    assert by_rule["occlusion", "mgp_off loses to full"].verdict == "FAIL"
    assert by_rule["occlusion", "J of full >= mgp_off - 0.02"].verdict == "FAIL"
    assert by_rule["occlusion", "J of full >= pixel_off - 0.02"].verdict == "PASS"
    crossing = by_rule["crossing", "mgp_off loses to full"]
    assert (crossing.verdict, crossing.claimed) == ("FAIL", False)
    assert all(row.claimed for row in judge(table, "tiny"))
    assert by_rule["static", "J of full and pixel_off within 0.01"].verdict == "FAIL"
    assert by_rule["static", "J of full and mgp_off within 0.01"].verdict == "PASS"


def test_rules_without_their_variants_say_that_they_were_not_run() -> None:
    rows = judge({loss.suite: {"full": measures(0.9)} for loss in MUST_LOSE}, "toy")
    assert {row.verdict for row in rows} == {"not run"}
    assert len(rows) == len({loss.suite for loss in MUST_LOSE}) * len(ABLATIONS) + len(MUST_LOSE)
