"""Key points of a mask, and where they went: farthest-point sampling, Lucas-Kanade there and back."""

# Axes: P points, H W pixels of the grey image, 2 as (x, y) pixel indices.

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.models.motion_config import MotionConfig
from pipeline.ticks import Mask

Grey = NDArray[np.uint8]
Floats = NDArray[np.float32]


def key_points(mask_HW: Mask, *, num_points: int, erosion: float) -> Floats:
    """Points well inside a mask and far from each other, (P, 2); fewer than asked where the mask has fewer pixels.

    The first lies deepest; each next one is the pixel farthest from all before. Ties: the first in reading order.

    Args:
        erosion: points keep this share of the mask's root area (at least 1 px) from its rim, if any pixel does.
    """
    area = int(mask_HW.sum())
    if area == 0:
        return np.zeros((0, 2), np.float32)
    rows_with, columns_with = np.flatnonzero(mask_HW.any(axis=1)), np.flatnonzero(mask_HW.any(axis=0))
    top, left = int(rows_with[0]), int(columns_with[0])
    # Only the mask's own box: the rest of the frame would cost more than the points themselves.
    mask_HW = mask_HW[top : rows_with[-1] + 1, left : columns_with[-1] + 1]
    depth_HW = cv2.distanceTransform(np.pad(mask_HW, 1).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    depth_HW = depth_HW[1:-1, 1:-1]
    inner_HW = depth_HW > max(1.0, erosion * float(np.sqrt(area)))
    rows, columns = np.nonzero(inner_HW if inner_HW.any() else mask_HW)
    candidates_P2 = np.stack([columns, rows], axis=1).astype(np.float32)
    chosen = [int(depth_HW[rows, columns].argmax())]
    gap_P = np.full(len(candidates_P2), np.inf, np.float32)
    while len(chosen) < min(num_points, len(candidates_P2)):
        gap_P = np.minimum(gap_P, ((candidates_P2 - candidates_P2[chosen[-1]]) ** 2).sum(axis=1))
        chosen.append(int(gap_P.argmax()))
    return candidates_P2[chosen] + np.array((left, top), np.float32)


def track_points(
    previous_HW: Grey,
    current_HW: Grey,
    points_P2: Floats,
    *,
    guess_xy: tuple[float, float],
    object_side_px: float,
    config: MotionConfig,
) -> tuple[Floats, NDArray[np.bool_]]:
    """Where points of the previous image are in the current one, and which of them came back when tracked back.

    Source: pyramidal Lucas-Kanade (Bouguet 2000); forward-backward error (Kalal et al., ICPR 2010).

    Args:
        guess_xy: displacement to start from.
        object_side_px: the pyramid ends where the window would outgrow this side, for there the ground around the
            object decides and pulls points back from a good guess.

    Returns:
        Points (P, 2) and bool (P,): found, and back within `max_round_trip_px`.
    """
    if len(points_P2) == 0:
        return points_P2, np.zeros(0, np.bool_)
    levels = 1 + int(max(0.0, np.log2(max(object_side_px, 1.0) / config.point_window_px)))
    levels = min(levels, config.point_levels)
    guess_2 = np.array(guess_xy, np.float32)
    there_P2, found_P = lucas_kanade(previous_HW, current_HW, points_P2, points_P2 + guess_2, levels, config)
    back_P2, returned_P = lucas_kanade(current_HW, previous_HW, there_P2, there_P2 - guess_2, levels, config)
    error_P = np.linalg.norm(back_P2 - points_P2, axis=1)
    return there_P2, found_P & returned_P & (error_P < config.max_round_trip_px)


def lucas_kanade(
    first_HW: Grey,
    second_HW: Grey,
    points_P2: Floats,
    start_P2: Floats,
    levels: int,
    config: MotionConfig,
) -> tuple[Floats, NDArray[np.bool_]]:
    """Points of the first image in the second, searched from `start_P2`; and which of them were found."""
    side = config.point_window_px
    moved, status, _ = cv2.calcOpticalFlowPyrLK(
        first_HW,
        second_HW,
        np.ascontiguousarray(points_P2[:, None]),
        np.array(start_P2[:, None], np.float32),
        winSize=(side, side),
        maxLevel=levels - 1,
        flags=cv2.OPTFLOW_USE_INITIAL_FLOW,
    )
    return moved[:, 0].astype(np.float32), status[:, 0].astype(np.bool_)
