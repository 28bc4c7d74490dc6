"""Steadiness of label maps over time: VC of windows against the truth, and agreement along optical flow without it.

Source of VC: Miao et al., VSPW, CVPR 2021, section 5 "Video consistency"; what its script does otherwise is told by
`VcRules`. Axes: T frames, H W pixels.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluate.semantic_protocols import VcRules

Labels = NDArray[np.integer[Any]]
Flow = NDArray[np.floating[Any]]

VOID = 255


def vc_windows(prediction_THW: Labels, truth_THW: Labels, *, length: int, rules: VcRules) -> list[float]:
    """Of each window: of the pixels whose true label is constant, the share whose prediction is too.

    Args:
        prediction_THW, truth_THW: class ids, VOID for void.
        length: frames per window, n.

    Returns:
        One value per window; NaN where no true label is constant. None at all when the video is too short.
    """
    assert 1 <= length <= 255, "how long a label stands still is counted in a byte"
    num_frames = len(truth_THW)
    num_windows = num_frames - length + (not rules.drops_last_window)
    true_steady, steady = _still_for(truth_THW), _still_for(prediction_THW)
    shares = []
    for start in range(max(0, num_windows)):
        last = start + length - 1
        true_constant = true_steady[last] >= length - 1
        if not rules.void_is_a_class:
            true_constant &= truth_THW[last] != VOID
        constant = true_constant & (steady[last] >= length - 1)
        if rules.needs_truth:
            constant &= prediction_THW[last] == truth_THW[last]
        wanted = int(np.count_nonzero(true_constant))
        shares.append(int(np.count_nonzero(constant)) / wanted if wanted else np.nan)
    return shares


def warp_consistency(
    labels_before: Labels, labels: Labels, backward_flow: Flow, forward_flow: Flow | None = None
) -> float | None:
    """Share of pixels whose label is that of the place they came from; needs no truth.

    Args:
        labels_before, labels: (H, W) of frames t - 1 and t.
        backward_flow: (H, W, 2): pixel (x, y) of frame t lay at (x, y) + flow in frame t - 1.
        forward_flow: the other way; where the two disagree, nothing is measured.

    Returns:
        0..1; None where every pixel comes from outside the frame or the flows agree nowhere.

    Raises:
        ValueError: the sizes differ.
    """
    height, width = labels.shape
    flows = [backward_flow] if forward_flow is None else [backward_flow, forward_flow]
    if labels_before.shape != labels.shape or any(flow.shape != (height, width, 2) for flow in flows):
        raise ValueError(
            f"labels {labels_before.shape} and {labels.shape}, flow {[flow.shape for flow in flows]}: "
            "expected (H, W), (H, W) and (H, W, 2)."
        )
    y, x = np.mgrid[:height, :width]
    from_x = np.rint(x + backward_flow[..., 0]).astype(np.int64)
    from_y = np.rint(y + backward_flow[..., 1]).astype(np.int64)
    known = (from_x >= 0) & (from_x < width) & (from_y >= 0) & (from_y < height)
    if forward_flow is not None:
        there = forward_flow[from_y.clip(0, height - 1), from_x.clip(0, width - 1)]
        known &= flows_agree(backward_flow, there)
    if not known.any():
        return None
    return float((labels[known] == labels_before[from_y[known], from_x[known]]).mean())


def flows_agree(flow: Flow, flow_back: Flow) -> NDArray[np.bool_]:
    """Where a flow and the one found at its end lead back to the start; bool (H, W).

    The bound |f + b|^2 < 0.01 (|f|^2 + |b|^2) + 0.5 is that of Sundaram et al., ECCV 2010, section 3.
    """
    off = ((flow + flow_back) ** 2).sum(axis=-1)
    agree: NDArray[np.bool_] = off < 0.01 * ((flow**2).sum(axis=-1) + (flow_back**2).sum(axis=-1)) + 0.5
    return agree


def _still_for(labels_THW: Labels) -> NDArray[np.uint8]:
    """For each frame and pixel, how many frames back its label has been the same, at most 254."""
    still = np.zeros(labels_THW.shape, np.uint8)
    for frame in range(1, len(labels_THW)):
        longer = np.minimum(still[frame - 1], 253) + 1
        still[frame] = np.where(labels_THW[frame] == labels_THW[frame - 1], longer, 0)
    return still
