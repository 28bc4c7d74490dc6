"""What an object's motion becomes after its mask on a frame is known: accepted, or bridged by the filter."""

# Axes: H W pixels of the grey image, h w cells of the logit grid.

from dataclasses import replace

import cv2
import numpy as np

from pipeline.models.motion_camera import FrameMotion
from pipeline.models.motion_config import MotionConfig
from pipeline.models.motion_forecast import MotionForecast
from pipeline.models.motion_kalman import Box4, KalmanState, box_area, box_iou, correct, initiate
from pipeline.models.motion_points import Floats, key_points
from pipeline.models.motion_state import ObjectMotion
from pipeline.models.motion_warp import logits_box

LOGIT_LIMIT = 32.0
"""Logits that prompt a later frame are cut here, as SAM2's predictor cuts those of an earlier answer."""

_AREA_CHANGE = 1.01
"""An object's usual area grows and shrinks by this factor per frame at most. With 1.05 two look-alikes that met became
one object within ten frames, no step of which was too large."""

_IOU_CHANGE = 0.05
"""Weight of the newest accepted mask in an object's usual predicted IoU."""


def update(
    state: ObjectMotion,
    frame: FrameMotion,
    forecast: MotionForecast | None,
    *,
    logits_hw: Floats,
    object_score: float,
    predicted_iou: float,
    config: MotionConfig,
) -> ObjectMotion:
    """The object after a frame. Its mask is accepted if it is in view, predicted to be good, and as usual.

    Source: spec of MGP, state and gates [I]. The filter begins anew on the first accepted frame, after more than
    `coast_max` frames without one, after a shorter absence from which the object comes back elsewhere (its box does
    not meet the predicted one), and on frames that the user prompted. An object in view whose box the filter missed
    altogether is followed with the displacement just seen: SAMURAI's noise lets a velocity change by 1/160 of the
    height per frame, so a filter that was outrun would stay behind for the rest of a fast run. Not in the spec [U].

    Args:
        forecast: of this frame; None on a frame that the user prompted.
        logits_hw: float32, what was emitted, over the whole frame.
        object_score: logit that the object is in view.
        predicted_iou: of this mask, 0..1.

    Raises:
        ValueError: the logits are no float array (h, w).
    """
    if logits_hw.ndim != 2 or not np.issubdtype(logits_hw.dtype, np.floating):
        raise ValueError(
            f"logits_hw: {logits_hw.dtype} {logits_hw.shape}, expected a float array (h, w) over the whole frame. "
            "Give one object's mask logits at a time."
        )
    expected = None if forecast is None else forecast.kalman
    height, width = frame.grey_HW.shape
    box = logits_box(logits_hw.astype(np.float32), (height, width))
    if box is None or object_score <= 0 or predicted_iou <= config.accept_predicted_iou:
        return _coast(state, expected, frame, config)
    area = float(np.count_nonzero(logits_hw > 0))
    is_other = _is_other(state, area, box, config)
    is_doubtful = predicted_iou < config.min_iou_share * state.usual_iou
    if (is_other or is_doubtful) and expected is not None:
        return _coast(state, expected, frame, config)
    kalman, stable_frames = _follow(state, expected, box, frame)
    mask_HW = cv2.resize(logits_hw.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR) > 0
    return ObjectMotion(
        kalman=kalman,
        anchor_xy=kalman.center,
        center_xy=_center(box),
        step_xy=_step(state, box, frame) if expected is not None and state.absent == 0 else None,
        points_P2=key_points(mask_HW, num_points=config.num_points, erosion=config.erosion),
        logits_hw=np.clip(logits_hw, -LOGIT_LIMIT, LOGIT_LIMIT).astype(np.float16),
        box=box,
        grey_HW=frame.grey_HW,
        accepted_frame=frame.frame_index,
        object_score=object_score,
        predicted_iou=predicted_iou,
        usual_iou=_usual_iou(state, forecast, predicted_iou),
        usual_area=area if expected is None else _usual_area(state, area),
        stable_frames=stable_frames,
    )


def _is_other(state: ObjectMotion, area: float, box: Box4, config: MotionConfig) -> bool:
    """Whether a mask's size says that it is not the object alone, or not all of it."""
    is_spread = state.box is not None and box_area(box) > config.max_box_share * box_area(state.box)
    return is_spread or not config.min_area_share * state.usual_area <= area <= config.max_area_share * state.usual_area


def _usual_area(state: ObjectMotion, area: float) -> float:
    return min(max(area, state.usual_area / _AREA_CHANGE), state.usual_area * _AREA_CHANGE)


def _usual_iou(state: ObjectMotion, forecast: MotionForecast | None, predicted_iou: float) -> float:
    """With an accepted mask: one that the user showed says nothing of those to come."""
    if forecast is None:
        return 0.0
    if forecast.kalman is None or not state.usual_iou:
        return predicted_iou
    return state.usual_iou + _IOU_CHANGE * (predicted_iou - state.usual_iou)


def _follow(
    state: ObjectMotion, expected: KalmanState | None, box: Box4, frame: FrameMotion
) -> tuple[KalmanState, int]:
    """The filter after an accepted box, and for how many boxes it has held."""
    if expected is None:
        return initiate(box), 0
    if box_iou(expected.box, box) > 0:
        return correct(expected, box), state.stable_frames + 1
    if state.absent > 0 or state.box is None:
        return initiate(box), 0
    return initiate(box, _step(state, box, frame)), state.stable_frames + 1


def _step(state: ObjectMotion, box: Box4, frame: FrameMotion) -> tuple[float, float]:
    """From the last accepted box, moved with the camera, to this one."""
    assert state.box is not None
    from_x, from_y = frame.moved(_center(state.box))
    x, y = _center(box)
    return x - from_x, y - from_y


def _center(box: Box4) -> tuple[float, float]:
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def _coast(state: ObjectMotion, expected: KalmanState | None, frame: FrameMotion, config: MotionConfig) -> ObjectMotion:
    moved_on = replace(state, absent=state.absent + 1)
    if state.center_xy is not None and state.step_xy is not None:
        moved_on = replace(moved_on, center_xy=frame.moved(state.center_xy, by_xy=state.step_xy))
    if expected is None or moved_on.absent > config.coast_max:
        return replace(moved_on, kalman=None, stable_frames=0)
    return replace(moved_on, kalman=expected)
