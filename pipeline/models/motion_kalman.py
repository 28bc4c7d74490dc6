"""The Kalman filter of an object's box: constant velocity, moved with the camera. Values in, values out."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Box4 = tuple[float, float, float, float]
"""(x0, y0, x1, y1): edges in pixels, [x0, x1) x [y0, y1)."""

POSITION_STD = 1 / 20
VELOCITY_STD = 1 / 160
"""Of the box's height, per frame. Source: SAMURAI, arXiv 2411.11922, whose filter is DeepSORT's (arXiv 1703.07402)."""

ASPECT_STD, ASPECT_VELOCITY_STD, MEASURED_ASPECT_STD = 1e-2, 1e-5, 1e-1
FIRST_POSITION, FIRST_VELOCITY = 2.0, 10.0
"""A filter that has seen one box is this much less sure."""

_STEP = np.eye(8) + np.eye(8, k=4)
_MEASURES = np.eye(4, 8)
_MIN_SIDE = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class KalmanState:
    """What is believed of a box: mean (8,) of centre x, y, aspect width / height, height and their velocities per
    frame, and covariance (8, 8)."""

    mean: Array
    covariance: Array

    @property
    def box(self) -> Box4:
        x, y, aspect, height = (float(value) for value in self.mean[:4])
        height = max(height, _MIN_SIDE)
        width = max(aspect * height, _MIN_SIDE)
        return x - width / 2, y - height / 2, x + width / 2, y + height / 2

    def likely_box(self, num_std: float) -> Box4:
        """The box, grown on every side by so many standard deviations of its centre along that axis."""
        x0, y0, x1, y1 = self.box
        grow_x, grow_y = (num_std * float(np.sqrt(max(self.covariance[axis, axis], 0.0))) for axis in (0, 1))
        return x0 - grow_x, y0 - grow_y, x1 + grow_x, y1 + grow_y

    @property
    def center(self) -> tuple[float, float]:
        return float(self.mean[0]), float(self.mean[1])


def initiate(box: Box4, velocity_xy: tuple[float, float] = (0.0, 0.0)) -> KalmanState:
    """A filter that has seen one box, and believes it to stand still unless told how it moves, in pixels per frame."""
    measured = _measure(box)
    height = measured[3]
    position, velocity = FIRST_POSITION * POSITION_STD * height, FIRST_VELOCITY * VELOCITY_STD * height
    std = np.array([position, position, ASPECT_STD, position, velocity, velocity, ASPECT_VELOCITY_STD, velocity])
    return KalmanState(mean=np.concatenate([measured, velocity_xy, np.zeros(2)]), covariance=np.diag(std**2))


def move_with_camera(state: KalmanState, camera_23: Array) -> KalmanState:
    """The same belief in the pixels of the next frame: position, velocity and height follow the camera's similarity.

    Args:
        camera_23: maps pixels of the frame of `state` to pixels of the next one.
    """
    linear = camera_23[:, :2]
    scale = float(np.sqrt(abs(np.linalg.det(linear))))
    mean = state.mean.copy()
    mean[0:2] = linear @ state.mean[0:2] + camera_23[:, 2]
    mean[4:6] = linear @ state.mean[4:6]
    mean[3] *= scale
    mean[7] *= scale
    return KalmanState(mean=mean, covariance=state.covariance)


def predict(state: KalmanState) -> KalmanState:
    """One frame on."""
    height = max(float(state.mean[3]), _MIN_SIDE)
    position, velocity = POSITION_STD * height, VELOCITY_STD * height
    std = np.array([position, position, ASPECT_STD, position, velocity, velocity, ASPECT_VELOCITY_STD, velocity])
    covariance = _STEP @ state.covariance @ _STEP.T + np.diag(std**2)
    return KalmanState(mean=_STEP @ state.mean, covariance=covariance)


def correct(state: KalmanState, box: Box4) -> KalmanState:
    """A predicted belief after its frame's box was measured."""
    height = max(float(state.mean[3]), _MIN_SIDE)
    position = POSITION_STD * height
    noise = np.diag(np.array([position, position, MEASURED_ASPECT_STD, position]) ** 2)
    expected = _MEASURES @ state.covariance @ _MEASURES.T + noise
    gain = np.linalg.solve(expected, _MEASURES @ state.covariance).T
    mean = state.mean + gain @ (_measure(box) - state.mean[:4])
    covariance = state.covariance - gain @ expected @ gain.T
    return KalmanState(mean=mean, covariance=(covariance + covariance.T) / 2)


def box_iou(first: Box4, second: Box4) -> float:
    """Intersection over union of two boxes, 0..1; 0 where both are empty."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    shared = max(0.0, width) * max(0.0, height)
    union = box_area(first) + box_area(second) - shared
    return shared / union if union > 0 else 0.0


def box_area(box: Box4) -> float:
    """In square pixels, 0 where a side is negative."""
    return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])


def _measure(box: Box4) -> Array:
    x0, y0, x1, y1 = box
    width, height = max(x1 - x0, _MIN_SIDE), max(y1 - y0, _MIN_SIDE)
    return np.array([(x0 + x1) / 2, (y0 + y1) / 2, width / height, height])
