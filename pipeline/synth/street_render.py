"""Draws a street as its camera sees it: what owns each pixel, how far it is, and in which colour.

A pixel belongs to the surface that the ray through its centre meets first. Painting goes from far to near, in integers
throughout, so equal scenes give equal pictures everywhere.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.synth.street_world import (
    EVEN_TONE,
    NEAR_MM,
    SKY_DEPTH_MM,
    TILE,
    Codes,
    Materials,
    Pavement,
    StreetScene,
    Strip,
    Upright,
    View,
)
from pipeline.synth.world import SUBPIXELS

Ints = NDArray[np.int64]
Depths = NDArray[np.int32]

_CONTRAST_FROM_MM = 9_000
"""Textures lose contrast beyond this distance, where a pixel covers many texels."""
_END_MARGIN_MM = 100
_LINE_HALF_MM = 75
_LINE_TONE = 236
_SHIFT = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Painted:
    """One view of a street.

    Attributes:
        codes: uint32 (H, W), what is seen: material << 8 | tone.
        depth_mm: int32 (H, W), along the camera's axis; `SKY_DEPTH_MM` for the sky.
    """

    codes: Codes
    depth_mm: Depths


def paint_view(scene: StreetScene, tick: int) -> Painted:
    """The street at one tick."""
    return _Painter(scene, tick).paint()


def labels_of(painted: Painted, materials: Materials) -> tuple[NDArray[np.uint8], NDArray[np.uint16]]:
    """Class ids, uint8 (H, W), and instance ids, uint16 (H, W)."""
    shown = painted.codes >> np.uint32(8)
    return np.take(materials.class_ids, shown), np.take(materials.instance_ids, shown)


def colours_of(codes: Codes, materials: Materials) -> NDArray[np.uint8]:
    """What an ideal camera records, uint8 (H, W, 3): pixels blend a little with their neighbours."""
    tone = (codes & np.uint32(255)).astype(np.uint16)
    lit = np.take(materials.rgb, codes >> np.uint32(8), axis=0)
    lit *= tone[..., None]
    lit >>= np.uint16(7)
    np.minimum(lit, np.uint16(255), out=lit)
    blended = _blended(lit)
    blended >>= np.uint16(4)
    return blended.astype(np.uint8)


LUMINANCE_STEPS = 8192
"""Luminances are integers below this."""


def luminance_of(codes: Codes, materials: Materials) -> NDArray[np.uint16]:
    """Luminance in 13 bits, uint16 (H, W), with the blending of `colours_of` and without its clipping."""
    red, green, blue = materials.rgb.T.astype(np.int64)
    grey = ((77 * red + 150 * green + 29 * blue) >> 8).astype(np.uint16)
    lit = np.take(grey, codes >> np.uint32(8))
    lit *= (codes & np.uint32(255)).astype(np.uint16)
    lit >>= np.uint16(4)
    blended = _blended(lit)
    blended >>= np.uint16(3)
    return blended


def _blended(picture: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """The picture under the kernel [1 2 1] both ways, times 16; the border is repeated."""
    return _blended_along(_blended_along(picture, 0), 1)


def _blended_along(picture: NDArray[np.uint16], axis: int) -> NDArray[np.uint16]:
    turned = np.moveaxis(picture, axis, 0)
    blended = turned + turned
    blended[1:] += turned[:-1]
    blended[:1] += turned[:1]
    blended[:-1] += turned[1:]
    blended[-1:] += turned[-1:]
    return np.moveaxis(blended, 0, axis)


class _Painter:
    """Paints one view; holds the canvas and the rays of its rows and columns."""

    def __init__(self, scene: StreetScene, tick: int) -> None:
        self._scene, self._tick = scene, tick
        self._view: View = scene.camera.at(tick)
        reach_x, reach_y = scene.camera.reach_px
        left = reach_x - (self._view.centre_x - scene.camera.centre_x) // SUBPIXELS
        top = reach_y - (self._view.centre_y - scene.camera.centre_y) // SUBPIXELS
        self._codes = scene.sky[top : top + scene.height, left : left + scene.width].copy()
        self._depth = np.full((scene.height, scene.width), SKY_DEPTH_MM, dtype=np.int32)
        half = SUBPIXELS // 2
        self._right: Ints = np.arange(scene.width) * SUBPIXELS + half - self._view.centre_x
        self._down: Ints = np.arange(scene.height) * SUBPIXELS + half - self._view.centre_y
        self._focal = self._view.focal_px * SUBPIXELS
        self._tiles = scene.tiles.reshape(-1)

    def paint(self) -> Painted:
        scene, tick = self._scene, self._tick
        self._pave(scene.pavement)
        end, *sides = scene.strips
        self._raise_strip(end)
        placed = [(thing, *thing.place_mm(tick)) for thing in scene.uprights]
        nearest, farthest = self._view.z_mm + NEAR_MM, scene.end_mm - _END_MARGIN_MM
        placed = [item for item in placed if nearest <= item[2] <= farthest]
        placed.sort(key=lambda item: (-item[2], -item[0].instance_id))
        outside = 1 << 40
        for near, far in zip(sides[::2], sides[1::2], strict=True):
            inside = abs(near.position_mm)
            self._set_up([item for item in placed if inside <= abs(item[1]) < outside])
            self._raise_strip(near)
            self._raise_strip(far)
            outside = inside
        self._set_up([item for item in placed if abs(item[1]) < outside])
        return Painted(codes=self._codes, depth_mm=self._depth)

    def _pave(self, pavement: Pavement) -> None:
        first = int(np.searchsorted(self._down, 1))
        down = self._down[first:]
        if not len(down):
            return
        away = self._view.y_mm * self._focal // down  # (r,) distance of each row in mm
        across = (self._right[None, :] * ((away << _SHIFT) // self._focal)[:, None] >> _SHIFT) + self._view.x_mm
        along = away + self._view.z_mm
        on_road = np.abs(across) <= pavement.road_half_mm
        texels = ((along >> 5) % TILE * TILE)[:, None] + ((across >> 5) & (TILE - 1))
        texels += np.where(on_road, pavement.road_tile, pavement.ground_tile) * (TILE * TILE)
        tone = self._fading(np.take(self._tiles, texels), away[:, None])
        if pavement.dash_mm:
            is_dash = along % (2 * pavement.dash_mm) < pavement.dash_mm
            is_line = (np.abs(across) <= _LINE_HALF_MM) & is_dash[:, None]
            is_line |= np.abs(np.abs(across) - (pavement.road_half_mm - 300)) <= _LINE_HALF_MM
            tone = np.where(is_line, _LINE_TONE, tone)
        material = np.where(on_road, pavement.road, pavement.ground)
        self._codes[first:] = (material << 8 | tone).astype(np.uint32)
        self._depth[first:] = np.minimum(away, SKY_DEPTH_MM - 1)[:, None]

    def _raise_strip(self, strip: Strip) -> None:
        """Paint a strip's segments where their rays meet its plane between the ground and their height."""
        columns, away, along = self._columns_on(strip)
        segment = np.searchsorted(strip.edges_mm, along, side="right") - 1
        is_inside = (segment >= 0) & (segment < len(strip.heights_mm))
        segment = np.clip(segment, 0, len(strip.heights_mm) - 1)
        height = np.where(is_inside, strip.heights_mm[segment], 0)
        if not height.any():
            return
        per_row = (away << _SHIFT) // self._focal
        floor, roof = self._view.y_mm * self._focal // away, (self._view.y_mm - height) * self._focal // away
        first = max(int(np.searchsorted(self._down, int(roof[height > 0].min()) - SUBPIXELS)), 0)
        last = int(np.searchsorted(self._down, int(floor.max()) + SUBPIXELS))
        if first >= last:
            return
        up = self._view.y_mm - (self._down[first:last, None] * per_row[None, :] >> _SHIFT)
        covers = (up >= 0) & (up < height[None, :])
        shift = strip.texel_shifts[segment]
        texels = ((up >> shift[None, :]) & (TILE - 1)) * TILE
        texels += ((along >> shift) & (TILE - 1)) + strip.tiles[segment] * (TILE * TILE)
        tone = self._fading(np.take(self._tiles, texels), away[None, :])
        codes = ((strip.materials[segment] << 8)[None, :] | tone).astype(np.uint32)
        place = slice(first, last), columns
        np.copyto(self._codes[place], codes, where=covers)
        np.copyto(self._depth[place], away[None, :].astype(np.int32), where=covers)

    def _columns_on(self, strip: Strip) -> tuple[slice, Ints, Ints]:
        """The columns that meet a strip's plane in front of the camera: which, how far, and where along it (mm)."""
        if strip.faces == "front":
            away = np.full(len(self._right), strip.position_mm - self._view.z_mm, dtype=np.int64)
            along = self._view.x_mm + (self._right * ((away << _SHIFT) // self._focal) >> _SHIFT)
            return slice(0, len(self._right)), away, along
        offset = strip.position_mm - self._view.x_mm
        if offset > 0:
            columns = slice(int(np.searchsorted(self._right, 1)), len(self._right))
        else:
            columns = slice(0, int(np.searchsorted(self._right, 0)))
        away = offset * self._focal // self._right[columns]
        return columns, away, away + self._view.z_mm

    def _fading(self, tone: NDArray[np.uint8], away: Ints) -> Ints:
        """Tones of a texture at these distances."""
        contrast = np.minimum((_CONTRAST_FROM_MM << 8) // np.maximum(away, 1), 256)
        faded: Ints = EVEN_TONE + ((tone.astype(np.int64) - EVEN_TONE) * contrast >> 8)
        return faded

    def _set_up(self, placed: list[tuple[Upright, int, int]]) -> None:
        """Paint upright things, farthest first as they come."""
        for thing, x, z in placed:
            away = z - self._view.z_mm
            left_mm = x - self._view.x_mm - thing.width_mm // 2
            columns = self._texels(self._right, left_mm, thing.width_mm, away, thing.sprite.shape[1])
            top_mm = self._view.y_mm - thing.y_mm - thing.height_mm
            rows = self._texels(self._down, top_mm, thing.height_mm, away, thing.sprite.shape[0])
            if rows is None or columns is None:
                continue
            shown = thing.sprite[rows[1]][:, columns[1]]
            covers = shown > 0
            np.copyto(self._codes[rows[0], columns[0]], shown, where=covers)
            np.copyto(self._depth[rows[0], columns[0]], np.int32(away), where=covers)

    def _texels(
        self, rays: Ints, start_mm: int, length_mm: int, away_mm: int, num_texels: int
    ) -> tuple[slice, Ints] | None:
        """The pixels of one axis that a thing covers, and the sprite's texel at each; None if there are none.

        Args:
            rays: of pixel centres from the image's centre, in sub-pixels.
            start_mm, length_mm: of the thing along this axis, from the camera's.
        """
        # Index of the first ray beyond each end: rays are one pixel apart.
        origin, num_rays = int(rays[0]), len(rays)
        first = max(-((origin - start_mm * self._focal // away_mm - 1) // SUBPIXELS), 0)
        last = min(-((origin - (start_mm + length_mm) * self._focal // away_mm - 1) // SUBPIXELS), num_rays)
        if first >= last:
            return None
        texels = (rays[first:last] * away_mm - start_mm * self._focal) * num_texels // (length_mm * self._focal)
        return slice(first, last), np.minimum(np.maximum(texels, 0), num_texels - 1)
