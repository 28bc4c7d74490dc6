"""A stand-in for a semantic network: true labels go in, labels or probabilities with chosen faults come out."""

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from pipeline.synth.draws import Draws
from pipeline.synth.street_config import Fraction
from pipeline.synth.street_world import STREET_CLASSES

Labels = NDArray[np.uint8]

_OBJECT_STREAM, _FRAME_STREAM = range(2)


class Corruption(BaseModel):
    """Which faults a stand-in network has; the default has none.

    Attributes:
        num_classes: K; wrong labels are drawn from these.
        swap_objects: share of instances that are taken for another class in all frames.
        swap_pixels: share of such an instance's pixels that are wrong, others in each frame.
        flicker_objects: share of instances that are taken for another class in some frames.
        flicker_every: in these: k - 1, 2 k - 1, ...
        rim_px: within so many pixels of a border between labels, a label comes from a random place as far away.
        salt: share of pixels with a random wrong label, anew in each frame.
        confidence: probability that `corrupt_probabilities` gives the label it says; the rest is shared evenly.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_classes: int = Field(default=len(STREET_CLASSES), ge=2, le=255)
    swap_objects: Fraction = 0.0
    swap_pixels: Fraction = 1.0
    flicker_objects: Fraction = 0.0
    flicker_every: int = Field(default=3, ge=1)
    rim_px: int = Field(default=0, ge=0)
    salt: Fraction = 0.0
    confidence: Fraction = 0.8

    @model_validator(mode="after")
    def _check(self) -> "Corruption":
        if self.confidence * self.num_classes <= 1:
            raise ValueError(
                f"confidence {self.confidence} with {self.num_classes} classes would not make a label the likeliest; "
                f"give more than {1 / self.num_classes:.3f}."
            )
        return self


NETWORK_FAULTS = Corruption(rim_px=3, salt=0.1, flicker_objects=0.3, flicker_every=3, swap_objects=0.05)
"""Faults of all kinds at once, as a small network shows them."""


def corrupt_labels(labels: Labels, instances: NDArray[np.integer], corruption: Corruption, seed: int) -> Labels:
    """Labels as the stand-in gives them, uint8 (T, H, W).

    Args:
        labels: uint8 (T, H, W), ids below `num_classes`; others are void, stay, and are never given to other pixels
            but at rims.
        instances: int (T, H, W), 0 for none; what flickers and is swapped as a whole.

    Raises:
        ValueError: the shapes differ or are not (T, H, W).
    """
    if labels.ndim != 3 or labels.shape != instances.shape:
        raise ValueError(
            f"labels {labels.shape} and instances {instances.shape}: expected one shape (T, H, W) for both."
        )
    swapped, flickering = _faulty_instances(instances, corruption, Draws(seed, _OBJECT_STREAM))
    faulty = labels.copy()
    for frame_index, (frame, ids) in enumerate(zip(faulty, instances, strict=True)):
        draws = Draws(seed, _FRAME_STREAM, frame_index)
        chance = draws.noise(*frame.shape)
        for instance_id, shift in swapped.items():
            # 255 of 256 steps of chance lie below a share of 1: compare with the share of 256.
            _shift(frame, (ids == instance_id) & (chance < corruption.swap_pixels * 256), shift, corruption)
        if frame_index % corruption.flicker_every == corruption.flicker_every - 1:
            for instance_id, shift in flickering.items():
                _shift(frame, ids == instance_id, shift, corruption)
        if corruption.rim_px:
            frame[:] = _with_rim_noise(frame, corruption.rim_px, draws)
        if corruption.salt:
            _sprinkle(frame, corruption, draws)
    return faulty


def corrupt_probabilities(
    labels: Labels, instances: NDArray[np.integer], corruption: Corruption, seed: int
) -> NDArray[np.float32]:
    """Probabilities whose largest is at `corrupt_labels`, float32 (T, K, H, W); void pixels have equal ones.

    Raises:
        ValueError: as `corrupt_labels`.
    """
    faulty = corrupt_labels(labels, instances, corruption, seed)
    classes = np.arange(corruption.num_classes, dtype=np.uint8)[None, :, None, None]
    rest = (1 - corruption.confidence) / (corruption.num_classes - 1)
    probabilities = np.where(faulty[:, None] == classes, corruption.confidence, rest)
    is_void = (faulty >= corruption.num_classes)[:, None]
    return np.where(is_void, 1 / corruption.num_classes, probabilities).astype(np.float32)


def _faulty_instances(
    instances: NDArray[np.integer], corruption: Corruption, draws: Draws
) -> tuple[dict[int, int], dict[int, int]]:
    """Which instances are swapped and which flicker, with the distance from their class to the wrong one."""
    swapped: dict[int, int] = {}
    flickering: dict[int, int] = {}
    for instance_id in np.unique(instances).tolist():
        shift = draws.between(1, corruption.num_classes - 1)
        is_swapped, is_flickering = (
            draws.chance(corruption.swap_objects),
            draws.chance(corruption.flicker_objects),
        )
        if instance_id and is_swapped:
            swapped[instance_id] = shift
        elif instance_id and is_flickering:
            flickering[instance_id] = shift
    return swapped, flickering


def _shift(frame: Labels, where: NDArray[np.bool_], shift: int, corruption: Corruption) -> None:
    """Move the class ids of some pixels around the circle of classes; void stays."""
    where = where & (frame < corruption.num_classes)
    frame[where] = (frame[where].astype(np.int64) + shift) % corruption.num_classes


def _with_rim_noise(frame: Labels, rim_px: int, draws: Draws) -> Labels:
    height, width = frame.shape
    reach = 2 * rim_px + 1
    window = np.ones((reach, reach), dtype=np.uint8)
    is_rim = cv2.dilate(frame, window) != cv2.erode(frame, window)
    rows, columns = np.nonzero(is_rim)
    moves = draws.noise(2, len(rows)).astype(np.int64) * reach // 256 - rim_px
    noisy = frame.copy()
    noisy[rows, columns] = frame[np.clip(rows + moves[0], 0, height - 1), np.clip(columns + moves[1], 0, width - 1)]
    return noisy


def _sprinkle(frame: Labels, corruption: Corruption, draws: Draws) -> None:
    high, low, shifts = draws.noise(3, *frame.shape).astype(np.int64)
    is_salt = (high * 256 + low < round(corruption.salt * 65536)) & (frame < corruption.num_classes)
    moved = frame + 1 + shifts * (corruption.num_classes - 1) // 256
    frame[is_salt] = moved[is_salt] % corruption.num_classes
