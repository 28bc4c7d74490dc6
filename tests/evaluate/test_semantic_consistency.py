"""Video consistency: the script's quirks beside the strict definition, and label agreement along known flow."""

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.evaluate.semantic import SemanticScorer
from pipeline.evaluate.semantic_consistency import vc_windows, warp_consistency
from pipeline.evaluate.semantic_protocols import VC_OFFICIAL, VC_STRICT, VcRules, semantic_protocol

Maps = NDArray[np.int64]


def brute_force(prediction: Maps, truth: Maps, length: int, rules: VcRules) -> list[float]:
    """The definition, pixel by pixel."""
    shares = []
    for start in range(len(truth) - length + (0 if rules.drops_last_window else 1)):
        wanted = found = 0
        for y, x in np.ndindex(truth.shape[1:]):
            true, ours = truth[start : start + length, y, x], prediction[start : start + length, y, x]
            if len(set(true)) > 1 or (true[0] == 255 and not rules.void_is_a_class):
                continue
            wanted += 1
            found += len(set(ours)) == 1 and (not rules.needs_truth or ours[0] == true[0])
        shares.append(found / wanted if wanted else np.nan)
    return shares


@pytest.mark.parametrize("rules", [VC_OFFICIAL, VC_STRICT])
@pytest.mark.parametrize("num_frames", [2, 3, 4, 9])
def test_windows_are_counted_as_by_hand(rules: VcRules, num_frames: int) -> None:
    chance = np.random.default_rng(num_frames)
    truth = chance.integers(0, 2, (num_frames, 4, 7)) * 255 * (chance.random((1, 4, 7)) < 0.3)
    prediction = (chance.random((num_frames, 4, 7)) < 0.15).astype(np.int64)
    expected = brute_force(prediction, truth, 3, rules)
    np.testing.assert_array_equal(vc_windows(prediction, truth, length=3, rules=rules), expected)


def test_always_wrong_and_constant_is_perfect_officially_and_worthless_strictly() -> None:
    truth, prediction = np.zeros((20, 3, 5), np.int64), np.ones((20, 3, 5), np.int64)
    scorer = SemanticScorer(semantic_protocol("vspw"), num_classes=2)
    scorer.add_video(prediction, truth)
    assert scorer.scores().consistency == {
        "vc_official_8": 1.0,
        "vc_official_16": 1.0,
        "vc_strict_8": 0.0,
        "vc_strict_16": 0.0,
    }


def test_the_official_script_skips_short_videos_and_the_last_window() -> None:
    truth, prediction = np.zeros((8, 2, 3), np.int64), np.zeros((8, 2, 3), np.int64)
    prediction[7] = 1
    assert vc_windows(prediction, truth, length=8, rules=VC_OFFICIAL) == []
    assert vc_windows(prediction, truth, length=8, rules=VC_STRICT) == [0.0]
    assert vc_windows(prediction, truth, length=7, rules=VC_OFFICIAL) == [1.0]


def test_pooled_windows_mix_vc8_into_vc16_where_the_protocol_says_so() -> None:
    truth = np.zeros((18, 2, 3), np.int64)
    prediction = truth.copy()
    prediction[4] = 1
    pooled, plain = (SemanticScorer(semantic_protocol(name), num_classes=2) for name in ("vspw_dvis", "vspw"))
    for scorer in (pooled, plain):
        scorer.add_video(prediction, truth)
    assert plain.scores().consistency["vc_official_16"] == 0.0
    # Ten windows of 8, five of which begin after frame 4; two windows of 16, both with the flicker.
    assert pooled.scores().consistency["vc_official_16"] == pytest.approx(5 / 12)
    assert pooled.scores().consistency["vc_official_8"] == plain.scores().consistency["vc_official_8"] == 0.5


def test_labels_that_move_with_the_flow_are_consistent_and_others_are_not() -> None:
    before = np.arange(35).reshape(5, 7)
    after = np.roll(before, (1, 2), axis=(0, 1))
    backward = np.broadcast_to(np.array([-2.0, -1.0]), (5, 7, 2))
    assert warp_consistency(before, after, backward) == 1.0
    assert warp_consistency(before, after, -backward) == 0.0
    assert warp_consistency(before, after, np.full((5, 7, 2), 9.0)) is None


def test_where_the_flows_disagree_nothing_is_measured() -> None:
    labels = np.zeros((4, 6), np.int64)
    after = labels.copy()
    after[:, :2] = 1
    backward, forward = np.zeros((4, 6, 2)), np.zeros((4, 6, 2))
    forward[:, :2] = 3.0
    assert warp_consistency(labels, after, backward) == pytest.approx(16 / 24)
    assert warp_consistency(labels, after, backward, forward) == 1.0
    with pytest.raises(ValueError, match="expected"):
        warp_consistency(labels, after.T, backward)
