"""Sensors of streets against closed forms: inverse depth, HHA, event polarity and rate, LiDAR density and colours."""

import math

import numpy as np
import pytest

from pipeline.synth.draws import Draws
from pipeline.synth.modalities import (
    LIDAR_RANGE_MM,
    EventCamera,
    LidarScanner,
    hha_like,
    inverse_depth,
)
from pipeline.synth.street import sample_street
from pipeline.synth.street_config import StreetConfig
from pipeline.synth.street_render import LUMINANCE_STEPS
from pipeline.synth.street_world import CLASS_ID, SKY_DEPTH_MM, WEATHERS, View, Weather

VIEW = View(x_mm=0, y_mm=1500, z_mm=0, centre_x=52 * 256, centre_y=36 * 256, focal_px=64)
CONFIG = StreetConfig(height=72, width=104, num_frames=2, modalities=("depth", "hha", "event", "lidar"))


def test_inverse_depth_is_full_at_two_metres_and_halves_with_each_doubling() -> None:
    depth = np.array([[500, 2_000, 4_000], [8_000, 40_000, SKY_DEPTH_MM]], dtype=np.int32)
    picture = inverse_depth(depth)
    assert picture.shape == (2, 3, 3)
    assert picture[..., 0].tolist() == [[255, 255, 127], [63, 12, 0]]
    assert (picture == picture[..., :1]).all()


def test_depth_is_that_of_the_frame() -> None:
    frame = sample_street(CONFIG, 1, "test", 0).frames[0]
    wanted = np.where(frame.labels == CLASS_ID["sky"], 0, np.minimum(255 * 2.0 / frame.depth_m, 255))
    assert np.abs(frame.modalities["depth"][..., 0] - wanted).max() <= 1.01


def test_hha_tells_disparity_height_and_whether_a_surface_stands() -> None:
    rows = np.arange(72) + 0.5 - 36
    ground_mm = np.where(rows > 0, 1500 * 64 / np.maximum(rows, 0.01), SKY_DEPTH_MM).round()
    wall_mm = 8_000
    depth = np.broadcast_to(np.minimum(ground_mm, SKY_DEPTH_MM)[:, None], (72, 104)).astype(np.int32).copy()
    depth[:, 60:] = np.minimum(depth[:, 60:], wall_mm)
    code = hha_like(depth, VIEW)
    is_sky = depth == SKY_DEPTH_MM
    is_wall = depth == wall_mm
    height_m = 1.5 - rows * wall_mm / 64 / 1000
    wanted = np.broadcast_to((height_m * 25.5).clip(0, 255)[:, None], (72, 104))
    assert np.abs(code[..., 1][is_wall] - wanted[is_wall]).max() <= 1.5
    standing = is_wall & (wanted > 3)
    assert (code[..., 2][standing] == 127).all()
    assert (code[is_sky] == 0).all()
    floor = ~is_sky & ~is_wall
    assert (code[..., 1:][floor] == 0).all()
    assert np.array_equal(code[..., 0], inverse_depth(depth)[..., 0])


def sensor(weather: Weather = "sun", failure: str = "none") -> EventCamera:
    return EventCamera.draw(72, 104, weather, failure, Draws(1))  # type: ignore[arg-type]


def test_thresholds_differ_between_pixels_as_the_specification_says() -> None:
    thresholds = sensor().thresholds / 1024
    assert thresholds.shape == (2, 72, 104)
    assert thresholds.mean() == pytest.approx(0.2, abs=0.001)
    assert thresholds.std() == pytest.approx(0.03, abs=0.001)
    assert not np.array_equal(thresholds[0], thresholds[1])


def test_brightening_shows_in_red_darkening_in_blue_and_standing_in_neither() -> None:
    first = np.full((72, 104), 3000, dtype=np.uint16)
    last = first.copy()
    last[:, :30], last[:, 30:60] = 4500, 2000
    picture = sensor().record([first, (first + last) // 2, last], Draws(2))
    brighter, still, darker = picture[:, :30], picture[:, 60:], picture[:, 30:60]
    assert (brighter[..., 0] > 0).mean() > 0.95
    assert (brighter[..., 2] > 0).mean() < 0.03
    assert (darker[..., 2] > 0).mean() > 0.95
    assert (darker[..., 0] > 0).mean() < 0.03
    assert (still > 0).mean() < 0.03
    assert not picture[..., 1].any()


def mean_events(change: float) -> float:
    """Events in a pixel whose log intensity rises by this much in four steps."""
    offset = LUMINANCE_STEPS / 128
    levels = [round((2000 + offset) * math.exp(change * step / 4) - offset) for step in range(5)]
    views = [np.full((72, 104), level, dtype=np.uint16) for level in levels]
    return float(sensor().record(views, Draws(3))[..., 0].mean()) / 51


def test_the_number_of_events_is_the_change_of_log_intensity_over_the_threshold() -> None:
    """Half an event is owed at the start: what is left from earlier lies evenly between the two thresholds."""
    assert mean_events(0.3) == pytest.approx(0.3 / 0.2 - 0.5, abs=0.1)
    assert mean_events(0.6) - mean_events(0.3) == pytest.approx(0.3 / 0.2, rel=0.05)


def test_noise_fires_more_at_night_and_in_the_dark() -> None:
    def rate(weather: Weather, level: int) -> float:
        still = np.full((72, 104), level, dtype=np.uint16)
        return float((sensor(weather).record([still, still], Draws(4)) > 0)[..., [0, 2]].mean())

    assert 0.003 < rate("sun", 4000) < 0.03
    assert rate("night", 4000) > 2 * rate("sun", 4000)
    assert rate("night", 300) > 1.5 * rate("night", 4000)


def test_lowres_events_are_the_same_sensor_at_every_fourth_pixel() -> None:
    views = [np.asarray(Draws(7, n).noise(72, 104).astype(np.uint16) * 16 + 1000) for n in range(3)]
    full, low = sensor().record(views, Draws(5)), sensor(failure="eventlowres").record(views, Draws(5))
    assert low.shape == full.shape
    assert np.array_equal(low, np.kron(full[::4, ::4], np.ones((4, 4, 1), dtype=np.uint8)))


@pytest.mark.parametrize("weather", WEATHERS)
def test_lidar_returns_cover_five_to_ten_percent(weather: Weather) -> None:
    config = StreetConfig(height=96, width=128, num_frames=1, weathers={weather: 1.0}, modalities=("lidar",))
    shares = []
    for index in range(4):
        frame = sample_street(config, 6, "test", index).frames[0]
        hits = frame.modalities["lidar"].any(axis=2)
        assert not hits[frame.labels == CLASS_ID["sky"]].any()
        shares.append(hits.mean())
    assert 0.05 <= np.mean(shares) <= 0.10, shares


def scanner(failure: str = "none", lines: tuple[int, int] = (16, 16)) -> LidarScanner:
    config = CONFIG.derive(lidar_lines=lines)
    return LidarScanner.draw(config, "sun", failure, Draws(8))  # type: ignore[arg-type]


def test_a_dot_has_the_colour_of_its_distance_and_dark_far_surfaces_lose_dots() -> None:
    depth = np.full((72, 104), 5_000, dtype=np.int32)
    depth[:, 52:] = 50_000
    bright, dark = (np.full((72, 104), value, dtype=np.uint16) for value in (8000, 400))
    picture = scanner().record(depth, bright, VIEW, Draws(9))
    near, far = (half[half.any(axis=2)] for half in (picture[:, :52], picture[:, 52:]))
    assert len(np.unique(near, axis=0)) == len(np.unique(far, axis=0)) == 1
    assert near[0, 0] > 200 > near[0, 2], "red"
    assert far[0, 2] > far[0, 0], "blue"
    fewer = scanner().record(depth, dark, VIEW, Draws(9))[:, 52:].any(axis=2).sum()
    assert len(far) > 1.25 * fewer
    depth[:] = LIDAR_RANGE_MM
    assert not scanner().record(depth, bright, VIEW, Draws(9)).any()


def test_scan_lines_are_cones_around_the_vertical() -> None:
    depth, bright = np.full((72, 104), 5_000, dtype=np.int32), np.full((72, 104), 8000, dtype=np.uint16)
    hits = scanner(lines=(4, 4)).record(depth, bright, VIEW, Draws(9)).any(axis=2)
    column = np.flatnonzero(hits[:, 40:64].any(axis=0)) + 40
    rows = np.unique(np.nonzero(hits[:, column])[0])
    wanted = [36 + 64 * tangent for tangent in (-0.14, -0.14 + 0.74 / 3, -0.14 + 1.48 / 3)]
    assert np.abs(rows[:, None] - np.array(wanted)).min(axis=1).max() < 3
    lowest_middle = np.nonzero(hits[36:62, 45:60])[0].min()
    lowest_side = np.nonzero(hits[36:62, :8])[0].min()
    assert lowest_side > lowest_middle, "below the horizon a line bends down towards the sides"


def test_jitter_moves_each_line_one_to_three_pixels_both_ways() -> None:
    depth, bright = np.full((72, 104), 5_000, dtype=np.int32), np.full((72, 104), 8000, dtype=np.uint16)
    steady, jittered = scanner(), scanner("lidarjitter")
    assert not steady.jitter_px.any()
    assert set(np.abs(jittered.jitter_px).ravel()) == {1, 2, 3}
    assert {-1, 1} == set(np.sign(jittered.jitter_px).ravel())
    one, other = (each.record(depth, bright, VIEW, Draws(9)).any(axis=2) for each in (steady, jittered))
    assert 0.9 < other.sum() / one.sum() < 1.05
    assert (one & other).sum() < 0.5 * one.sum()
