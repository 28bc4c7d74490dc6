"""The box filter against closed forms: a line is followed exactly, and a camera's shift cancels."""

import numpy as np
import pytest

from pipeline.models.motion_kalman import Box4, KalmanState, box_iou, correct, initiate, move_with_camera, predict
from tests.models.drawn_motion import shift, turn


def box_at(time: float, *, speed: tuple[float, float] = (4.0, -1.5)) -> Box4:
    x, y = 60 + speed[0] * time, 150 + speed[1] * time
    return x - 20, y - 12, x + 20, y + 12


def follow(num_frames: int) -> tuple[KalmanState, list[float]]:
    """The filter after boxes on a straight line, and the error of each prediction in pixels."""
    state, errors = initiate(box_at(0)), []
    for time in range(1, num_frames):
        state = predict(state)
        errors.append(float(np.abs(np.array(state.box) - np.array(box_at(time))).max()))
        state = correct(state, box_at(time))
    return state, errors


def test_predictions_of_constant_velocity_come_ever_closer_and_end_exact() -> None:
    _, errors = follow(60)
    assert errors[0] == pytest.approx(4.0)
    assert errors[15] < 0.5
    assert errors[-1] < 0.01


def test_five_frames_without_a_measurement_go_on_along_the_line_with_growing_doubt() -> None:
    state, _ = follow(60)
    doubt = [np.trace(state.covariance)]
    for time in range(60, 65):
        state = predict(state)
        doubt.append(np.trace(state.covariance))
        assert np.abs(np.array(state.box) - np.array(box_at(time))).max() < 0.05
    assert doubt == sorted(doubt)
    assert doubt[-1] > doubt[0]


def test_a_likely_box_grows_by_the_centres_standard_deviation_on_every_side() -> None:
    state = KalmanState(mean=np.array([50.0, 30, 2, 10, 0, 0, 0, 0]), covariance=np.diag([16.0, 9, 0, 1, 0, 0, 0, 0]))
    assert state.box == (40, 25, 60, 35)
    assert state.likely_box(0.0) == state.box
    assert state.likely_box(0.5) == (38, 23.5, 62, 36.5)


def test_camera_compensation_gives_the_filter_of_a_still_camera_exactly() -> None:
    jerks = np.random.default_rng(3).uniform(-30, 30, size=(20, 2))
    still, moving = initiate(box_at(0)), initiate(box_at(0))
    blind, offset = moving, np.zeros(2)
    for time, jerk in enumerate(jerks, start=1):
        offset += jerk
        seen: Box4 = tuple(np.array(box_at(time)) + np.tile(offset, 2))  # type: ignore[assignment]
        still = predict(still)
        moving = predict(move_with_camera(moving, shift(*jerk)))
        blind = predict(blind)
        np.testing.assert_allclose(np.array(moving.box) - np.tile(offset, 2), still.box, atol=1e-9)
        still, moving, blind = correct(still, box_at(time)), correct(moving, seen), correct(blind, seen)
    assert np.abs(np.array(blind.box) - np.array(moving.box)).max() > 1


def test_turning_and_zooming_camera_moves_position_velocity_and_height() -> None:
    state, _ = follow(30)
    camera = turn(90, about=(0.0, 0.0), zoom=2.0)
    moved = move_with_camera(state, camera)
    # A quarter turn counter-clockwise on the screen takes (x, y) to (y, -x).
    np.testing.assert_allclose(moved.mean[:2], 2 * np.array([state.mean[1], -state.mean[0]]), atol=1e-9)
    np.testing.assert_allclose(moved.mean[4:6], 2 * np.array([state.mean[5], -state.mean[4]]), atol=1e-9)
    assert moved.mean[3] == pytest.approx(2 * state.mean[3])


def test_correction_equals_the_information_form() -> None:
    state = predict(initiate(box_at(0)))
    height, measures = state.mean[3], np.eye(4, 8)
    noise = np.diag(np.array([height / 20, height / 20, 0.1, height / 20]) ** 2)
    x0, y0, x1, y1 = box_at(1)
    measured = np.array([(x0 + x1) / 2, (y0 + y1) / 2, (x1 - x0) / (y1 - y0), y1 - y0])
    information = np.linalg.inv(state.covariance) + measures.T @ np.linalg.inv(noise) @ measures
    expected = np.linalg.solve(
        information, np.linalg.inv(state.covariance) @ state.mean + measures.T @ np.linalg.inv(noise) @ measured
    )
    found = correct(state, box_at(1))
    np.testing.assert_allclose(found.mean, expected, atol=1e-8)
    np.testing.assert_allclose(found.covariance, np.linalg.inv(information), atol=1e-8)


def test_box_iou() -> None:
    assert box_iou((0, 0, 4, 2), (2, 0, 6, 2)) == pytest.approx(1 / 3)
    assert box_iou((0, 0, 4, 2), (4, 0, 6, 2)) == 0
    assert box_iou((1, 1, 1, 1), (1, 1, 1, 1)) == 0
