"""Makes one label map of several objects' score maps that overlap."""

import numpy as np
from numpy.typing import NDArray

BACKGROUND_SCORE = 0.1
SCORE_THRESHOLD = 0.5
"""Below it an object does not compete for a pixel. Both as Ref-DAVIS17 results are made (ReferFormer, SAMWISE)."""


def label_map(
    scores: NDArray[np.float32], *, background: float = BACKGROUND_SCORE, threshold: float = SCORE_THRESHOLD
) -> NDArray[np.uint8]:
    """Each pixel to the object that scores highest on it, the first of equals.

    Args:
        scores: (O, H, W), probabilities of up to 254 objects.

    Returns:
        uint8 (H, W): object 1 .. O, or 0 where no score reaches the threshold.

    Raises:
        ValueError: not such scores.
    """
    if scores.ndim != 3 or not 1 <= len(scores) <= 254 or not ((scores >= 0) & (scores <= 1)).all():
        raise ValueError(f"scores {scores.shape}: expected probabilities (O, H, W) of 1 to 254 objects; 255 is void.")
    competing = np.where(scores < threshold, 0.0, scores)
    best = competing.argmax(axis=0)
    highest = competing.max(axis=0)
    labels: NDArray[np.uint8] = np.where(highest > background, best + 1, 0).astype(np.uint8)
    return labels
