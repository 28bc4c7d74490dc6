"""A drawn video without end: four textured discs that circle over a scrolling texture, their masks known."""

import numpy as np
from numpy.typing import NDArray

from pipeline.ticks import Image, Mask, PointPrompt, Prompt

NUM_DISCS = 4
_TURN_FRAMES = 40


class DrawnDiscs:
    """The video; discs never meet and never leave.

    Args:
        height, width: in pixels.
        seed: of the textures.
    """

    def __init__(self, *, height: int, width: int, seed: int = 0) -> None:
        self.height, self.width = height, width
        self.radius_px = min(height, width // 2) / 9
        random = np.random.default_rng(seed)
        self._ground = _texture(random, height, 2 * width, cell_px=max(4, height // 24), low=60, high=150)
        self._coats = [_texture(random, height, width, cell_px=max(2, height // 40), low=0, high=255) for _ in range(4)]
        self._y, self._x = np.mgrid[:height, :width].astype(np.float32)

    def frame(self, place: int) -> tuple[Image, list[Mask]]:
        """Frame `place`, uint8 (H, W, 3), and the masks of its discs, bool (H, W)."""
        start = place % self.width
        image, masks = self._ground[:, start : start + self.width].copy(), []
        for number in range(NUM_DISCS):
            x, y = self._centre(number, place)
            mask: Mask = (self._x - x) ** 2 + (self._y - y) ** 2 < self.radius_px**2
            coat = np.roll(self._coats[number], (round(y), round(x)), axis=(0, 1))
            image[mask] = coat[mask]
            masks.append(mask)
        return image, masks

    def prompts(self) -> list[Prompt]:
        """A click on each disc on frame 0."""
        centres = [self._centre(number, 0) for number in range(NUM_DISCS)]
        return [
            Prompt(object_id=number + 1, frame_index=0, points=(PointPrompt(x=x, y=y),))
            for number, (x, y) in enumerate(centres)
        ]

    def _centre(self, number: int, place: int) -> tuple[float, float]:
        """Each disc circles in its own quarter of the picture."""
        angle = 2 * np.pi * (place / _TURN_FRAMES + number / NUM_DISCS)
        reach = self.radius_px
        x = self.width * (0.25 + 0.5 * (number % 2)) + reach * np.cos(angle)
        y = self.height * (0.25 + 0.5 * (number // 2)) + reach * np.sin(angle)
        return float(x), float(y)


def _texture(
    random: np.random.Generator, height: int, width: int, *, cell_px: int, low: int, high: int
) -> NDArray[np.uint8]:
    """Coloured patches, uint8 (height, width, 3); twice as wide a ground goes round without a seam."""
    period = width // 2 if width >= 2 * height else width
    rows, columns = -(-height // cell_px), -(-period // cell_px)
    cells = random.integers(low, high, (rows, columns, 3), dtype=np.uint8)
    patches = cells.repeat(cell_px, 0).repeat(cell_px, 1)[:height, :period]
    return np.ascontiguousarray(np.tile(patches, (1, -(-width // period), 1))[:, :width])
