"""Scores of label maps: hand-computed grids, brute force, and the two meanings of mIoU."""

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.evaluate.semantic import (
    SemanticScorer,
    class_ious,
    confusion_matrix,
    miou_all,
    miou_present,
    pixel_accuracy,
)
from pipeline.evaluate.semantic_protocols import semantic_protocol

Grid = NDArray[np.int64]


def grid(text: str) -> Grid:
    """One digit a pixel; "." is void."""
    return np.array([[255 if pixel == "." else int(pixel) for pixel in row] for row in text.split()])


TRUTH = grid("0011 0011 .222")
PREDICTION = grid("0111 0013 0220")


def test_confusion_and_ious_of_a_hand_computed_grid() -> None:
    confusion = confusion_matrix(PREDICTION, TRUTH, num_classes=4)
    # Rows: the four 0s (three found, one called 1), the four 1s (one called 3), the three 2s (one called 0).
    assert confusion.tolist() == [[3, 1, 0, 0, 0], [0, 3, 0, 1, 0], [1, 0, 2, 0, 0], [0, 0, 0, 0, 0]]
    assert class_ious(confusion).tolist() == [3 / 5, 3 / 5, 2 / 3, 0.0]
    assert miou_present(confusion) == pytest.approx((3 / 5 + 3 / 5 + 2 / 3) / 3)
    assert miou_all(confusion) == pytest.approx((3 / 5 + 3 / 5 + 2 / 3 + 0) / 4)
    assert pixel_accuracy(confusion) == pytest.approx(8 / 11)


def test_a_class_that_nobody_shows_counts_zero_in_miou_all_alone() -> None:
    confusion = confusion_matrix(TRUTH, TRUTH, num_classes=6)
    assert (miou_present(confusion), miou_all(confusion)) == (1.0, 0.5)
    assert np.isnan(class_ious(confusion)[3:]).all()


def test_what_was_not_predicted_is_a_miss_and_void_truth_is_left_out() -> None:
    prediction = PREDICTION.copy()
    prediction[0, 0] = 255
    confusion = confusion_matrix(prediction, TRUTH, num_classes=4)
    assert confusion[0].tolist() == [2, 1, 0, 0, 1]
    assert class_ious(confusion)[0] == 2 / 5
    assert confusion.sum() == 11


def test_sums_over_a_set_are_not_means_over_its_videos() -> None:
    scorer = SemanticScorer(semantic_protocol("masklake"), num_classes=2)
    scorer.add_video(grid("00000")[None], grid("00001")[None])
    scorer.add_video(grid("1")[None], grid("1")[None])
    assert scorer.scores().miou == pytest.approx((4 / 5 + 1 / 2) / 2)
    assert scorer.scores().num_frames == 2


@pytest.mark.parametrize(("name", "expected"), [("deliver", 0.5), ("vspw", 1.0)])
def test_the_protocol_chooses_the_headline_miou(name: str, expected: float) -> None:
    scorer = SemanticScorer(semantic_protocol(name), num_classes=6)
    scorer.add_video(TRUTH[None], TRUTH[None])
    scores = scorer.scores()
    assert scores.miou == expected
    assert (scores.miou_present, scores.miou_all, scores.boundary_miou) == (1.0, 0.5, 1.0)
    assert scores.class_iou == (1.0, 1.0, 1.0, None, None, None)
    assert scores.consistency["vc_strict_8"] is None


def test_vspw_ignores_254_and_others_refuse_it() -> None:
    truth = TRUTH.copy()
    truth[0] = 254
    vspw = SemanticScorer(semantic_protocol("vspw"), num_classes=4)
    vspw.add_video(PREDICTION[None], truth[None])
    assert vspw.scores().pixel_accuracy == pytest.approx(5 / 7)
    with pytest.raises(ValueError, match=r"truth: labels \[254\]"):
        SemanticScorer(semantic_protocol("deliver"), num_classes=4).add_video(PREDICTION[None], truth[None])


def test_a_scorer_of_nothing_has_no_scores() -> None:
    scores = SemanticScorer(semantic_protocol("vspw"), num_classes=3).scores()
    assert set(scores.as_dict().values()) == {None}


@pytest.mark.parametrize(
    ("prediction", "truth", "told"),
    [
        (np.zeros((1, 2, 3), int), np.zeros((1, 3, 2), int), "one size"),
        (np.full((1, 2, 3), 4), np.zeros((1, 2, 3), int), "prediction: labels"),
        (np.zeros((1, 2, 3)), np.zeros((1, 2, 3), int), "integers"),
        (np.zeros((2, 3), int), np.zeros((2, 3), int), "at least one frame"),
    ],
)
def test_maps_that_cannot_be_scored_are_refused(prediction: Grid, truth: Grid, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        SemanticScorer(semantic_protocol("masklake"), num_classes=4).add_video(prediction, truth)


def test_an_unknown_protocol_is_refused() -> None:
    with pytest.raises(ValueError, match="vspw_dvis"):
        semantic_protocol("miou")
