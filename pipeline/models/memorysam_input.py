"""Modality images into the model's square: resized as uint8, padded, normalised each by its kind."""

# Axes: y x a decoded frame, h w the same resized, H W the model's square, B images; C channels of any image.

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from pipeline.models.letterbox import MEAN, STD
from pipeline.ticks import RGB

Fit = Literal["letterbox", "stretch"]

ModalityImage = NDArray[np.uint8] | NDArray[np.float32]
"""(h, w, 3): uint8, or float32 already on the scale that the model reads."""

SIZE_MULTIPLE = 32


def fitted_size(height: int, width: int, *, image_size: int, fit: Fit) -> tuple[int, int]:
    """Size of a frame inside the square: "letterbox" keeps its shape, "stretch" fills the square.

    Departs from the reference, which takes square frames only; there both are its resize.
    """
    if fit == "stretch":
        return image_size, image_size
    scale = image_size / max(height, width)
    return max(1, round(height * scale)), max(1, round(width * scale))


def resize_image(image_yx3: ModalityImage, size: tuple[int, int], *, antialias: bool = True) -> ModalityImage:
    """Bilinear resize of one image, uint8 rounded to uint8; a copy unless nothing changes."""
    if image_yx3.shape[:2] == size:
        return image_yx3
    resized = resize_planes(_as_tensor(image_yx3).permute(2, 0, 1), size, antialias)
    result: ModalityImage = np.ascontiguousarray(resized.permute(1, 2, 0).numpy())
    return result


def resize_planes(image_Cyx: Tensor, size: tuple[int, int], antialias: bool) -> Tensor:
    """Bilinear resize of uint8 or float planes; uint8 is computed in float32 and rounded."""
    resized = F.interpolate(
        image_Cyx[None].float(), size=size, mode="bilinear", align_corners=False, antialias=antialias
    )[0]
    return resized.round().clamp(0, 255).to(torch.uint8) if image_Cyx.dtype == torch.uint8 else resized


def normalise(image_CHW: Tensor, modality: str) -> Tensor:
    """Float32 as the model reads it: uint8 over 255; "rgb" alone is centred and divided by its deviation."""
    scaled = image_CHW.float() / 255 if image_CHW.dtype == torch.uint8 else image_CHW.float()
    if modality != RGB:
        return scaled
    mean, std = (torch.tensor(values, device=scaled.device).view(3, 1, 1) for values in (MEAN, STD))
    return (scaled - mean) / std


def to_square(
    images_hw3: Sequence[ModalityImage],
    modalities: Sequence[str],
    *,
    num_rows: int,
    image_size: int,
    device: torch.device,
) -> Tensor:
    """Normalised float32 (num_rows, 3, H, W), black right and below a smaller image; spare rows are zero.

    Padded before normalising, as in the reference's training crops, so that the pad of "rgb" is not zero.
    """
    square_B3HW = torch.zeros(num_rows, 3, image_size, image_size, device=device)
    for row, (image, modality) in enumerate(zip(images_hw3, modalities, strict=True)):
        pixels = _as_tensor(image).to(device).permute(2, 0, 1)
        height, width = image.shape[:2]
        padded = F.pad(pixels, (0, image_size - width, 0, image_size - height))
        square_B3HW[row] = normalise(padded, modality)
    return square_B3HW


def reference_validation_images(
    image_Cyx: Tensor, modality: str, *, short_side_px: int, antialias: bool = True
) -> Tensor:
    """One modality through the DELIVER loader's validation transform, float32 (C, h, w).

    The short side to `short_side_px`, then each side stretched to the next multiple of 32; rounded to uint8 after
    each. A frame that is not square stays so, which the model refuses: for scores beside published ones alone.

    Args:
        image_Cyx: uint8.
        antialias: as torchvision from 0.17 on; older ones did not. Which made the published scores is not known.
    """
    first, second = reference_validation_sizes(*image_Cyx.shape[1:], short_side_px=short_side_px)
    resized = resize_planes(image_Cyx, first, antialias)
    return normalise(resize_planes(resized, second, antialias) if second != first else resized, modality)


def reference_validation_labels(labels_yx: Tensor, *, short_side_px: int) -> Tensor:
    """Labels through the same transform, nearest: scores are measured on resized labels."""
    for size in reference_validation_sizes(*labels_yx.shape, short_side_px=short_side_px):
        labels_yx = F.interpolate(labels_yx[None, None].float(), size=size, mode="nearest")[0, 0].to(labels_yx.dtype)
    return labels_yx


def reference_validation_sizes(
    height: int, width: int, *, short_side_px: int
) -> tuple[tuple[int, int], tuple[int, int]]:
    """(h, w) after the first and after the second resize."""
    scale = short_side_px / min(height, width)
    first = round(height * scale), round(width * scale)
    return first, (_next_multiple(first[0]), _next_multiple(first[1]))


def _as_tensor(image: ModalityImage) -> Tensor:
    # Torch takes no read-only or mirrored arrays; decoders and PIL give the former.
    return torch.from_numpy(np.require(image, requirements=("C", "W")))


def _next_multiple(side: int) -> int:
    return -(-side // SIZE_MULTIPLE) * SIZE_MULTIPLE
