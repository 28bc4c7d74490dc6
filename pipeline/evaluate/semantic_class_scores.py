"""F1 and accuracy per class from confusion counts, and means in which an absent class counts 0."""

# Axes: C classes; rows of a confusion matrix are true classes, its last column is "nothing predicted".

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluate.semantic import Counts

Scores = NDArray[np.float64]


def class_f1(confusion: Counts) -> Scores:
    """F1 of each class's pixels (C,), NaN for a class that neither side shows."""
    hits, true, predicted = np.diagonal(confusion), confusion.sum(axis=1), confusion[:, : len(confusion)].sum(axis=0)
    return _ratio(2 * hits, true + predicted)


def class_accuracy(confusion: Counts) -> Scores:
    """Share of each class's true pixels that are found (C,), NaN for a class that the truth does not show."""
    return _ratio(np.diagonal(confusion), confusion.sum(axis=1))


def mean_all(scores: Scores) -> float:
    """Mean over all classes, one without a score counting 0. Source: the evaluator of DELIVER and MCubeS."""
    return float(np.nan_to_num(scores, nan=0.0).mean())


def _ratio(part: Counts, whole: Counts) -> Scores:
    ratio: Scores = np.divide(part, whole, out=np.full(len(part), np.nan), where=whole > 0)
    return ratio
