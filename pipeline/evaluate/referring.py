"""What goes wrong in referring and tracking, told from masks: wrong twin, late switch, objects where there are none.

All functions are pure and take masks of the same T frames; frames are counted in frames given, not in seconds.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from pipeline.evaluate.mask_sequences import (
    Flags,
    MaskSequence,
    Scores,
    check_lengths,
    jaccards,
    masklet_iou,
    visible_frames,
)

TwinChoice = Literal["referent", "twin", "neither"]

FOUND_IOU = 0.5
"""Above this overlap a mask counts as being on an object."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SwitchDelay:
    """How long after its first appearance the referent is found.

    Attributes:
        frames: from the first frame on which the referent is visible (counted as 0) to the first one on which it is
            found; where it never is, to the end of the clip, which is less than the delay would be.
        is_found: whether it is found at all.
    """

    frames: int
    is_found: bool


def twin_choice(prediction: MaskSequence, referent: MaskSequence, twin: MaskSequence) -> TwinChoice:
    """Which of two look-alikes the predicted masklet lies on: the one it overlaps more, over the whole clip.

    "referent" is the right twin, "twin" the opposite one; "neither" if both overlaps are equal, as of empty masks.

    Raises:
        ValueError: lengths or sizes differ, or one of the look-alikes is never visible.
    """
    for name, masks in (("referent", referent), ("twin", twin)):
        if not visible_frames(masks).any():
            raise ValueError(f"the {name} is visible on no frame, so that there is nothing to choose from.")
    right, opposite = masklet_iou(prediction, referent), masklet_iou(prediction, twin)
    if right == opposite:
        return "neither"
    return "referent" if right > opposite else "twin"


def absent_frames_empty(prediction: MaskSequence, truth: MaskSequence) -> float | None:
    """Share of the frames without referent on which nothing is predicted; None if the referent is always visible.

    For an expression without target these are all frames.

    Raises:
        ValueError: lengths differ.
    """
    check_lengths(prediction, truth)
    is_absent = ~visible_frames(truth)
    return float((~visible_frames(prediction))[is_absent].mean()) if is_absent.any() else None


def switch_delay(prediction: MaskSequence, referent: MaskSequence, *, min_iou: float = FOUND_IOU) -> SwitchDelay | None:
    """Frames from the referent's first appearance until the prediction overlaps it by more than `min_iou`.

    Frames on which the referent is out of view again find nothing, though two empty masks are equal.

    Returns:
        None if the referent is never visible.

    Raises:
        ValueError: lengths or sizes differ.
    """
    is_visible = visible_frames(referent)
    if not is_visible.any():
        return None
    first = int(is_visible.argmax())
    is_found = is_visible & (jaccards(prediction, referent) > min_iou)
    if not is_found.any():
        return SwitchDelay(frames=len(is_visible) - first, is_found=False)
    return SwitchDelay(frames=int(is_found.argmax()) - first, is_found=True)


def mean_before_appearance(scores: Scores, is_visible: Flags) -> float | None:
    """Mean score of the frames before the first visible one; None if there are none, or no visible one."""
    return _mean_of(scores, np.arange(len(scores)) < _first(is_visible)) if is_visible.any() else None


def mean_since_appearance(scores: Scores, is_visible: Flags) -> float | None:
    """Mean score of the frames from the first visible one on; None if there is none."""
    return _mean_of(scores, np.logical_or.accumulate(is_visible))


def mean_while_visible(scores: Scores, is_visible: Flags) -> float | None:
    """Mean score of the visible frames; None if there are none."""
    return _mean_of(scores, is_visible)


def mean_after_reappearance(scores: Scores, is_visible: Flags) -> float | None:
    """Mean score of the visible frames after the object's first absence; None if it never comes back.

    This is "J after occlusion": frames since the first one on which the object, seen and gone, is seen again.
    """
    was_seen = np.logical_or.accumulate(is_visible)
    was_gone = np.logical_or.accumulate(was_seen & ~is_visible)
    return _mean_of(scores, is_visible & was_gone)


def identity_switches(
    prediction: MaskSequence, objects: Mapping[int, MaskSequence], *, min_iou: float = FOUND_IOU
) -> int:
    """How often the predicted masklet goes over from one object to another.

    On each frame it lies on the visible object that it overlaps most, if by more than `min_iou`; frames on which it
    lies on none are passed over.

    Raises:
        ValueError: there are no objects, or lengths or sizes differ.
    """
    if not objects:
        raise ValueError("identity_switches: no objects, expected those of the clip by id.")
    overlaps = np.array([np.where(visible_frames(masks), jaccards(prediction, masks), 0) for masks in objects.values()])
    on_object = overlaps.argmax(axis=0)[overlaps.max(axis=0) > min_iou]
    return int(np.count_nonzero(np.diff(on_object)))


def _first(flags: Flags) -> int:
    return int(flags.argmax())


def _mean_of(scores: Scores, chosen: Flags) -> float | None:
    if len(scores) != len(chosen):
        raise ValueError(f"scores of {len(scores)} frames for {len(chosen)} frames of masks: expected as many.")
    return float(scores[chosen].mean()) if chosen.any() else None
