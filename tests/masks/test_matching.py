"""The matching of predictions to truths against trying every one."""

from itertools import permutations

import numpy as np
import pytest

from pipeline.masks.matching import best_assignment


@pytest.mark.parametrize("num_truths", [0, 1, 2, 4])
@pytest.mark.parametrize("num_more", [0, 1, 3])
def test_the_matching_is_as_good_as_the_best_of_all(num_truths: int, num_more: int) -> None:
    generator = np.random.default_rng(num_truths * 10 + num_more)
    for trial in range(40):
        size = (num_truths + num_more, num_truths)
        gains = generator.random(size) if trial % 2 else generator.integers(-3, 4, size).astype(np.float64)
        found = best_assignment(gains)
        assert len(set(found)) == num_truths
        totals = (
            sum(gains[chosen, truth] for truth, chosen in enumerate(choice))
            for choice in permutations(range(size[0]), num_truths)
        )
        assert sum(gains[chosen, truth] for truth, chosen in enumerate(found)) == pytest.approx(max(totals))


def test_a_truth_gives_up_its_favourite_where_that_helps_another_more() -> None:
    assert best_assignment(np.array([[0.9, 0.8], [0.7, 0.1]])) == (1, 0)


def test_fewer_predictions_than_truths_or_gains_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="P >= G"):
        best_assignment(np.zeros((1, 2)))
    with pytest.raises(ValueError, match="finite"):
        best_assignment(np.array([[np.nan]]))
