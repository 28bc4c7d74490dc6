"""What weather and a failing camera do to the picture of a street; labels and the other sensors' geometry stay."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from pipeline.synth.draws import Draws
from pipeline.synth.street_render import Painted
from pipeline.synth.street_world import (
    CLASS_ID,
    NEAR_MM,
    SKY_DEPTH_MM,
    TICKS_PER_FRAME,
    Failure,
    StreetScene,
    View,
)
from pipeline.synth.world import SUBPIXELS

Picture = NDArray[np.uint8]

BLUR_SUBFRAMES = (5, 7, 9)
OVEREXPOSURE_GAIN, UNDEREXPOSURE_GAIN = 2.2, 0.25
NIGHT_GAMMA = 2.4

_RADIANCE_STEPS = 1024
_FULL_WELL_PHOTONS = 220
_NIGHT_COLOUR_SHARE = 77  # of 256: what is left of an object's own colour at night
_HEADLIGHT_MM = 26_000
_HEADLIGHT_GAIN = 5
_LAMP_RADIANCE = 800
_LAMP_REACH_MM = 700
_MEAN_GREY = 118


@dataclass(frozen=True, slots=True, kw_only=True)
class Atmosphere:
    """What the weather of one street is like.

    Attributes:
        beta_permille: of fog, extinction for each metre in 1/1000.
        fog_light: grey level of the fog.
        night_gain: see `_at_night`.
        streaks: uint8 (2H, 2W), opacity of rain.
        sun_px: the sun's place relative to the image's centre, (x, y), and its strength.
        blur_ticks: from a frame's own time to the times that its exposure averages over.
    """

    beta_permille: int
    fog_light: int
    night_gain: float
    streaks: Picture
    sun_px: tuple[int, int, int]
    blur_ticks: tuple[int, ...]

    @classmethod
    def draw(cls, scene: StreetScene, draws: Draws) -> "Atmosphere":
        side = min(scene.height, scene.width)
        beta_permille = draws.between(20, 120)
        num_blurred = draws.pick(BLUR_SUBFRAMES)
        step = TICKS_PER_FRAME // (num_blurred - 1)
        return cls(
            beta_permille=beta_permille,
            fog_light=draws.between(178, 222),
            night_gain=draws.between(15, 35) / 100,
            streaks=_streaks(scene, draws) if scene.weather == "rain" else np.zeros((0, 0), dtype=np.uint8),
            sun_px=(draws.between(-side, side), -draws.between(side // 4, side // 2), draws.between(40, 150)),
            blur_ticks=tuple((k - num_blurred // 2) * step for k in range(num_blurred)),
        )

    def cast(
        self, clean: Picture, painted: Painted, scene: StreetScene, tick: int, failure: Failure, draws: Draws
    ) -> Picture:
        """The picture that the camera gives, uint8 (H, W, 3), from an ideal one."""
        view = scene.camera.at(tick)
        match scene.weather:
            case "sun":
                picture = self._in_sun(clean, view)
            case "cloud":
                picture = _mixed(clean, 214, 20)
            case "fog":
                picture = self._in_fog(clean, painted)
            case "rain":
                picture = self._in_rain(clean, draws)
            case "night":
                picture = self._at_night(clean, painted, scene, tick, draws)
        return _grainy(exposed(picture, failure), draws)

    def _in_sun(self, clean: Picture, view: View) -> Picture:
        """More contrast, and the glare of a low sun."""
        x, y, strength = self.sun_px
        height, width, _ = clean.shape
        right = np.arange(width) - view.centre_x // SUBPIXELS - x
        down = np.arange(height) - view.centre_y // SUBPIXELS - y
        reach = min(height, width) * min(height, width) * 2 // 5
        near = np.maximum(reach - right * right - (down * down)[:, None], 0) * 256 // reach
        glare = (near * near >> 8) * strength >> 8
        return _clipped(clean.astype(np.int32) * 280 // 256 - 10 + glare[..., None])

    def _in_fog(self, clean: Picture, painted: Painted) -> Picture:
        """I exp(-beta z) + A (1 - exp(-beta z)); Koschmieder's law."""
        through = np.take(_fog_table(self.beta_permille), painted.depth_mm // 100)[..., None]
        foggy = clean * through + np.uint16(self.fog_light) * (np.uint16(256) - through)
        picture: Picture = (foggy >> np.uint16(8)).astype(np.uint8)
        return picture

    def _in_rain(self, clean: Picture, draws: Draws) -> Picture:
        """Less contrast, and streaks that are elsewhere in each frame."""
        height, width, _ = clean.shape
        top, left = draws.below(height), draws.below(width)
        streaks = self.streaks[top : top + height, left : left + width, None].astype(np.int32)
        dull = _mixed(clean, 190, _MEAN_GREY * 66 // 256).astype(np.int32)
        return (dull + ((206 - dull) * streaks >> 8)).astype(np.uint8)

    def _at_night(self, clean: Picture, painted: Painted, scene: StreetScene, tick: int, draws: Draws) -> Picture:
        """gain I^2.4 with little colour left, lit by head-lights, counted in photons."""
        grey = (clean[..., 0] * np.uint16(77) + clean[..., 1] * np.uint16(150) + clean[..., 2] * np.uint16(29)) >> 8
        own = clean * np.uint16(_NIGHT_COLOUR_SHARE) + grey[..., None] * np.uint16(256 - _NIGHT_COLOUR_SHARE)
        radiance = np.take(_night_table(round(self.night_gain * 100)), own >> np.uint16(8))
        view = scene.camera.at(tick)
        near = np.maximum(_HEADLIGHT_MM - painted.depth_mm, 0) * 16 // _HEADLIGHT_MM
        right = np.abs(np.arange(scene.width) - view.centre_x // SUBPIXELS)
        across = np.maximum(16 - right * 32 // scene.width, 0)
        radiance *= (256 + _HEADLIGHT_GAIN * near * near * across[None, :] // 16)[..., None].astype(np.int32)
        radiance >>= 8
        _light_lamps(radiance, painted, scene, tick, view)
        np.minimum(radiance, _RADIANCE_STEPS - 1, out=radiance)
        picture: Picture = _photon_table()[radiance, draws.noise(*radiance.shape)]
        return picture


def exposed(picture: Picture, failure: Failure) -> Picture:
    """The picture under a failing exposure; unchanged under any other failure."""
    if failure not in ("overexposure", "underexposure"):
        return picture
    gain = OVEREXPOSURE_GAIN if failure == "overexposure" else UNDEREXPOSURE_GAIN
    table = np.minimum(np.arange(256) * round(gain * 256) >> 8, 255).astype(np.uint8)
    return np.take(table, picture)


def mean_picture(pictures: Sequence[Picture]) -> Picture:
    """The rounded mean of pictures of one size."""
    total = np.zeros(pictures[0].shape, dtype=np.uint16)
    for picture in pictures:
        total += picture
    return ((total + np.uint16(len(pictures) // 2)) // np.uint16(len(pictures))).astype(np.uint8)


def _mixed(picture: Picture, gain: int, offset: int) -> Picture:
    table = np.minimum((np.arange(256) * gain >> 8) + offset, 255).astype(np.uint8)
    return np.take(table, picture)


def _grainy(picture: Picture, draws: Draws) -> Picture:
    """Read noise of a few grey levels."""
    noise = (draws.noise(*picture.shape) >> 5).astype(np.int16) - 4
    return _clipped(picture + noise)


def _clipped(values: NDArray[np.integer]) -> Picture:
    picture: Picture = np.clip(values, 0, 255).astype(np.uint8)
    return picture


def _streaks(scene: StreetScene, draws: Draws) -> Picture:
    """Slanted streaks of rain; twice the frame's size, so that every frame sees another part."""
    height, width = 2 * scene.height, 2 * scene.width
    layer = np.zeros((height, width), dtype=np.uint8)
    slant = draws.between(-60, 60)
    for _ in range(width * 17 // 20):  # a twentieth of the layer: a streak is a seventeenth of its height long
        top, left = draws.below(height), draws.below(width)
        steps = np.arange(draws.between(height // 28, height // 12))
        layer[(top + steps) % height, (left + steps * slant // 128) % width] = draws.between(50, 150)
    return layer


def _light_lamps(radiance: NDArray[np.int32], painted: Painted, scene: StreetScene, tick: int, view: View) -> None:
    """Add the glow of the lamps of vehicles that are seen."""
    height, width, _ = radiance.shape
    for thing in scene.uprights:
        x, z = thing.place_mm(tick)
        away = z - view.z_mm
        if thing.class_id != CLASS_ID["vehicle"] or away < NEAR_MM:
            continue
        row = (view.centre_y + (view.y_mm - thing.height_mm * 2 // 5) * view.focal_px * SUBPIXELS // away) // SUBPIXELS
        reach = max(view.focal_px * _LAMP_REACH_MM // away, 2)
        for lamp_x in (x - thing.width_mm * 3 // 8, x + thing.width_mm * 3 // 8):
            column = (view.centre_x + (lamp_x - view.x_mm) * view.focal_px * SUBPIXELS // away) // SUBPIXELS
            if not (0 <= row < height and 0 <= column < width) or painted.depth_mm[row, column] != away:
                continue
            rows = np.arange(max(row - reach, 0), min(row + reach + 1, height))
            columns = np.arange(max(column - reach, 0), min(column + reach + 1, width))
            near = reach * reach - (columns - column) ** 2 - ((rows - row) ** 2)[:, None]
            glow = np.maximum(near, 0) * _LAMP_RADIANCE // (reach * reach)
            radiance[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] += glow[..., None].astype(np.int32)


@cache
def _fog_table(beta_permille: int) -> NDArray[np.uint16]:
    """Share of light that comes through, in 1/256, by distance in dm."""
    shares = [round(256 * math.exp(-beta_permille * dm / 10_000)) for dm in range(SKY_DEPTH_MM // 100 + 1)]
    return np.array(shares, dtype=np.uint16)


@cache
def _night_table(gain_percent: int) -> NDArray[np.int32]:
    """Radiance by grey level, 0 .. `_RADIANCE_STEPS` - 1."""
    levels = [round((_RADIANCE_STEPS - 1) * gain_percent / 100 * (level / 255) ** NIGHT_GAMMA) for level in range(256)]
    return np.array(levels, dtype=np.int32)


@cache
def _photon_table() -> Picture:
    """Grey level for each radiance and each byte of chance: a Poisson count, uint8 (`_RADIANCE_STEPS`, 256)."""
    table = np.zeros((_RADIANCE_STEPS, 256), dtype=np.uint8)
    chances = (np.arange(256) + 0.5) / 256
    for radiance in range(1, _RADIANCE_STEPS):
        mean = radiance * _FULL_WELL_PHOTONS / (_RADIANCE_STEPS - 1)
        counts = np.arange(int(mean + 6 * math.sqrt(mean)) + 4)
        logs = [count * math.log(mean) - mean - math.lgamma(count + 1) for count in counts.tolist()]
        cumulated = np.cumsum([math.exp(log) for log in logs])
        drawn = np.searchsorted(cumulated, chances)
        table[radiance] = np.minimum(drawn * 255 // _FULL_WELL_PHOTONS, 255)
    return table
