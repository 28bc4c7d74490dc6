"""How a training scene is changed: flip, scale and crop of all modalities alike, colours of RGB, blur of some."""

# Axes: y x an image as stored, S the model's square.

from collections.abc import Mapping

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as PilImage
from PIL import ImageEnhance
from pydantic import BaseModel, ConfigDict, Field

from pipeline.models.memorysam_input import ModalityImage, fitted_size, resize_image
from pipeline.ticks import RGB, Image

Labels = NDArray[np.uint8]


class Augmentation(BaseModel):
    """Probabilities and ranges; the defaults are DELIVER's.

    Source: the training transforms of DELIVER's loader, which MemorySAM uses.

    Attributes:
        flip, jitter, blur: probabilities of a mirror image, of changed RGB colours, of a Gaussian blur.
        blurred: modalities that blur together.
        blur_sigma: range of the Gaussian's deviation in pixels; None for a kernel of 3 x 3.
        scale: range of the short side over the square's; what sticks out is cropped at random, what lacks is black
            and unlabelled. None fits the whole scene into the square.
        jitter_range: of the factors of brightness, contrast and saturation.
        antialias: of resizes.
        blank: probability with which each modality of a scene is zeros, as from a sensor that failed; at least one is
            not. The reference blanks none.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    flip: float = Field(default=0.5, ge=0, le=1)
    jitter: float = Field(default=0.2, ge=0, le=1)
    blur: float = Field(default=0.2, ge=0, le=1)
    blurred: tuple[str, ...] = (RGB,)
    blur_sigma: tuple[float, float] | None = None
    scale: tuple[float, float] | None = (0.5, 2.0)
    jitter_range: tuple[float, float] = (0.5, 1.5)
    antialias: bool = True
    blank: float = Field(default=0.0, ge=0, lt=1)


def augmented(
    images: Mapping[str, ModalityImage],
    labels_yx: Labels,
    augmentation: Augmentation,
    generator: np.random.Generator,
    *,
    image_size: int,
) -> tuple[dict[str, ModalityImage], Labels]:
    """All modalities and the labels, changed alike, at most `image_size` high and wide.

    Departs from the reference: a crop never begins beyond the margin, so it is not padded where it need not be.
    """
    height, width = labels_yx.shape
    # Every number is drawn whether it is used or not, so that one option does not shift the others' chances.
    chances = generator.random(3)
    factors = generator.uniform(*augmentation.jitter_range, size=3)
    ratio = generator.uniform(*(augmentation.scale or (1.0, 1.0)))
    corner = generator.random(2)
    sigma = generator.uniform(*augmentation.blur_sigma) if augmentation.blur_sigma else None
    blank = _blanked(tuple(images), augmentation.blank, generator)
    size = fitted_size(height, width, image_size=image_size, fit="letterbox")
    if augmentation.scale is not None:
        factor = ratio * image_size / min(height, width)
        size = max(1, round(height * factor)), max(1, round(width * factor))
    top, left = (int(c * (max(side - image_size, 0) + 1)) for c, side in zip(corner, size, strict=True))
    crop = slice(top, top + image_size), slice(left, left + image_size)
    is_flipped = chances[0] < augmentation.flip
    changed: dict[str, ModalityImage] = {}
    for name, image in images.items():
        if name == RGB and image.dtype == np.uint8:
            image = _changed_colours(image, factors if chances[1] < augmentation.jitter else None)
        if name in augmentation.blurred and chances[2] < augmentation.blur:
            image = _blurred(image, sigma)
        mirrored = np.fliplr(image) if is_flipped else image
        resized = resize_image(mirrored, size, antialias=augmentation.antialias)[crop]
        changed[name] = np.zeros_like(resized) if name in blank else resized.copy()
    labels_yx = np.fliplr(labels_yx) if is_flipped else labels_yx
    return changed, _nearest(labels_yx, size)[crop].copy()


def _blanked(names: tuple[str, ...], probability: float, generator: np.random.Generator) -> set[str]:
    shows = generator.random(len(names)) >= probability
    shows[int(generator.integers(len(names)))] |= not shows.any()
    return {name for name, is_shown in zip(names, shows, strict=True) if not is_shown}


def _changed_colours(image: ModalityImage, factors: NDArray[np.float64] | None) -> ModalityImage:
    if factors is None:
        return image
    picture = PilImage.fromarray(image)
    for enhance, factor in zip(
        (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color), factors, strict=True
    ):
        picture = enhance(picture).enhance(float(factor))
    changed: Image = np.asarray(picture)
    return changed


def _blurred(image: ModalityImage, sigma: float | None) -> ModalityImage:
    # OpenCV takes the kernel's size from the deviation, or the deviation from the size; both 0 is refused.
    size, deviation = ((3, 3), 0.0) if sigma is None else ((0, 0), max(sigma, 1e-6))
    blurred: ModalityImage = cv2.GaussianBlur(image, size, deviation)
    return blurred


def _nearest(labels_yx: Labels, size: tuple[int, int]) -> Labels:
    if labels_yx.shape == size:
        return labels_yx
    rows, columns = (np.arange(new) * old // new for new, old in zip(size, labels_yx.shape, strict=True))
    resized: Labels = labels_yx[rows[:, None], columns[None, :]]
    return resized
