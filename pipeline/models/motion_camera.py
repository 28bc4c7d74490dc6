"""What all objects of a frame share: its grey image, how the camera moved, whether the scene was cut."""

# Axes: P points, H W pixels of the grey image, h w cells of the logit grid, 23 a 2 x 3 affine map of (x, y) pixels.

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.models.motion_config import MotionConfig
from pipeline.models.motion_flow import Flow, FlowField, whole_frame_field
from pipeline.models.motion_kalman import Array
from pipeline.models.motion_points import Grey, lucas_kanade
from pipeline.models.motion_state import ObjectMotion
from pipeline.ticks import Image, Mask

_CORNER_QUALITY, _CORNER_DISTANCE_PX = 0.01, 5
_HISTOGRAM_BINS = 32
_FINE_LEVELS, _MIN_SHIFT_SHARE = 2, 0.3
"""Where so much of the picture shifted, corners are looked for from there, on so many levels. Not in the spec: with all
levels and no guess a jerk of 7 % of the height was lost now and then."""
_MIN_SHIFTED_PX = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameMotion:
    """One frame as motion sees it.

    Attributes:
        frame_index: in the source.
        frame_size: (height, width) of the decoded frame.
        grey_HW: uint8, short side as configured (smaller frames keep their size).
        camera_23: where pixels of the previous grey image are in this one; the identity unless it is trusted.
        num_inliers: corners that agreed on it.
        is_cut: the scene was cut between the previous frame and this one.
        field: flow of the whole frame, if there are so many objects that they share it.
    """

    frame_index: int
    frame_size: tuple[int, int]
    grey_HW: Grey
    camera_23: Array
    num_inliers: int = 0
    is_cut: bool = False
    field: FlowField | None = None

    @property
    def scale_xy(self) -> tuple[float, float]:
        """Pixels of the decoded frame per pixel of the grey image."""
        return self.frame_size[1] / self.grey_HW.shape[1], self.frame_size[0] / self.grey_HW.shape[0]

    def num_bytes(self) -> int:
        """Bytes of the arrays held."""
        return self.grey_HW.nbytes + self.camera_23.nbytes + (0 if self.field is None else self.field.num_bytes())

    def moved(self, point_xy: tuple[float, float], *, by_xy: tuple[float, float] = (0.0, 0.0)) -> tuple[float, float]:
        """A point of the previous grey image in this one, if it moved with the camera and by so much more."""
        x, y = (self.camera_23 @ np.array([*point_xy, 1.0])).tolist()
        return x + by_xy[0], y + by_xy[1]

    def state_dict(self) -> dict[str, Any]:
        """All that the next frame needs of this one: the flow field is left out."""
        return {
            "frame_index": self.frame_index,
            "frame_size": list(self.frame_size),
            "grey": torch.from_numpy(self.grey_HW.copy()),
            "camera": torch.from_numpy(self.camera_23.copy()),
            "num_inliers": self.num_inliers,
            "is_cut": self.is_cut,
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        """The frame that gave this state."""
        height, width = state["frame_size"]
        return cls(
            frame_index=state["frame_index"],
            frame_size=(height, width),
            grey_HW=state["grey"].cpu().numpy().copy(),
            camera_23=state["camera"].cpu().numpy().copy(),
            num_inliers=state["num_inliers"],
            is_cut=state["is_cut"],
        )


def observe_frame(
    image_yx3: Image,
    frame_index: int,
    previous: FrameMotion | None,
    objects: Sequence[ObjectMotion],
    config: MotionConfig,
    flow: Flow | None,
) -> FrameMotion:
    """Look at a frame once for all objects.

    Args:
        image_yx3: the decoded frame, uint8 RGB.
        previous: the frame before; None on the first, which has no motion.
        objects: as of the previous frame; corners on them do not tell how the camera moved.
        flow: from `build_flow`.

    Raises:
        ValueError: the frame's size differs from the previous one's.
    """
    frame_size = (image_yx3.shape[0], image_yx3.shape[1])
    grey_HW = to_grey(image_yx3, short_side_px=config.short_side_px)
    if previous is None:
        return FrameMotion(frame_index=frame_index, frame_size=frame_size, grey_HW=grey_HW, camera_23=np.eye(2, 3))
    if previous.frame_size != frame_size:
        raise ValueError(
            f"frame {frame_index}: {frame_size} after {previous.frame_size}; expected frames of one size. "
            "Begin a new session for a new size."
        )
    camera_23, num_inliers, seen = np.eye(2, 3), 0, False
    if config.camera_compensation:
        background_HW = ~_object_mask(objects, grey_HW.shape, margin_px=config.object_margin_px)
        camera_23, num_inliers, seen = estimate_camera(previous.grey_HW, grey_HW, background_HW, config)
    is_cut = not seen and histogram_distance(previous.grey_HW, grey_HW) > config.cut_histogram_distance
    shares_field = flow is not None and not is_cut and len(objects) > config.full_frame_above
    return FrameMotion(
        frame_index=frame_index,
        frame_size=frame_size,
        grey_HW=grey_HW,
        camera_23=camera_23,
        num_inliers=num_inliers,
        is_cut=is_cut,
        field=whole_frame_field(previous.grey_HW, grey_HW, flow, config) if shares_field and flow is not None else None,
    )


def to_grey(image_yx3: Image, *, short_side_px: int) -> Grey:
    """Grey image with this short side, area-averaged; never enlarged."""
    height, width = image_yx3.shape[:2]
    factor = min(1.0, short_side_px / min(height, width))
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    small_HW3 = image_yx3 if factor == 1.0 else cv2.resize(image_yx3, size, interpolation=cv2.INTER_AREA)
    grey_HW: Grey = cv2.cvtColor(small_HW3, cv2.COLOR_RGB2GRAY)
    return grey_HW


def estimate_camera(
    previous_HW: Grey, current_HW: Grey, background_HW: Mask, config: MotionConfig
) -> tuple[Array, int, bool]:
    """The similarity that most background corners follow: 2 x 3, the number that do, and whether it is trusted.

    Source: spec of MGP, camera compensation [I]; corners of Shi and Tomasi (CVPR 1994), RANSAC.
    """
    still: tuple[Array, int, bool] = (np.eye(2, 3), 0, False)
    corners = cv2.goodFeaturesToTrack(
        previous_HW,
        maxCorners=config.camera_features,
        qualityLevel=_CORNER_QUALITY,
        minDistance=_CORNER_DISTANCE_PX,
        mask=background_HW.astype(np.uint8),
    )
    if corners is None or len(corners) < config.camera_min_inliers:
        return still
    from_P2: NDArray[np.float32] = corners[:, 0]
    shift_2, share = picture_shift(previous_HW, current_HW)
    guesses = [(shift_2, _FINE_LEVELS)] if share >= _MIN_SHIFT_SHARE else []
    found = still
    # Near a good guess coarse levels do harm: they pull corners back. A turn or a zoom has no one shift: all levels.
    for guess_2, levels in (*guesses, (np.zeros(2, np.float32), config.point_levels)):
        to_P2, found_P = lucas_kanade(previous_HW, current_HW, from_P2, from_P2 + guess_2, levels, config)
        found = max(found, _similarity(from_P2[found_P], to_P2[found_P], config), key=lambda each: (each[2], each[1]))
        if found[2]:
            break
    return found


def picture_shift(previous_HW: Grey, current_HW: Grey) -> tuple[NDArray[np.float32], float]:
    """Where most of the picture went, (x, y) in pixels, and how much of it, 0..1: phase correlation at half the size.

    Nothing is told of a picture with a side shorter than `_MIN_SHIFTED_PX`. Source: Kuglin and Hines, IEEE Cybernetics
    and Society 1975.
    """
    if min(previous_HW.shape) < _MIN_SHIFTED_PX:
        return np.zeros(2, np.float32), 0.0
    height, width = previous_HW.shape
    half = (width // 2, height // 2)
    first, second = (
        cv2.resize(grey_HW, half, interpolation=cv2.INTER_AREA).astype(np.float32)
        for grey_HW in (previous_HW, current_HW)
    )
    shift_xy, share = cv2.phaseCorrelate(first, second, cv2.createHanningWindow(half, cv2.CV_32F))
    return np.array(shift_xy, np.float32) * (width / half[0], height / half[1]), share


def _similarity(
    from_P2: NDArray[np.float32], to_P2: NDArray[np.float32], config: MotionConfig
) -> tuple[Array, int, bool]:
    """The similarity that most of these follow, as `estimate_camera` returns it.

    A similarity through two noisy corners turns and scales a little, and misses corners far from them: where more of
    them follow the median shift alone, that is the answer.
    """
    if len(from_P2) < config.camera_min_inliers:
        return np.eye(2, 3), 0, False
    similarity_23, _ = cv2.estimateAffinePartial2D(
        from_P2, to_P2, method=cv2.RANSAC, ransacReprojThreshold=config.camera_ransac_px
    )
    shift_23 = np.column_stack([np.eye(2), np.median(to_P2 - from_P2, axis=0)])
    found = [
        (_num_followers(camera_23, from_P2, to_P2, config), camera_23)
        for camera_23 in (similarity_23, shift_23)
        if camera_23 is not None
    ]
    num_inliers, camera_23 = max(found, key=lambda each: each[0])
    if num_inliers < config.camera_min_inliers or num_inliers < config.camera_min_inlier_share * len(from_P2):
        return np.eye(2, 3), num_inliers, False
    return camera_23, num_inliers, True


def _num_followers(
    camera_23: Array, from_P2: NDArray[np.float32], to_P2: NDArray[np.float32], config: MotionConfig
) -> int:
    """Points that this map brings within `camera_ransac_px` of where they went."""
    missed_P2 = from_P2 @ camera_23[:, :2].T + camera_23[:, 2] - to_P2
    return int((np.linalg.norm(missed_P2, axis=1) < config.camera_ransac_px).sum())


def histogram_distance(first_HW: Grey, second_HW: Grey) -> float:
    """1 - intersection of the grey histograms, 0 (alike) .. 1 (no grey in common)."""
    counts = [np.histogram(grey, _HISTOGRAM_BINS, range=(0, 256))[0] / grey.size for grey in (first_HW, second_HW)]
    return float(1 - np.minimum(counts[0], counts[1]).sum())


def _object_mask(objects: Sequence[ObjectMotion], size: tuple[int, ...], *, margin_px: int) -> Mask:
    """Where any object was seen last, grown by the margin, bool (H, W)."""
    height, width = size
    seen = np.zeros((height, width), np.uint8)
    for motion in objects:
        if motion.logits_hw is not None:
            mask_hw = (motion.logits_hw > 0).astype(np.uint8)
            np.maximum(seen, cv2.resize(mask_hw, (width, height), interpolation=cv2.INTER_NEAREST), out=seen)
    if margin_px:
        seen = cv2.dilate(seen, np.ones((2 * margin_px + 1, 2 * margin_px + 1), np.uint8))
    return seen.astype(np.bool_)
