"""J and F of one frame: hand-computed values, brute force, an exact distance transform, and laws."""

from math import hypot

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from pipeline.evaluate.boundary import (
    boundary_f,
    boundary_map,
    boundary_tolerance_px,
    jaccard,
    score_frame,
)

Masks = NDArray[np.bool_]
SIZES = [(1, 1), (1, 9), (11, 1), (5, 8), (48, 64), (61, 40)]


def masks(text: str) -> Masks:
    return np.array([[pixel == "#" for pixel in row] for row in text.split()])


def brute_force_boundary(mask: Masks) -> Masks:
    """Pixel by pixel: a neighbour to E, S or SE differs; in the last row or column, E or S alone; never the corner."""
    height, width = mask.shape
    boundary = np.zeros_like(mask)
    for y in range(height):
        for x in range(width):
            if y < height - 1 and x < width - 1:
                neighbours = [(y, x + 1), (y + 1, x), (y + 1, x + 1)]
            elif y < height - 1:
                neighbours = [(y + 1, x)]
            elif x < width - 1:
                neighbours = [(y, x + 1)]
            else:
                neighbours = []
            boundary[y, x] = any(mask[y, x] != mask[there] for there in neighbours)
    return boundary


def padded_boundary(mask: Masks) -> Masks:
    """The same in one line: beyond the frame lies what lies at its edge."""
    padded = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
    return (mask ^ padded[:-1, 1:]) | (mask ^ padded[1:, :-1]) | (mask ^ padded[1:, 1:])


def brute_force_f(mask: Masks, truth: Masks, radius: int) -> float:
    """F from the distances of all boundary pixels to all others, without a crop."""
    ours, theirs = np.argwhere(padded_boundary(mask)), np.argwhere(padded_boundary(truth))
    if not len(ours) or not len(theirs):
        return float(len(ours) == len(theirs))
    is_near = ((ours[:, None] - theirs[None]) ** 2).sum(axis=2) <= radius**2
    return harmonic_mean(is_near.any(axis=1).mean(), is_near.any(axis=0).mean())


def f_by_distance_transform(mask: Masks, truth: Masks) -> float:
    """F of the whole frame with OpenCV's exact Euclidean distances; both masks have a boundary."""
    radius = np.ceil(0.008 * hypot(*mask.shape))
    ours, theirs = padded_boundary(mask), padded_boundary(truth)
    to_ours, to_theirs = (
        cv2.distanceTransform((~side).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE) for side in (ours, theirs)
    )
    return harmonic_mean((to_theirs[ours] <= radius).mean(), (to_ours[theirs] <= radius).mean())


def f_by_dilation(mask: Masks, truth: Masks) -> float:
    """F of the whole frame with OpenCV's dilation by a disk, as the DAVIS script does it."""
    radius = int(np.ceil(0.008 * hypot(*mask.shape)))
    down, right = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    disk = (np.hypot(down, right) <= radius).astype(np.uint8)
    ours, theirs = padded_boundary(mask), padded_boundary(truth)
    near_ours, near_theirs = (cv2.dilate(side.astype(np.uint8), disk) for side in (ours, theirs))
    return harmonic_mean(near_theirs[ours].mean(), near_ours[theirs].mean())


def harmonic_mean(precision: float, recall: float) -> float:
    return float(2 * precision * recall / (precision + recall)) if precision + recall else 0.0


def random_blob(generator: np.random.Generator, height: int, width: int) -> Masks:
    noise = generator.standard_normal((height, width)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), float(generator.uniform(0.5, 6)))
    return smooth > np.quantile(smooth, generator.choice([0.3, 0.7, 0.95]))


def test_the_boundary_of_a_square_lies_on_it_and_one_pixel_towards_the_origin() -> None:
    square = masks("...... ...... ..##.. ..##.. ......")
    assert (boundary_map(square) == masks("...... .###.. .#.#.. .###.. ......")).all()


def test_the_last_row_and_column_of_a_frame_are_a_boundary_only_along_themselves() -> None:
    corner = masks("..... ..... ...## ...##")
    assert (boundary_map(corner) == masks("..... ..### ..#.. ..#..")).all()


def test_a_mask_that_fills_the_frame_has_no_boundary() -> None:
    full, empty = np.ones((5, 7), dtype=np.bool_), np.zeros((5, 7), dtype=np.bool_)
    assert not boundary_map(full).any()
    assert boundary_f(full, empty) == 1.0
    assert jaccard(full, empty) == 0.0


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_the_boundary_map_is_what_the_rule_says_of_each_pixel(height: int, width: int) -> None:
    generator = np.random.default_rng(height * 100 + width)
    for fill in (0.0, 0.1, 0.5, 0.9, 1.0):
        mask = generator.random((height, width)) < fill
        assert (boundary_map(mask) == brute_force_boundary(mask)).all()
        assert (boundary_map(mask) == padded_boundary(mask)).all()


@pytest.mark.parametrize(
    ("height", "width", "radius"),
    [
        (75, 100, 1),
        (76, 100, 2),
        (128, 128, 2),
        (256, 256, 3),
        (480, 854, 8),
        (600, 800, 8),
        (720, 1280, 12),
        (1080, 1920, 18),
    ],
)
def test_the_tolerance_grows_with_the_diagonal(height: int, width: int, radius: int) -> None:
    assert boundary_tolerance_px(height, width) == radius


def test_a_square_of_20_moved_by_2_scores_9_elevenths_and_42_of_80() -> None:
    """Union 22 columns, 18 shared. Of the ring's 80 pixels 20 match above, 20 below, 2 at the sides: radius 1."""
    truth = np.zeros((48, 64), dtype=np.bool_)
    truth[10:30, 12:32] = True
    moved = np.roll(truth, 2, axis=1)
    assert jaccard(moved, truth) == pytest.approx(9 / 11)
    assert boundary_f(moved, truth) == pytest.approx(42 / 80)
    assert boundary_f(moved, truth, tolerance_px=2) == 1.0


def test_precision_and_recall_are_weighed_harmonically() -> None:
    """A second square elsewhere: 28 of 56 predicted boundary pixels match, and 28 of 28 true ones."""
    truth = np.zeros((40, 60), dtype=np.bool_)
    truth[5:12, 5:12] = True
    both = truth.copy()
    both[25:32, 40:47] = True
    assert (boundary_map(truth).sum(), boundary_map(both).sum()) == (28, 56)
    assert boundary_f(both, truth) == pytest.approx(2 * 0.5 * 1 / 1.5)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_f_is_that_of_brute_force_dilation(height: int, width: int) -> None:
    generator = np.random.default_rng(height + width)
    for _ in range(6):
        truth, noise = random_blob(generator, height, width), generator.random((height, width)) < 0.02
        prediction = np.roll(truth, int(generator.integers(-3, 4)), axis=int(generator.integers(2))) ^ noise
        for radius in (0, 1, 2, 5):
            expected = brute_force_f(prediction, truth, radius)
            assert boundary_f(prediction, truth, tolerance_px=radius) == pytest.approx(expected, abs=1e-12)


def test_f_is_that_of_distances_and_of_dilation_on_90_random_pairs() -> None:
    generator = np.random.default_rng(7)
    for _ in range(90):
        height, width = (int(side) for side in generator.integers(60, 400, size=2))
        truth = random_blob(generator, height, width)
        moved = np.roll(truth, generator.integers(-6, 7, size=2).tolist(), axis=(0, 1))
        prediction = moved if generator.random() < 0.7 else random_blob(generator, height, width)
        found = boundary_f(prediction, truth)
        assert found == pytest.approx(f_by_distance_transform(prediction, truth), abs=1e-12)
        assert found == pytest.approx(f_by_dilation(prediction, truth), abs=1e-12)


def test_a_mask_at_the_frames_edge_scores_as_in_the_whole_frame() -> None:
    """The crop may end at the frame's edge or within it: the last row and column must follow the frame's rule."""
    for rows, columns in [(slice(0, 9), slice(0, 9)), (slice(30, 50), slice(60, 70)), (slice(20, 50), slice(0, 70))]:
        truth = np.zeros((50, 70), dtype=np.bool_)
        truth[rows, columns] = True
        prediction = truth.copy()
        prediction[22:27, 5:66] ^= True
        assert boundary_f(prediction, truth) == pytest.approx(brute_force_f(prediction, truth, 1), abs=1e-12)


pairs = st.tuples(st.integers(1, 9), st.integers(1, 13)).flatmap(
    lambda size: st.tuples(arrays(np.bool_, size), arrays(np.bool_, size))
)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(pairs)
def test_scores_are_symmetric_within_0_and_1_and_agree_with_each_other(pair: tuple[Masks, Masks]) -> None:
    mask, truth = pair
    score = score_frame(mask, truth)
    assert score == score_frame(truth, mask)
    assert 0 <= score.j <= 1
    assert 0 <= score.f <= 1
    assert (score.j, score.f) == (jaccard(mask, truth), boundary_f(mask, truth))
    assert (score.j == 1) == bool((mask == truth).all())


@settings(max_examples=60, deadline=None, derandomize=True)
@given(pairs)
def test_a_perfect_mask_scores_1(pair: tuple[Masks, Masks]) -> None:
    score = score_frame(pair[0], pair[0])
    assert (score.j, score.f) == (1.0, 1.0)


def test_two_empty_masks_score_1_and_one_empty_mask_scores_0() -> None:
    empty, dot = np.zeros((6, 10), dtype=np.bool_), masks("...... ..#... ......")
    assert (jaccard(empty, empty), boundary_f(empty, empty)) == (1.0, 1.0)
    nothing = np.zeros_like(dot)
    assert (jaccard(nothing, dot), boundary_f(nothing, dot)) == (0.0, 0.0)
    assert (jaccard(dot, nothing), boundary_f(dot, nothing)) == (0.0, 0.0)


def test_masks_in_column_order_score_the_same() -> None:
    generator = np.random.default_rng(3)
    truth, prediction = random_blob(generator, 50, 81), random_blob(generator, 50, 81)
    assert score_frame(np.asfortranarray(prediction), np.asfortranarray(truth)) == score_frame(prediction, truth)


def test_masks_of_two_sizes_or_of_another_type_are_refused() -> None:
    mask = np.zeros((4, 6), dtype=np.bool_)
    with pytest.raises(ValueError, match="mask of 4 x 6 against truth of 6 x 4"):
        jaccard(mask, mask.T)
    with pytest.raises(ValueError, match="bool array"):
        boundary_f(mask.astype(np.uint8), mask)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="tolerance_px -1"):
        boundary_f(mask, mask, tolerance_px=-1)
