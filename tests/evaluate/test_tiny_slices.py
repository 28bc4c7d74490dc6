"""The slices against predictions whose scores are known: the truth, the twin, nothing; every key of the JSON."""

import json
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.errors import ConfigError
from pipeline.evaluate.slices import Measurement
from pipeline.evaluate.tiny_ablations import ABLATION_SLICES, VARIANTS, compare, comparisons_text, read_variants
from pipeline.evaluate.tiny_clips import SETS, ClipCase, held_out_seed, iter_cases
from pipeline.evaluate.tiny_slices import (
    SLICES,
    Goal,
    chosen_slices,
    explain_slices,
    measure_case,
    score_slices,
    sets_of,
    slices_json,
    slices_text,
)

Masks = NDArray[np.bool_]
Predict = Callable[[ClipCase, int], Masks]

WANTED = {
    "attribute": "J",
    "motion_still": "J",
    "motion_pan": "J",
    "twin_still": "right",
    "twin_pan": "right",
    "no_target_attribute": "empty",
    "no_target_motion": "empty",
    "streaming24": "J",
    "track_mask": "J",
    "frozen": "right",
    "reversed": "opposite",
}
"""Slice to first column, as readers of the JSON expect them."""


def truth_of(case: ClipCase, place: int) -> Masks:
    kind_and_object = str(case.prompts[place].query_id).split(":")
    if len(kind_and_object) == 2:
        return case.clip.object_mask(int(kind_and_object[1]))
    return case.clip.expression_mask(case.clip.expressions[place])


def twin_of(case: ClipCase, place: int) -> Masks:
    """The other look-alike; the truth of sentences that are about neither."""
    targets = set(case.clip.expressions[place].target_ids)
    others = set(case.clip.twins or ()) - targets
    return case.clip.object_mask(*others) if targets and len(others) == 1 else truth_of(case, place)


def nothing(case: ClipCase, place: int) -> Masks:
    return np.zeros(case.clip.labels.shape, dtype=np.bool_)


def drawn(name: str) -> list[ClipCase]:
    """Few clips of a set, smaller than the evaluation's and not square."""
    clip_set = replace(SETS[name], config=SETS[name].config.derive(height=64, width=96))
    return list(iter_cases(clip_set, held_out_seed(3), 4))


@pytest.fixture(scope="module")
def clips() -> dict[str, list[ClipCase]]:
    return {name: drawn(name) for name in sets_of(SLICES.values())}


def scores(clips: dict[str, list[ClipCase]], predict: Predict, *slices: str) -> dict[str, dict[str, float]]:
    rules = chosen_slices(slices)
    results = {
        name: [
            item
            for case in clips[name]
            for item in measure_case(
                case, {prompt.object_id: predict(case, place) for place, prompt in enumerate(case.prompts)}
            )
        ]
        for name in sets_of(rules.values())
    }
    found = slices_json(score_slices(rules, results, seed=1))
    return json.loads(json.dumps(found))  # type: ignore[no-any-return]


def test_the_truth_scores_1_wherever_that_is_good(clips: dict[str, list[ClipCase]]) -> None:
    found = scores(clips, truth_of)
    assert list(found) == list(SLICES)
    for name, entry in found.items():
        assert entry["n"] > 0, name
        for column in SLICES[name].columns:
            # Whoever follows the forward clip's referent has not noticed that time runs backwards.
            expected = 0.0 if (name, column) == ("reversed", "opposite") else 1.0
            assert entry[column] == expected, (name, column)


def test_every_wanted_key_is_there_with_f_and_n_and_intervals(clips: dict[str, list[ClipCase]]) -> None:
    found = scores(clips, truth_of)
    for name, first in WANTED.items():
        entry = found[name]
        assert next(iter(entry)) == first
        assert {f"{first}_interval", "n", "clips"} <= entry.keys()
        if not name.startswith("no_target"):
            assert {"J", "F", "J&F", "J_interval", "F_interval"} <= entry.keys()
    assert {"J_last8", "F_last8"} <= found["track_mask"].keys()


def test_the_twin_is_the_opposite_one_and_never_right(clips: dict[str, list[ClipCase]]) -> None:
    found = scores(clips, twin_of, "twin_still", "twin_pan", "frozen", "reversed")
    assert [found[name]["right"] for name in ("twin_still", "twin_pan", "frozen")] == [0.0, 0.0, 0.0]
    assert found["reversed"]["opposite"] == 1.0
    assert found["twin_still"]["J"] < 0.2


def test_nothing_predicted_is_right_only_where_nothing_is_meant(clips: dict[str, list[ClipCase]]) -> None:
    found = scores(clips, nothing)
    assert found["no_target_attribute"]["empty"] == found["no_target_motion"]["empty"] == 1.0
    assert found["late"]["empty"] == 1.0
    assert found["late"]["found"] == 0.0
    for name in ("attribute", "motion_still", "track_mask"):
        assert found[name]["J"] < 0.1, name
    assert found["twin_still"]["right"] == found["frozen"]["right"] == found["reversed"]["opposite"] == 0.0


def test_tracking_counts_frames_1_to_the_end_and_the_last_eight(clips: dict[str, list[ClipCase]]) -> None:
    def until_half(case: ClipCase, place: int) -> Masks:
        masks = truth_of(case, place).copy()
        masks[0] = False  # the given frame does not count
        masks[12:] = False
        return masks

    visible = [
        truth_of(case, place).any(axis=(1, 2))
        for case in clips["tracks"]
        for place, prompt in enumerate(case.prompts)
        if str(prompt.query_id).startswith("mask")
    ]
    found = scores(clips, until_half, "track_mask")["track_mask"]
    expected = [np.where(np.arange(24) < 12, True, ~flags)[1:] for flags in visible]
    assert found["J"] == pytest.approx(np.mean([flags.mean() for flags in expected]))
    assert found["J_last8"] == pytest.approx(np.mean([flags[-8:].mean() for flags in expected]))
    assert found["n"] == len(visible)


def test_a_slice_without_items_is_null_and_says_so() -> None:
    rules = chosen_slices(["no_target_motion"])
    empty: dict[str, list[Measurement]] = {"twins": [], "twins_pan": []}
    (score,) = score_slices(rules, empty, seed=1)
    assert slices_json([score]) == {"no_target_motion": {"empty": None, "n": 0, "clips": 0}}
    assert "nothing to measure" in slices_text([score])


def test_goals_are_met_missed_and_printed(clips: dict[str, list[ClipCase]]) -> None:
    assert Goal(column="J", bound=0.8).is_met(0.8)
    assert not Goal(column="right", bound=0.5, is_upper=True).is_met(0.51)
    items = [
        item
        for case in clips["frozen"]
        for item in measure_case(case, {p.object_id: truth_of(case, place) for place, p in enumerate(case.prompts)})
    ]
    text = slices_text(score_slices(chosen_slices(["frozen"]), {"frozen": items}, seed=1))
    assert " ".join(text.splitlines()[1].split()) == "frozen right 1.000 1.000 .. 1.000 8 4 right <= 0.50 MISSED"


def test_every_slice_and_set_is_explained_and_unknown_ones_are_refused() -> None:
    told = explain_slices()
    assert all(f"  {name} " in told for name in (*SLICES, *SETS))
    with pytest.raises(ConfigError, match="slices atribute: no such slices; known: attribute"):
        chosen_slices(["atribute"])


def item(clip: str, **values: float) -> Measurement:
    return Measurement(clip_id=clip, slices=frozenset({"late"}), values=values)


def test_two_measurements_of_the_same_clips_compare_in_pairs() -> None:
    before = [item(str(number), j_since=0.2 + 0.01 * number, found=1.0) for number in range(10)]
    after = [item(str(number), j_since=0.7 + 0.01 * number, found=1.0) for number in range(10)]
    found = {row.column: row for row in compare("tracking_bias", before, after, seed=1)}
    assert set(found) == {"J_since", "found"}
    gain = found["J_since"]
    assert (gain.difference.mean, gain.difference.low, gain.difference.high) == pytest.approx((0.5, 0.5, 0.5))
    assert (gain.as_is.mean, gain.changed.mean) == pytest.approx((0.245, 0.745))
    assert not gain.intervals_overlap
    assert found["found"].intervals_overlap
    assert "APART" in comparisons_text("cme_off", [gain])
    with pytest.raises(ValueError, match="measure the same clips"):
        compare("tracking_bias", before, after[1:], seed=1)


def test_variants_name_known_slices_and_bad_ones_are_refused() -> None:
    assert all(set(variant.slices) <= ABLATION_SLICES.keys() for variant in VARIANTS.values())
    assert read_variants(["trained_without_hsa=a.safetensors"]) == {"trained_without_hsa": "a.safetensors"}
    for pair in ("trained_without_hsa", "without_hsa=a", "cme_off="):
        with pytest.raises(ConfigError, match="expected NAME=CHECKPOINT with one of cme_off"):
            read_variants([pair])
