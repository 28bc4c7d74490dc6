"""The solver and its flags on scenes put together for each meaning."""

import numpy as np
import pytest

from pipeline.synth.expressions import Expression
from pipeline.synth.referents import Query, resolve
from pipeline.synth.witness import Witness
from pipeline.synth.world import Scene
from tests.synth.staged import expression_of, query, stage, thing, walk, witness_of

T = 12


def ask(scene: Scene, asked: Query) -> tuple[int, ...] | None:
    return resolve(asked, witness_of(scene))


def flags_set(expression: Expression | None) -> set[str]:
    assert expression is not None
    flags = expression.flags
    return {name for name in flags.__slots__ if getattr(flags, name)}


def opposed_twins() -> Scene:
    things = [thing(1, motion="left"), thing(2, motion="right"), thing(3, "blue", "square")]
    paths = [
        walk((60, 15), (-1.5, 0), num_frames=T),
        walk((22, 45), (1.5, 0), num_frames=T),
        walk((42, 30), num_frames=T),
    ]
    return stage(things, paths)


@pytest.fixture
def twins() -> Witness:
    return witness_of(opposed_twins())


def test_a_motion_tells_twins_apart_and_is_needed(twins: Witness) -> None:
    expression = expression_of(query(colour="red", shape="disc", motion="left"), twins)
    assert expression is not None
    assert expression.target_ids == (1,)
    assert expression.near_miss_ids == (2,)
    assert expression.kind == "motion"
    assert flags_set(expression) == {"needs_motion"}


def test_a_motion_that_tells_nothing_new_is_not_needed(twins: Witness) -> None:
    assert flags_set(expression_of(query(shape="square", motion="still"), twins)) == set()


def test_two_matches_do_not_answer_for_one(twins: Witness) -> None:
    assert resolve(query(shape="disc"), twins) is None
    assert resolve(query(shape="disc", number="two"), twins) == (1, 2)
    assert resolve(query(shape="disc", number="three"), twins) is None
    assert resolve(query(shape="square", number="all"), twins) is None, "'all' speaks of two at least"
    assert flags_set(expression_of(query(shape="disc", number="all"), twins)) == {"plural"}


def test_no_target_is_an_answer_and_says_what_would_have_fitted(twins: Witness) -> None:
    expression = expression_of(query(colour="red", shape="disc", motion="up"), twins)
    assert expression is not None
    assert (expression.target_ids, expression.kind, expression.near_miss_ids) == ((), "none", (1, 2))
    assert flags_set(expression) == {"none", "needs_motion"}
    assert flags_set(expression_of(query(colour="green", shape="disc"), twins)) == {"none"}


def test_doubt_about_any_object_leaves_a_query_without_an_answer() -> None:
    diagonal = stage(
        [thing(1, motion="left"), thing(2, motion="up_left")],
        [walk((70, 15), (-3, 0), num_frames=T), walk((70, 55), (-3, -3), num_frames=T)],
    )
    assert ask(diagonal, query(motion="left")) is None
    assert ask(diagonal, query(motion="up_left")) is None
    assert ask(diagonal, query(motion="right")) == ()


def test_a_doubt_that_another_word_settles_does_not_matter() -> None:
    diagonal = stage(
        [thing(1, motion="left"), thing(2, "blue", motion="up_left")],
        [walk((70, 15), (-3, 0), num_frames=T), walk((70, 55), (-3, -3), num_frames=T)],
    )
    assert ask(diagonal, query(colour="red", motion="left")) == (1,)


def side_by_side(gap: float) -> Scene:
    things = [thing(1), thing(2), thing(3, "blue", "square")]
    paths = [walk((42 - gap, 30), num_frames=T), walk((66, 30), num_frames=T), walk((42, 30), num_frames=T)]
    return stage(things, paths)


def test_a_relation_tells_look_alikes_apart() -> None:
    asked = query(shape="disc", relation="left_of", anchor=[("shape", "square")])
    expression = expression_of(asked, witness_of(side_by_side(24)))
    assert expression is not None
    assert (expression.target_ids, expression.kind) == ((1,), "relation")
    assert flags_set(expression) == {"needs_relation"}
    assert ask(side_by_side(4), asked) is None, "too near to call it left"


def test_a_relation_to_an_anchor_that_is_not_unique_has_no_answer() -> None:
    scene = stage(
        [thing(1), thing(2, "blue", "square"), thing(3, "blue", "square")],
        [walk((15, 30), num_frames=T), walk((42, 30), num_frames=T), walk((66, 30), num_frames=T)],
    )
    assert ask(scene, query(shape="disc", relation="left_of", anchor=[("shape", "square")])) is None


def test_behind_needs_hiding_and_depth() -> None:
    def pair(distance: float, depth_dm: int) -> Scene:
        things = [thing(1, depth_dm=depth_dm), thing(2, "blue", "square", depth_dm=200, radius_px=9)]
        return stage(things, [walk((42 - distance, 30), num_frames=T), walk((42, 30), num_frames=T)])

    behind = query(colour="red", relation="behind", anchor=[("colour", "blue")])
    in_front = query(colour="red", relation="in_front_of", anchor=[("colour", "blue")])
    assert ask(pair(8, 300), behind) == (1,)
    assert ask(pair(8, 300), in_front) == ()
    assert ask(pair(8, 100), in_front) == (1,)
    assert ask(pair(8, 100), behind) == ()
    assert ask(pair(25, 300), behind) == (), "nothing is hidden"
    assert ask(pair(13.7, 300), behind) is None, "a sliver is hidden"


def test_late_and_last_are_read_from_the_frames() -> None:
    things = [thing(1), thing(2), thing(3, "blue")]
    paths = [walk((15, 30), num_frames=T), walk((42, 30), num_frames=T), walk((66, 30), num_frames=T)]
    scene = stage(things, paths, absent={1: range(0, 6), 3: range(0, 3)})
    expression = expression_of(query(colour="red", event="enters_last"), witness_of(scene))
    assert expression is not None
    assert (expression.target_ids, expression.kind) == ((1,), "temporal")
    assert flags_set(expression) == {"late", "needs_motion"}
    assert ask(scene, query(event="enters", number="two")) == (1, 3)
    assert flags_set(expression_of(query(colour="blue"), witness_of(scene))) == {"late"}, "first seen at a quarter"
    close = stage(things, paths, absent={1: range(0, 6), 3: range(0, 5)})
    assert ask(close, query(colour="red", event="enters_last")) is None, "nearly at the same time"


def test_leaving_and_coming_back_are_different_things() -> None:
    things = [thing(1), thing(2), thing(3)]
    paths = [walk((15, 30), num_frames=T), walk((42, 30), num_frames=T), walk((66, 30), num_frames=T)]
    leaves = stage(things, paths, absent={1: range(7, T)})
    blinks = stage(things, paths, absent={2: range(4, 7)})
    both = stage(things, paths, absent={1: range(7, T), 2: range(4, 7)})
    assert ask(leaves, query(event="leaves")) == (1,)
    assert ask(leaves, query(event="reappears")) == ()
    expression = expression_of(query(event="reappears"), witness_of(blinks))
    assert expression is not None
    assert expression.target_ids == (2,)
    assert flags_set(expression) == {"reappears", "needs_motion"}
    assert ask(both, query(event="leaves")) is None, "what comes back also went away"


def test_going_behind_an_occluder_is_reappearing() -> None:
    things = [thing(1, motion="right", radius_px=6), thing(2, "blue")]
    paths = [walk((10, 30), (5, 0), num_frames=T), walk((60, 50), num_frames=T)]
    scene = stage(things, paths, occluders=[((40.0, 30.0), (12.0, 12.0))])
    assert flags_set(expression_of(query(colour="red"), witness_of(scene))) == {"reappears", "fast"}


def test_an_object_of_which_a_sliver_stays_in_sight_has_not_surely_gone_and_come_back() -> None:
    things = [thing(1, motion="right", radius_px=6), thing(2, "blue")]
    paths = [walk((10, 30), (5, 0), num_frames=T), walk((60, 50), num_frames=T)]
    scene = stage(things, paths, occluders=[((40.0, 29.0), (12.0, 5.5))])
    witness = witness_of(scene)
    assert not witness.seen[:, 0].all()
    assert witness.truth.visible_px[:, 0].min() > 0
    assert resolve(query(event="reappears"), witness) is None


@pytest.mark.parametrize(("step", "is_fast", "is_slow"), [(6.0, True, False), (2.0, None, False), (0.5, False, True)])
def test_speed_words_follow_the_speed_on_the_screen_of_reference(
    step: float, is_fast: bool | None, is_slow: bool
) -> None:
    """Here the shorter side is 60 px, so that 2.0 px are 4.3 at 128: neither slow nor surely fast."""
    things = [thing(1, motion="right"), thing(2, "blue")]
    scene = stage(things, [walk((5, 15), (step, 0), num_frames=T), walk((40, 45), num_frames=T)])
    fast, slow = ask(scene, query(colour="red", speed="fast")), ask(scene, query(colour="red", speed="slow"))
    assert fast == {True: (1,), False: (), None: None}[is_fast]
    assert slow == ((1,) if is_slow else ())
    assert ("fast" in flags_set(expression_of(query(colour="red"), witness_of(scene)))) == (is_fast is True)


def test_an_object_that_is_hardly_seen_is_not_spoken_of() -> None:
    things, paths = [thing(1), thing(2, "blue")], [walk((15, 30), num_frames=T), walk((60, 30), num_frames=T)]
    hardly = stage(things, paths, absent={1: range(1, T)})
    never = stage(things, paths, absent={1: range(0, T)})
    assert ask(hardly, query(colour="red")) is None
    assert ask(never, query(colour="red")) == ()
    assert ask(never, query(shape="disc")) == (2,)


def test_a_motion_that_is_not_seen_long_enough_is_in_doubt() -> None:
    things = [thing(1, motion="right"), thing(2, "blue")]
    paths = [walk((5, 15), (5, 0), num_frames=T), walk((60, 45), num_frames=T)]
    flickering = stage(things, paths, absent={1: range(1, T, 2)})
    assert ask(flickering, query(motion="right")) is None
    assert ask(stage(things, paths), query(motion="right")) == (1,)


def test_size_is_not_asked_of_what_grows() -> None:
    things = [thing(1, motion="grow"), thing(2, "blue", size="large", radius_px=12)]
    scene = stage(things, [walk((15, 30), num_frames=T), walk((60, 30), num_frames=T)])
    assert ask(scene, query(size="small")) is None
    assert ask(scene, query(size="large", colour="blue")) == (2,)


def test_a_panning_camera_does_not_move_what_stands_still() -> None:
    camera = np.stack([np.arange(T) * 2, np.arange(T)], axis=1)
    things = [thing(1), thing(2, motion="right")]
    paths = [walk((40, 25), num_frames=T), walk((30, 50), (2, 1), num_frames=T)]
    scene = stage(things, paths, camera_px=camera)
    assert witness_of(scene).speeds[0] == 0
    assert ask(scene, query(motion="still")) == (1,), "though it is object 2 that rests on the screen"
