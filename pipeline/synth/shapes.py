"""Shapes and textures as signed distances: how much of each pixel an object covers, and in which tone.

All arithmetic is +, -, *, /, floor, square root, minimum and maximum on float32, element by element: IEEE 754 fixes
every bit of it, so pictures are the same on every platform (no vendor's rasteriser, no fused sums).
"""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from pipeline.synth.motion import cosine, sine
from pipeline.synth.world import SUBPIXELS, Shape, Texture

Plane = NDArray[np.float32]

ROUND_SHAPES: tuple[Shape, ...] = ("disc", "ring")
"""Shapes on which a turn cannot be seen."""

REACH: dict[Shape, float] = {
    "disc": 1.0,
    "square": 1.26,
    "triangle": 1.36,
    "star": 1.46,
    "ring": 1.1,
    "cross": 1.24,
    "bar": 1.56,
}
"""Distance from the centre to the farthest point of a shape, in radii."""


def local_axes(rows: slice, columns: slice, *, centre: tuple[int, int], angle: int) -> tuple[Plane, Plane]:
    """Coordinates u, v of pixel centres in an object's own turned frame, in pixels.

    Args:
        rows, columns: the window of the canvas.
        centre: (x, y) on the screen, sub-pixels.
        angle: of the object, clockwise, in angle steps.

    Returns:
        Two float32 (h, w); v points down while the angle is 0.
    """
    x = _pixel_centres(columns, centre[0])[None, :]
    y = _pixel_centres(rows, centre[1])[:, None]
    cos, sin = np.float32(cosine(angle) / 65536), np.float32(sine(angle) / 65536)
    return x * cos + y * sin, y * cos - x * sin


def signed_distance(shape: Shape, u: Plane, v: Plane, radius_px: float) -> Plane:
    """Distance to the shape's edge in pixels, positive inside; exact near edges, a bound at corners.

    The coverage of a pixel is this distance + 1/2, cut to 0..1: exact for an upright straight edge, within 0.01 for
    a slanted or round one.
    """
    return _DISTANCES[shape](u, v, np.float32(radius_px))


def second_tone(texture: Texture, u: Plane, v: Plane, radius_px: float) -> Plane | None:
    """How much of each pixel is painted in the second tone, 0..1; None for a plain object."""
    if texture == "plain":
        return None
    period = np.float32(0.62 * radius_px)
    if texture == "striped":
        return covered(_band(v, period))
    if texture == "dotted":
        a, b = _folded(u, period), _folded(v, period)
        return covered(np.float32(0.3) * period - np.sqrt(a * a + b * b))
    a, b = covered(_band(u, period * np.float32(1.3))), covered(_band(v, period * np.float32(1.3)))
    return a + b - 2 * a * b


def covered(distance: Plane) -> Plane:
    """Coverage 0..1 of pixels at a signed distance from an edge."""
    coverage: Plane = np.minimum(np.maximum(distance + _HALF, _ZERO), _ONE)
    return coverage


_HALF = np.float32(0.5)
_ONE = np.float32(1)
_ZERO = np.float32(0)


def _pixel_centres(window: slice, centre: int) -> Plane:
    places = np.arange(window.start, window.stop, dtype=np.int64) * SUBPIXELS + (SUBPIXELS // 2 - centre)
    return places.astype(np.float32) / np.float32(SUBPIXELS)


def _folded(u: Plane, period: np.float32) -> Plane:
    """Distance to the nearest multiple of the period, signed."""
    folded: Plane = u - period * np.floor(u / period + _HALF)
    return folded


def _band(u: Plane, period: np.float32) -> Plane:
    """Signed distance to bands of half a period each, centred on odd quarters so that the middle is an edge."""
    return np.abs(_folded(u + period * np.float32(0.25), period)) - period * np.float32(0.25)


def _disc(u: Plane, v: Plane, radius: np.float32) -> Plane:
    return radius - np.sqrt(u * u + v * v)


def _square(u: Plane, v: Plane, radius: np.float32) -> Plane:
    return np.float32(0.89) * radius - np.maximum(np.abs(u), np.abs(v))


def _triangle(u: Plane, v: Plane, radius: np.float32) -> Plane:
    """Equilateral, a vertex up, the centroid at the centre."""
    inradius = np.float32(0.68) * radius
    slanted = inradius - (np.float32(math.sqrt(0.75)) * np.abs(u) - _HALF * v)
    distance: Plane = np.minimum(inradius - v, slanted)
    return distance


def _ring(u: Plane, v: Plane, radius: np.float32) -> Plane:
    middle, half_width = np.float32(0.84) * radius, np.float32(0.26) * radius
    return half_width - np.abs(np.sqrt(u * u + v * v) - middle)


def _cross(u: Plane, v: Plane, radius: np.float32) -> Plane:
    a, b = np.abs(u), np.abs(v)
    length, half_width = np.float32(1.18) * radius, np.float32(0.38) * radius
    return np.minimum(length - np.maximum(a, b), half_width - np.minimum(a, b))


def _bar(u: Plane, v: Plane, radius: np.float32) -> Plane:
    return np.minimum(np.float32(1.5) * radius - np.abs(u), np.float32(0.42) * radius - np.abs(v))


def _star(u: Plane, v: Plane, radius: np.float32) -> Plane:
    """A pentagram, a tip up: the points inside at least four of the five lines that bound its core."""
    core = np.float32(1.45 * math.cos(2 * math.pi / 5)) * radius
    lines = [core - (u * nx + v * ny) for nx, ny in _STAR_NORMALS]
    nearest, second = np.minimum(lines[0], lines[1]), np.maximum(lines[0], lines[1])
    for line in lines[2:]:
        second = np.minimum(second, np.maximum(nearest, line))
        nearest = np.minimum(nearest, line)
    return second


_STAR_NORMALS = tuple(
    (np.float32(math.sin(2 * math.pi * tip / 5)), np.float32(-math.cos(2 * math.pi * tip / 5))) for tip in range(5)
)

_DISTANCES: dict[Shape, Callable[[Plane, Plane, np.float32], Plane]] = {
    "disc": _disc,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "ring": _ring,
    "cross": _cross,
    "bar": _bar,
}
