"""Best one-to-one matching of predictions to truths."""

import numpy as np
from numpy.typing import NDArray


def best_assignment(gains: NDArray[np.float64]) -> tuple[int, ...]:
    """For each truth its prediction, each prediction used once, such that the summed gain is greatest.

    Source: Kuhn, "The Hungarian Method for the Assignment Problem", 1955, in the form with potentials and shortest
    augmenting paths: Jonker and Volgenant, Computing 38, 1987. O(truths^2 x predictions).

    Args:
        gains: float64 (P, G), of P predictions and G truths, P >= G.

    Returns:
        G indices of predictions. Which of several equally good matchings is not specified.

    Raises:
        ValueError: there are more truths than predictions, or gains that are not finite.
    """
    if gains.ndim != 2 or gains.shape[0] < gains.shape[1] or not np.isfinite(gains).all():
        raise ValueError(
            f"gains {gains.shape}: expected finite numbers (P, G) with P >= G. "
            "Add empty predictions if there are fewer than truths."
        )
    num_predictions, num_truths = gains.shape
    costs = gains.max(initial=0.0) - gains.T
    prices = np.zeros(num_predictions)
    budgets = np.zeros(num_truths)
    taken_by = np.full(num_predictions, -1)
    for truth in range(num_truths):
        _augment(truth, costs, budgets, prices, taken_by)
    found = np.empty(num_truths, dtype=np.int64)
    found[taken_by[taken_by >= 0]] = np.flatnonzero(taken_by >= 0)
    return tuple(int(prediction) for prediction in found)


def _augment(
    truth: int,
    costs: NDArray[np.float64],
    budgets: NDArray[np.float64],
    prices: NDArray[np.float64],
    taken_by: NDArray[np.int64],
) -> None:
    """Match one truth more, moving others along the cheapest path (Dijkstra over reduced costs)."""
    distance = np.full(len(prices), np.inf)
    came_from = np.full(len(prices), -1)  # the prediction before this one on the path; -1 for the new truth itself
    is_settled = np.zeros(len(prices), dtype=np.bool_)
    row, previous, base = truth, -1, 0.0
    while True:
        through = base + costs[row] - budgets[row] - prices
        is_closer = ~is_settled & (through < distance)
        distance[is_closer], came_from[is_closer] = through[is_closer], previous
        previous = int(np.where(is_settled, np.inf, distance).argmin())
        base = float(distance[previous])
        if taken_by[previous] < 0:
            break
        is_settled[previous], row = True, int(taken_by[previous])
    settled = np.flatnonzero(is_settled)
    budgets[truth] += base
    budgets[taken_by[settled]] += base - distance[settled]
    prices[settled] -= base - distance[settled]
    while previous >= 0:
        before = int(came_from[previous])
        taken_by[previous] = taken_by[before] if before >= 0 else truth
        previous = before
