"""Reliability and the isotonic map: hand-filled bins, the best fit among all, and scikit-learn's knots."""

import json

import numpy as np
import pytest

from pipeline.evaluate.calibration import fit_isotonic, reliability_table
from pipeline.models.confidence import IsotonicMap

SCORES = [0.1, 0.1, 0.2, 0.3, 0.35, 0.4, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
OUTCOMES = np.array([0, 1, 0, 0, 1, 0, 0, 1, 0, 1, 1, 1], dtype=np.bool_)


def test_bins_tell_what_was_claimed_and_what_happened() -> None:
    table = reliability_table([0.0, 0.1, 0.24, 0.25, 0.9, 1.0], np.array([0, 0, 1, 1, 1, 0], np.bool_), num_bins=4)
    assert [part.count for part in table.bins] == [3, 1, 0, 2]
    assert [(part.low, part.high) for part in table.bins] == [(0, 0.25), (0.25, 0.5), (0.5, 0.75), (0.75, 1)]
    assert table.bins[0].mean_confidence == pytest.approx(0.34 / 3)
    assert table.bins[0].frequency == pytest.approx(1 / 3)
    assert (table.bins[2].mean_confidence, table.bins[2].frequency) == (None, None)
    gaps = 3 * abs(0.34 / 3 - 1 / 3) + abs(0.25 - 1) + 2 * abs(0.95 - 0.5)
    assert table.calibration_error == pytest.approx(gaps / 6)
    squares = 0 + 0.1**2 + 0.76**2 + 0.75**2 + 0.1**2 + 1
    assert table.brier_score == pytest.approx(squares / 6)


def test_a_confidence_that_keeps_its_word_has_no_calibration_error() -> None:
    confidences = np.repeat([0.25, 0.75], 4)
    outcomes = np.array([1, 0, 0, 0, 1, 1, 1, 0], dtype=np.bool_)
    assert reliability_table(confidences, outcomes).calibration_error == 0.0


def test_the_isotonic_map_is_the_one_scikit_learn_fits() -> None:
    """scikit-learn 1.9.1: IsotonicRegression(out_of_bounds="clip").fit(SCORES, OUTCOMES).predict(...)."""
    at = [0, 0.1, 0.15, 0.2, 0.3, 0.33, 0.45, 0.5, 0.55, 0.65, 0.75, 0.9, 1]
    sklearn = [0.25, 0.25, 0.25, 0.25, 0.25, 0.3, 5 / 12, 0.5, 0.5, 0.75, 1.0, 1.0, 1.0]
    np.testing.assert_allclose(fit_isotonic(SCORES, OUTCOMES)(at), sklearn, atol=1e-12)


def test_no_rising_map_on_a_grid_fits_better() -> None:
    """All never falling maps from 5 scores to multiples of 1/12: their best misses the very best by 1/24 at most."""
    generator = np.random.default_rng(8)
    grids = np.array(np.meshgrid(*[np.arange(13)] * 5)).reshape(5, -1).T / 12
    rising = grids[(np.diff(grids, axis=1) >= 0).all(axis=1)]
    for _ in range(20):
        scores = generator.integers(0, 5, 30)
        outcomes = generator.random(30) < 0.2 + 0.1 * scores
        best = ((rising[:, scores] - outcomes) ** 2).sum(axis=1).min()
        ours = ((fit_isotonic(scores, outcomes)(scores) - outcomes) ** 2).sum()
        assert ours <= best + 1e-12
        assert ours >= best - 30 * (1 / 24) ** 2


def test_a_fitted_map_never_falls_and_mends_the_calibration_of_what_it_was_fitted_on() -> None:
    generator = np.random.default_rng(9)
    confidences = generator.random(3000)
    outcomes = generator.random(3000) < confidences**3
    mended = fit_isotonic(confidences, outcomes)
    assert (np.diff(mended(np.linspace(-1, 2, 500))) >= 0).all()
    before = reliability_table(confidences, outcomes)
    after = reliability_table(mended(confidences), outcomes)
    assert before.calibration_error > 0.2
    assert after.calibration_error < 0.01
    assert after.brier_score < before.brier_score


def test_a_map_keeps_the_shape_of_scores_and_is_level_beyond_its_knots() -> None:
    mapped = IsotonicMap(scores=(0.0, 2.0), probabilities=(0.2, 0.6))(np.array([[-5.0, 0.0, 1.0], [2.0, 3.0, 0.5]]))
    np.testing.assert_allclose(mapped, [[0.2, 0.2, 0.4], [0.6, 0.6, 0.3]])


def test_a_map_survives_json() -> None:
    fitted = fit_isotonic(SCORES, OUTCOMES)
    assert IsotonicMap.from_json(json.loads(json.dumps(fitted.to_json()))) == fitted
    with pytest.raises(ValueError, match="expected scores and probabilities"):
        IsotonicMap.from_json({"knots": []})


def test_arrays_and_knots_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="expected bool"):
        fit_isotonic([0.1, 0.2], [0, 1])
    with pytest.raises(ValueError, match="finite"):
        fit_isotonic([np.nan], [True])
    with pytest.raises(ValueError, match="N >= 1"):
        reliability_table([], np.zeros(0, np.bool_))
    with pytest.raises(ValueError, match=r"expected 0\.\.1"):
        reliability_table([1.5], [True])
    with pytest.raises(ValueError, match="rising scores"):
        IsotonicMap(scores=(1.0, 1.0), probabilities=(0.1, 0.2))
    with pytest.raises(ValueError, match="never falling"):
        IsotonicMap(scores=(1.0, 2.0), probabilities=(0.3, 0.2))
