"""From frames to prompts on drawn videos: where the object is, which source says so, and every gate."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest

from pipeline.models.motion_camera import FrameMotion, observe_frame
from pipeline.models.motion_config import MotionConfig
from pipeline.models.motion_flow import Flow, FlowField, build_flow, window_field
from pipeline.models.motion_forecast import MotionForecast, forecast
from pipeline.models.motion_kalman import box_iou
from pipeline.models.motion_points import Floats, Grey
from pipeline.models.motion_state import ObjectMotion
from pipeline.models.motion_update import update
from pipeline.models.motion_warp import Warp, logits_box, warp_logits
from pipeline.ticks import Mask
from tests.models.drawn_motion import World, logits_of, mask_iou, shift

ALL = MotionConfig(mode="all")
GRID = (128, 128)
STILL = World()


def with_changes(**changes: object) -> MotionConfig:
    return ALL.model_copy(update=changes)


def watch(
    world: World,
    times: Sequence[int],
    config: MotionConfig = ALL,
    *,
    flow: Flow | None = None,
    seen: Callable[[int], bool] = lambda time: True,
    num_copies: int = 1,
) -> tuple[ObjectMotion, FrameMotion, list[MotionForecast]]:
    """Follow the drawn sprite with its true masks; unseen frames are given as absent. One forecast per later frame."""
    flow = build_flow(config) if flow is None else flow
    states, previous, made = [ObjectMotion()] * num_copies, None, []
    for time in times:
        drawn = world.draw(time)
        frame = observe_frame(drawn.image, time, previous, states, config, flow)
        ahead = forecast(states[0], frame, config, flow) if previous is not None else None
        logits, score = logits_of(drawn.mask, size=GRID), 5.0 if seen(time) else -5.0
        states = [
            update(state, frame, ahead, logits_hw=logits, object_score=score, predicted_iou=0.9, config=config)
            for state in states
        ]
        if ahead is not None:
            made.append(ahead)
        previous = frame
    assert previous is not None
    return states[0], previous, made


def true_box(mask: Mask) -> tuple[float, float, float, float]:
    box = logits_box(logits_of(mask), mask.shape)
    assert box is not None
    return box


def prompt_iou(made: MotionForecast, mask: Mask) -> float:
    """IoU of the prompt's logits with the true mask."""
    assert made.prompt is not None
    assert made.prompt.logits_hw is not None
    return mask_iou(made.prompt.logits_hw > 0, logits_of(mask, size=GRID) > 0)


def test_two_velocities_give_two_prompts_each_on_its_object() -> None:
    boxes = []
    for speed in ((9.0, -4.0), (-7.0, 5.0)):
        world = World(
            height=512, width=800, sprite=(60.0, 44.0), path=lambda t, v=speed: (400 + v[0] * t, 256 + v[1] * t)
        )
        _, frame, made = watch(world, range(4))
        assert frame.scale_xy == (2.0, 2.0)
        drawn, prompt = world.draw(3), made[-1].prompt
        assert prompt is not None
        assert prompt.box is not None
        truth = np.array(true_box(drawn.mask))
        grown = truth + 0.05 * np.array(
            [truth[0] - truth[2], truth[1] - truth[3], truth[2] - truth[0], truth[3] - truth[1]]
        )
        np.testing.assert_allclose(prompt.box, grown, atol=8)
        assert len(prompt.points_P2) >= 3
        assert all(drawn.mask[round(float(y)), round(float(x))] for x, y in prompt.points_P2)
        assert prompt_iou(made[-1], drawn.mask) > 0.85
        boxes.append(prompt.box)
    assert box_iou(*boxes) < 0.7


def test_what_does_not_move_is_prompted_where_it_was() -> None:
    mask = STILL.draw(0).mask
    _, _, made = watch(STILL, range(3), with_changes(box_margin=0.0))
    assert made[-1].prompt is not None
    np.testing.assert_allclose(made[-1].prompt.box, true_box(mask), atol=1.0)
    assert prompt_iou(made[-1], mask) > 0.98
    _, _, grown = watch(STILL, range(3))
    assert grown[-1].prompt is not None
    x0, y0, x1, y1 = grown[-1].prompt.box
    assert (x1 - x0, y1 - y0) == pytest.approx((69 * 1.1, 49 * 1.1), abs=3)


@pytest.mark.parametrize(
    ("mode", "parts"),
    [("points", (5, 0, 0)), ("box", (0, 1, 0)), ("points_box", (5, 1, 0)), ("dense", (0, 0, 1)), ("all", (5, 1, 1))],
)
def test_a_prompt_has_the_parts_of_its_mode(mode: str, parts: tuple[int, int, int]) -> None:
    _, _, made = watch(STILL, range(2), with_changes(mode=mode))
    prompt = made[-1].prompt
    assert prompt is not None
    assert (len(prompt.points_P2), int(prompt.box is not None), int(prompt.logits_hw is not None)) == parts
    if prompt.logits_hw is not None:
        assert prompt.logits_hw.shape == GRID


def test_fast_straight_motion_is_measured_from_the_first_frame() -> None:
    world = World(width=640, path=lambda t: (60 + 42 * t, 120))
    _, _, made = watch(world, range(12))
    assert [ahead.source for ahead in made] == ["dense"] * 11
    assert min(prompt_iou(ahead, world.draw(time).mask) for time, ahead in enumerate(made, start=1)) > 0.7


def test_turning_motion_is_measured_where_the_filter_alone_would_miss() -> None:
    world = World(path=lambda t: (200 + 70 * math.cos(t / 3), 128 + 70 * math.sin(t / 3)))
    _, _, made = watch(world, range(30))
    measured = [prompt_iou(ahead, world.draw(time).mask) for time, ahead in enumerate(made, start=1)]
    filtered = [
        box_iou(ahead.kalman.box, true_box(world.draw(time).mask))
        for time, ahead in enumerate(made, start=1)
        if ahead.kalman is not None
    ]
    assert np.mean(measured) > 0.8
    assert np.mean(filtered) < 0.6


def test_camera_jerk_moves_the_filter_and_without_compensation_it_stays_behind() -> None:
    world = World(camera=lambda t: shift(40.0 if t == 20 else 0.0, 0.0))
    truth = true_box(world.draw(20).mask)
    ious = {}
    for compensated in (True, False):
        _, _, made = watch(world, range(21), with_changes(camera_compensation=compensated))
        assert made[-1].kalman_box is not None
        ious[compensated] = box_iou(made[-1].kalman_box, truth)
    assert ious[True] > 0.9
    assert ious[False] < 0.4


def test_sources_give_way_to_each_other_in_order() -> None:
    world = World(path=lambda t: (100 + 4 * t, 120))
    assert watch(world, range(19))[2][-1].source == "dense"
    assert watch(world, range(19), with_changes(flow="none"))[2][-1].source == "points"
    few = {"flow": "none", "min_tracked_points": 6}
    _, _, made = watch(world, range(19), with_changes(**few))
    assert [ahead.source for ahead in made[:15]] == ["none"] * 15
    assert made[0].reason == "no_source"
    assert made[-1].source == "kalman"
    assert prompt_iou(made[-1], world.draw(18).mask) > 0.9
    assert [ahead.expected_weight for ahead in made] == [0.0] * 15 + [0.25] * 3
    assert [ahead.expected_box for ahead in made] == [ahead.kalman_box for ahead in made]
    assert [ahead.max_area is not None for ahead in made] == [False] * 15 + [True] * 3


def test_hidden_objects_are_bridged_by_the_filter_and_then_given_up() -> None:
    world = World(width=640, path=lambda t: (100 + 8 * t, 120))
    config = with_changes(flow="none", min_tracked_points=6, coast_max=5, kalman_box_std=0.0)
    state, _, made = watch(world, range(30), config, seen=lambda time: time < 22)
    # A forecast for frame t is made[t - 1]; frames 22 .. 27 follow at most five without a mask.
    assert [ahead.source for ahead in made[21:27]] == ["kalman"] * 6
    for time in (22, 27):
        prompt = made[time - 1].prompt
        assert prompt is not None
        assert box_iou(prompt.box, true_box(world.draw(time).mask)) > 0.7
    assert [ahead.reason for ahead in made[27:]] == ["absent_too_long"] * 2
    assert made[-1].kalman_box is None
    assert (state.kalman, state.stable_frames, state.absent) == (None, 0, 8)


def test_the_longer_the_filter_bridges_the_larger_is_the_box_that_it_asks_for() -> None:
    world = World(width=640, path=lambda t: (100 + 8 * t, 120))
    bridging = {"flow": "none", "min_tracked_points": 6}
    widths = {}
    for num_std in (0.0, 1.0):
        _, _, made = watch(world, range(30), with_changes(**bridging, kalman_box_std=num_std), seen=lambda t: t < 22)
        boxes = [ahead.prompt.box for ahead in made[21:] if ahead.prompt is not None and ahead.prompt.box is not None]
        assert len(boxes) == 8
        widths[num_std] = np.array([box[2] - box[0] for box in boxes])
    assert np.ptp(widths[0.0]) < 1
    assert (np.diff(widths[1.0]) > 1).all()
    assert (widths[1.0] > widths[0.0]).all()


def test_each_gate_closes() -> None:
    state, _, _ = watch(STILL, range(2))
    frame = observe_frame(STILL.draw(2).image, 2, None, [], ALL, None)
    flow = build_flow(ALL)
    cases = {
        "off": (state, with_changes(mode="off")),
        "no_accepted_frame": (ObjectMotion(), ALL),
        "absent_too_long": (replace(state, absent=ALL.coast_max + 1), ALL),
        "low_predicted_iou": (replace(state, predicted_iou=0.45), ALL),
    }
    for reason, (given, config) in cases.items():
        made = forecast(given, frame, config, flow)
        assert (made.reason, made.prompt, made.source) == (reason, None, "none")
    assert forecast(state, frame, ALL, flow).reason == ""
    assert forecast(state, frame, with_changes(mode="off"), flow).kalman is not None


def test_a_displacement_beyond_belief_is_no_prompt() -> None:
    # 8 px are .096 of the sprite's diagonal: believed by default, not with a tighter gate.
    world = World(path=lambda t: (150 + 8 * t, 120))
    assert watch(world, range(2))[2][0].source == "dense"
    made = watch(world, range(2), with_changes(max_jump_diagonals=0.08))[2][0]
    assert (made.reason, made.prompt) == ("jump", None)
    assert made.displacement_xy == pytest.approx((8, 0), abs=1)


@pytest.mark.parametrize("seed", [2, 4, 5])
def test_flow_that_fits_badly_is_believed_only_if_none_fits_better(seed: int) -> None:
    # A small thing in a tight circle, whose step turns by 34 degrees from frame to frame.
    world = World(
        path=lambda t: (200 + 32 * math.cos(0.6 * t), 128 + 32 * math.sin(0.6 * t)), sprite=(14.0, 14.0), seed=seed
    )

    def num_wrong(config: MotionConfig) -> int:
        made = enumerate(watch(world, range(30), config)[2], start=1)
        steps = [(ahead.displacement_xy, np.subtract(world.path(t), world.path(t - 1))) for t, ahead in made]
        return sum(math.dist(measured, true) > 3 for measured, true in steps)

    assert num_wrong(ALL) <= 1
    assert num_wrong(with_changes(sure_fit=0.0)) >= 4


@pytest.mark.parametrize(("cost", "chosen_x"), [(1.0, 4), (0.0, 40)])
def test_of_flows_that_fit_alike_the_nearer_is_taken(
    monkeypatch: pytest.MonkeyPatch, cost: float, chosen_x: int
) -> None:
    shifts = {4: 0.70, 40: 0.75}
    measured = warp_logits

    def flat(previous_HW: Grey, current_HW: Grey) -> Floats:
        return np.zeros((*current_HW.shape, 2), np.float32)

    def two_fields(state: ObjectMotion, frame: FrameMotion, *_: object) -> list[FlowField | None]:
        assert state.grey_HW is not None
        assert state.box is not None
        return [window_field(state.grey_HW, frame.grey_HW, state.box, (x, 0.0), flat, ALL) for x in shifts]

    def fits_as_told(logits: Floats, field: FlowField, size: tuple[int, int], config: MotionConfig) -> Warp:
        return replace(measured(logits, field, size, config), agreement=shifts[field.shift_xy[0]], correlation=None)

    monkeypatch.setattr("pipeline.models.motion_forecast._fields", two_fields)
    monkeypatch.setattr("pipeline.models.motion_forecast.warp_logits", fits_as_told)
    config = with_changes(far_flow_cost=cost, min_tracked_points=6)
    (ahead,) = watch(STILL, range(2), config)[2]
    assert ahead.displacement_xy == pytest.approx((chosen_x, 0), abs=0.1)


@pytest.mark.parametrize(("needed_points", "searches"), [(3, 0), (6, 1)])
def test_flow_that_all_points_confirm_needs_no_search(
    monkeypatch: pytest.MonkeyPatch, needed_points: int, searches: int
) -> None:
    asked: list[float] = []

    def recorded(*_: object, reach_px: float, config: MotionConfig) -> None:
        asked.append(reach_px)

    monkeypatch.setattr("pipeline.models.motion_forecast.matched_shift", recorded)
    config = with_changes(sure_fit=1.0, min_tracked_points=needed_points)
    made = watch(World(path=lambda t: (150 + 3 * t, 120)), range(2), config)[2][0]
    assert made.source == "dense"
    assert made.num_tracked == 5
    assert len(asked) == searches


def test_the_last_step_is_expected_once_more_where_the_filter_lags_behind() -> None:
    # From walking to running: SAMURAI's noise lets the filter's velocity change slowly.
    world = World(width=640, path=lambda t: (60 + 4 * t + 36 * max(0, t - 15), 120))
    state, previous, _ = watch(world, range(18))
    nearby, flow = with_changes(search_share=0.0), build_flow(ALL)
    frame = observe_frame(world.draw(18).image, 18, previous, [state], nearby, flow)
    ahead = forecast(state, frame, nearby, flow)
    assert ahead.kalman is not None
    assert ahead.kalman.center[0] < world.path(18)[0] - 10
    assert ahead.source == "dense"
    assert ahead.displacement_xy == pytest.approx((40, 0), abs=1)
    without = forecast(replace(state, step_xy=None), frame, nearby, flow)
    assert without.source != "dense" or abs(without.displacement_xy[0] - 40) > 3


def test_the_last_step_is_expected_on_through_frames_without_a_mask_and_with_the_camera() -> None:
    # The camera moves too, by 5 px a frame: 35 of the 40 px in the picture are the object's own.
    world = World(
        width=640,
        path=lambda t: (60 + 4 * t + 31 * max(0, t - 15), 120),
        camera=lambda t: shift(5.0 * max(0, t - 15), 0.0),
    )
    state, previous, _ = watch(world, range(20), seen=lambda time: time < 18)
    assert state.absent == 2
    nearby, flow = with_changes(search_share=0.0), build_flow(ALL)
    frame = observe_frame(world.draw(20).image, 20, previous, [state], nearby, flow)
    ahead = forecast(state, frame, nearby, flow)
    assert ahead.kalman is not None
    assert ahead.source == "dense"
    assert ahead.displacement_xy == pytest.approx((3 * 40, 0), abs=2)
    without = forecast(replace(state, step_xy=None), frame, nearby, flow)
    assert without.source != "dense" or abs(without.displacement_xy[0] - 120) > 5


def test_arbitration_expects_the_measured_box_by_how_well_it_is_known() -> None:
    world = World(path=lambda t: (100 + 4 * t, 120))
    ahead = watch(world, range(3))[2][-1]
    assert ahead.source == "dense"
    assert ahead.motion is not None
    assert ahead.expected_box == pytest.approx(true_box(world.draw(2).mask), abs=4)
    assert ahead.expected_weight == pytest.approx(0.25 * ahead.motion.fit)
    assert 0.8 < ahead.motion.fit <= 1
    points = watch(world, range(3), with_changes(flow="none", measured_weight=0.5))[2][-1]
    assert points.source == "points"
    assert points.expected_weight == pytest.approx(0.5 * points.num_tracked / ALL.num_points)
    lagging = watch(world, range(3), with_changes(measured_weight=0.0))[2][-1]
    assert (lagging.expected_box, lagging.expected_weight) == (None, 0.0), "the filter is not stable yet"


def test_an_object_that_leaves_the_frame_is_prompted_at_its_edge_and_then_no_more() -> None:
    world = World(path=lambda t: (290 + 6 * t, 120))
    _, _, made = watch(world, range(36), seen=lambda time: world.draw(time).mask.any())
    boxes = [ahead.prompt.box for ahead in made if ahead.prompt is not None and ahead.prompt.box is not None]
    assert max(box[2] for box in boxes) == 400
    assert all(box[2] > box[0] and box[3] > box[1] for box in boxes)
    assert made[-1].prompt is None


def test_many_objects_share_one_field_and_slow_ones_need_no_crop() -> None:
    calls: list[tuple[int, ...]] = []

    def counting(previous: Grey, current: Grey) -> Floats:
        calls.append(current.shape)
        found: Floats = plain(previous, current)
        return found

    plain = build_flow(ALL)
    assert plain is not None
    world = World(path=lambda t: (150 + 2 * t, 120))
    _, frame, made = watch(world, range(2), flow=counting, num_copies=9)
    assert calls == [(256, 400)] * 2
    assert made[-1].source == "dense"
    assert prompt_iou(made[-1], world.draw(1).mask) > 0.9
    assert frame.num_bytes() > FrameMotion.from_state(frame.state_dict()).num_bytes()
    calls.clear()
    watch(world, range(2), flow=counting, num_copies=8)
    assert len(calls) == 2
    assert (256, 400) not in calls


def test_a_restored_state_forecasts_the_same_and_forecasts_change_nothing() -> None:
    world = World(path=lambda t: (100 + 5 * t, 120 + t), camera=lambda t: shift(3.0 * t, 1.0 * t))
    state, previous, _ = watch(world, range(8))
    restored = ObjectMotion.from_state(state.state_dict())
    assert restored.num_bytes() == state.num_bytes() < 400_000
    drawn, flow = world.draw(8), build_flow(ALL)
    frame = observe_frame(drawn.image, 8, previous, [state], ALL, flow)
    again = observe_frame(drawn.image, 8, FrameMotion.from_state(previous.state_dict()), [restored], ALL, flow)
    first = forecast(state, frame, ALL, flow)
    second, third = forecast(restored, again, ALL, build_flow(ALL)), forecast(state, frame, ALL, flow)
    for other in (second, third):
        assert first.prompt is not None
        assert other.prompt is not None
        np.testing.assert_array_equal(other.prompt.logits_hw, first.prompt.logits_hw)
        np.testing.assert_array_equal(other.prompt.points_P2, first.prompt.points_P2)
        assert (other.prompt.box, other.kalman_box, other.agreement) == (
            first.prompt.box,
            first.kalman_box,
            first.agreement,
        )
