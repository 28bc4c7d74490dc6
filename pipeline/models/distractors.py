"""Whether a decoder's other candidates saw something beside the object: the introspection of DAM4SAM."""

# Axes: K candidates, h w the mask logits' grid.

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.masks.geometry import bounding_box

Mask = NDArray[np.bool_]


def alternative_iou(chosen_hw: Mask, candidates_Khw: Mask) -> float | None:
    """Least IoU of the chosen mask's box with its box joined to the largest part of a candidate outside it.

    Source: Videnovic et al., DAM4SAM, arXiv 2411.17576, section 3.2: small where another candidate covers a
    distractor. None when the chosen mask is empty; 1 when no candidate reaches beyond it.
    """
    own = bounding_box(chosen_hw)
    if own is None:
        return None
    least = 1.0
    for candidate_hw in candidates_Khw:
        part_hw = _largest_part(candidate_hw & ~chosen_hw)
        joined = bounding_box(chosen_hw | part_hw)
        assert joined is not None
        # The joined box contains the own one, so their IoU is the ratio of areas.
        least = min(least, own.width * own.height / (joined.width * joined.height))
    return least


def _largest_part(mask_hw: Mask) -> Mask:
    """The largest connected part, of equal ones the first; empty if the mask is."""
    count, labels_hw, stats, _ = cv2.connectedComponentsWithStats(mask_hw.astype(np.uint8), connectivity=8)
    if count < 2:
        return np.zeros_like(mask_hw)
    largest_hw: Mask = labels_hw == 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA]))
    return largest_hw
