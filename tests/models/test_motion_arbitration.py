"""Which candidate wins: brute force over drawn numbers, and boxes of logits against closed forms."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline.models.motion_arbitration import Candidate, arbitrate, box_or_none, candidate_boxes, iou_with
from pipeline.models.motion_kalman import box_iou
from pipeline.models.motion_warp import logits_box
from tests.models.drawn_motion import World, logits_of

EXPECTED_BOX = (10.0, 20.0, 50.0, 40.0)


def candidate(iou: float, *, prompted: bool = False, score: float = 3.0, dx: float = 0.0) -> Candidate:
    return Candidate(prompted=prompted, predicted_iou=iou, object_score=score, box=(10 + dx, 20, 50 + dx, 40))


def test_the_winner_has_the_best_weighted_score() -> None:
    draws = np.random.default_rng(0)
    for _ in range(200):
        scores = draws.normal(size=2)
        candidates = [
            candidate(draws.uniform(), prompted=place >= 3, score=scores[place // 3], dx=draws.uniform(-40, 40))
            for place in range(6)
        ]
        chosen = arbitrate(candidates, EXPECTED_BOX, 0.25)
        rated = [
            (0.75 * c.predicted_iou + 0.25 * box_iou(c.box, EXPECTED_BOX), -place)
            for place, c in enumerate(candidates)
            if c.object_score > 0 and c.box is not None
        ]
        if rated:
            assert (chosen.score, -chosen.index) == max(rated)
        else:
            assert chosen.index == max(range(3), key=lambda place: candidates[place].predicted_iou)


def test_the_expected_box_turns_the_choice_only_with_weight() -> None:
    near, far = candidate(0.8), candidate(0.9, prompted=True, dx=35.0)
    assert arbitrate([near, far], EXPECTED_BOX, 0.25).index == 0
    assert arbitrate([near, far], EXPECTED_BOX, 0.0).index == 1
    assert arbitrate([near, far], None, 0.25).index == 1
    assert (iou_with(near, EXPECTED_BOX), iou_with(near, None)) == (pytest.approx(1.0), None)
    assert iou_with(replace(near, box=None), EXPECTED_BOX) is None


def test_a_prompt_cannot_bring_back_what_neither_decode_sees() -> None:
    seen, unseen = candidate(0.2, score=-1.0), candidate(0.9, prompted=True, score=-1.0)
    assert arbitrate([seen, unseen], EXPECTED_BOX, 0.25).index == 0
    assert arbitrate([seen, candidate(0.3, prompted=True, score=0.5)], EXPECTED_BOX, 0.25).index == 1


def test_a_tie_goes_to_the_unprompted_candidate() -> None:
    assert arbitrate([candidate(0.7), candidate(0.7, prompted=True)], EXPECTED_BOX, 0.25).index == 0


def test_a_mask_too_large_for_the_object_takes_no_part_beside_one_that_is_not() -> None:
    both, one = replace(candidate(0.9), area=60.0), replace(candidate(0.7, prompted=True), area=40.0)
    assert arbitrate([both, one], EXPECTED_BOX, 0.25).index == 0
    assert arbitrate([both, one], EXPECTED_BOX, 0.25, 50.0).index == 1
    assert arbitrate([both, one], EXPECTED_BOX, 0.25, 60.0).index == 0
    assert arbitrate([both, one], EXPECTED_BOX, 0.25, 30.0).index == 0, "all are too large: none is left out"
    unseen = replace(one, object_score=-1.0)
    assert arbitrate([both, unseen], EXPECTED_BOX, 0.25, 50.0).index == 0, "what is not in view is no way out"


def test_without_an_unprompted_candidate_there_is_nothing_to_arbitrate() -> None:
    with pytest.raises(ValueError, match="unprompted"):
        arbitrate([candidate(0.7, prompted=True)], EXPECTED_BOX, 0.25)


def test_boxes_of_candidates_are_those_of_the_drawn_masks() -> None:
    drawn = World(height=120, width=200, path=lambda t: (90.0, 50.0), sprite=(30.0, 18.0)).draw(0)
    rows, columns = np.nonzero(drawn.mask)
    truth = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    logits = torch.from_numpy(logits_of(drawn.mask, size=(64, 64)))
    boxes = candidate_boxes(torch.stack([logits, torch.full_like(logits, -5)])[None], (120, 200))
    assert boxes.shape == (1, 2, 4)
    np.testing.assert_allclose(boxes[0, 0], truth, atol=2.0)
    np.testing.assert_allclose(boxes[0, 0], logits_box(logits.numpy(), (120, 200)))
    assert box_or_none(boxes[0, 1].tolist()) is None
    assert logits_box(np.full((64, 64), -5, np.float32), (120, 200)) is None
