"""Which masks are accepted, and what becomes of the filter when they are not."""

from dataclasses import replace

import numpy as np
import pytest

from pipeline.models.motion_camera import observe_frame
from pipeline.models.motion_config import MotionConfig
from pipeline.models.motion_forecast import forecast
from pipeline.models.motion_state import ObjectMotion
from pipeline.models.motion_update import update
from tests.models.drawn_motion import World, logits_of

CONFIG = MotionConfig(flow="none")
WORLD = World()
FRAME = observe_frame(WORLD.draw(0).image, 0, None, [], CONFIG, None)
LOGITS = logits_of(WORLD.draw(0).mask, size=(64, 64))


def seen(state: ObjectMotion, *, prompted: bool = False, **changes: object) -> ObjectMotion:
    ahead = None if prompted else forecast(state, FRAME, CONFIG, None)
    given = {"logits_hw": LOGITS, "object_score": 5.0, "predicted_iou": 0.9, **changes}
    return update(state, FRAME, ahead, config=CONFIG, **given)  # type: ignore[arg-type]


def test_an_accepted_mask_is_kept_with_its_points_and_box() -> None:
    state = seen(ObjectMotion(), prompted=True, logits_hw=50 * LOGITS)
    assert state.box == pytest.approx((116, 96, 185, 145), abs=4)
    assert state.logits_hw is not None
    assert np.abs(state.logits_hw).max() == 32
    assert state.points_P2 is not None
    assert state.points_P2.shape == (5, 2)
    assert (state.accepted_frame, state.absent, state.stable_frames) == (0, 0, 0)
    assert [seen(state).stable_frames, seen(seen(state)).stable_frames] == [1, 2]


@pytest.mark.parametrize(
    "changes",
    [{"object_score": -0.1}, {"predicted_iou": 0.3}, {"logits_hw": np.full((64, 64), -1024, np.float32)}],
    ids=["absent", "poor", "empty"],
)
def test_a_mask_that_is_not_accepted_changes_nothing_but_the_count(changes: dict[str, object]) -> None:
    state = seen(seen(ObjectMotion(), prompted=True))
    missed = seen(state, **changes)
    assert missed.absent == 1
    assert missed.logits_hw is state.logits_hw
    assert missed.kalman is not None
    assert missed.stable_frames == state.stable_frames == 1
    assert replace(missed, absent=0, kalman=None) == replace(state, kalman=None)


def test_a_step_is_from_the_frame_before_without_the_cameras_part() -> None:
    first = seen(ObjectMotion(), prompted=True)
    assert first.step_xy is None
    # The grid has 64 columns, a cell is so many grey pixels wide.
    cell = FRAME.grey_HW.shape[1] / LOGITS.shape[1]
    aside = np.roll(LOGITS, 2, axis=1)
    moved = seen(first, logits_hw=aside)
    assert moved.step_xy == pytest.approx((2 * cell, 0), abs=0.6)
    panned = replace(FRAME, camera_23=np.array([[1.0, 0.0, 5.0], [0.0, 1.0, -3.0]]))
    ahead = forecast(first, panned, CONFIG, None)
    state = update(first, panned, ahead, logits_hw=aside, object_score=5.0, predicted_iou=0.9, config=CONFIG)
    assert state.step_xy == pytest.approx((2 * cell - 5, 3), abs=0.6)
    assert ObjectMotion.from_state(state.state_dict()).step_xy == state.step_xy
    assert state.center_xy is not None
    absent = update(state, panned, None, logits_hw=aside, object_score=-5.0, predicted_iou=0.9, config=CONFIG)
    assert absent.center_xy == pytest.approx((state.center_xy[0] + 2 * cell, state.center_xy[1]), abs=0.6)
    assert ObjectMotion.from_state(absent.state_dict()).center_xy == absent.center_xy
    assert seen(seen(moved, object_score=-1.0)).step_xy is None


def test_after_a_long_absence_the_filter_begins_anew() -> None:
    state = seen(seen(ObjectMotion(), prompted=True))
    for missed in range(1, CONFIG.coast_max + 2):
        state = seen(state, object_score=-1.0)
        assert (state.kalman is None) == (missed > CONFIG.coast_max)
    back = seen(state)
    assert (back.stable_frames, back.absent) == (0, 0)
    assert back.kalman is not None
    assert (back.kalman.mean[4:] == 0).all()


def test_after_a_short_absence_the_filter_goes_on_unless_the_object_is_elsewhere() -> None:
    state = seen(seen(ObjectMotion(), prompted=True))
    missed = seen(state, object_score=-1.0)
    assert seen(missed).stable_frames == 2
    elsewhere = np.roll(LOGITS, 30, axis=1)
    assert seen(missed, logits_hw=elsewhere).stable_frames == 0
    assert seen(state, logits_hw=elsewhere).stable_frames == 2


def test_a_filter_that_was_outrun_goes_on_with_the_step_just_seen() -> None:
    """A step of 30 cells of 64 is 187.5 of the picture's 400 px: beyond the box, so beyond the filter."""
    state = seen(seen(ObjectMotion(), prompted=True))
    jumped = seen(state, logits_hw=np.roll(LOGITS, 30, axis=1))
    assert jumped.kalman is not None
    assert jumped.kalman.mean[4:6] == pytest.approx((187.5, 0), abs=1)
    assert state.kalman is not None
    near = seen(state, logits_hw=np.roll(LOGITS, 3, axis=1))
    assert near.kalman is not None
    assert 0 < near.kalman.mean[4] < 10, "within reach the filter's own gain decides"


def test_a_mask_that_lost_most_of_its_area_is_bridged_and_at_last_believed() -> None:
    state = seen(seen(ObjectMotion(), prompted=True))
    columns = np.flatnonzero((LOGITS > 0).any(axis=0))
    sliver = LOGITS.copy()
    sliver[:, : columns[-3]] = -8
    part = seen(state, logits_hw=sliver)
    assert (part.absent, part.box, part.points_P2 is state.points_P2) == (1, state.box, True)
    assert part.kalman is not None
    assert part.kalman.mean[0] == pytest.approx(state.kalman.mean[0], abs=1), "it is not drawn to the sliver"  # type: ignore[union-attr]
    for _ in range(CONFIG.coast_max + 1):
        part = seen(part, logits_hw=sliver)
    assert (part.absent, part.stable_frames) == (0, 0), "after the frames that the filter bridges, that is all there is"
    assert seen(part, logits_hw=sliver).absent == 0
    shrinking = [LOGITS - step for step in np.linspace(0, LOGITS.max() * 0.5, 12)]
    for logits in shrinking:
        state = seen(state, logits_hw=logits)
        assert state.absent == 0, "one that goes away from the camera is followed"


def test_a_mask_that_took_in_a_neighbour_is_bridged_and_at_last_believed() -> None:
    state = seen(seen(ObjectMotion(), prompted=True))
    both = np.maximum(LOGITS, np.roll(LOGITS, 8, axis=1))
    merged = seen(state, logits_hw=both)
    assert (merged.absent, merged.box, merged.usual_area) == (1, state.box, state.usual_area)
    assert merged.kalman is not None
    assert merged.kalman.mean[0] == pytest.approx(state.kalman.mean[0], abs=1), "it is not drawn to the neighbour"  # type: ignore[union-attr]
    for _ in range(CONFIG.coast_max + 1):
        merged = seen(merged, logits_hw=both)
    assert (merged.absent, merged.usual_area) == (0, np.count_nonzero(both > 0)), "that is how large it is now"
    for step in range(12):
        state = seen(state, logits_hw=LOGITS + 0.15 * step)
        assert state.absent == 0, "one that comes nearer is followed"


def test_a_mask_that_takes_in_a_neighbour_bit_by_bit_is_bridged_too() -> None:
    first = state = seen(seen(ObjectMotion(), prompted=True))
    inside, columns = LOGITS > 0, np.arange(LOGITS.shape[1])
    last, absent = int(np.flatnonzero(inside.any(axis=0))[-1]), []
    for step in range(1, 13):
        # A column of the neighbour on every other frame: a twentieth of the object's area a frame.
        beside = inside.any(axis=1)[:, None] & (columns > last) & (columns <= last + step // 2)
        state = seen(state, logits_hw=np.where(beside, 3.0, LOGITS).astype(np.float32))
        absent.append(state.absent)
    assert absent[0] == 0
    assert absent[-1] > 0
    assert state.usual_area <= first.usual_area * 1.01**12
    assert state.box is not None
    assert first.box is not None
    assert state.box[2] - first.box[2] < 0.5 * (first.box[2] - first.box[0])


def test_a_mask_in_pieces_is_bridged_however_large_it_is() -> None:
    state = seen(seen(ObjectMotion(), prompted=True))
    columns = np.flatnonzero((LOGITS > 0).any(axis=0))
    left = np.where(np.arange(LOGITS.shape[1]) <= columns.mean(), LOGITS, -8)
    # Half of the object as it is, the other half of it fifteen columns further on: its area, in a box twice as wide.
    apart = np.maximum(left, np.roll(np.where(left == LOGITS, -8, LOGITS), 15, axis=1)).astype(np.float32)
    assert np.count_nonzero(apart > 0) == np.count_nonzero(LOGITS > 0)
    pieces = seen(state, logits_hw=apart)
    assert (pieces.absent, pieces.box) == (1, state.box)
    nearer = np.maximum(left, np.roll(np.where(left == LOGITS, -8, LOGITS), 4, axis=1)).astype(np.float32)
    assert seen(state, logits_hw=nearer).absent == 0


def test_a_mask_less_sure_than_the_objects_usually_are_is_bridged_and_at_last_believed() -> None:
    state = seen(seen(ObjectMotion(), prompted=True, predicted_iou=1.0), predicted_iou=0.8)
    assert state.usual_iou == 0.8, "what the user showed says nothing of masks to come"
    assert seen(state, predicted_iou=0.6).usual_iou == pytest.approx(0.79)
    beside = np.roll(LOGITS, 3, axis=1)
    doubtful = seen(state, logits_hw=beside, predicted_iou=0.55)
    assert (doubtful.absent, doubtful.box, doubtful.usual_iou) == (1, state.box, 0.8)
    for _ in range(CONFIG.coast_max + 1):
        doubtful = seen(doubtful, logits_hw=beside, predicted_iou=0.55)
    assert (doubtful.absent, doubtful.usual_iou, doubtful.box == state.box) == (0, 0.55, False)
    steady = seen(seen(ObjectMotion(), prompted=True, predicted_iou=1.0), predicted_iou=0.5)
    assert seen(steady, predicted_iou=0.4).absent == 0, "an object whose masks never are sure is followed"
    assert ObjectMotion.from_state(state.state_dict()).usual_iou == state.usual_iou


def test_a_frame_that_the_user_prompts_begins_the_filter_anew() -> None:
    state = seen(seen(ObjectMotion(), prompted=True))
    assert seen(state).stable_frames == 2
    assert seen(state, prompted=True).stable_frames == 0


def test_logits_of_several_objects_or_masks_are_refused() -> None:
    with pytest.raises(ValueError, match=r"float32 \(1, 64, 64\), expected a float array \(h, w\)"):
        seen(ObjectMotion(), prompted=True, logits_hw=LOGITS[None])
    with pytest.raises(ValueError, match="bool"):
        seen(ObjectMotion(), prompted=True, logits_hw=LOGITS > 0)
