"""How the camera moved, on drawn videos whose camera is known; cuts; what the next frame needs of this one."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.models.motion_camera import FrameMotion, estimate_camera, observe_frame, picture_shift, to_grey
from pipeline.models.motion_config import MotionConfig
from pipeline.models.motion_state import ObjectMotion
from tests.models.drawn_motion import World, logits_of, shift, turn

CONFIG = MotionConfig()
BIG = World(sprite=(165.0, 110.0), path=lambda t: (190.0 + 6 * t, 128.0 + 4 * t))
"""A sprite that fills more than half of the frame and goes its own way: most corners are on it."""

CAMERAS = {
    "shift": shift(13.0, -7.0),
    "turn": turn(4.0, about=(200.0, 128.0)),
    "turn and zoom": turn(-3.0, about=(90.0, 40.0), zoom=1.04),
}


def observe(world: World, time: int, previous: FrameMotion | None, config: MotionConfig = CONFIG) -> FrameMotion:
    """The frame at a time, with the sprite's mask as of the frame before."""
    objects = []
    if previous is not None:
        objects = [ObjectMotion(logits_hw=logits_of(world.draw(time - 1).mask, size=(64, 64)).astype(np.float16))]
    return observe_frame(world.draw(time).image, time, previous, objects, config, None)


@pytest.mark.parametrize("name", CAMERAS)
def test_camera_is_found_beside_a_large_object_that_goes_its_own_way(name: str) -> None:
    world = replace(BIG, camera=lambda t: CAMERAS[name] if t else np.eye(2, 3))
    frame = observe(world, 1, observe(world, 0, None))
    corners = np.array([(0, 0, 1), (399, 0, 1), (0, 255, 1), (399, 255, 1)], np.float64)
    np.testing.assert_allclose(frame.camera_23 @ corners.T, CAMERAS[name] @ corners.T, atol=0.5)
    assert frame.num_inliers >= CONFIG.camera_min_inliers
    assert not frame.is_cut


@pytest.mark.parametrize("step", [(23.0, -14.0), (-40.0, 9.0), (0.0, 0.0)])
def test_the_shift_of_a_picture_of_uneven_sides_and_how_much_of_it_shifted(step: tuple[float, float]) -> None:
    world = World(height=255, width=401, sprite=(40.0, 30.0), camera=lambda t: shift(step[0] * t, step[1] * t))
    first, second = (to_grey(world.draw(t).image, short_side_px=256) for t in (0, 1))
    shift_xy, share = picture_shift(first, second)
    np.testing.assert_allclose(shift_xy, step, atol=0.5)
    assert share > 0.3
    other = to_grey(World(height=255, width=401, sprite=None, seed=9).draw(0).image, short_side_px=256)
    assert picture_shift(first, other)[1] < 0.1


def test_pictures_too_thin_to_shift_are_told_nothing_and_break_nothing() -> None:
    thin = np.random.default_rng(3).integers(0, 255, (3, 400), np.uint8)
    shift_xy, share = picture_shift(thin, np.roll(thin, 4, axis=1))
    assert (shift_xy.tolist(), share) == ([0.0, 0.0], 0.0)
    assert estimate_camera(thin, np.roll(thin, 4, axis=1), np.ones(thin.shape, np.bool_), CONFIG)[0].shape == (2, 3)


def test_a_jerk_that_corners_alone_lose_is_found_from_the_pictures_shift(monkeypatch: pytest.MonkeyPatch) -> None:
    world = replace(BIG, sprite=(60.0, 50.0), camera=lambda t: shift(70.0 * t, 20.0 * t))
    np.testing.assert_allclose(observe(world, 1, observe(world, 0, None)).camera_23, shift(70.0, 20.0), atol=0.5)
    monkeypatch.setattr("pipeline.models.motion_camera._MIN_SHIFT_SHARE", 2.0)
    lost = observe(world, 1, observe(world, 0, None)).camera_23
    assert np.abs(lost - shift(70.0, 20.0)).max() > 5


@pytest.mark.parametrize("similarity", [None, turn(3.0, about=(0.0, 0.0))], ids=["none", "turned"])
def test_the_median_shift_is_the_camera_where_more_corners_follow_it(
    monkeypatch: pytest.MonkeyPatch, similarity: NDArray[np.float64] | None
) -> None:
    world = replace(BIG, sprite=(60.0, 50.0), camera=lambda t: shift(13.0 * t, -7.0 * t))
    monkeypatch.setattr(cv2, "estimateAffinePartial2D", lambda *_, **__: (similarity, None))
    frame = observe(world, 1, observe(world, 0, None))
    np.testing.assert_allclose(frame.camera_23, shift(13.0, -7.0), atol=0.3)
    assert frame.num_inliers >= CONFIG.camera_min_inliers


def test_a_sharper_picture_is_measured_at_the_grey_images_size() -> None:
    world = World(height=512, width=800, sprite=None, camera=lambda t: shift(20.0 * t, -10.0 * t))
    frame = observe_frame(
        world.draw(1).image, 1, observe_frame(world.draw(0).image, 0, None, [], CONFIG, None), [], CONFIG, None
    )
    assert frame.grey_HW.shape == (256, 400)
    assert frame.scale_xy == (2.0, 2.0)
    np.testing.assert_allclose(frame.camera_23, shift(10.0, -5.0), atol=0.1)


def test_a_picture_without_corners_and_switched_off_compensation_leave_the_camera_still() -> None:
    flat = np.full((90, 160, 3), 77, np.uint8)
    first = observe_frame(flat, 0, None, [], CONFIG, None)
    np.testing.assert_array_equal(observe_frame(flat, 1, first, [], CONFIG, None).camera_23, np.eye(2, 3))
    world = replace(BIG, camera=lambda t: shift(9.0 * t, 0.0))
    off = CONFIG.model_copy(update={"camera_compensation": False})
    np.testing.assert_array_equal(observe(world, 1, observe(world, 0, None), off).camera_23, np.eye(2, 3))


@pytest.mark.parametrize("waived", [{"camera_min_inliers": 3}, {"camera_min_inlier_share": 0.0}])
def test_corners_that_scatter_are_not_a_camera_by_either_gate(waived: dict[str, float]) -> None:
    config = CONFIG.model_copy(update=waived)
    first, second = (World(sprite=None, seed=seed).draw(0).image for seed in (0, 9))
    frame = observe_frame(second, 1, observe_frame(first, 0, None, [], config, None), [], config, None)
    np.testing.assert_array_equal(frame.camera_23, np.eye(2, 3))


def test_another_scene_is_a_cut_and_a_jerk_is_not() -> None:
    night = (World(sprite=None, seed=5).draw(0).image // 4).astype(np.uint8)
    day = World(sprite=None, camera=lambda t: shift(25.0 * t, 10.0 * t))
    first = observe_frame(day.draw(0).image, 0, None, [], CONFIG, None)
    assert observe_frame(night, 1, first, [], CONFIG, None).is_cut
    assert not observe_frame(day.draw(1).image, 1, first, [], CONFIG, None).is_cut


def test_grey_keeps_the_aspect_and_is_never_enlarged() -> None:
    assert to_grey(np.zeros((480, 854, 3), np.uint8), short_side_px=256).shape == (256, 455)
    assert to_grey(np.zeros((854, 480, 3), np.uint8), short_side_px=256).shape == (455, 256)
    assert to_grey(np.zeros((48, 80, 3), np.uint8), short_side_px=256).shape == (48, 80)


def test_a_restored_frame_gives_the_same_next_frame() -> None:
    world = replace(BIG, camera=lambda t: CAMERAS["turn"] if t else np.eye(2, 3))
    first = observe(world, 0, None)
    restored = FrameMotion.from_state(first.state_dict())
    np.testing.assert_array_equal(observe(world, 1, restored).camera_23, observe(world, 1, first).camera_23)
    assert restored.frame_size == (256, 400)
    assert restored.num_bytes() == first.num_bytes() == 256 * 400 + 6 * 8


def test_frames_of_two_sizes_are_refused() -> None:
    first = observe_frame(np.zeros((90, 160, 3), np.uint8), 0, None, [], CONFIG, None)
    with pytest.raises(ValueError, match=r"frame 1: \(160, 90\) after \(90, 160\)"):
        observe_frame(np.zeros((160, 90, 3), np.uint8), 1, first, [], CONFIG, None)
