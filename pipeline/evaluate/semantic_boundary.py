"""Boundary IoU of label maps: agreement within a band along every class's contour.

Source: Cheng et al., "Boundary IoU", CVPR 2021, section 4; the band follows its released code: the mask is padded by
one pixel and eroded by a 3 x 3 square d times, so the frame's edge is a contour too.
"""

from dataclasses import dataclass
from math import hypot
from typing import Any

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[np.integer[Any]]
Counts = NDArray[np.int64]

BAND_SHARE = 0.02
"""Width of the band as a share of the frame's diagonal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundaryCounts:
    """Pixels of the bands per class, (C,); add those of many frames before dividing.

    Attributes:
        shared: in the bands of both sides.
        predicted, true: in the band of one side.
    """

    shared: Counts
    predicted: Counts
    true: Counts

    @classmethod
    def empty(cls, num_classes: int) -> "BoundaryCounts":
        zeros = np.zeros(num_classes, np.int64)
        return cls(shared=zeros, predicted=zeros, true=zeros)

    def __add__(self, other: "BoundaryCounts") -> "BoundaryCounts":
        return BoundaryCounts(
            shared=self.shared + other.shared,
            predicted=self.predicted + other.predicted,
            true=self.true + other.true,
        )

    def mean_iou(self) -> float | None:
        """Mean boundary IoU over the classes that the truth shows; None when it shows none."""
        shown = self.true > 0
        union = (self.predicted + self.true - self.shared)[shown]
        return float((self.shared[shown] / union).mean()) if shown.any() else None


def boundary_counts(
    prediction: Labels, truth: Labels, *, num_classes: int, band_px: int | None = None
) -> BoundaryCounts:
    """Band pixels of one frame; labels outside 0 .. C - 1 belong to no class.

    Where the truth is void the prediction counts as void too, so that a void region's rim is a contour on both sides.

    Args:
        prediction, truth: (H, W), same size.
        band_px: width of the band; `band_width_px` of the frame by default.
    """
    width_px = band_width_px(*truth.shape) if band_px is None else band_px
    prediction = np.where((truth < 0) | (truth >= num_classes), truth, prediction)
    ours, theirs = band_of(prediction, width_px), band_of(truth, width_px)
    return BoundaryCounts(
        shared=_count(truth[ours & theirs & (prediction == truth)], num_classes),
        predicted=_count(prediction[ours], num_classes),
        true=_count(truth[theirs], num_classes),
    )


def band_of(labels: Labels, width_px: int) -> NDArray[np.bool_]:
    """Pixels within `width_px` (chessboard distance) of another label or of the frame's outside; bool (H, W).

    For each class these are the pixels that eroding its mask by a 3 x 3 square `width_px` times removes. All classes
    at once: a pixel stays when no two neighbours within its square of side 2 d + 1 differ.
    """
    padded = np.pad(labels.astype(np.int64), width_px, constant_values=np.iinfo(np.int64).min)
    side = 2 * width_px + 1
    across = _sums(padded[:, 1:] != padded[:, :-1], side, side - 1)
    down = _sums(padded[1:] != padded[:-1], side - 1, side)
    found: NDArray[np.bool_] = (across + down) > 0
    return found


def band_width_px(height: int, width: int) -> int:
    """d of a frame: 3 at 96 x 128, 20 at 480 x 854."""
    return max(1, round(BAND_SHARE * hypot(height, width)))


def _sums(values: NDArray[np.bool_], height: int, width: int) -> Counts:
    """Sums over every window of height x width."""
    total = np.zeros((values.shape[0] + 1, values.shape[1] + 1), np.int64)
    np.cumsum(values, axis=0, out=total[1:, 1:])
    np.cumsum(total, axis=1, out=total)
    return total[height:, width:] - total[:-height, width:] - total[height:, :-width] + total[:-height, :-width]


def _count(labels: Labels, num_classes: int) -> Counts:
    inside = labels[(labels >= 0) & (labels < num_classes)]
    return np.bincount(inside, minlength=num_classes).astype(np.int64)
