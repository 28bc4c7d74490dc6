"""How an object is painted: colours, second tones, rim, light and shadow."""

import numpy as np
from numpy.typing import NDArray

from pipeline.synth.shapes import REACH, Plane, covered, local_axes, second_tone, signed_distance
from pipeline.synth.world import SUBPIXELS, Colour, Occluder, SceneObject

Planar = NDArray[np.uint8]

COLOUR_RGB: dict[Colour, tuple[int, int, int]] = {
    "red": (218, 46, 42),
    "orange": (246, 140, 28),
    "yellow": (250, 218, 56),
    "green": (52, 168, 72),
    "cyan": (56, 204, 216),
    "blue": (44, 92, 216),
    "purple": (150, 66, 192),
    "white": (240, 240, 238),
}
"""The middle of each colour's range."""

COVERED_FROM = np.float32(0.0)
"""Signed distance from which on a pixel counts as covered: at least half of it lies inside the shape."""

_SHADOW_REACH_PX = 4
_SHADOW_STRENGTH = np.float32(0.34)
_RIM_TONE = np.float32(0.55)
_OCCLUDER_TONE = (np.float32(96), np.float32(100))


def window(centre: tuple[int, int], reach_px: tuple[int, int], height: int, width: int) -> tuple[slice, slice] | None:
    """Rows and columns of the canvas within reach of a centre (sub-pixels, on the screen); None if there are none."""
    x, y = centre[0] // SUBPIXELS, centre[1] // SUBPIXELS
    rows = slice(max(y - reach_px[1], 0), min(y + reach_px[1] + 1, height))
    columns = slice(max(x - reach_px[0], 0), min(x + reach_px[0] + 1, width))
    return (rows, columns) if rows.start < rows.stop and columns.start < columns.stop else None


def paint_object(
    canvas: Planar, thing: SceneObject, *, centre: tuple[int, int], radius: int, angle: int, has_shadow: bool
) -> tuple[tuple[slice, slice], NDArray[np.bool_]] | None:
    """Blend one object into the canvas.

    Args:
        canvas: uint8 (3, H, W), changed in place.
        centre, radius, angle: at this frame; (x, y) on the screen and radius in sub-pixels, angle in angle steps.

    Returns:
        The touched window and, bool (h, w), the pixels that the object covers by at least a half; None off screen.
    """
    radius_px = radius / SUBPIXELS
    reach = int(radius_px * REACH[thing.shape]) + (_SHADOW_REACH_PX + 4 if has_shadow else 2)
    place = window(centre, (reach, reach), *canvas.shape[1:])
    if place is None:
        return None
    u, v = local_axes(*place, centre=centre, angle=angle)
    distance = signed_distance(thing.shape, u, v, radius_px)
    if has_shadow:
        _cast_shadow(canvas, place, distance)
    tone = _tone(distance, u, v, radius_px, thing)
    _blend(canvas, place, _lit_colours(thing, tone), covered(distance))
    return place, distance >= COVERED_FROM


def paint_occluder(
    canvas: Planar, occluder: Occluder, *, centre: tuple[int, int]
) -> tuple[tuple[slice, slice], NDArray[np.bool_]] | None:
    """Blend a grey bar into the canvas; as `paint_object`."""
    half_x, half_y = (half / SUBPIXELS for half in occluder.half_size)
    place = window(centre, (int(half_x) + 2, int(half_y) + 2), *canvas.shape[1:])
    if place is None:
        return None
    u, v = local_axes(*place, centre=centre, angle=0)
    from_edge = np.minimum(np.float32(half_x) - np.abs(u), np.float32(half_y) - np.abs(v))
    across = v if half_x > half_y else u
    grain = across - np.float32(5) * np.floor(across / np.float32(5))
    grey = _OCCLUDER_TONE[0] + np.float32(6) * grain - np.float32(34) * (1 - covered(from_edge - np.float32(1.5)))
    _blend(canvas, place, (grey, grey, grey + np.float32(4)), covered(from_edge))
    return place, from_edge >= COVERED_FROM


def _tone(distance: Plane, u: Plane, v: Plane, radius_px: float, thing: SceneObject) -> Plane:
    """Brightness factor of each pixel: darker in the second tone and at the rim, lighter towards the upper left."""
    light = np.float32(1.0) - (u + v) * np.float32(0.10 / radius_px)
    rim = _RIM_TONE + (1 - _RIM_TONE) * covered(distance - np.float32(1.4))
    tone = light * rim
    second = second_tone(thing.texture, u, v, radius_px)
    return tone if second is None else tone * (1 - np.float32(0.58) * second)


def _lit_colours(thing: SceneObject, tone: Plane) -> tuple[Plane, Plane, Plane]:
    red, green, blue = (
        np.float32(base + shift) * tone
        for base, shift in zip(COLOUR_RGB[thing.colour], thing.colour_shift, strict=True)
    )
    return red, green, blue


def _cast_shadow(canvas: Planar, place: tuple[slice, slice], distance: Plane) -> None:
    """Darken what lies three pixels to the lower right of the object, softly."""
    soft = covered((distance[:-3, :-3] - 1) / np.float32(2 * _SHADOW_REACH_PX))
    rows, columns = (slice(axis.start + 3, axis.stop) for axis in place)
    under = canvas[:, rows, columns]
    under[:] = (under * (1 - _SHADOW_STRENGTH * soft)).astype(np.uint8)


def _blend(canvas: Planar, place: tuple[slice, slice], colours: tuple[Plane, Plane, Plane], coverage: Plane) -> None:
    for plane, colour in zip(canvas, colours, strict=True):
        under = plane[place].astype(np.float32)
        mixed = under + (np.minimum(colour, np.float32(255)) - under) * coverage + np.float32(0.5)
        plane[place] = mixed.astype(np.uint8)
