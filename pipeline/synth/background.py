"""Backgrounds: textured fields in muted colours, drawn once per clip and large enough for the camera."""

import numpy as np
from numpy.typing import NDArray

from pipeline.synth.draws import Draws
from pipeline.synth.paint import COLOUR_RGB
from pipeline.synth.world import COLOURS

Planar = NDArray[np.uint8]
Ints = NDArray[np.int32]

_PALETTES: tuple[tuple[tuple[int, int, int], tuple[int, int, int]], ...] = (
    ((38, 46, 62), (104, 118, 140)),
    ((58, 50, 44), (138, 124, 106)),
    ((34, 52, 48), (104, 126, 112)),
    ((50, 44, 60), (122, 112, 136)),
    ((46, 48, 52), (128, 130, 134)),
    ((66, 70, 76), (158, 160, 158)),
    ((40, 56, 70), (124, 136, 132)),
    ((72, 58, 54), (150, 138, 128)),
)
"""Dark and light end of each muted range; none comes near an object's colour."""


def paint_background(height: int, width: int, *, short_side_px: int, has_distractors: bool, draws: Draws) -> Planar:
    """A background in world coordinates.

    Args:
        height, width: of what is needed in pixels, the camera's travel included.
        short_side_px: of the canvas; the texture is scaled by it.
        has_distractors: speckle it with the colours that objects have.

    Returns:
        uint8 (3, height, width), planes red, green, blue.
    """
    style = draws.pick((_noise, _gradient, _stripes))
    field = style(height, width, short_side_px, draws)
    dark, light = draws.pick(_PALETTES)
    if draws.chance(0.5):
        dark, light = light, dark
    picture = np.stack([_ramp(dark[channel], light[channel])[field] for channel in range(3)])
    if has_distractors:
        _speckle(picture, short_side_px, draws)
    return picture


def _ramp(low: int, high: int) -> NDArray[np.uint8]:
    return (low + (high - low) * np.arange(256) // 255).astype(np.uint8)


def _noise(height: int, width: int, side: int, draws: Draws) -> Ints:
    coarse = value_noise(height, width, side // 4, draws)
    fine = value_noise(height, width, side // 12, draws)
    return (5 * coarse + 3 * fine) >> 3


def _gradient(height: int, width: int, side: int, draws: Draws) -> Ints:
    """A slope with a fine grain, without which motion against it could not be seen."""
    down, right = draws.between(-100, 100), draws.between(-100, 100)
    rows, columns = np.arange(height, dtype=np.int32)[:, None], np.arange(width, dtype=np.int32)[None, :]
    slope = (2 * down * rows // height - down) + (2 * right * columns // width - right)
    grain = value_noise(height, width, side // 14, draws)
    field: Ints = np.clip(128 + slope * 5 // 8 + ((grain - 128) * 5 >> 4), 0, 255)
    return field


def _stripes(height: int, width: int, side: int, draws: Draws) -> Ints:
    """Wide wavy bands."""
    wave = value_noise(height, width, side // 3, draws)
    fine = value_noise(height, width, side // 14, draws)
    down, right = draws.between(-3, 3), draws.between(1, 3)
    rows, columns = np.arange(height, dtype=np.int32)[:, None], np.arange(width, dtype=np.int32)[None, :]
    along = (down * rows + right * columns) * 256 // side + wave
    band = np.abs((along & 255) - 128) * 2
    field: Ints = (5 * np.minimum(band, 255) + 3 * fine) >> 3
    return field


def _speckle(picture: Planar, side: int, draws: Draws) -> None:
    """Sprinkle blotches of object colours, dimmed by a third, over about a tenth of the picture."""
    _, height, width = picture.shape
    spots = value_noise(height, width, side // 10, draws) > 178
    which = value_noise(height, width, side // 3, draws)[spots] * 3 // 256
    colours = np.array([COLOUR_RGB[draws.pick(COLOURS)] for _ in range(3)], dtype=np.int32)
    for channel in range(3):
        picture[channel][spots] = (2 * colours[which, channel] + picture[channel][spots]) // 3


def value_noise(height: int, width: int, cell: int, draws: Draws) -> Ints:
    """Random values 0..255 on a lattice of `cell` pixels, blended by a cubic B-spline in integers."""
    cell = max(cell, 2)
    lattice = draws.lattice(width // cell + 4, height // cell + 4)
    blended = _blend_rows(_blend_rows(lattice, width, cell).T, height, cell)
    values: Ints = np.clip(128 + (blended - 128) * 7 // 4, 0, 255)  # a spline flattens; this stretches it again
    return values


def _blend_rows(points: Ints, length: int, cell: int) -> Ints:
    """Lattice rows (n, m) to pixel rows (length, m)."""
    rows, weights = _spline(length, cell)
    blended = points[rows] * weights[0][:, None]
    for tap in (1, 2, 3):
        blended += points[rows + tap] * weights[tap][:, None]
    shifted: Ints = blended >> 8
    return shifted


def _spline(length: int, cell: int) -> tuple[Ints, tuple[Ints, Ints, Ints, Ints]]:
    """For each pixel: its lattice cell, and the weights of the four lattice points around it, in 1/256."""
    places = np.arange(length, dtype=np.int32)
    t = (places % cell) * 64 // cell
    first, last = (64 - t) ** 3 // 6144, t**3 // 6144
    second = (4 * 64**3 - 6 * 64 * t**2 + 3 * t**3) // 6144
    return places // cell, (first, second, 256 - first - second - last, last)
