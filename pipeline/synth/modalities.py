"""What other sensors see of a street beside the camera: inverse depth, an HHA-like code, events, and LiDAR returns."""

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from pipeline.synth.draws import Draws
from pipeline.synth.street_config import StreetConfig
from pipeline.synth.street_render import LUMINANCE_STEPS
from pipeline.synth.street_world import SKY_DEPTH_MM, Failure, View, Weather
from pipeline.synth.world import SUBPIXELS

Picture = NDArray[np.uint8]
Depths = NDArray[np.int32]
Luminance = NDArray[np.uint16]

NEAREST_MM = 2_000
"""Inverse depth is 255 from here on nearer."""
HEIGHT_RANGE_MM = 10_000
GROUND_BELOW_MM = 60
_UPRIGHT_ANGLE = 127  # 90 of 180 degrees

LOG_UNITS = 1024
"""Units of log intensity in a natural one."""
EVENT_THRESHOLD, EVENT_THRESHOLD_SPREAD = 0.2, 0.03
EVENT_FULL_SCALE = 5
"""So many events of one polarity in a pixel show as 255."""
LOWRES_FACTOR = 4

LIDAR_RANGE_MM = 70_000
_LIDAR_UP, _LIDAR_DOWN = 0.14, 0.60  # tangents of the scanner's highest and lowest line
_REFERENCE_PX = 128

_SHOT_RATE: dict[Weather, int] = {"sun": 2, "cloud": 2, "fog": 3, "rain": 6, "night": 9}
"""Of 256 pixels, how many fire at random in each polarity between two frames; twice as many where it is dark."""
_LEAK_UNITS = 3
_DROP_OF_WEATHER: dict[Weather, tuple[int, int]] = {
    "sun": (10, 0),
    "cloud": (10, 0),
    "night": (10, 0),
    "rain": (34, 1),
    "fog": (14, 3),
}
"""Lost returns in 1/256: of any, and for each metre of distance."""


def inverse_depth(depth_mm: Depths) -> Picture:
    """Nearness in 8 bits, uint8 (H, W, 3): 255 at 2 m and nearer, half of it at twice the distance, 0 in the sky."""
    near = np.minimum(255 * NEAREST_MM // np.maximum(depth_mm, 1), 255)
    return _three_times(np.where(depth_mm >= SKY_DEPTH_MM, 0, near))


def hha_like(depth_mm: Depths, view: View) -> Picture:
    """Disparity, height above the ground, angle of the surface to it: uint8 (H, W, 3), 0 in the sky.

    Height is 255 at 10 m and above. The angle is 0 on the ground and 127 (90 degrees) elsewhere, since all else
    stands upright here.

    Source: after Gupta et al., ECCV 2014 (HHA), section 3; not their scaling.
    """
    rows = np.arange(depth_mm.shape[0], dtype=np.int64) * SUBPIXELS + SUBPIXELS // 2 - view.centre_y
    slope = (rows << 16) // (view.focal_px * SUBPIXELS)
    height_mm = view.y_mm - (depth_mm * slope[:, None] >> 16)
    is_sky = depth_mm >= SKY_DEPTH_MM
    height = np.clip(height_mm * 255 // HEIGHT_RANGE_MM, 0, 255)
    angle = np.where(height_mm <= GROUND_BELOW_MM, 0, _UPRIGHT_ANGLE)
    code = inverse_depth(depth_mm)
    code[..., 1] = np.where(is_sky, 0, height)
    code[..., 2] = np.where(is_sky, 0, angle)
    return code


@dataclass(frozen=True, slots=True, kw_only=True)
class EventCamera:
    """A sensor whose pixels report each change of log intensity by their own threshold.

    Source: after Rebecq et al., CoRL 2018 (ESIM), section 3; Hu et al., CVPRW 2021 (v2e), leak and shot noise.

    Attributes:
        thresholds: float32 (2, H, W), brighter and darker, in `LOG_UNITS`.
        shot_rate: of 256 pixels, how many fire at random between two frames.
        is_lowres: only every fourth pixel of every fourth row works, and stands for its neighbours.
    """

    thresholds: NDArray[np.float32]
    shot_rate: int
    is_lowres: bool

    @classmethod
    def draw(cls, height: int, width: int, weather: Weather, failure: Failure, draws: Draws) -> "EventCamera":
        # The sum of four bytes is near enough to a normal distribution; its deviation is 147.8.
        bell = draws.noise(4, 2, height, width).astype(np.int32).sum(axis=0) - 510
        spread = EVENT_THRESHOLD_SPREAD * LOG_UNITS / 147.8
        return cls(
            thresholds=(EVENT_THRESHOLD * LOG_UNITS + bell * spread).astype(np.float32),
            shot_rate=_SHOT_RATE[weather],
            is_lowres=failure == "eventlowres",
        )

    def record(self, luminances: list[Luminance], draws: Draws) -> Picture:
        """Events between the first and the last of these views, uint8 (H, W, 3): R brighter, B darker, G 0.

        Pixels begin with what is left from earlier changes: anything within their thresholds.
        """
        counts = self._counts([np.take(_log_table(), luminance) for luminance in luminances], draws)
        is_dark = luminances[-1] < LUMINANCE_STEPS // 8
        chances = draws.noise(*counts.shape)
        counts += chances < np.where(is_dark, 2 * self.shot_rate, self.shot_rate)
        shown = np.minimum(counts * (255 // EVENT_FULL_SCALE), 255).astype(np.uint8)
        picture = np.zeros((*shown.shape[1:], 3), dtype=np.uint8)
        picture[..., 0], picture[..., 2] = shown
        return lowres(picture) if self.is_lowres else picture

    def _counts(self, logs: list[NDArray[np.float32]], draws: Draws) -> NDArray[np.int32]:
        """Events of each polarity, int32 (2, H, W)."""
        brighter, darker = self.thresholds
        left = (draws.noise(*brighter.shape) + np.float32(0.5)) * np.float32(1 / 256)
        reference = logs[0] - brighter + left * (brighter + darker) - np.float32(_LEAK_UNITS)
        per_brighter, per_darker = 1 / brighter, 1 / darker
        counts = np.zeros(self.thresholds.shape, dtype=np.int32)
        for log in logs[1:]:
            change = log - reference
            rises = np.maximum(change * per_brighter, np.float32(0)).astype(np.int32)
            falls = np.maximum(change * -per_darker, np.float32(0)).astype(np.int32)
            reference += rises * brighter - falls * darker
            counts[0] += rises
            counts[1] += falls
        return counts


def lowres(picture: Picture) -> Picture:
    """Every fourth pixel of every fourth row, repeated to the picture's own size."""
    height, width, _ = picture.shape
    few = picture[::LOWRES_FACTOR, ::LOWRES_FACTOR]
    return few.repeat(LOWRES_FACTOR, axis=0)[:height].repeat(LOWRES_FACTOR, axis=1)[:, :width]


@cache
def _log_table() -> NDArray[np.float32]:
    """Log of each luminance, in whole `LOG_UNITS`."""
    values = [round(LOG_UNITS * math.log(value + LUMINANCE_STEPS / 128)) for value in range(LUMINANCE_STEPS)]
    return np.array(values, dtype=np.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class LidarScanner:
    """A scanner with a fan of lines, each a cone around the vertical axis.

    Attributes:
        tangents: float64 (L,), of the lines' angles below the horizon.
        num_azimuths: returns of one line, at most.
        dot_px: side of a return in the picture.
        jitter_px: int64 (L, 2), how far each line is displaced, (x, y).
        drop: see `_DROP_OF_WEATHER`.
    """

    tangents: NDArray[np.float64]
    num_azimuths: int
    dot_px: int
    jitter_px: NDArray[np.int64]
    drop: tuple[int, int]

    @classmethod
    def draw(cls, config: StreetConfig, weather: Weather, failure: Failure, draws: Draws) -> "LidarScanner":
        lines = draws.between(*config.lidar_lines)
        dot = max(round(config.short_side_px / _REFERENCE_PX), 1)
        wanted = round(config.lidar_density * config.height * config.width / (lines * dot * dot))
        steps = np.arange(lines) / max(lines - 1, 1)
        jitter = [[draws.pick((-1, 1)) * draws.between(1, 3) for _ in "xy"] for _ in range(lines)]
        return cls(
            tangents=steps * (_LIDAR_UP + _LIDAR_DOWN) - _LIDAR_UP,
            num_azimuths=max(min(wanted, config.width // dot), 1),
            dot_px=dot,
            jitter_px=np.array(jitter) * (dot if failure == "lidarjitter" else 0),
            drop=_DROP_OF_WEATHER[weather],
        )

    def record(self, depth_mm: Depths, luminance: Luminance, view: View, draws: Draws) -> Picture:
        """Returns as dots in the colour of their distance on black, uint8 (H, W, 3).

        Far and dark surfaces lose more of them; the sky returns nothing.
        """
        height, width = depth_mm.shape
        shape = len(self.tangents), self.num_azimuths
        columns = (np.arange(self.num_azimuths) * 256 + draws.noise(self.num_azimuths)) * width
        columns = np.broadcast_to(columns // (256 * self.num_azimuths), shape)
        right = (columns[0] * SUBPIXELS + SUBPIXELS // 2 - view.centre_x) / (view.focal_px * SUBPIXELS)
        down = self.tangents[:, None] * np.sqrt(1 + right * right) * (view.focal_px * SUBPIXELS)
        rows = (np.floor(down).astype(np.int64) + view.centre_y) // SUBPIXELS
        is_seen = (rows >= 0) & (rows < height)
        rows = np.where(is_seen, rows, 0)
        away_mm = depth_mm[rows, columns].astype(np.int64)
        kept = is_seen & (away_mm < LIDAR_RANGE_MM)
        kept &= draws.noise(*shape) >= self._drop_of(away_mm, luminance[rows, columns])
        colours = _distance_colours()[np.minimum(away_mm * 255 // LIDAR_RANGE_MM, 255)]
        rows, columns = rows + self.jitter_px[:, 1:], columns + self.jitter_px[:, :1]
        return self._splat(rows[kept], columns[kept], colours[kept], height, width)

    def _drop_of(self, away_mm: NDArray[np.int64], luminance: Luminance) -> NDArray[np.int64]:
        """Chance of losing a return in 1/256."""
        metres = away_mm // 1000
        darkness = 256 - luminance.astype(np.int64) * 256 // LUMINANCE_STEPS
        lost: NDArray[np.int64] = self.drop[0] + metres * self.drop[1] + (metres * metres * darkness >> 13)
        return lost

    def _splat(
        self, rows: NDArray[np.int64], columns: NDArray[np.int64], colours: Picture, height: int, width: int
    ) -> Picture:
        picture = np.zeros((height, width, 3), dtype=np.uint8)
        for down in range(self.dot_px):
            for right in range(self.dot_px):
                y, x = rows + down, columns + right
                is_in = (y >= 0) & (y < height) & (x >= 0) & (x < width)
                picture[y[is_in], x[is_in]] = colours[is_in]
        return picture


@cache
def _distance_colours() -> Picture:
    """Red near, over yellow and green to blue far, uint8 (256, 3); never black."""
    near = 255 - np.arange(256)
    ramp = [np.clip(2 * near - 200, 0, 255), np.clip(255 - np.abs(near - 140) * 2, 0, 255), 255 - near]
    return np.stack(ramp, axis=1).astype(np.uint8)


def _three_times(plane: NDArray[np.integer]) -> Picture:
    return np.repeat(plane.astype(np.uint8)[..., None], 3, axis=2)
