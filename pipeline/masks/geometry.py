"""Boxes of masks: where a mask lies within its frame."""

from dataclasses import dataclass

import numpy as np

from pipeline.ticks import Mask


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """Pixels of the frame, [left, right) x [top, bottom)."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def width(self) -> int:
        return self.right - self.left

    @property
    def height(self) -> int:
        return self.bottom - self.top


def check_mask(mask: Mask) -> Mask:
    """The mask itself, if it is bool (H, W) with H, W >= 1.

    Raises:
        ValueError: it is not.
    """
    if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_ or mask.ndim != 2 or 0 in mask.shape:
        came = f"{mask.dtype} {mask.shape}" if isinstance(mask, np.ndarray) else type(mask).__name__
        raise ValueError(f"mask: {came}, expected a bool array (H, W). Threshold logits with `logits > 0` first.")
    return mask


def bounding_box(mask: Mask) -> Box | None:
    """The smallest box that holds every pixel of a mask bool (H, W); None when the mask is empty."""
    rows = np.flatnonzero(check_mask(mask).any(axis=1))
    if rows.size == 0:
        return None
    top, bottom = int(rows[0]), int(rows[-1]) + 1
    columns = np.flatnonzero(mask[top:bottom].any(axis=0))
    return Box(left=int(columns[0]), top=top, right=int(columns[-1]) + 1, bottom=bottom)
