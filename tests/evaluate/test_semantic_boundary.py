"""Boundary IoU: a hand-computed frame, and the definition by erosion for random maps."""

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.evaluate.semantic_boundary import BoundaryCounts, band_of, band_width_px, boundary_counts


def eroded_band(mask: NDArray[np.bool_], width_px: int) -> NDArray[np.bool_]:
    """The definition: pad by one pixel, erode by 3 x 3 as often as the band is wide, take what went."""
    padded = np.pad(mask.astype(np.uint8), 1)
    kept = cv2.erode(padded, np.ones((3, 3), np.uint8), iterations=width_px)[1:-1, 1:-1]
    return mask & (kept == 0)


def blobs(seed: int, height: int, width: int) -> NDArray[np.int64]:
    noise = np.random.default_rng(seed).normal(size=(height, width)).astype(np.float32)
    return np.digitize(cv2.GaussianBlur(noise, (0, 0), 4), [-0.05, 0.0, 0.05]).astype(np.int64)


@pytest.mark.parametrize("width_px", [1, 2, 5])
def test_the_band_of_all_classes_at_once_is_what_erosion_removes_of_each(width_px: int) -> None:
    labels = blobs(1, 41, 60)
    band = band_of(labels, width_px)
    for class_id in range(4):
        mask = labels == class_id
        np.testing.assert_array_equal(band & mask, eroded_band(mask, width_px))


def test_counts_are_those_of_the_masks_class_by_class() -> None:
    truth, prediction = blobs(2, 41, 60), blobs(3, 41, 60)
    truth[5:9, 10:30] = 255
    counts = boundary_counts(prediction, truth, num_classes=4, band_px=2)
    seen = np.where(truth == 255, 255, prediction)
    for class_id in range(4):
        ours, theirs = eroded_band(seen == class_id, 2), eroded_band(truth == class_id, 2)
        assert counts.predicted[class_id] == ours.sum()
        assert counts.true[class_id] == theirs.sum()
        assert counts.shared[class_id] == (ours & theirs).sum()


def test_a_square_moved_by_one_pixel_has_the_boundary_iou_computed_by_hand() -> None:
    truth, prediction = np.zeros((9, 11), np.int64), np.zeros((9, 11), np.int64)
    truth[2:6, 2:6] = 1
    prediction[2:6, 3:7] = 1
    counts = boundary_counts(prediction, truth, num_classes=3, band_px=1)
    # Rings of 12 pixels; they share 3 in each of the upper and lower row; the columns cross in no further pixel.
    assert (counts.true[1], counts.predicted[1], counts.shared[1]) == (12, 12, 6)
    ring = 6 / 18
    ground = boundary_counts(1 - prediction, 1 - truth, num_classes=2, band_px=1)
    assert ground.shared[0] == 6
    other = counts.shared[0] / (counts.true[0] + counts.predicted[0] - counts.shared[0])
    assert counts.mean_iou() == pytest.approx((ring + other) / 2)


def test_frames_are_added_up_before_dividing() -> None:
    good, bad = np.zeros((6, 8), np.int64), np.ones((6, 8), np.int64)
    total = BoundaryCounts.empty(2) + boundary_counts(good, good, num_classes=2, band_px=1)
    total += boundary_counts(bad, good, num_classes=2, band_px=1)
    assert total.mean_iou() == 0.5
    assert BoundaryCounts.empty(2).mean_iou() is None


def test_the_band_is_two_percent_of_the_diagonal() -> None:
    assert [band_width_px(480, 854), band_width_px(96, 128), band_width_px(5, 6)] == [20, 3, 1]
