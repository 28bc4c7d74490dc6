"""Moving the last accepted mask to the current frame: by dense flow or by one displacement; and boxes of logits."""

# Axes: h w cells of the logit grid, H W pixels of the grey image. Both cover the whole frame.

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.models.motion_config import MotionConfig
from pipeline.models.motion_flow import FlowField, sample
from pipeline.models.motion_kalman import Box4
from pipeline.models.motion_points import Floats, Grey

Size = tuple[int, int]

_MIN_SAMPLES, _MIN_CONTRAST = 16, 4.0
"""Fewer cells, or grey values with a smaller standard deviation, say nothing about a match."""


def shift_logits(logits_hw: Floats, displacement_xy: tuple[float, float], grey_size: Size, *, outside: float) -> Floats:
    """Logits after the whole frame moved by one displacement, in grey pixels; `outside` where nothing was seen."""
    height, width = logits_hw.shape
    x, y = displacement_xy[0] * width / grey_size[1], displacement_xy[1] * height / grey_size[0]
    moved_hw: Floats = cv2.warpAffine(
        logits_hw,
        np.array([[1, 0, x], [0, 1, y]]),
        (width, height),
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=(outside,),
    )
    return moved_hw


@dataclass(frozen=True, slots=True, kw_only=True)
class Warp:
    """A mask moved by dense flow.

    Attributes:
        logits_hw: moved; `out_of_view_logit` where they come from outside the frame, 0 ("don't know" to SAM's mask
            prompt) where forward and backward flow disagree.
        agreement: share of the moved mask on which both directions agree, 0..1.
        correlation: of old and new pixels on the moved mask, -1..1; None where there is too little texture to tell.
    """

    logits_hw: Floats
    agreement: float
    correlation: float | None

    @property
    def fit(self) -> float:
        """Agreement times correlation, the latter where there is one; at most 1."""
        return self.agreement * (1.0 if self.correlation is None else self.correlation)

    def is_believed(self, config: MotionConfig) -> bool:
        """Whether the flow passes the config's gates."""
        looks_alike = self.correlation is None or self.correlation >= config.min_correlation
        return self.agreement >= config.min_agreement and looks_alike


def warp_logits(logits_hw: Floats, field: FlowField, grey_size: Size, config: MotionConfig) -> Warp:
    """Logits moved by backward flow b: warped(x) = logits(x + b(x)). Source: spec of MGP, warp [I].

    Outside the field's window the mask moves by the field's shift.
    """
    warped_hw = shift_logits(logits_hw, field.shift_xy, grey_size, outside=config.out_of_view_logit)
    height, width = logits_hw.shape
    to_grid = width / grey_size[1], height / grey_size[0]
    columns, x_grey = _cells_within(width, grey_size[1], field.left, field.backward_HW2.shape[1])
    rows, y_grey = _cells_within(height, grey_size[0], field.top, field.backward_HW2.shape[0])
    if columns.size == 0 or rows.size == 0:
        return Warp(logits_hw=warped_hw, agreement=0.0, correlation=None)
    x, y = np.meshgrid(x_grey - field.left, y_grey - field.top)
    flow_hw2 = cv2.remap(field.backward_HW2, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    agrees_hw = cv2.remap(field.agrees_HW.astype(np.uint8), x, y, cv2.INTER_NEAREST) > 0
    from_x = x + np.float32(field.left - field.shift_xy[0]) + flow_hw2[..., 0]
    from_y = y + np.float32(field.top - field.shift_xy[1]) + flow_hw2[..., 1]
    in_view_hw = (from_x > -0.5) & (from_x < grey_size[1] - 0.5) & (from_y > -0.5) & (from_y < grey_size[0] - 0.5)
    from_column = (from_x + 0.5) * np.float32(to_grid[0]) - 0.5
    from_row = (from_y + 0.5) * np.float32(to_grid[1]) - 0.5
    moved_hw = sample(logits_hw, from_column, from_row, outside=config.out_of_view_logit)
    inside_hw = moved_hw > 0
    agreement = float(agrees_hw[inside_hw].mean()) if inside_hw.any() else 0.0
    old_hw, new_hw = (sample(window, x, y, outside=0.0) for window in (field.explained_HW, field.current_HW))
    moved_hw[in_view_hw & ~agrees_hw] = 0
    moved_hw[~in_view_hw] = config.out_of_view_logit
    warped_hw[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = moved_hw
    return Warp(
        logits_hw=warped_hw, agreement=agreement, correlation=_correlation(old_hw[inside_hw], new_hw[inside_hw])
    )


def logits_box(logits_hw: Floats, size: Size) -> Box4 | None:
    """The box where logits are above 0, in pixels of a frame (H, W) that the grid covers; None where none is.

    The edges are those of the rows' and columns' largest logits, interpolated to the frame's pixels.
    """
    x, y = (_extent(logits_hw.max(axis=axis), size[1 - axis]) for axis in (0, 1))
    return None if x is None or y is None else (x[0], y[0], x[1], y[1])


def _correlation(first: Grey, second: Grey) -> float | None:
    """Normalised correlation of two lists of grey values; None where either hardly varies."""
    if first.size < _MIN_SAMPLES or min(first.std(), second.std()) < _MIN_CONTRAST:
        return None
    return float(np.corrcoef(first.astype(np.float64), second.astype(np.float64))[0, 1])


def _extent(profile: Floats, side: int) -> tuple[float, float] | None:
    fine = max(side, profile.size)
    above = np.flatnonzero(cv2.resize(profile[None], (fine, 1), interpolation=cv2.INTER_LINEAR)[0] > 0)
    return None if above.size == 0 else (float(above[0] * side / fine), float((above[-1] + 1) * side / fine))


def _cells_within(num_cells: int, grey_side: int, start: int, length: int) -> tuple[NDArray[np.intp], Floats]:
    """Cells of one axis whose centres lie within a window, and where these centres are, in grey pixels."""
    centers = (np.arange(num_cells, dtype=np.float32) + 0.5) * np.float32(grey_side / num_cells) - np.float32(0.5)
    cells = np.flatnonzero((centers >= start) & (centers <= start + length - 1))
    return cells, centers[cells]
