"""What users show a tracker: points, boxes and masks, checked against the frame and put into the model's pixels."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from pipeline.errors import PromptError
from pipeline.ticks import Mask, Prompt

PromptKind = Literal["points", "box", "points_box", "mask"]

BOX_LABELS = (2, 3)
"""A box is two corner points with labels of their own (SAM)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """One object as it is shown on one frame, in pixels of the model's square.

    Attributes:
        object_id, frame_index: as in the prompt.
        kind: what it was shown by; a mask comes before points and box given with it.
        points_xy: box corners, then clicks.
        labels: 2 and 3 for the corners, 1 on the object, 0 beside it.
        mask_yx: bool, at the frame's size.
    """

    object_id: int
    frame_index: int
    kind: PromptKind
    points_xy: tuple[tuple[float, float], ...] = ()
    labels: tuple[int, ...] = ()
    mask_yx: Mask | None = None


ShownByFrame = Mapping[int, tuple[Shown, ...]]


def read_prompts(prompts: Sequence[Prompt], frame_size: tuple[int, int], image_size: int) -> ShownByFrame:
    """Prompts by source frame, in order of frame and object.

    Args:
        frame_size: (height, width) of the decoded frame.
        image_size: side of the model's square; frames are stretched onto it.

    Raises:
        PromptError: none at all, one that shows nothing, one outside the frame, an empty mask, a mask of another
            size, a number that is not finite, or an object shown twice on one frame.
    """
    if not prompts:
        raise PromptError("nothing to track: no prompt. Show at least one object by points, a box or a mask.")
    shown: dict[int, list[Shown]] = {}
    for prompt in sorted(prompts, key=lambda p: (p.frame_index or 0, p.object_id)):
        entry = _shown(prompt, frame_size, image_size)
        on_frame = shown.setdefault(entry.frame_index, [])
        if any(other.object_id == entry.object_id for other in on_frame):
            raise PromptError(
                f"object {entry.object_id} is shown twice on frame {entry.frame_index}: give two objects two ids, or "
                "merge the clicks of one object into one prompt."
            )
        on_frame.append(entry)
    return {frame_index: tuple(entries) for frame_index, entries in shown.items()}


def _shown(prompt: Prompt, frame_size: tuple[int, int], image_size: int) -> Shown:
    where = f"object {prompt.object_id}, frame {prompt.frame_index}"
    if prompt.frame_index is None:
        raise PromptError(
            f"object {prompt.object_id}: only a text. Tracking is shown objects by points, a box or a mask on a frame."
        )
    if prompt.frame_index < 0:
        raise PromptError(f"{where}: expected a frame index of 0 or more.")
    height, width = frame_size
    scale = (image_size / width, image_size / height)
    if prompt.mask is not None:
        _check_mask(prompt.mask, frame_size, where)
        return Shown(object_id=prompt.object_id, frame_index=prompt.frame_index, kind="mask", mask_yx=prompt.mask)
    points: list[tuple[float, float]] = []
    labels: list[int] = []
    if prompt.box is not None:
        x0, y0, x1, y1 = _clipped_box(prompt.box, frame_size, where)
        points += [(x0, y0), (x1, y1)]
        labels += BOX_LABELS
    for point in prompt.points:
        _check_finite((point.x, point.y), where)
        if not (0 <= point.x < width and 0 <= point.y < height):
            raise PromptError(
                f"{where}: point ({point.x:g}, {point.y:g}) lies outside the frame of {width} x {height} pixels "
                "(width x height). Points are in pixels of the decoded frame; check max_side and the order x, y."
            )
        points.append((point.x, point.y))
        labels.append(1 if point.positive else 0)
    if 1 not in labels and prompt.box is None:
        raise PromptError(f"{where}: only background points. Give at least one point on the object.")
    kind: PromptKind = "points" if prompt.box is None else "points_box" if prompt.points else "box"
    return Shown(
        object_id=prompt.object_id,
        frame_index=prompt.frame_index,
        kind=kind,
        points_xy=tuple((x * scale[0], y * scale[1]) for x, y in points),
        labels=tuple(labels),
    )


def _clipped_box(
    box: tuple[float, float, float, float], frame_size: tuple[int, int], where: str
) -> tuple[float, float, float, float]:
    """The part of a box inside the frame: detectors overshoot by a little."""
    _check_finite(box, where)
    height, width = frame_size
    x0, y0, x1, y1 = box
    if x1 <= x0 or y1 <= y0:
        raise PromptError(f"{where}: box {list(box)}; expected [x0, y0, x1, y1] with x1 > x0 and y1 > y0.")
    inside = max(0.0, x0), max(0.0, y0), min(float(width), x1), min(float(height), y1)
    if inside[2] <= inside[0] or inside[3] <= inside[1]:
        raise PromptError(
            f"{where}: box {list(box)} lies outside the frame of {width} x {height} pixels (width x height). "
            "Boxes are in pixels of the decoded frame; check max_side and the order x0, y0, x1, y1."
        )
    return inside


def _check_mask(mask: Mask, frame_size: tuple[int, int], where: str) -> None:
    if mask.shape != frame_size or mask.dtype != np.bool_:
        raise PromptError(
            f"{where}: mask of {mask.dtype} {mask.shape}; expected bool {frame_size} (height, width), the decoded "
            "frame's size."
        )
    if not mask.any():
        raise PromptError(f"{where}: the mask is empty. Show the object on a frame on which it can be seen.")


def _check_finite(numbers: Iterable[float], where: str) -> None:
    numbers = tuple(numbers)
    if not np.isfinite(numbers).all():
        raise PromptError(f"{where}: {list(numbers)} has a number that is not finite.")
