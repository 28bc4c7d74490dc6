"""Key points: well inside, far apart; followed there and back on drawn videos."""

import numpy as np
import pytest

from pipeline.models.motion_camera import to_grey
from pipeline.models.motion_config import MotionConfig
from pipeline.models.motion_points import key_points, track_points
from tests.models.drawn_motion import World, texture

CONFIG = MotionConfig()


def test_key_points_lie_inside_and_each_is_the_farthest_from_those_before() -> None:
    mask = World().draw(0).mask
    points = key_points(mask, num_points=5, erosion=0.08)
    assert points.shape == (5, 2)
    np.testing.assert_allclose(points[0], (150, 120), atol=1.5)
    rows, columns = np.nonzero(mask)
    inside = np.stack([columns, rows], axis=1)
    rim = 0.08 * np.sqrt(mask.sum())
    outside = np.argwhere(~mask)[:, ::-1]
    deep = np.array([p for p in inside if np.linalg.norm(outside - p, axis=1).min() > rim])
    for place in range(1, 5):
        gaps = np.linalg.norm(deep[:, None] - points[None, :place], axis=-1).min(axis=1)
        mine = np.linalg.norm(points[place] - points[:place], axis=-1).min()
        assert mine == pytest.approx(gaps.max(), abs=1.0)


def test_thin_and_tiny_masks_still_have_points() -> None:
    line = np.zeros((20, 60), np.bool_)
    line[7, 10:50] = True
    assert len(key_points(line, num_points=5, erosion=0.08)) == 5
    dot = np.zeros((20, 60), np.bool_)
    dot[3, 41] = True
    np.testing.assert_array_equal(key_points(dot, num_points=5, erosion=0.08), [[41, 3]])
    assert key_points(np.zeros((20, 60), np.bool_), num_points=5, erosion=0.08).shape == (0, 2)


@pytest.mark.parametrize(("step", "guess"), [((2.5, -1.25), (0.0, 0.0)), ((41.0, -18.0), (40.0, -16.0))])
def test_points_are_followed_and_a_guess_reaches_far(step: tuple[float, float], guess: tuple[float, float]) -> None:
    world = World(path=lambda t: (150 + step[0] * t, 120 + step[1] * t))
    first, second = (to_grey(world.draw(t).image, short_side_px=256) for t in (0, 1))
    points = key_points(world.draw(0).mask, num_points=5, erosion=0.08)
    moved, found = track_points(first, second, points, guess_xy=guess, object_side_px=48, config=CONFIG)
    assert found.sum() >= 3
    np.testing.assert_allclose(np.median((moved - points)[found], axis=0), step, atol=0.5)


def test_points_that_vanish_are_lost() -> None:
    world = World()
    first = to_grey(world.draw(0).image, short_side_px=256)
    other = texture(256, 400, seed=99).clip(0, 255).astype(np.uint8)
    points = key_points(world.draw(0).mask, num_points=5, erosion=0.08)
    _, found = track_points(first, other, points, guess_xy=(0.0, 0.0), object_side_px=48, config=CONFIG)
    assert found.sum() < CONFIG.min_tracked_points
