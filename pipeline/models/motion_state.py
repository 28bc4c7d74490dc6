"""What motion remembers of one object: the filter, key points, the last accepted mask and its frame."""

# Axes: P points, H W pixels of the grey image, h w cells of the logit grid.

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.models.motion_kalman import Box4, KalmanState
from pipeline.models.motion_points import Floats, Grey

_ARRAYS = ("points_P2", "logits_hw", "grey_HW")


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectMotion:
    """A value: each frame makes a new one. `ObjectMotion()` has seen nothing, as at the start and after a scene cut.

    Attributes:
        kalman: the box in grey pixels as of the newest frame; None once the object was absent for too long.
        anchor_xy: the filter's centre on the last accepted frame.
        step_xy: how its box moved to that frame from the frame before, the camera's motion taken off, in grey pixels;
            None if it was not accepted on both.
        center_xy: of its box, moved on by the camera and by `step_xy` in each frame since; grey pixels.
        points_P2: key points of the last accepted mask, (x, y) in grey pixels.
        logits_hw: float16, its mask logits, cut at +-32, over the whole frame.
        box: its box, in grey pixels.
        grey_HW: the last accepted frame; objects accepted on one frame share the array.
        accepted_frame: index of that frame.
        object_score, predicted_iou: of that mask.
        usual_area: of accepted masks, in cells; it follows them by a hundredth per frame at most.
        usual_iou: predicted IoU of accepted masks since the filter began, a running mean; 0 before the first of them
            that the user did not show.
        absent: frames since then.
        stable_frames: masks accepted since the filter began, without the first.
    """

    kalman: KalmanState | None = None
    anchor_xy: tuple[float, float] = (0.0, 0.0)
    step_xy: tuple[float, float] | None = None
    center_xy: tuple[float, float] | None = None
    points_P2: Floats | None = None
    logits_hw: NDArray[np.float16] | None = None
    box: Box4 | None = None
    grey_HW: Grey | None = None
    accepted_frame: int | None = None
    object_score: float = 0.0
    predicted_iou: float = 0.0
    usual_area: float = 0.0
    usual_iou: float = 0.0
    absent: int = 0
    stable_frames: int = 0

    def num_bytes(self) -> int:
        """Bytes of the arrays held; a shared grey image counts for each of its holders."""
        kalman = () if self.kalman is None else (self.kalman.mean, self.kalman.covariance)
        arrays = (*kalman, *(getattr(self, name) for name in _ARRAYS))
        return sum(array.nbytes for array in arrays if array is not None)

    def state_dict(self) -> dict[str, Any]:
        """Tensors, numbers, tuples and None."""
        state = {f.name: getattr(self, f.name) for f in fields(self)}
        for name in _ARRAYS:
            state[name] = None if state[name] is None else torch.from_numpy(state[name].copy())
        if self.kalman is not None:
            state["kalman"] = {
                "mean": torch.from_numpy(self.kalman.mean.copy()),
                "covariance": torch.from_numpy(self.kalman.covariance.copy()),
            }
        return state

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        """The object that gave this state."""
        values = dict(state)
        for name in _ARRAYS:
            values[name] = None if values[name] is None else _array(values[name])
        if values["kalman"] is not None:
            values["kalman"] = KalmanState(**{name: _array(tensor) for name, tensor in values["kalman"].items()})
        for name in ("anchor_xy", "step_xy", "center_xy", "box"):
            values[name] = None if values[name] is None else tuple(values[name])
        return cls(**values)


def _array(tensor: torch.Tensor) -> Any:
    return tensor.cpu().numpy().copy()
