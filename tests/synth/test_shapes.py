"""Shapes against areas and polygons from geometry."""

import math

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.synth.shapes import REACH, covered, local_axes, second_tone, signed_distance
from pipeline.synth.world import SHAPES, SUBPIXELS, TEXTURES, TURN, Shape, Texture

HEIGHT, WIDTH = 96, 112
STAR_INNER = 1.45 * (3 - math.sqrt(5)) / 2  # circumradius of a pentagram's inner corners


def polygon(shape: Shape) -> list[tuple[float, float]]:
    """Corners at radius 1 and angle 0, x right and y down, by hand."""
    if shape == "square":
        return [(-0.89, -0.89), (0.89, -0.89), (0.89, 0.89), (-0.89, 0.89)]
    if shape == "bar":
        return [(-1.5, -0.42), (1.5, -0.42), (1.5, 0.42), (-1.5, 0.42)]
    if shape == "triangle":
        return [(1.36 * math.sin(a), -1.36 * math.cos(a)) for a in (0, 2 * math.pi / 3, 4 * math.pi / 3)]
    if shape == "cross":
        arm = [(0.38, -1.18), (0.38, -0.38), (1.18, -0.38)]
        quarter_turns = [[(x, y), (-y, x), (-x, -y), (y, -x)] for x, y in arm]
        return [quarter_turns[corner][turn] for turn in range(4) for corner in range(3)]
    tips = [(2 * math.pi * k / 10, 1.45 if k % 2 == 0 else STAR_INNER) for k in range(10)]
    return [(reach * math.sin(a), -reach * math.cos(a)) for a, reach in tips]


def shoelace(corners: list[tuple[float, float]]) -> float:
    pairs = zip(corners, corners[1:] + corners[:1], strict=True)
    return abs(sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in pairs)) / 2


def area_at_one(shape: Shape) -> float:
    round_areas = {"disc": math.pi, "ring": math.pi * (1.1**2 - 0.58**2)}
    return round_areas[shape] if shape in round_areas else shoelace(polygon(shape))


def distance(shape: Shape, centre: tuple[int, int], angle: int, radius_px: float) -> np.ndarray:
    u, v = local_axes(slice(0, HEIGHT), slice(0, WIDTH), centre=centre, angle=angle)
    return signed_distance(shape, u, v, radius_px)


centres = st.tuples(st.integers(40 * SUBPIXELS, 70 * SUBPIXELS), st.integers(40 * SUBPIXELS, 56 * SUBPIXELS))


@settings(max_examples=60, deadline=None)
@given(shape=st.sampled_from(SHAPES), centre=centres, angle=st.integers(0, TURN - 1), radius_px=st.floats(9.0, 22.0))
def test_coverage_adds_up_to_the_area(shape: Shape, centre: tuple[int, int], angle: int, radius_px: float) -> None:
    coverage = covered(distance(shape, centre, angle, radius_px))
    wanted = area_at_one(shape) * radius_px**2
    corners_px = {"star": 5.0, "triangle": 1.2}.get(shape, 0.8)  # coverage is a bound, not exact, at sharp corners
    assert float(coverage.sum(dtype=np.float64)) == pytest.approx(wanted, abs=0.004 * wanted + corners_px)


@settings(max_examples=25, deadline=None)
@given(shape=st.sampled_from(["disc", "square"]), centre=centres, radius_px=st.floats(9.0, 22.0))
def test_masks_of_discs_and_squares_have_their_area(shape: Shape, centre: tuple[int, int], radius_px: float) -> None:
    """Counting pixel centres inside: off by less than the perimeter's share of a pixel."""
    mask = distance(shape, centre, 100, radius_px) >= 0
    assert int(mask.sum()) == pytest.approx(area_at_one(shape) * radius_px**2, rel=0.03)


@pytest.mark.parametrize("shape", ["square", "bar", "triangle", "cross", "star"])
@pytest.mark.parametrize("angle", [0, 333, 1500])
def test_a_mask_is_the_pixels_whose_centre_lies_in_the_polygon(shape: Shape, angle: int) -> None:
    centre, radius_px, turn = (52.3, 47.6), 17.0, 2 * math.pi * angle / TURN
    corners = np.array(
        [
            (
                centre[0] + radius_px * (x * math.cos(turn) - y * math.sin(turn)),
                centre[1] + radius_px * (x * math.sin(turn) + y * math.cos(turn)),
            )
            for x, y in polygon(shape)
        ],
        dtype=np.float32,
    )
    subpixel_centre = (round(centre[0] * SUBPIXELS), round(centre[1] * SUBPIXELS))
    measured = distance(shape, subpixel_centre, angle, radius_px)
    for row in range(20, 76):
        for column in range(20, 84):
            inside = cv2.pointPolygonTest(corners, (column + 0.5, row + 0.5), measureDist=True)
            if abs(inside) > 0.06:
                assert (measured[row, column] >= 0) == (inside > 0), (row, column, inside)


@pytest.mark.parametrize("shape", SHAPES)
def test_reach_bounds_a_shape_tightly(shape: Shape) -> None:
    mask = distance(shape, (56 * SUBPIXELS, 48 * SUBPIXELS), 0, 25.0) >= 0
    rows, columns = np.nonzero(mask)
    farthest = np.hypot(columns + 0.5 - 56, rows + 0.5 - 48).max() / 25.0
    assert REACH[shape] - 0.08 < farthest <= REACH[shape]


@pytest.mark.parametrize("texture", TEXTURES)
def test_second_tones_cover_a_visible_part_of_an_object(texture: Texture) -> None:
    u, v = local_axes(slice(0, HEIGHT), slice(0, WIDTH), centre=(56 * SUBPIXELS, 48 * SUBPIXELS), angle=0)
    tone = second_tone(texture, u, v, 11.0)
    if texture == "plain":
        assert tone is None
        return
    assert tone is not None
    inside = tone[signed_distance("disc", u, v, 11.0) > 0]
    assert tone.min() >= 0
    assert tone.max() <= 1
    assert 0.2 < inside.mean() < 0.6
