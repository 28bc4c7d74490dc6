"""Motion prompts as a forecast would give them, made from the truth: what MoSAM tells the decoder on later frames."""

# Axes: B rows (objects), T frames, P places for points, H W pixels.

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.models.mosam_prompts import BOX_LABELS
from pipeline.models.mosam_rows import NO_POINT

NUM_POINTS = 5
"""Key points of an object [F], see `MotionConfig`."""

BOX_MARGIN = 0.1
"""A forecast box grows by this share of its sides, see `MotionConfig`."""

_SCATTER = 0.06
"""Deviation of a forecast's place, as a share of the object's root area."""

_FAR_OFF, _FAR_OFF_SHARE = 0.6, 0.08
"""So often a forecast is off by up to so much of the object's root area: it turned, or flow was misled."""

_PART_SHARE = 0.15
"""So often a forecast gives its box alone, and so often its points alone."""

_MIN_AREA_PX = 12
"""A mask smaller than this foretells nothing."""

Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class ForecastPrompts:
    """Decoder prompts of one frame, in pixels of the model's square, laid out as `motion_prompts` does.

    Attributes:
        points_BP2: box corners, then points.
        labels_BP: int32; 2 and 3 for corners, 1 for points, -1 where there is none.
    """

    points_BP2: Tensor
    labels_BP: Tensor


def forecast_prompts(
    targets_BTHW: Tensor, *, generator: np.random.Generator, share: float
) -> Sequence[ForecastPrompts | None]:
    """What a forecast might say on each frame, one entry per frame; None where no row is told anything.

    The object's last mask is moved as the object moved since (by its centre; while it is hidden, as it moved before),
    with errors of place. Its box, grown a little, and random pixels of its inside are the prompt.

    Args:
        targets_BTHW: bool.
        share: of the frames after the first that have prompts.
    """
    masks_BTHW = targets_BTHW.cpu().numpy()
    found: list[ForecastPrompts | None] = [None]
    rows = [_Row(masks_THW) for masks_THW in masks_BTHW]
    for frame in range(1, masks_BTHW.shape[1]):
        if generator.random() >= share:
            found.append(None)
            continue
        told = [row.told(frame, generator) for row in rows]
        points_BP2 = np.stack([points for points, _ in told])
        labels_BP = np.stack([labels for _, labels in told])
        if (labels_BP == NO_POINT).all():
            found.append(None)
            continue
        found.append(
            ForecastPrompts(
                points_BP2=torch.from_numpy(points_BP2).float().to(targets_BTHW.device),
                labels_BP=torch.from_numpy(labels_BP).to(targets_BTHW.device),
            )
        )
    return found


class _Row:
    """One object's masks over time, and where their centres are."""

    def __init__(self, masks_THW: Mask) -> None:
        self._masks = masks_THW
        self._areas = masks_THW.reshape(len(masks_THW), -1).sum(axis=1)
        self._seen = [frame for frame, area in enumerate(self._areas) if area >= _MIN_AREA_PX]
        self._centres = {frame: np.argwhere(masks_THW[frame])[:, ::-1].mean(axis=0) for frame in self._seen}

    def told(self, frame: int, generator: np.random.Generator) -> tuple[NDArray[np.float64], NDArray[np.int32]]:
        """Points (P, 2) and their labels (P,)."""
        points_P2 = np.zeros((len(BOX_LABELS) + NUM_POINTS, 2))
        labels_P = np.full(len(points_P2), NO_POINT, np.int32)
        before = [one for one in self._seen if one < frame]
        if not before:
            return points_P2, labels_P
        last = before[-1]
        size = float(np.sqrt(self._areas[last]))
        shift_2 = self._shift(before, frame) + generator.normal(0, _SCATTER * size, 2)
        if generator.random() < _FAR_OFF_SHARE:
            shift_2 = shift_2 + generator.uniform(-_FAR_OFF, _FAR_OFF, 2) * size
        part = generator.random()
        if part >= _PART_SHARE:
            self._add_box(points_P2, labels_P, last, shift_2)
        if not _PART_SHARE <= part < 2 * _PART_SHARE:
            self._add_points(points_P2, labels_P, last, shift_2, generator)
        return points_P2, labels_P

    def _shift(self, before: Sequence[int], frame: int) -> NDArray[np.float64]:
        last = before[-1]
        if frame in self._centres:
            moved: NDArray[np.float64] = self._centres[frame] - self._centres[last]
            return moved
        if len(before) < 2:
            return np.zeros(2)
        step = (self._centres[last] - self._centres[before[-2]]) / (last - before[-2])
        going_on: NDArray[np.float64] = step * (frame - last)
        return going_on

    def _add_box(
        self, points_P2: NDArray[np.float64], labels_P: NDArray[np.int32], last: int, shift_2: NDArray[np.float64]
    ) -> None:
        places = np.argwhere(self._masks[last])[:, ::-1]
        low, high = places.min(axis=0) + shift_2, places.max(axis=0) + 1 + shift_2
        grow = BOX_MARGIN / 2 * (high - low)
        height, width = self._masks.shape[1:]
        low, high = np.maximum(low - grow, 0), np.minimum(high + grow, [width, height])
        if (high - low >= 1).all():
            points_P2[0], points_P2[1] = low, high
            labels_P[:2] = BOX_LABELS

    def _add_points(
        self,
        points_P2: NDArray[np.float64],
        labels_P: NDArray[np.int32],
        last: int,
        shift_2: NDArray[np.float64],
        generator: np.random.Generator,
    ) -> None:
        mask = self._masks[last].astype(np.uint8)
        inside = cv2.erode(mask, np.ones((3, 3), np.uint8), borderValue=0)
        places = np.argwhere(inside if inside.any() else mask)[:, ::-1]
        chosen = generator.permutation(len(places))[: int(generator.integers(1, NUM_POINTS + 1))]
        moved = places[chosen] + 0.5 + shift_2
        height, width = mask.shape
        moved = moved[((moved >= 0) & (moved < [width, height])).all(axis=1)]
        points_P2[2 : 2 + len(moved)] = moved
        labels_P[2 : 2 + len(moved)] = 1
