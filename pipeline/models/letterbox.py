"""Frames into the model's square and mask logits back out: resize keeping the aspect ratio, pad right and below."""

# Axes: B frames, R rows, H W the model's square, h w the part of it that shows the frame, y x the decoded frame.

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image as PilImage
from torch import Tensor
from torch.nn import functional as F

from pipeline.ticks import Image

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
"""Of RGB in 0..1, as SAM2 was trained (ImageNet's)."""


def letterbox_size(height: int, width: int, *, short_side_px: int, image_size: int) -> tuple[int, int]:
    """Height and width of a frame inside the square: short side first, then capped by the long one.

    Both steps cut fractions off, so 480 x 854 becomes 575 x 1024. Source: SAMWISE's inference, which uses
    torchvision's `Resize(1020, max_size=1024)`.
    """
    short, long = sorted((height, width))
    new_short, new_long = short_side_px, int(short_side_px * long / short)
    if new_long > image_size:
        new_short, new_long = int(image_size * new_short / new_long), image_size
    new_short = max(1, new_short)
    return (new_short, new_long) if height <= width else (new_long, new_short)


def resize_frame(image_yx3: Image, size: tuple[int, int]) -> Image:
    """PIL's antialiased bilinear resize to (h, w), uint8 to uint8; always a copy."""
    if image_yx3.shape[:2] == size:
        return np.array(image_yx3)
    height, width = size
    return np.array(PilImage.fromarray(image_yx3).resize((width, height), PilImage.Resampling.BILINEAR))


def to_square(images_hw3: Sequence[Image], *, num_rows: int, image_size: int, device: torch.device) -> Tensor:
    """Normalised float32 (num_rows, 3, H, W), zero (the mean colour) where no frame lies; spare rows are zero.

    Args:
        images_hw3: resized frames, possibly of several sizes. They travel as uint8.
    """
    mean = torch.tensor(MEAN, device=device).view(3, 1, 1)
    std = torch.tensor(STD, device=device).view(3, 1, 1)
    square_B3HW = torch.zeros(num_rows, 3, image_size, image_size, device=device)
    for row, image in enumerate(images_hw3):
        height, width = image.shape[:2]
        pixels_3hw = torch.from_numpy(image).to(device).permute(2, 0, 1)
        square_B3HW[row, :, :height, :width] = (pixels_3hw.float() / 255 - mean) / std
    return square_B3HW


def from_square(logits_R1HW: Tensor, inner: tuple[int, int], frame_size: tuple[int, int]) -> Tensor:
    """Logits of the square, cut to the frame and resized to its own size: (R, 1, y, x)."""
    height, width = inner
    cut = logits_R1HW[..., :height, :width]
    return F.interpolate(cut, size=frame_size, mode="bilinear", align_corners=False)
