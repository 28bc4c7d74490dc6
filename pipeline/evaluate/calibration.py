"""How far a confidence can be believed: reliability tables, and the monotone map that mends it."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.models.confidence import IsotonicMap

Values = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReliabilityBin:
    """Predictions with a confidence in [low, high), the last bin closed.

    Attributes:
        mean_confidence, frequency: of the predictions in the bin, what they claimed and how often they were right;
            None when there are none.
    """

    low: float
    high: float
    count: int
    mean_confidence: float | None
    frequency: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReliabilityTable:
    """Bins from 0 to 1.

    Attributes:
        calibration_error: expected calibration error, the mean over predictions of their bin's
            |mean_confidence - frequency| (Guo et al., ICML 2017, section 2).
        brier_score: mean squared difference of confidence and outcome.
    """

    bins: tuple[ReliabilityBin, ...]
    calibration_error: float
    brier_score: float


def reliability_table(confidences: ArrayLike, outcomes: ArrayLike, *, num_bins: int = 10) -> ReliabilityTable:
    """Claimed against observed frequency, in bins of equal width.

    Args:
        confidences: (N,), 0..1.
        outcomes: bool (N,): whether the prediction was right, for example IoU > 0.5.

    Raises:
        ValueError: not such arrays, or empty ones.
    """
    claimed, happened = _paired(confidences, outcomes)
    if not ((claimed >= 0) & (claimed <= 1)).all() or num_bins < 1:
        raise ValueError(f"confidences {claimed.min()} .. {claimed.max()} in {num_bins} bins: expected 0..1, >= 1 bin.")
    edges = np.linspace(0, 1, num_bins + 1)
    places = np.searchsorted(edges[1:-1], claimed, side="right")
    bins = tuple(
        _bin(float(edges[place]), float(edges[place + 1]), claimed[places == place], happened[places == place])
        for place in range(num_bins)
    )
    gaps = [part.count * abs((part.mean_confidence or 0) - (part.frequency or 0)) for part in bins]
    return ReliabilityTable(
        bins=bins,
        calibration_error=sum(gaps) / len(claimed),
        brier_score=float(((claimed - happened) ** 2).mean()),
    )


def fit_isotonic(scores: ArrayLike, outcomes: ArrayLike) -> IsotonicMap:
    """The never falling map from scores to probabilities with the least squared error, by pooling adjacent violators.

    Source: Ayer et al., Annals of Mathematical Statistics 26, 1955; Zadrozny and Elkan, KDD 2002.

    Args:
        scores: (N,), of any scale, higher for surer; equal ones get one probability.
        outcomes: bool (N,).

    Raises:
        ValueError: not such arrays, or empty ones.
    """
    claimed, happened = _paired(scores, outcomes)
    levels, place = np.unique(claimed, return_inverse=True)
    hits, counts = np.bincount(place, weights=happened), np.bincount(place).astype(np.float64)
    blocks: list[tuple[float, float, int]] = []  # hits, count, number of levels
    for hit, count in zip(hits.tolist(), counts.tolist(), strict=True):
        block = (hit, count, 1)
        while blocks and blocks[-1][0] * block[1] >= block[0] * blocks[-1][1]:
            before = blocks.pop()
            block = (before[0] + block[0], before[1] + block[1], before[2] + block[2])
        blocks.append(block)
    knots: dict[float, float] = {}
    first = 0
    for hit, count, num_levels in blocks:
        for level in (levels[first], levels[first + num_levels - 1]):
            knots[float(level)] = hit / count
        first += num_levels
    return IsotonicMap(scores=tuple(knots), probabilities=tuple(knots.values()))


def _paired(values: ArrayLike, outcomes: ArrayLike) -> tuple[Values, Values]:
    numbers, happened = np.asarray(values, dtype=np.float64), np.asarray(outcomes)
    if numbers.ndim != 1 or numbers.shape != happened.shape or not numbers.size or not np.isfinite(numbers).all():
        raise ValueError(
            f"values {numbers.shape} and outcomes {happened.shape}: expected finite (N,) and (N,), N >= 1."
        )
    if happened.dtype != np.bool_:
        raise ValueError(f"outcomes of {happened.dtype}: expected bool; write `iou > 0.5`.")
    return numbers, happened.astype(np.float64)


def _bin(low: float, high: float, claimed: Values, happened: Values) -> ReliabilityBin:
    if not claimed.size:
        return ReliabilityBin(low=low, high=high, count=0, mean_confidence=None, frequency=None)
    mean, frequency = float(claimed.mean()), float(happened.mean())
    return ReliabilityBin(low=low, high=high, count=claimed.size, mean_confidence=mean, frequency=frequency)
