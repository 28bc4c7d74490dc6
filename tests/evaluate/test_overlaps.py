"""One label map of several score maps: hand-set scores."""

import numpy as np
import pytest

from pipeline.evaluate.overlaps import label_map


def test_the_highest_score_of_half_or_more_takes_the_pixel() -> None:
    scores = np.array([[[0.9, 0.49, 0.5, 0.0]], [[0.6, 0.4, 0.5, 0.7]]], dtype=np.float32)
    np.testing.assert_array_equal(label_map(scores), [[1, 0, 1, 2]])


def test_the_background_wins_where_it_scores_higher() -> None:
    scores = np.array([[[0.2, 0.6, 0.1]], [[0.3, 0.1, 0.2]]], dtype=np.float32)
    np.testing.assert_array_equal(label_map(scores, background=0.25, threshold=0.0), [[2, 1, 0]])


def test_scores_that_are_no_probabilities_are_refused() -> None:
    with pytest.raises(ValueError, match="probabilities"):
        label_map(np.full((1, 2, 3), 1.5, dtype=np.float32))
    with pytest.raises(ValueError, match=r"\(O, H, W\)"):
        label_map(np.zeros((2, 3), dtype=np.float32))
    with pytest.raises(ValueError, match="254"):
        label_map(np.zeros((255, 1, 2), dtype=np.float32))
