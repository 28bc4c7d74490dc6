"""Masks over frames: arrays and RLE score alike, void pixels do not count."""

import numpy as np
import pytest

from pipeline.evaluate.boundary import score_frame
from pipeline.evaluate.mask_sequences import (
    RleMasks,
    jaccards,
    masklet_iou,
    no_masks,
    score_frames,
    to_array,
    visible_frames,
)
from pipeline.masks import rle
from tests.evaluate.drawn_masks import HEIGHT, NUM_FRAMES, WIDTH, Masks, drawn_labels


def as_rle(masks: Masks) -> RleMasks:
    counts = tuple(rle.encode(mask) if mask.any() else None for mask in masks)
    return RleMasks(height=masks.shape[1], width=masks.shape[2], counts=counts)


@pytest.mark.parametrize("label", [1, 2, 3])
def test_rle_scores_as_the_array_it_was_made_from(label: int) -> None:
    truth, prediction = (labels == label for labels in drawn_labels())
    expected = score_frames(prediction, truth)
    found = score_frames(as_rle(prediction), as_rle(truth))
    np.testing.assert_array_equal(found.j, expected.j)
    np.testing.assert_array_equal(found.f, expected.f)
    np.testing.assert_allclose(jaccards(as_rle(prediction), as_rle(truth)), expected.j, atol=1e-12)
    np.testing.assert_array_equal(jaccards(prediction, as_rle(truth)), expected.j)
    np.testing.assert_array_equal(to_array(as_rle(truth)), truth)
    np.testing.assert_array_equal(visible_frames(as_rle(truth)), truth.any(axis=(1, 2)))
    np.testing.assert_array_equal(visible_frames(truth), truth.any(axis=(1, 2)))


def test_an_absent_mask_and_an_rle_without_pixels_are_the_same() -> None:
    empty = rle.encode(np.zeros((3, 5), dtype=np.bool_))
    full = rle.encode(np.ones((3, 5), dtype=np.bool_))
    ours = RleMasks(height=3, width=5, counts=(None, empty, None, full, full))
    theirs = RleMasks(height=3, width=5, counts=(empty, None, full, None, empty))
    np.testing.assert_array_equal(jaccards(ours, theirs), [1, 1, 0, 0, 0])
    np.testing.assert_array_equal(visible_frames(ours), [False, False, False, True, True])
    assert not to_array(no_masks(3, 5, 2)).any()


def test_the_overlap_of_masklets_is_that_of_their_volumes() -> None:
    truth = np.zeros((3, 4, 10), dtype=np.bool_)
    truth[0, 0, :6] = truth[1, 0, :2] = True
    prediction = np.zeros_like(truth)
    prediction[0, 0, 3:6] = prediction[2, 0, :1] = True
    assert masklet_iou(prediction, truth) == pytest.approx(3 / 9)
    assert masklet_iou(prediction & False, truth & False) == 1.0


def test_void_pixels_count_in_neither_mask_nor_boundary() -> None:
    truth, prediction = (labels == 1 for labels in drawn_labels())
    void = np.zeros_like(truth)
    void[:, :, 60:] = True
    found = score_frames(prediction, truth, void)
    for frame in range(NUM_FRAMES):
        left = score_frame(prediction[frame] & ~void[frame], truth[frame] & ~void[frame])
        assert (found.j[frame], found.f[frame]) == (left.j, left.f)
    assert (found.j != score_frames(prediction, truth).j).any()
    np.testing.assert_array_equal(jaccards(as_rle(prediction), as_rle(truth), void), found.j)
    everything = np.ones_like(truth)
    np.testing.assert_array_equal(score_frames(prediction, truth, everything).j, np.ones(NUM_FRAMES))


def test_sequences_of_other_lengths_or_sizes_are_refused() -> None:
    truth = np.zeros((NUM_FRAMES, HEIGHT, WIDTH), dtype=np.bool_)
    with pytest.raises(ValueError, match="11 frames against truth of 12"):
        score_frames(truth[1:], truth)
    with pytest.raises(ValueError, match="expected one size"):
        jaccards(as_rle(truth[:, 1:]), as_rle(truth))
    with pytest.raises(ValueError, match="expected one size"):
        masklet_iou(truth[:, 1:], truth)
    with pytest.raises(ValueError, match="expected one size"):
        score_frames(truth, truth, truth[:, :1])
    with pytest.raises(ValueError, match="at least one"):
        jaccards(truth[:0], truth[:0])
