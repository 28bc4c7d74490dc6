"""RLE against pycocotools called directly, and against plain numpy on the decoded pixels."""

import warnings

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as coco

from pipeline.masks import rle
from pipeline.masks.geometry import Box, bounding_box
from pipeline.ticks import Mask

sizes = st.tuples(st.integers(1, 40), st.integers(1, 40))


@st.composite
def masks(draw: st.DrawFn, size: tuple[int, int] | None = None) -> Mask:
    """Noise within a window, so that empty borders of every kind occur."""
    height, width = size or draw(sizes)
    top, left = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
    bottom, right = draw(st.integers(top, height)), draw(st.integers(left, width))
    mask = np.zeros((height, width), np.bool_)
    mask[top:bottom, left:right] = draw(arrays(np.bool_, (bottom - top, right - left)))
    return mask


def by_pycocotools(mask: Mask) -> bytes:
    return bytes(coco.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"])


@settings(max_examples=400, deadline=None)
@given(masks())
@example(np.zeros((3, 5), np.bool_))
@example(np.ones((3, 5), np.bool_))
@example(np.eye(7, 4, dtype=np.bool_))
def test_counts_are_those_of_pycocotools_byte_for_byte(mask: Mask) -> None:
    assert rle.encode(mask) == by_pycocotools(mask)
    assert rle.encode(np.asfortranarray(mask), bounding_box(mask)) == by_pycocotools(mask)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 5), (480, 854), (1080, 1920), (1, 100_000), (40_000, 2)])
def test_counts_of_large_frames_are_those_of_pycocotools(height: int, width: int) -> None:
    random = np.random.default_rng(height)
    for _ in range(4):
        top, left = random.integers(height), random.integers(width)
        mask = np.zeros((height, width), np.bool_)
        mask[top : top + height // 3 + 1, left : left + width // 5 + 1] = True
        mask &= random.random((height, width)) < 0.98
        assert rle.encode(mask) == by_pycocotools(mask)


@settings(max_examples=100, deadline=None)
@given(masks())
def test_a_mask_survives_the_round_trip(mask: Mask) -> None:
    assert (rle.decode(rle.encode(mask), *mask.shape) == mask).all()


@settings(max_examples=100, deadline=None)
@given(masks())
def test_area_and_box_are_those_of_the_pixels(mask: Mask) -> None:
    counts = rle.encode(mask)
    assert rle.area(counts, *mask.shape) == mask.sum()
    y, x = np.nonzero(mask)
    expected = Box(left=x.min(), top=y.min(), right=x.max() + 1, bottom=y.max() + 1) if x.size else None
    assert rle.bbox(counts, *mask.shape) == expected
    assert bounding_box(mask) == expected


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_iou_and_merge_are_those_of_the_pixels(data: st.DataObject) -> None:
    size = data.draw(sizes)
    first, second = data.draw(masks(size)), data.draw(masks(size))
    counts = [rle.encode(first), rle.encode(second)]
    union = (first | second).sum()
    expected = (first & second).sum() / union if union else 1.0
    assert rle.iou(*counts, *size) == pytest.approx(expected)
    assert (rle.decode(rle.merge(counts, *size), *size) == (first | second)).all()
    assert (rle.decode(rle.merge(counts, *size, intersect=True), *size) == (first & second)).all()


@settings(max_examples=60, deadline=None)
@given(masks())
def test_coco_dictionaries_go_in_and_out(mask: Mask) -> None:
    counts = rle.encode(mask)
    written = rle.to_coco(counts, *mask.shape)
    assert isinstance(written["counts"], str)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        assert (coco.decode(written) == mask).all()
    runs = rle.checked_runs(counts, *mask.shape).tolist()
    for given_counts in (written["counts"], counts, runs):
        assert rle.from_coco({"size": list(mask.shape), "counts": given_counts}) == (counts, *mask.shape)


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        (b"", "compressed counts as bytes"),
        ("S1", "compressed counts as bytes"),
        (b"S1 ", "compressed counts as bytes"),
        (b"\xff1", "compressed counts as bytes"),
        (b"S", "end within a count"),
        (b"Q", "end within a count"),
        (b"oooooooo0", "end within a count"),
        (b"0", "add up to 0 pixels"),
        (b"T1", "add up to 36 pixels"),
        (b"R1", "add up to 34 pixels"),
        (b"S2N", "add up to"),
    ],
)
def test_malformed_counts_are_refused_before_they_reach_c(counts: bytes, message: str) -> None:
    """35 pixels; pycocotools itself gives uninitialised memory for b"0"."""
    for use in (rle.decode, rle.area, rle.bbox):
        with pytest.raises(ValueError, match=message):
            use(counts, 5, 7)
    with pytest.raises(ValueError, match=message):
        rle.merge([counts], 5, 7)
    with pytest.raises(ValueError, match=message):
        rle.iou(b"S1", counts, 5, 7)


def test_a_mask_of_another_size_is_refused() -> None:
    counts = rle.encode(np.ones((5, 7), np.bool_))
    with pytest.raises(ValueError, match=r"expected 5 x 8 = 40\. Give the size as \[height, width\]"):
        rle.decode(counts, 5, 8)
    with pytest.raises(ValueError, match="expected 1 to"):
        rle.decode(counts, 0, 8)


@pytest.mark.parametrize(
    "bad",
    [
        {"counts": "S1"},
        {"size": [5], "counts": "S1"},
        {"size": [5, 7]},
        {"size": "57", "counts": 3},
        {"size": [5, 7], "counts": [1.5, "x"]},
        {"size": [5, 7], "counts": [30, 4]},
        {"size": [5, 7], "counts": [40, -5]},
        {"size": [5, 7], "counts": []},
        {"size": [5, 7], "counts": None},
    ],
)
def test_what_is_no_coco_rle_is_refused(bad: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="rle"):
        rle.from_coco(bad)


@pytest.mark.parametrize(
    "bad",
    [np.zeros((2, 3), np.uint8), np.zeros((1, 2, 3), np.bool_), np.zeros((0, 3), np.bool_), [[True]]],
)
def test_what_is_no_mask_is_refused(bad: Mask) -> None:
    with pytest.raises(ValueError, match=r"expected a bool array \(H, W\)"):
        rle.encode(bad)


def test_nothing_cannot_be_merged() -> None:
    with pytest.raises(ValueError, match="no masks"):
        rle.merge([], 3, 5)
