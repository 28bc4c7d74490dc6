"""Motion programs against the plain geometry of what they are called."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.synth.draws import Draws
from pipeline.synth.meanings import ASKED_MOTIONS, are_distinct, motion_verdict
from pipeline.synth.motion import FULL_SCALE, MIN_FRAMES, STRAIGHT_HEADINGS, Trace, cosine, sample_program, sine, trace
from pipeline.synth.world import MOTIONS, OPPOSITE_MOTION, SUBPIXELS, TURN, Motion

speeds = st.integers(min_value=SUBPIXELS, max_value=8 * SUBPIXELS)
seeds = st.integers(min_value=0, max_value=10_000)


def played(motion: Motion, speed: int, seed: int, num_frames: int = 24) -> Trace:
    program = sample_program(motion, speed=speed, num_frames=num_frames, short_side_px=128, draws=Draws(seed))
    return trace(program, num_frames)


def steps_of(played_trace: Trace) -> np.ndarray:
    return np.diff(played_trace.offsets, axis=0)


def test_sine_is_that_of_the_textbook() -> None:
    angles = range(-TURN, 2 * TURN, 37)
    assert max(abs(sine(angle) / 65536 - math.sin(2 * math.pi * angle / TURN)) for angle in angles) < 1e-5
    assert max(abs(cosine(angle) / 65536 - math.cos(2 * math.pi * angle / TURN)) for angle in angles) < 1e-5


@settings(max_examples=20, deadline=None)
@given(speed=speeds, seed=seeds, motion=st.sampled_from(list(STRAIGHT_HEADINGS)))
def test_straight_motions_go_where_they_say_at_their_speed(speed: int, seed: int, motion: Motion) -> None:
    steps = steps_of(played(motion, speed, seed))
    wanted = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
    signs = np.array([wanted[part] for part in motion.split("_")]).sum(axis=0)
    assert (np.sign(steps) == signs).all()
    assert np.abs(np.linalg.norm(steps, axis=1) - speed).max() < 3


@settings(max_examples=20, deadline=None)
@given(speed=speeds, seed=seeds, clockwise=st.booleans(), num_frames=st.integers(4, 40))
def test_circles_keep_their_radius_and_sense(speed: int, seed: int, clockwise: bool, num_frames: int) -> None:
    offsets = played("circle_clockwise" if clockwise else "circle_counterclockwise", speed, seed, num_frames).offsets
    radii = np.linalg.norm(offsets, axis=1)
    assert np.ptp(radii) < 3
    assert 128 * SUBPIXELS / 25 < radii[0] < 128 * SUBPIXELS / 4.9
    steps = np.diff(offsets, axis=0)
    turns = steps[:-1, 0] * steps[1:, 1] - steps[:-1, 1] * steps[1:, 0]
    assert (turns > 0).all() if clockwise else (turns < 0).all()


@settings(max_examples=15, deadline=None)
@given(speed=speeds, seed=seeds)
def test_a_zigzag_gets_ahead_in_legs_at_right_angles(speed: int, seed: int) -> None:
    steps = steps_of(played("zigzag", speed, seed)).astype(float)
    cosines = (
        (steps[1:] * steps[:-1]).sum(axis=1) / np.linalg.norm(steps[1:], axis=1) / np.linalg.norm(steps[:-1], axis=1)
    )
    corners = cosines < 0.5
    assert 4 <= corners.sum() <= 12
    assert np.abs(cosines[corners]).max() < 0.05
    assert np.linalg.norm(steps.sum(axis=0)) > 0.5 * np.linalg.norm(steps, axis=1).sum()


@settings(max_examples=15, deadline=None)
@given(speed=speeds, seed=seeds)
def test_a_bounce_stays_in_its_column_and_falls_between_hits(speed: int, seed: int) -> None:
    offsets = played("bounce", speed, seed).offsets
    assert (offsets[:, 0] == 0).all()
    assert (offsets[:, 1] <= 0).all(), "above the floor"
    bends = np.diff(offsets[:, 1], n=2)
    hits = bends < 0
    assert 2 <= hits.sum() <= 9
    assert np.ptp(bends[~hits]) <= 3, "constant gravity between hits"


@settings(max_examples=15, deadline=None)
@given(speed=speeds, seed=seeds, num_frames=st.integers(6, 40))
def test_changing_motions_change_once_with_time_on_both_sides(speed: int, seed: int, num_frames: int) -> None:
    starts, stops, back = (
        steps_of(played(motion, speed, seed, num_frames)) for motion in ("starts", "stops", "turns_back")
    )
    for steps, is_moving_first in ((starts, False), (stops, True)):
        moves = np.abs(steps).max(axis=1) > 0
        assert moves[0] == is_moving_first
        assert np.abs(np.diff(moves.astype(int))).sum() == 1
        assert min(moves.sum(), (~moves).sum()) >= num_frames // 3 - 1
    assert (np.abs(back).max(axis=1) > 0).all()
    assert len(np.unique(np.sign(back), axis=0)) == 2


@settings(max_examples=10, deadline=None)
@given(seed=seeds, num_frames=st.integers(3, 40))
def test_growing_is_shrinking_played_backwards(seed: int, num_frames: int) -> None:
    grow, shrink = (played(motion, 0, seed, num_frames).scales for motion in ("grow", "shrink"))
    assert (np.diff(grow) > 0).all()
    assert np.abs(grow[::-1] - shrink).max() <= 1
    assert 1.2 < grow[-1] / grow[0] < 2.0
    assert abs(grow[0] + grow[-1] - 2 * FULL_SCALE) <= 1, "as much below as above the full size"


@pytest.mark.parametrize("motion", ["still", "spin", "grow", "shrink"])
def test_motions_in_place_stay_there(motion: Motion) -> None:
    played_trace = played(motion, 500, 3)
    assert not steps_of(played_trace).any()
    assert np.diff(played_trace.angles).any() == (motion == "spin")


@pytest.mark.parametrize("motion", MOTIONS)
def test_every_motion_can_be_played_in_its_fewest_frames(motion: Motion) -> None:
    assert played(motion, 700, 1, MIN_FRAMES[motion]).offsets.shape == (MIN_FRAMES[motion], 2)


def test_each_class_answers_to_its_own_name_and_no_other_class_does() -> None:
    for motion in MOTIONS:
        assert [other for other in MOTIONS if motion_verdict(motion, other) is True] == [motion]


def test_opposites_are_mutual_and_told_apart() -> None:
    for motion, opposite in OPPOSITE_MOTION.items():
        assert OPPOSITE_MOTION[opposite] == motion
        assert motion_verdict(motion, opposite) is not True
    assert are_distinct("left", "right")
    assert not are_distinct("left", "up_left"), "people may call both moving left"


def test_doubtful_words_are_doubtful_in_both_directions_of_the_table() -> None:
    assert motion_verdict("moving", "still") is False
    assert motion_verdict("still", "left") is False
    assert motion_verdict("left", "zigzag") is None
    assert motion_verdict("still", "spin") is None
    assert {motion_verdict(asked, motion) for asked in ASKED_MOTIONS for motion in MOTIONS} == {True, False, None}
