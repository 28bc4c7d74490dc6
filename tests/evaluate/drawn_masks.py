"""Drawn label maps, by integer arithmetic alone, so that other programs can be given the very same pixels."""

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[np.uint8]
Masks = NDArray[np.bool_]

HEIGHT, WIDTH, NUM_FRAMES = 96, 136, 12


def late_square() -> tuple[Masks, Masks]:
    """(truth, prediction), bool (10, 48, 64): a square of 20 pixels from frame 6 on, predicted two pixels off."""
    truth = np.zeros((10, 48, 64), dtype=np.bool_)
    truth[6:, 10:30, 12:32] = True
    return truth, np.roll(truth, 2, axis=2)


def drawn_labels() -> tuple[Labels, Labels]:
    """(truth, prediction), uint8 (12, 96, 136): three objects; one leaves, one comes late, one is seen too early."""
    truth = np.zeros((NUM_FRAMES, HEIGHT, WIDTH), dtype=np.uint8)
    prediction = np.zeros_like(truth)
    for frame in range(NUM_FRAMES):
        _disc(truth[frame], 1, 30 + 2 * frame, 40 + 3 * frame, 17)
        _disc(prediction[frame], 1, 31 + 2 * frame, 38 + 3 * frame, 18)
        if frame < 8:
            _box(truth[frame], 2, 60, 5 + 4 * frame, 25, 40)
            _box(prediction[frame], 2, 62, 3 + 4 * frame, 25 - frame, 41)
        if frame >= 5:
            _box(truth[frame], 3, 70 + frame, 100, 26, 36)
        if frame >= 3:
            _disc(prediction[frame], 3, 84, 116, 12 + frame // 2)
    return truth, prediction


def _disc(canvas: Labels, label: int, row: int, column: int, radius: int) -> None:
    rows, columns = np.indices(canvas.shape)
    canvas[(rows - row) ** 2 + (columns - column) ** 2 <= radius**2] = label


def _box(canvas: Labels, label: int, top: int, left: int, height: int, width: int) -> None:
    canvas[top : top + height, left : left + width] = label
