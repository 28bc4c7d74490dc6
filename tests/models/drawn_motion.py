"""A drawn world whose motion is known: a textured sprite over a textured ground, under a moving camera."""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.ticks import Image, Mask

Floats = NDArray[np.float32]
Point = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class DrawnFrame:
    """A picture, the sprite's mask, and its centre (x, y) in pixels of the picture."""

    image: Image
    mask: Mask
    center: Point


@dataclass(frozen=True, kw_only=True)
class World:
    """A ground and an elliptic sprite on it.

    Attributes:
        path: time to the sprite's centre in pixels of the ground.
        camera: time to the map (2, 3) from the ground's pixels to the picture's.
        sprite: half axes in pixels; None draws none.
        hidden: whether the sprite is behind a grey sheet at a time.
    """

    height: int = 256
    width: int = 400
    path: Callable[[float], Point] = lambda t: (150.0, 120.0)
    camera: Callable[[float], NDArray[np.float64]] = lambda t: np.eye(2, 3)
    sprite: tuple[float, float] | None = (34.0, 24.0)
    seed: int = 0

    def draw(self, time: float) -> DrawnFrame:
        size = (self.width, self.height)
        camera = self.camera(time)
        # The ground reaches beyond the picture on all sides, so that a moving camera finds texture.
        pad = 128
        ground = texture(self.height + 2 * pad, self.width + 2 * pad, seed=self.seed)
        image = _placed(ground, camera, (-pad, -pad), size)
        mask = np.zeros((self.height, self.width), np.bool_)
        x, y = self.path(time)
        if self.sprite is not None:
            half_x, half_y = self.sprite
            columns, rows = int(2 * half_x) + 9, int(2 * half_y) + 9
            middle = ((columns - 1) / 2, (rows - 1) / 2)
            offsets = np.mgrid[0:rows, 0:columns].astype(np.float32)
            inside = ((offsets[1] - middle[0]) / half_x) ** 2 + ((offsets[0] - middle[1]) / half_y) ** 2 <= 1
            place = (x - middle[0], y - middle[1])
            coat = _placed(texture(rows, columns, seed=self.seed + 1), camera, place, size)
            mask = _placed(inside.astype(np.float32), camera, place, size) > 0.5
            image = np.where(mask, coat, image)
        center = tuple((camera @ np.array([x, y, 1.0])).tolist())
        return DrawnFrame(image=np.repeat(_to_bytes(image)[..., None], 3, axis=2), mask=mask, center=center)


def texture(height: int, width: int, *, seed: int, smooth: float = 1.5) -> Floats:
    """Grey texture, mean 128, that any tracker can hold on to."""
    noise = np.random.default_rng(seed).normal(size=(height, width)).astype(np.float32)
    soft = cv2.GaussianBlur(noise, (0, 0), smooth)
    return (128 + 40 * soft / soft.std()).astype(np.float32)


def logits_of(mask: Mask, *, size: tuple[int, int] | None = None, scale: float = 1.0) -> Floats:
    """Logits of a mask on a grid (h, w) over the whole frame: the signed distance to its rim in pixels, within +-8."""
    inside = cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, 5)
    outside = cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, 5)
    distance = np.clip(scale * np.where(mask, inside - 0.5, 0.5 - outside), -8, 8).astype(np.float32)
    if size is None:
        return distance
    return np.asarray(cv2.resize(distance, (size[1], size[0]), interpolation=cv2.INTER_LINEAR), np.float32)


def shift(x: float, y: float) -> NDArray[np.float64]:
    """The map that moves the picture by (x, y)."""
    return np.array([[1.0, 0.0, x], [0.0, 1.0, y]])


def turn(degrees: float, *, about: Point, zoom: float = 1.0) -> NDArray[np.float64]:
    """The map that turns the picture about a point, counter-clockwise on the screen."""
    return np.asarray(cv2.getRotationMatrix2D(about, degrees, zoom))


def mask_iou(first: Mask, second: Mask) -> float:
    union = (first | second).sum()
    return float((first & second).sum() / union) if union else 1.0


def _placed(patch: Floats, camera: NDArray[np.float64], place: Point, size: tuple[int, int]) -> Floats:
    to_picture = camera @ np.vstack([shift(*place), [0.0, 0.0, 1.0]])
    return np.asarray(cv2.warpAffine(patch, to_picture, size, flags=cv2.INTER_LINEAR), np.float32)


def _to_bytes(image: Floats) -> NDArray[np.uint8]:
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)
