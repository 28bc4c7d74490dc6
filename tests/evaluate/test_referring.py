"""Referring metrics on clips of a few drawn frames, each with an answer that can be read off."""

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.evaluate.referring import (
    SwitchDelay,
    absent_frames_empty,
    identity_switches,
    mean_after_reappearance,
    mean_before_appearance,
    mean_since_appearance,
    mean_while_visible,
    switch_delay,
    twin_choice,
)

Masks = NDArray[np.bool_]
HEIGHT, WIDTH = 6, 20


def bars(*lengths: int, left: int = 0) -> Masks:
    """One frame per length: that many columns from `left` on, 4 rows high; no pixel for 0."""
    masks = np.zeros((len(lengths), HEIGHT, WIDTH), dtype=np.bool_)
    for frame, length in enumerate(lengths):
        masks[frame, 1:5, left : left + length] = True
    return masks


def flags(text: str) -> NDArray[np.bool_]:
    return np.array([letter == "1" for letter in text])


def test_the_twin_that_the_masklet_overlaps_more_is_chosen_over_the_whole_clip() -> None:
    referent, twin = bars(6, 6, 6), bars(6, 6, 6, left=10)
    mostly_right = np.concatenate([referent[:2], twin[2:]])
    assert twin_choice(mostly_right, referent, twin) == "referent"
    assert twin_choice(mostly_right, twin, referent) == "twin"
    assert twin_choice(bars(0, 0, 0), referent, twin) == "neither"
    assert twin_choice(bars(16, 16, 16), referent, twin) == "neither"


def test_a_large_twin_is_not_chosen_for_its_size() -> None:
    """Both are covered whole by the mask's halves: 4 of 4 pixels a row against 8 of 12, but IoU 4/12 against 8/16."""
    referent, twin = bars(4), bars(12, left=4)
    assert twin_choice(bars(12), referent, twin) == "twin"
    assert twin_choice(bars(7), referent, twin) == "referent"


def test_a_twin_that_is_never_visible_leaves_no_choice() -> None:
    with pytest.raises(ValueError, match="the twin is visible on no frame"):
        twin_choice(bars(3), bars(3), bars(0))


def test_frames_without_referent_should_be_empty() -> None:
    truth = bars(0, 0, 5, 5, 0)
    assert absent_frames_empty(bars(0, 2, 5, 0, 0), truth) == pytest.approx(2 / 3)
    assert absent_frames_empty(bars(0, 2), bars(0, 0)) == 0.5
    assert absent_frames_empty(bars(1, 1), bars(3, 3)) is None


def test_the_switch_delay_runs_from_the_first_visible_frame_to_an_iou_above_half() -> None:
    truth = bars(0, 0, 8, 8, 8, 8)
    assert switch_delay(bars(0, 0, 0, 4, 5, 8), truth) == SwitchDelay(frames=2, is_found=True)
    assert switch_delay(bars(0, 0, 8, 0, 0, 0), truth) == SwitchDelay(frames=0, is_found=True)
    assert switch_delay(bars(0, 0, 0, 4, 4, 4), truth) == SwitchDelay(frames=4, is_found=False)
    assert switch_delay(bars(0, 0, 0, 4, 4, 4), truth, min_iou=0.49) == SwitchDelay(frames=1, is_found=True)


def test_empty_masks_find_nothing_while_the_referent_is_away() -> None:
    """Before it comes and while it is gone again, two empty masks have an IoU of 1."""
    truth = bars(0, 8, 0, 8)
    assert switch_delay(bars(0, 0, 0, 7), truth) == SwitchDelay(frames=2, is_found=True)
    assert switch_delay(bars(0, 0), bars(0, 0)) is None


def test_scores_before_and_since_the_referent_appears() -> None:
    scores, visible = np.array([1.0, 0.0, 0.5, 0.7, 0.9]), flags("00110")
    assert mean_before_appearance(scores, visible) == 0.5
    assert mean_since_appearance(scores, visible) == pytest.approx(0.7)
    assert mean_while_visible(scores, visible) == pytest.approx(0.6)
    assert mean_before_appearance(scores, flags("11111")) is None
    nothing = flags("00000")
    assert mean_before_appearance(scores, nothing) is None
    assert mean_since_appearance(scores, nothing) is None
    assert mean_while_visible(scores, nothing) is None


def test_scores_after_occlusion_begin_when_a_seen_object_is_seen_again() -> None:
    scores = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    assert mean_after_reappearance(scores, flags("110011")) == pytest.approx(0.55)
    assert mean_after_reappearance(scores, flags("101011")) == pytest.approx((0.3 + 0.5 + 0.6) / 3)
    assert mean_after_reappearance(scores, flags("001111")) is None
    assert mean_after_reappearance(scores, flags("111100")) is None
    with pytest.raises(ValueError, match="6 frames for 2"):
        mean_after_reappearance(scores, flags("11"))


def test_a_switch_is_counted_when_the_masklet_goes_over_to_another_object() -> None:
    objects = {3: bars(6, 6, 6, 6, 6), 5: bars(6, 6, 6, 6, 0, left=10)}
    on_3, on_5, nowhere = objects[3][:1], objects[5][:1], bars(0)
    assert identity_switches(np.concatenate([on_3, nowhere, on_3, on_3, on_3]), objects) == 0
    assert identity_switches(np.concatenate([on_3, nowhere, on_5, on_5, on_3]), objects) == 2
    assert identity_switches(np.concatenate([on_5, on_5, on_5, on_5, nowhere]), objects) == 0
    assert identity_switches(np.concatenate([on_3, on_3, on_3, on_3, nowhere]), objects) == 0  # object 5 is away, too
    assert identity_switches(bars(0, 0, 0, 0, 0), objects) == 0
    with pytest.raises(ValueError, match="no objects"):
        identity_switches(bars(1), {})
