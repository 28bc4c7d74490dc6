"""Scores by slice, each with a bootstrap interval: tables of what is hard."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

ALL = "all"
"""The slice of every measurement."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """What was measured on one item (an expression, an object) of a clip.

    Attributes:
        clip_id: the unit of resampling: items of one clip are not independent.
        slices: names of the slices the item is in, `ALL` excepted.
        values: metric to value; a metric that does not apply to the item is left out. For the difference of two runs,
            the differences of their values.
    """

    clip_id: str
    slices: frozenset[str]
    values: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceRow:
    """One cell of the table.

    Attributes:
        mean: over the items of the slice that have the metric.
        low, high: percentile interval of the mean under resampling of clips; no width where there is one clip.
    """

    slice: str
    metric: str
    mean: float
    low: float
    high: float
    num_items: int
    num_clips: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceTable:
    """Rows by slice, `ALL` first, then by metric; and how the intervals were made."""

    rows: tuple[SliceRow, ...]
    level: float
    num_resamples: int
    seed: int

    def row(self, slice_name: str, metric: str) -> SliceRow:
        """One cell.

        Raises:
            ValueError: no item of the slice has the metric.
        """
        for row in self.rows:
            if (row.slice, row.metric) == (slice_name, metric):
                return row
        known = ", ".join(sorted({f"{row.slice}/{row.metric}" for row in self.rows}))
        raise ValueError(f"No {slice_name}/{metric} in the table; it has {known}.")

    def to_json(self) -> dict[str, Any]:
        """The table as JSON takes it."""
        return asdict(self) | {"rows": [asdict(row) for row in self.rows]}

    @staticmethod
    def from_json(table: Mapping[str, Any]) -> "SliceTable":
        """The inverse of `to_json`.

        Raises:
            ValueError: not such a table.
        """
        try:
            rows = tuple(SliceRow(**row) for row in table["rows"])
            return SliceTable(**{**table, "rows": rows})
        except (KeyError, TypeError) as error:
            raise ValueError(f"slice table with {sorted(table)}: not one that `to_json` wrote ({error}).") from error


def slice_table(
    measurements: Iterable[Measurement], *, seed: int, num_resamples: int = 1000, level: float = 0.95
) -> SliceTable:
    """Means by slice and metric with percentile bootstrap intervals (Efron and Tibshirani, 1993, chapter 13).

    Clips are drawn with replacement, the same draws for all rows, so that rows of one table compare. A draw without
    any clip of the slice says nothing of the slice and is left out.

    Args:
        num_resamples: draws of as many clips as there are.
        level: share of the draws' means that lie within the interval.

    Raises:
        ValueError: there is nothing to measure, a value is not finite, or the level is not between 0 and 1.
    """
    items = list(measurements)
    if not items or not 0 < level < 1 or num_resamples < 1:
        raise ValueError(
            f"{len(items)} measurements, {num_resamples} resamples, level {level}: "
            "expected at least one of each, and 0 < level < 1."
        )
    clips = {clip_id: place for place, clip_id in enumerate(dict.fromkeys(item.clip_id for item in items))}
    draws = _draw(len(clips), num_resamples, seed)
    rows = []
    for slice_name, metric in _cells(items):
        values = [
            (clips[item.clip_id], item.values[metric])
            for item in items
            if metric in item.values and (slice_name == ALL or slice_name in item.slices)
        ]
        rows.append(_row(slice_name, metric, values, draws, level))
    return SliceTable(rows=tuple(rows), level=level, num_resamples=num_resamples, seed=seed)


def _cells(items: Sequence[Measurement]) -> list[tuple[str, str]]:
    """Slices and metrics that some item has, in the order of the table."""
    found: set[tuple[str, str]] = set()
    for item in items:
        for metric, value in item.values.items():
            if not math.isfinite(value):
                raise ValueError(f"{item.clip_id}: {metric} is {value}; leave out a metric that does not apply.")
            found |= {(slice_name, metric) for slice_name in (ALL, *item.slices)}
    if not found:
        raise ValueError(f"{len(items)} measurements, and none has a value.")
    return sorted(found, key=lambda cell: (cell[0] != ALL, cell))


def _draw(num_clips: int, num_resamples: int, seed: int) -> NDArray[np.float64]:
    """How often each clip is drawn in each resample, (R, C)."""
    generator = np.random.default_rng(seed)
    even = np.full(num_clips, 1 / num_clips)
    return generator.multinomial(num_clips, even, size=num_resamples).astype(np.float64)


def _row(
    slice_name: str, metric: str, values: Sequence[tuple[int, float]], draws: NDArray[np.float64], level: float
) -> SliceRow:
    places, numbers = np.array([place for place, _ in values]), np.array([number for _, number in values])
    num_clips = draws.shape[1]
    counts = np.bincount(places, minlength=num_clips).astype(np.float64)
    sums = np.bincount(places, weights=numbers, minlength=num_clips)
    drawn = draws @ counts
    means = (draws @ sums)[drawn > 0] / drawn[drawn > 0]
    mean = float(numbers.mean())
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2]) if means.size else (mean, mean)
    return SliceRow(
        slice=slice_name,
        metric=metric,
        mean=mean,
        low=float(low),
        high=float(high),
        num_items=len(values),
        num_clips=int(np.count_nonzero(counts)),
    )
