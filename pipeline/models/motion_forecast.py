"""Where an object should be on the current frame, how that is known, and the prompt that says so to the decoder."""

# Axes: P points, h w cells of the logit grid, 2 as (x, y).

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.models.motion_camera import FrameMotion
from pipeline.models.motion_config import MotionConfig
from pipeline.models.motion_flow import Flow, FlowField, matched_shift, move_points, window_field
from pipeline.models.motion_kalman import Box4, KalmanState, move_with_camera, predict
from pipeline.models.motion_points import Floats, track_points
from pipeline.models.motion_state import ObjectMotion
from pipeline.models.motion_warp import logits_box, shift_logits, warp_logits

_SAME_PX = 2.0
"""Displacements nearer to each other than this count as one."""

Source = Literal["dense", "points", "kalman", "none"]
Point = tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class MotionPrompt:
    """What a forecast asks the decoder; only the parts that the config's mode names.

    Attributes:
        points_P2: (x, y) on the object, in pixels of the decoded frame (pixel i has its centre at i); P may be 0.
        box: in pixels of the decoded frame, within it.
        logits_hw: float32, on the grid of the masks that `update` was given, over the whole frame.
    """

    points_P2: Floats
    box: Box4 | None
    logits_hw: Floats | None


@dataclass(frozen=True, slots=True, kw_only=True)
class MotionForecast:
    """What is expected of one object on one frame, before it is decoded.

    Attributes:
        prompt: None when nothing is known well enough.
        source: whose displacement the prompt follows.
        reason: why there is no prompt: "off", "no_accepted_frame", "low_predicted_iou", "absent_too_long",
            "no_source", "jump", "out_of_view"; empty if there is one.
        kalman: the filter, predicted to this frame, in grey pixels.
        kalman_box: its box in pixels of the decoded frame; None until the filter is stable.
        expected_box: which arbitration compares with, in pixels of the decoded frame: of the motion that was measured,
            else the filter's, if it is stable.
        expected_weight: of that box in arbitration.
        max_area: cells of the logits' grid that a mask may have once the filter is stable; see
            `MotionConfig.max_area_share`.
        displacement_xy: since the last accepted frame, in grey pixels.
        agreement: of forward and backward flow on the warped mask, 0..1; None where none was measured.
        num_tracked: key points that Lucas-Kanade followed there and back.
        motion: what the prompt was made from, in grey pixels; None without a prompt.
    """

    prompt: MotionPrompt | None = None
    source: Source = "none"
    reason: str = ""
    kalman: KalmanState | None = None
    kalman_box: Box4 | None = None
    expected_box: Box4 | None = None
    expected_weight: float = 0.0
    max_area: float | None = None
    displacement_xy: Point = (0.0, 0.0)
    agreement: float | None = None
    num_tracked: int = 0
    motion: "Motion | None" = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Motion:
    """How an object moved since its last accepted frame, in grey pixels.

    Attributes:
        source: who says so.
        displacement_xy: of the object as a whole.
        logits_hw: its last mask, moved.
        points_P2, from_P2: its key points, moved, and where they were.
        box: where it is; None if nowhere in the frame.
        size: (height, width) of the grey image.
        field: the dense flow that moved it, if that was the source.
        fit: how well it is known, 0..1: agreement times correlation of dense flow, the share of key points tracked.
    """

    source: Source
    displacement_xy: Point
    logits_hw: Floats
    points_P2: Floats
    from_P2: Floats
    box: Box4 | None
    size: tuple[int, int]
    field: FlowField | None = None
    fit: float = 1.0


def forecast(state: ObjectMotion, frame: FrameMotion, config: MotionConfig, flow: Flow | None) -> MotionForecast:
    """Expect an object on the current frame; changes nothing.

    Source: spec of MGP, motion estimate, warp and gates [I]. mode="off" still predicts the filter, so that
    SAM2's own candidates can be arbitrated, as SAMURAI does.

    Args:
        state: as of the frame before.
        flow: from `build_flow`; None measures no dense flow.
    """
    kalman = _predict(state, frame)
    is_stable = kalman is not None and state.stable_frames >= config.stable_frames
    kalman_box = box_to_frame(kalman.box, frame) if kalman is not None and is_stable else None
    known = MotionForecast(
        kalman=kalman,
        kalman_box=kalman_box,
        expected_box=kalman_box,
        expected_weight=config.kalman_weight if is_stable else 0.0,
        max_area=config.max_area_share * state.usual_area if is_stable and config.mode != "off" else None,
    )
    reason = closed_gate(state, config)
    if reason or kalman is None:
        return replace(known, reason=reason or "no_source")
    expected = (kalman.center[0] - state.anchor_xy[0], kalman.center[1] - state.anchor_xy[1])
    motion, agreement, num_tracked = measure(state, frame, kalman if is_stable else None, expected, config, flow)
    if motion is None:
        return replace(known, reason="no_source", agreement=agreement, num_tracked=num_tracked)
    if _beyond(motion, _guesses(state, frame, expected)) > _longest_jump(state, config):
        reason, prompt = "jump", None
    else:
        prompt = _prompt(motion, frame, config)
        reason = "" if prompt is not None else "out_of_view"
    if prompt is not None and motion.box is not None and motion.source != "kalman" and config.measured_weight > 0:
        weight = config.measured_weight * motion.fit
        known = replace(known, expected_box=box_to_frame(motion.box, frame), expected_weight=weight)
    return replace(
        known,
        prompt=prompt,
        source=motion.source if prompt is not None else "none",
        reason=reason,
        displacement_xy=motion.displacement_xy,
        agreement=agreement,
        num_tracked=num_tracked,
        motion=motion if prompt is not None else None,
    )


def closed_gate(state: ObjectMotion, config: MotionConfig) -> str:
    """Why no motion is to be looked for at all; empty if it is."""
    if config.mode == "off":
        return "off"
    if state.logits_hw is None:
        return "no_accepted_frame"
    if state.absent > config.coast_max:
        return "absent_too_long"
    return "low_predicted_iou" if state.predicted_iou < config.min_predicted_iou else ""


def measure(
    state: ObjectMotion,
    frame: FrameMotion,
    stable_kalman: KalmanState | None,
    expected_xy: Point,
    config: MotionConfig,
    flow: Flow | None,
) -> tuple[Motion | None, float | None, int]:
    """The best source that can be believed: dense flow, then tracked points, then a stable filter, else none.

    Args:
        stable_kalman: predicted; None if the filter is not to be believed.
        expected_xy: the filter's displacement, stable or not: where flow and points begin to look.

    Returns:
        The motion, the agreement of dense flow if it was measured, and the number of tracked points.
    """
    assert state.logits_hw is not None
    assert state.points_P2 is not None
    assert state.grey_HW is not None
    size = (frame.grey_HW.shape[0], frame.grey_HW.shape[1])
    logits_hw = state.logits_hw.astype(np.float32)
    assert state.box is not None
    to_P2, found_P = track_points(
        state.grey_HW,
        frame.grey_HW,
        state.points_P2,
        guess_xy=expected_xy,
        object_side_px=min(state.box[2] - state.box[0], state.box[3] - state.box[1]),
        config=config,
    )
    num_tracked = int(found_P.sum())
    tracked_P2 = to_P2[found_P] if num_tracked >= config.min_tracked_points else None
    tracked_xy = None if tracked_P2 is None else _median(tracked_P2 - state.points_P2[found_P])
    confirming_xy = tracked_xy if found_P.all() else None
    dense, agreement = _dense(state, frame, expected_xy, confirming_xy, config, flow)
    if dense is not None:
        if tracked_P2 is not None:
            dense = replace(dense, points_P2=tracked_P2, from_P2=state.points_P2[found_P])
        return dense, agreement, num_tracked
    motion: Motion | None = None
    if tracked_P2 is not None and tracked_xy is not None:
        from_to_P2 = (state.points_P2[found_P], tracked_P2)
        motion = _translated("points", tracked_xy, logits_hw, from_to_P2, None, size, config)
        motion = replace(motion, fit=num_tracked / len(found_P))
    elif stable_kalman is not None:
        both_P2 = (state.points_P2, state.points_P2 + np.array(expected_xy, np.float32))
        box = stable_kalman.likely_box(config.kalman_box_std)
        motion = _translated("kalman", expected_xy, logits_hw, both_P2, box, size, config)
    return motion, agreement, num_tracked


def _dense(
    state: ObjectMotion,
    frame: FrameMotion,
    expected_xy: Point,
    confirming_xy: Point | None,
    config: MotionConfig,
    flow: Flow | None,
) -> tuple[Motion | None, float | None]:
    """The believed flow that fits best, less its distance from what was to be expected; and its agreement.

    Flow that fits well ends the search, and so does flow that moves the object as all its key points moved. One
    look-alike fits as well as the other, so distance decides between them.
    Where no flow is believed the agreement is the best of those measured, or None.
    """
    assert state.logits_hw is not None
    assert state.points_P2 is not None
    size = (frame.grey_HW.shape[0], frame.grey_HW.shape[1])
    guesses, logits_hw = _guesses(state, frame, expected_xy), state.logits_hw.astype(np.float32)
    refused: float | None = None
    best: tuple[float, Motion, float] | None = None
    for field in _fields(state, frame, guesses, config, flow):
        warp = warp_logits(logits_hw, field, size, config)
        if not warp.is_believed(config):
            refused = max(warp.agreement, refused or 0.0)
            continue
        moved_P2 = move_points(state.points_P2, field)
        motion = Motion(
            source="dense",
            displacement_xy=_median(moved_P2 - state.points_P2),
            logits_hw=warp.logits_hw,
            points_P2=moved_P2,
            from_P2=state.points_P2,
            box=logits_box(warp.logits_hw, size),
            size=size,
            field=field,
            fit=warp.fit,
        )
        score = warp.fit - config.far_flow_cost * _beyond(motion, guesses) / _longest_jump(state, config)
        if best is None or score > best[0]:
            best = (score, motion, warp.agreement)
        is_confirmed = confirming_xy is not None and math.dist(motion.displacement_xy, confirming_xy) < _SAME_PX
        if is_confirmed or warp.fit >= config.sure_fit:
            break
    return (None, refused) if best is None else best[1:]


def _translated(
    source: Source,
    displacement_xy: Point,
    logits_hw: Floats,
    from_to_P2: tuple[Floats, Floats],
    box: Box4 | None,
    size: tuple[int, int],
    config: MotionConfig,
) -> Motion:
    """The last mask moved as a whole; its box is the filter's, if given."""
    moved_hw = shift_logits(logits_hw, displacement_xy, size, outside=config.out_of_view_logit)
    return Motion(
        source=source,
        displacement_xy=displacement_xy,
        logits_hw=moved_hw,
        points_P2=from_to_P2[1],
        from_P2=from_to_P2[0],
        box=logits_box(moved_hw, size) if box is None else box,
        size=size,
    )


def _predict(state: ObjectMotion, frame: FrameMotion) -> KalmanState | None:
    return None if state.kalman is None else predict(move_with_camera(state.kalman, frame.camera_23))


def _fields(
    state: ObjectMotion, frame: FrameMotion, guesses: Sequence[Point], config: MotionConfig, flow: Flow | None
) -> Iterator[FlowField]:
    """Flow fields to try: the frame's own (for objects seen on the frame before), crops moved as was to be expected,
    and a crop moved to where the object's pixels fit best."""
    if frame.field is not None and state.absent == 0:
        yield frame.field
    if flow is None or state.grey_HW is None or state.box is None or state.logits_hw is None:
        return
    for guess_xy in guesses:
        field = window_field(state.grey_HW, frame.grey_HW, state.box, guess_xy, flow, config)
        if field is not None:
            yield field
    if config.search_share and state.absent == 0:
        # Of an object that may be hidden, what looks like it elsewhere is something else.
        height, width = frame.grey_HW.shape
        matched_xy = matched_shift(
            state.grey_HW,
            frame.grey_HW,
            cv2.resize(state.logits_hw.astype(np.float32), (width, height)) > 0,
            state.box,
            guesses[0],
            reach_px=min(config.search_share * min(height, width), _longest_jump(state, config)),
            config=config,
        )
        if matched_xy is None or any(math.dist(matched_xy, guess_xy) < _SAME_PX for guess_xy in guesses):
            return
        field = window_field(state.grey_HW, frame.grey_HW, state.box, matched_xy, flow, config)
        if field is not None:
            yield field


def _guesses(state: ObjectMotion, frame: FrameMotion, expected_xy: Point) -> list[Point]:
    """Displacements to expect: the last step once more, if the filter does not say the same, and the filter's."""
    if state.box is None or state.center_xy is None or state.step_xy is None:
        return [expected_xy]
    center = frame.moved(state.center_xy, by_xy=state.step_xy)
    x, y = (center[axis] - (state.box[axis] + state.box[axis + 2]) / 2 for axis in (0, 1))
    if math.dist((x, y), expected_xy) < _SAME_PX:
        return [expected_xy]
    return [(x, y), expected_xy]


def _beyond(motion: Motion, guesses: Sequence[Point]) -> float:
    """How far a measured displacement is from the nearest that was to be expected, in grey pixels."""
    return min(math.dist(motion.displacement_xy, guess) for guess in guesses)


def _longest_jump(state: ObjectMotion, config: MotionConfig) -> float:
    """How far from what was to be expected a measured displacement may be, in grey pixels."""
    assert state.box is not None
    diagonal = math.hypot(state.box[2] - state.box[0], state.box[3] - state.box[1])
    return config.max_jump_diagonals * diagonal * (state.absent + 1)


def _prompt(motion: Motion, frame: FrameMotion, config: MotionConfig) -> MotionPrompt | None:
    """The parts of a prompt that the mode asks for, in pixels of the decoded frame; None if nothing is in view."""
    height, width = frame.grey_HW.shape
    box = None if motion.box is None else _grown_within(motion.box, config.box_margin, (height, width))
    if motion.box is None or box is None:
        return None
    points_P2 = motion.points_P2[_is_inside(motion, (height, width))]
    mode = config.mode
    prompt = MotionPrompt(
        points_P2=points_to_frame(points_P2, frame)
        if mode in ("points", "points_box", "all")
        else np.zeros((0, 2), np.float32),
        box=box_to_frame(box, frame) if mode in ("box", "points_box", "all") else None,
        logits_hw=motion.logits_hw if mode in ("dense", "all") else None,
    )
    asks_nothing = len(prompt.points_P2) == 0 and prompt.box is None and prompt.logits_hw is None
    return None if asks_nothing else prompt


def _is_inside(motion: Motion, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Which points lie on the moved mask or, if only the filter is believed, in its box; and in the frame."""
    x, y = motion.points_P2[:, 0], motion.points_P2[:, 1]
    in_view: NDArray[np.bool_] = (x > -0.5) & (x < size[1] - 0.5) & (y > -0.5) & (y < size[0] - 0.5)
    if motion.source == "kalman" and motion.box is not None:
        x0, y0, x1, y1 = motion.box
        in_box: NDArray[np.bool_] = (x + 0.5 >= x0) & (x + 0.5 < x1) & (y + 0.5 >= y0) & (y + 0.5 < y1)
        return in_view & in_box
    height, width = motion.logits_hw.shape
    columns = np.clip((x + 0.5) * width / size[1], 0, width - 1).astype(np.intp)
    rows = np.clip((y + 0.5) * height / size[0], 0, height - 1).astype(np.intp)
    on_mask: NDArray[np.bool_] = motion.logits_hw[rows, columns] > 0
    return in_view & on_mask


def _grown_within(box: Box4, margin: float, size: tuple[int, int]) -> Box4 | None:
    """A box grown by a share of its sides and cut to the frame; None if less than a pixel of it is left."""
    grow_x, grow_y = margin / 2 * (box[2] - box[0]), margin / 2 * (box[3] - box[1])
    x0, y0 = max(0.0, box[0] - grow_x), max(0.0, box[1] - grow_y)
    x1, y1 = min(float(size[1]), box[2] + grow_x), min(float(size[0]), box[3] + grow_y)
    return (x0, y0, x1, y1) if x1 - x0 >= 1 and y1 - y0 >= 1 else None


def box_to_frame(box: Box4, frame: FrameMotion) -> Box4:
    scale_x, scale_y = frame.scale_xy
    return box[0] * scale_x, box[1] * scale_y, box[2] * scale_x, box[3] * scale_y


def points_to_frame(points_P2: Floats, frame: FrameMotion) -> Floats:
    """Pixel indices of the grey image as those of the decoded frame."""
    scale_2 = np.array(frame.scale_xy, np.float32)
    moved_P2: Floats = (points_P2 + 0.5) * scale_2 - 0.5
    return moved_P2


def _median(displacements_P2: Floats) -> Point:
    x, y = np.median(displacements_P2, axis=0).tolist()
    return x, y
