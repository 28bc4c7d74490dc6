"""How sure a mask is: presence times predicted IoU, and the measured map that makes a probability of it."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.errors import WeightsError

FEATURE = "sigmoid(object_score) * predicted_iou"
"""What a calibration file maps from; a file of another feature is refused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IsotonicMap:
    """A rising map from scores to probabilities, straight between its knots and level beyond them.

    Attributes:
        scores: of the knots, strictly rising.
        probabilities: at the knots, 0..1, never falling.
    """

    scores: tuple[float, ...]
    probabilities: tuple[float, ...]

    def __post_init__(self) -> None:
        scores, probabilities = np.array(self.scores), np.array(self.probabilities)
        if not len(scores) or len(scores) != len(probabilities) or (np.diff(scores) <= 0).any():
            raise ValueError(f"knots {self.scores[:5]} ...: expected rising scores, and as many probabilities.")
        if not ((probabilities >= 0) & (probabilities <= 1)).all() or (np.diff(probabilities) < 0).any():
            raise ValueError(f"probabilities {self.probabilities[:5]} ...: expected 0..1, never falling.")

    def __call__(self, scores: ArrayLike) -> NDArray[np.float64]:
        """Probabilities of scores, float64 of the same shape."""
        return np.asarray(np.interp(np.asarray(scores, dtype=np.float64), self.scores, self.probabilities))

    def to_json(self) -> dict[str, Any]:
        """The knots as JSON takes them."""
        return asdict(self)

    @staticmethod
    def from_json(knots: Mapping[str, Any]) -> "IsotonicMap":
        """The inverse of `to_json`.

        Raises:
            ValueError: not such knots.
        """
        try:
            return IsotonicMap(scores=tuple(knots["scores"]), probabilities=tuple(knots["probabilities"]))
        except (KeyError, TypeError) as error:
            raise ValueError(f"knots with {sorted(knots)}: expected scores and probabilities ({error}).") from error


def raw_confidence(*, object_score: float | None, predicted_iou: float) -> float:
    """sigmoid(object score) times predicted IoU, in 0..1; predicted IoU alone without an object score head.

    The first factor says that the object is in view, the second how good the mask is if it is.
    """
    presence = 1.0 if object_score is None else 0.5 * (1 + math.tanh(object_score / 2))
    return min(1.0, max(0.0, presence * predicted_iou))


def read_calibration(values: Mapping[str, Any], *, name: str) -> IsotonicMap:
    """The map of a calibration file.

    Args:
        name: of the model, for messages.

    Raises:
        WeightsError: it maps from another feature, or its knots are none.
    """
    if values.get("feature") != FEATURE:
        raise WeightsError(
            f"model {name!r}: a calibration of {values.get('feature')!r}; expected {FEATURE!r}. "
            "Measure it with `masklake evaluate tiny --calibrate FILE`."
        )
    try:
        return IsotonicMap.from_json(values["map"])
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"model {name!r}: its calibration has no usable map: {error}") from error
