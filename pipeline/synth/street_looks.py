"""How streets look: colours that classes share, textures of surfaces, and the sprites of upright things."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from pipeline.synth.background import value_noise
from pipeline.synth.draws import Draws
from pipeline.synth.street_world import EVEN_TONE, TILE, Codes, StreetClass

Rgb = tuple[int, int, int]
Mask = NDArray[np.bool_]
Tones = NDArray[np.int64]
AddMaterial = Callable[[Rgb], int]
"""Registers a colour of the thing that is being drawn, and returns its material."""

_ASPHALT: tuple[Rgb, ...] = ((92, 94, 98), (116, 114, 112), (74, 78, 86), (132, 126, 120))
_STONE: tuple[Rgb, ...] = ((150, 148, 142), (122, 120, 118), (170, 160, 146), (108, 112, 116))
_BRICK: tuple[Rgb, ...] = ((146, 82, 66), (168, 106, 80), (122, 74, 64), (180, 132, 100))
_GREEN: tuple[Rgb, ...] = ((66, 104, 54), (88, 126, 64), (58, 92, 66), (112, 134, 72))
_AUTUMN: tuple[Rgb, ...] = ((164, 112, 52), (146, 88, 50), (176, 142, 66))
_BRIGHT: tuple[Rgb, ...] = ((178, 48, 44), (44, 84, 156), (220, 216, 206), (196, 160, 48), (52, 56, 62), (60, 128, 96))
_SKIES: tuple[Rgb, ...] = ((118, 164, 214), (156, 178, 200), (188, 186, 180), (202, 170, 140))

COLOURS_OF: dict[StreetClass, tuple[tuple[Rgb, ...], ...]] = {
    "sky": (_SKIES,),
    "building": (_BRICK, _STONE, _ASPHALT, _SKIES, _GREEN),
    "vegetation": (_GREEN, _GREEN, _AUTUMN),
    "road": (_ASPHALT, _ASPHALT, _STONE),
    "ground": (_STONE, _BRICK, _GREEN, _ASPHALT),
    "pole": (_ASPHALT, _STONE, _GREEN),
    "sign": (_BRIGHT,),
    "vehicle": (_BRIGHT, _ASPHALT, _STONE, _BRICK),
    "person": (_BRIGHT, _BRICK, _ASPHALT, _GREEN),
    "other": (_STONE, _BRICK, _BRIGHT, _GREEN),
}
"""Groups of colours a class draws from. All but the sign's are shared, so that colour alone does not tell."""

_JITTER = 14


def draw_colour(name: StreetClass, draws: Draws) -> Rgb:
    """A colour that this class may have."""
    red, green, blue = draws.pick(draws.pick(COLOURS_OF[name]))
    shift = draws.between(-_JITTER, _JITTER)
    return tuple(  # type: ignore[return-value]
        min(max(channel + shift + draws.between(-6, 6), 8), 247) for channel in (red, green, blue)
    )


def tone_tiles(draws: Draws) -> NDArray[np.uint8]:
    """Textures of surfaces, uint8 (7, TILE, TILE), row 0 at the bottom; which is which: the constants below."""
    tiles = [_grain(draws, 4, 44), _slabs(draws), *(_windows(draws) for _ in range(3)), _leaves(draws), _planks(draws)]
    return np.stack([np.clip(tile, 0, 255).astype(np.uint8) for tile in tiles])


ROAD_TILE, GROUND_TILE = 0, 1
FACADE_TILES = (2, 3, 4)
HEDGE_TILE, PLANK_TILE = 5, 6


def _tiled_noise(draws: Draws, cell: int) -> Tones:
    """Noise around 0 that meets itself at the tile's borders."""
    field = value_noise(TILE, TILE, cell, draws).astype(np.int64) - 128
    fade = np.minimum(np.arange(TILE), TILE - 1 - np.arange(TILE))
    weight = np.minimum(np.minimum(fade[:, None], fade[None, :]) * 32, 256)
    noise: Tones = field * weight >> 8
    return noise


def _grain(draws: Draws, cell: int, strength: int) -> Tones:
    tile: Tones = EVEN_TONE + (_tiled_noise(draws, cell) * strength >> 7)
    return tile


def _slabs(draws: Draws) -> Tones:
    """Paving: joints around slabs, or rough earth."""
    tile = _grain(draws, 6, 40)
    if draws.chance(0.75):
        pitch = draws.pick((8, 16, 32))
        places = np.arange(TILE) % pitch
        tile[places == 0] -= 46
        tile[:, places == 0] -= 46
    return tile


def _windows(draws: Draws) -> Tones:
    """A storey of a house with one or two windows, darker or lighter than the wall."""
    tile = _grain(draws, 5, 24)
    if draws.chance(0.5):
        tile[np.arange(TILE) % 8 == 0] -= 14
    per_tile = draws.pick((1, 2))
    pitch = TILE // per_tile
    low, high = draws.between(14, 22), draws.between(44, 56)
    margin = draws.between(pitch // 6, pitch // 4)
    inside = (np.arange(TILE) % pitch >= margin) & (np.arange(TILE) % pitch < pitch - margin)
    tone = draws.pick((52, 64, 78, 176))
    glass = np.full((high - low, TILE), tone, dtype=np.int64) + np.arange(high - low)[:, None] // 2
    tile[low:high] = np.where(inside, glass, tile[low:high])
    tile[low - 2 : low] += np.where(inside, 44, 0)
    return tile


def _leaves(draws: Draws) -> Tones:
    return EVEN_TONE + (_tiled_noise(draws, 5) * 80 + _tiled_noise(draws, 12) * 50 >> 7)


def _planks(draws: Draws) -> Tones:
    """A fence or a low wall: upright boards with gaps between them."""
    tile = _grain(draws, 7, 30)
    pitch = draws.pick((8, 16))
    tile[:, np.arange(TILE) % pitch < 2] -= 62
    tile[TILE - 6 :] += 24
    return tile


def paint_sky(height: int, width: int, material: int, draws: Draws) -> Codes:
    """A sky with clouds that grows paler towards the horizon, codes (height, width)."""
    clouds = value_noise(height, width, max(height // 5, 4), draws).astype(np.int64) - 128
    contrast = draws.between(6, 40)
    paler = np.arange(height)[:, None] * draws.between(10, 46) // height
    tone = np.clip(EVEN_TONE - 12 + paler + (clouds * contrast >> 7), 0, 255)
    return _codes(material, tone)


def _codes(material: int, tone: Tones) -> Codes:
    return (np.uint32(material) << np.uint32(8)) | tone.astype(np.uint32)


class Sheet:
    """A sprite in the making: parts are painted over one another, in coordinates 0..1023 across and down."""

    def __init__(self, rows: int, columns: int) -> None:
        self.codes: Codes = np.zeros((rows, columns), dtype=np.uint32)
        self.u = ((2 * np.arange(columns) + 1) * 512 // columns)[None, :]
        self.v = ((2 * np.arange(rows) + 1) * 512 // rows)[:, None]

    def box(self, left: int, top: int, right: int, bottom: int) -> Mask:
        mask: Mask = (self.u >= left) & (self.u < right) & (self.v >= top) & (self.v < bottom)
        return mask

    def ellipse(self, u: int, v: int, half_u: int, half_v: int) -> Mask:
        inside: Mask = ((self.u - u) * half_v) ** 2 + ((self.v - v) * half_u) ** 2 <= (half_u * half_v) ** 2
        return inside

    def trapezium(self, top: int, bottom: int, half_top: int, half_bottom: int) -> Mask:
        """Symmetric about the middle."""
        half = half_top + (half_bottom - half_top) * (self.v - top) // max(bottom - top, 1)
        mask: Mask = (np.abs(self.u - 512) <= half) & (self.v >= top) & (self.v < bottom)
        return mask

    def paint(self, mask: Mask, material: int, tone: int | Tones = EVEN_TONE) -> None:
        tones = np.broadcast_to(np.clip(np.asarray(tone, dtype=np.int64), 0, 255), mask.shape)
        self.codes[mask] = _codes(material, tones[mask])


def vehicle_sprite(draws: Draws, add: AddMaterial, *, is_tall: bool, shows_front: bool) -> Codes:
    """A car, or a van or lorry, from the front or from behind."""
    sheet = Sheet(40, 48)
    body, glass, tyre = add(draw_colour("vehicle", draws)), add((50, 62, 74)), add((30, 30, 32))
    lamp = add((236, 232, 204) if shows_front else (190, 40, 34))
    shade = EVEN_TONE + 24 - sheet.v * 40 // 1024
    sheet.paint(sheet.box(90, 700, 270, 1024) | sheet.box(754, 700, 934, 1024), tyre)
    if is_tall:
        sheet.paint(sheet.box(60, 0, 964, 880), body, shade)
        if shows_front or draws.chance(0.5):
            sheet.paint(sheet.box(150, 130, 874, 420), glass)
        else:
            sheet.paint(sheet.box(505, 60, 520, 820), body, 70)
    else:
        sheet.paint(sheet.trapezium(0, 430, 270, 400), body, shade)
        sheet.paint(sheet.trapezium(70, 380, 250, 340), glass, EVEN_TONE + 30 - sheet.v // 10)
        sheet.paint(sheet.box(20, 400, 1004, 860), body, shade)
    lamp_top = 500 if not is_tall else 640
    sheet.paint(sheet.box(60, lamp_top, 220, lamp_top + 110), lamp, 150)
    sheet.paint(sheet.box(804, lamp_top, 964, lamp_top + 110), lamp, 150)
    sheet.paint(sheet.box(390, 690, 634, 770), lamp, EVEN_TONE if shows_front else 40)
    return sheet.codes


def person_sprite(draws: Draws, add: AddMaterial) -> Codes:
    """Head, arms, trunk and legs."""
    sheet = Sheet(56, 24)
    skin = add(draws.pick(((224, 180, 150), (150, 104, 76), (92, 62, 48))))
    top, trousers = add(draw_colour("person", draws)), add(draw_colour("person", draws))
    stride = draws.between(0, 120)
    shade = EVEN_TONE + 20 - sheet.u * 40 // 1024
    sheet.paint(sheet.box(290 - stride, 520, 470, 1024) | sheet.box(554, 520, 734 + stride, 1024), trousers, shade)
    sheet.paint(sheet.box(300, 500, 724, 640), trousers, shade)
    sheet.paint(sheet.box(120, 200, 904, 560) & ~sheet.box(200, 330, 260, 560) & ~sheet.box(764, 330, 824, 560), top)
    sheet.paint(sheet.box(260, 170, 764, 560), top, shade)
    sheet.paint(sheet.ellipse(512, 90, 230, 92), skin, shade)
    sheet.paint(sheet.ellipse(512, 60, 235, 62), skin, 50)
    return sheet.codes


def pole_sprite(draws: Draws, add: AddMaterial) -> Codes:
    """A post, rounded by its shading."""
    sheet = Sheet(16, 6)
    metal = add(draw_colour("pole", draws))
    sheet.paint(sheet.box(0, 0, 1024, 1024), metal, EVEN_TONE + 40 - np.broadcast_to(sheet.u, (16, 6)) * 90 // 1024)
    return sheet.codes


def sign_sprite(draws: Draws, add: AddMaterial) -> Codes:
    """A round, square, triangular or eight-cornered board with a rim and a mark."""
    sheet = Sheet(24, 24)
    rim, face, mark = add(draw_colour("sign", draws)), add(draw_colour("sign", draws)), add((30, 30, 30))
    shape = draws.pick(("disc", "square", "triangle", "octagon"))
    outer = {
        "disc": sheet.ellipse(512, 512, 512, 512),
        "square": sheet.box(0, 0, 1024, 1024),
        "triangle": sheet.trapezium(0, 1024, 30, 512),
        "octagon": np.abs(sheet.u - 512) + np.abs(sheet.v - 512) <= 720,
    }[shape]
    inner = sheet.trapezium(300, 900, 60, 330) if shape == "triangle" else sheet.ellipse(512, 512, 380, 380)
    sheet.paint(outer, rim)
    sheet.paint(inner, face)
    sheet.paint(sheet.box(440, 380, 584, 760) if draws.chance(0.5) else sheet.box(280, 450, 744, 574), mark)
    return sheet.codes


def tree_sprite(draws: Draws, add: AddMaterial, *, has_trunk: bool) -> Codes:
    """A ragged crown with holes, on a trunk or on the ground."""
    rows, columns = (56, 44) if has_trunk else (24, 36)
    sheet = Sheet(rows, columns)
    leaf = add(draw_colour("vegetation", draws))
    noise = value_noise(rows, columns, 6, draws).astype(np.int64) - 128
    middle, half = (360, 350) if has_trunk else (600, 540)
    if has_trunk:
        wide = draws.between(40, 70)
        sheet.paint(sheet.box(512 - wide, 560, 512 + wide, 1024), add((92, 74, 58)), EVEN_TONE + noise // 4)
    radius = ((sheet.u - 512) * 1024 // 500) ** 2 + ((sheet.v - middle) * 1024 // half) ** 2
    crown = radius <= (1 << 20) - (np.abs(noise) << 12)
    sheet.paint(crown, leaf, EVEN_TONE + noise * 6 // 10 - (sheet.v - middle) // 24)
    return sheet.codes


def other_sprite(draws: Draws, add: AddMaterial) -> Codes:
    """A bin, a striped barrier, a box, or a bench."""
    sheet = Sheet(24, 28)
    first, second = add(draw_colour("other", draws)), add(draw_colour("other", draws))
    kind = draws.pick(("bin", "barrier", "box", "bench"))
    if kind == "bin":
        sheet.paint(sheet.trapezium(120, 1024, 480, 360), first, EVEN_TONE + 30 - sheet.u * 60 // 1024)
        sheet.paint(sheet.box(0, 0, 1024, 130), second)
    elif kind == "barrier":
        sheet.paint(sheet.box(60, 0, 160, 1024) | sheet.box(864, 0, 964, 1024), second, 80)
        sheet.paint(sheet.box(0, 120, 1024, 560), first)
        sheet.paint(sheet.box(0, 120, 1024, 560) & ((sheet.u + sheet.v) % 300 < 150), second, 170)
    elif kind == "box":
        sheet.paint(sheet.box(0, 0, 1024, 1024), first, EVEN_TONE + 20 - sheet.v * 40 // 1024)
        sheet.paint(sheet.box(0, 480, 1024, 540) | sheet.box(480, 0, 540, 1024), second, 90)
    else:
        sheet.paint(sheet.box(100, 400, 200, 1024) | sheet.box(824, 400, 924, 1024), second, 90)
        sheet.paint(sheet.box(0, 0, 1024, 240) | sheet.box(0, 420, 1024, 560), first)
    return sheet.codes
