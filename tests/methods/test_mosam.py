"""Tracking as a method: SAM2's own when everything is off, and each mechanism of MoSAM seen at work."""

import gc
import tracemalloc
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from pipeline.errors import PromptError
from pipeline.methods.mosam import MosamConfig
from pipeline.models.frame_selection import quality
from pipeline.models.motion_config import MotionConfig
from pipeline.models.tracking import Tracker
from pipeline.segmenter import finish, work_off
from pipeline.ticks import RGB, PointPrompt, Prompt, Tick
from tests.methods.law_cases import assert_same_masks
from tests.methods.tracking_world import (
    HEIGHT,
    PLAIN,
    WIDTH,
    ScriptedCore,
    box_prompt,
    features_of,
    image_at,
    point_prompt,
    segmenter_of,
    small_core,
    ticks_of,
    track,
)

NUM_FRAMES = 12
DISC = np.zeros((HEIGHT, WIDTH), np.bool_)
DISC[14:34, 8:30] = True

PROMPTS = [
    box_prompt(1),
    Prompt(object_id=2, frame_index=0, points=(PointPrompt(x=20, y=30), PointPrompt(x=60, y=5, positive=False))),
    Prompt(object_id=3, frame_index=5, mask=DISC),
    point_prompt(4, 7),
]


def tracked_by_tracker(tracker: Tracker, ticks: list[Tick]) -> dict[int, dict[int, torch.Tensor]]:
    """Frame to object to mask logits at the video's size."""
    found: dict[int, dict[int, torch.Tensor]] = {}
    for tick in ticks:
        features = features_of(tracker.core, tick)
        for prompt in PROMPTS:
            if prompt.frame_index != tick.frame_index:
                continue
            if prompt.mask is not None:
                tracker.prompt_mask(features, tick.frame_index, prompt.object_id, torch.from_numpy(prompt.mask))
                continue
            points = torch.tensor([[p.x, p.y] for p in prompt.points]) if prompt.points else None
            labels = torch.tensor([int(p.positive) for p in prompt.points]) if prompt.points else None
            box = None if prompt.box is None else torch.tensor(prompt.box)
            tracker.prompt_points(
                features, tick.frame_index, prompt.object_id, points_P2=points, labels_P=labels, box_4=box
            )
        logits = tracker.to_video(tracker.track(features, tick.frame_index))
        found[tick.frame_index] = {i: logits[place, 0] for place, i in enumerate(tracker.tracks)}
    return found


def test_with_everything_off_it_is_sam2_to_five_digits_objects_added_on_the_way() -> None:
    core, ticks = small_core(), ticks_of(NUM_FRAMES)
    with torch.inference_mode():
        tracker = Tracker(core, frame_size=(HEIGHT, WIDTH))
        expected = tracked_by_tracker(tracker, ticks)
    taken = track(segmenter_of(non_overlap=False, **PLAIN), PROMPTS, ticks)
    assert [len(expected[tick.frame_index]) for tick in taken] == [2] * 5 + [3] * 2 + [4] * 5
    shares = []
    for tick in taken:
        for found in tick.objects:
            logits = expected[tick.frame_index].get(found.object_id)
            if logits is None:
                assert not found.mask.any()
                continue
            sure = (logits.abs() > 1e-4).numpy()
            np.testing.assert_array_equal(found.mask[sure], (logits > 0).numpy()[sure])
            shares.append(found.mask.mean())
    # Entries tell more than masks: what each object remembers of its last frame.
    assert 0.05 < np.mean(shares) < 0.95
    for number, track_of in tracker.tracks.items():
        newest = track_of.bank.get(NUM_FRAMES - 1)
        found = next(m for m in taken[-1].objects if m.object_id == number)
        assert newest is not None
        assert found.predicted_iou == pytest.approx(newest.predicted_iou, abs=1e-5)
        assert found.object_score == pytest.approx(newest.object_score, abs=1e-4)


def test_tracking_backward_is_sam2_in_reverse() -> None:
    core, ticks, start = small_core(), ticks_of(NUM_FRAMES), 7
    with torch.inference_mode():
        tracker = Tracker(core, frame_size=(HEIGHT, WIDTH))
        tracker.prompt_points(
            features_of(core, ticks[start]),
            start,
            1,
            points_P2=torch.tensor([[20.0, 30.0]]),
            labels_P=torch.tensor([1]),
        )
        expected = {
            i: tracker.to_video(tracker.track(features_of(core, ticks[i]), i, reverse=True))[0, 0]
            for i in range(start, -1, -1)
        }
    taken = track(segmenter_of(direction="both", **PLAIN), [point_prompt(1, start)], ticks)
    assert [tick.frame_index for tick in taken] == list(range(NUM_FRAMES))
    for index, logits in expected.items():
        sure = (logits.abs() > 1e-4).numpy()
        np.testing.assert_array_equal(taken[index].objects[0].mask[sure], (logits > 0).numpy()[sure])
    forward = track(segmenter_of(**PLAIN), [point_prompt(1, start)], ticks)
    assert_same_masks(taken[start:], forward[start:])
    assert not any(tick.objects[0].mask.any() for tick in forward[:start])


def test_backward_reaches_as_far_as_it_may_and_holds_no_more_frames() -> None:
    segmenter = segmenter_of(direction="both", backward_frames=4, **PLAIN)
    session, held = segmenter.open([point_prompt(1, 9), point_prompt(2, 0)], (HEIGHT, WIDTH)), []
    taken = []
    for tick in ticks_of(NUM_FRAMES):
        session.push(tick)
        work_off(segmenter, session)
        taken += session.take()
        held.append(session.state_dict()["open_frames"])
    taken += finish(segmenter, session)
    assert [len(frames) for frames in held] == [0, 0, 0, 0, 0, 1, 2, 3, 4, 0, 0, 0]
    sources = [tick.objects[0].trace.source for tick in taken]  # type: ignore[union-attr]
    assert sources == ["untracked"] * 5 + ["tracked"] * 4 + ["prompted"] + ["tracked"] * 2
    assert [tick.objects[1].trace.source for tick in taken] == ["prompted"] + ["tracked"] * 11  # type: ignore[union-attr]


def test_a_session_restored_in_the_midst_of_a_backward_pass_goes_on() -> None:
    segmenter = segmenter_of(direction="both", scene_cut="reset")
    prompts, ticks = [point_prompt(1, 6), box_prompt(2, 3), box_prompt(1, 9)], ticks_of(NUM_FRAMES)
    wanted = track(segmenter, prompts, ticks)
    session = segmenter.open(prompts, (HEIGHT, WIDTH))
    for tick in ticks[:7]:
        session.push(tick)
    for _ in range(40):  # into the pass from frame 6 back
        work = session.next_work()
        assert work is not None
        segmenter.run(work.stage, [session])
        if session.state_dict()["passes"] and session.state_dict()["passes"][0]["todo"][0][0] == 1:
            break
    taken = session.take()
    session = segmenter.restore(session.state_dict())
    for tick in ticks[7:]:
        session.push(tick)
    assert_same_masks(taken + finish(segmenter, session), wanted)


def script(num: int) -> list[tuple[float, float]]:
    """Frames of mixed worth, and a long absence that fills SAM2's whole memory with nothing."""
    rng = np.random.default_rng(3)
    scores = [(float(iou), 3.0) for iou in np.round(rng.uniform(0.35, 0.95, num), 3)]
    return [
        (iou, -2.0) if 12 <= place < 20 or place in (3, 5) else (iou, score)
        for place, (iou, score) in enumerate(scores)
    ]


def test_the_frames_read_are_the_prompted_one_the_one_before_and_the_best_of_the_pool() -> None:
    """Spied upon at attention, against a ranking done by hand over all earlier frames."""
    told, ticks, pool = script(29), ticks_of(30), 8
    core = ScriptedCore(small_core(), told)
    config = {"motion": MotionConfig(mode="off"), "pixel": "off", "pool_frames": pool}
    segmenter = segmenter_of(core, **config)
    session, certainties, taken = segmenter.open([box_prompt(1)], (HEIGHT, WIDTH)), {}, []
    for tick in ticks:
        session.push(tick)
        work_off(segmenter, session)
        for entry in session._books.memories[1].bank.recent.values():
            certainties[entry.frame_index] = entry
        taken += session.take()
    k = core.config.num_maskmem - 1
    for number, (frames, positions) in enumerate(core.reads):
        t = number + 1
        accepted = [i for i in range(t - 1, 0, -1) if told[i - 1][1] > 0 and told[i - 1][0] > 0.3][:pool]
        rated = {i: quality(certainties[i]) - 0.05 * age / pool for age, i in enumerate(accepted)}
        best = sorted(accepted, key=lambda i: (-np.floor(rated[i] / 0.01), -i))
        forced = [t - 1] if t - 1 in accepted else []
        chosen = sorted((forced + [i for i in best if i not in forced])[:k])
        assert frames == [0, *chosen], t
        assert positions == [k, *range(len(chosen) - 1, -1, -1)], t
        trace = taken[t].objects[0].trace
        assert trace is not None
        assert list(trace.memory_frames) == [0, *chosen]
    absent = {place + 1 for place, (_, score) in enumerate(told) if score <= 0}
    assert not any(absent & set(frames) for frames, _ in core.reads)
    assert max(len(frames) for frames, _ in core.reads) == k + 1


def test_fifo_reads_the_absent_frames_that_selection_leaves_out() -> None:
    told = script(29)
    core = ScriptedCore(small_core(), told)
    track(
        segmenter_of(core, temporal="fifo", pixel="off", motion=MotionConfig(mode="off")), [box_prompt(1)], ticks_of(30)
    )
    assert core.reads[17][0] == [0, 15, 16, 17], "frame 18 reads the three before it, empty as they are"


def test_motion_prompts_never_become_conditioning_and_memory_stays_flat() -> None:
    segmenter = segmenter_of(pool_frames=5)
    session, held, sources = segmenter.open([box_prompt(1), point_prompt(2, 4)], (HEIGHT, WIDTH)), [], set()
    for tick in ticks_of(48):
        session.push(tick)
        work_off(segmenter, session)
        sources |= {found.trace.source for taken in session.take() for found in taken.objects if found.trace}
        held.append(session.state_bytes())
    banks = [memory.bank for memory in session._books.memories.values()]
    assert [len(bank.conditioning) for bank in banks] == [1, 1]
    assert all(len(bank.recent) <= 5 for bank in banks)
    assert "motion" in sources, "no motion prompt won, so nothing was shown"
    assert max(held[30:]) <= max(held[12:30])


def test_nothing_anywhere_grows_with_the_video() -> None:
    """All tensors alive, and all that Python and numpy hold, not what the session says of itself; frames repeat."""

    def tensor_bytes() -> int:
        gc.collect()
        # By type: to ask some lazy modules for their class is a deprecated call of theirs.
        return sum(x.numel() * x.element_size() for x in gc.get_objects() if issubclass(type(x), torch.Tensor))

    segmenter, period = segmenter_of(pool_frames=4), 30
    session = segmenter.open([box_prompt(1), point_prompt(2, 4)], (HEIGHT, WIDTH))
    tensors, heap = [], []
    tracemalloc.start(1)
    try:
        for place in range(3 * period):
            session.push(Tick(frame_index=place, pts_us=place, images={RGB: image_at(place % period)}))
            work_off(segmenter, session)
            session.take()
            heap.append(tracemalloc.get_traced_memory()[0])
            if place % period == period - 1:
                tensors.append(tensor_bytes())
    finally:
        tracemalloc.stop()
    assert tensors[1] == tensors[2]
    # A mask is 3,456 bytes; the interpreter itself keeps a few hundred a frame in its free lists.
    assert max(heap[2 * period :]) < max(heap[period : 2 * period]) + 1000 * period
    assert all(len(memory.bank.recent) <= 4 for memory in session._books.memories.values())


def test_frames_pushed_one_by_one_and_seven_at_a_time_give_the_same_masks() -> None:
    segmenter = segmenter_of()
    one, seven = (track(segmenter, [box_prompt(1), point_prompt(2, 3)], ticks_of(10), chunk) for chunk in (1, 7))
    assert_same_masks(seven, one)


def test_later_frames_never_change_earlier_masks() -> None:
    segmenter, ticks, t = segmenter_of(), ticks_of(NUM_FRAMES), 6
    other = [
        *ticks[: t + 1],
        *[Tick(frame_index=i, pts_us=i, images={RGB: image_at(50 + i)}) for i in range(t + 1, 12)],
    ]
    # All frames lie ready, so that a stage could look ahead.
    ours, theirs = (track(segmenter, [box_prompt(1)], video, chunk=NUM_FRAMES) for video in (ticks, other))
    assert_same_masks(ours[: t + 1], theirs[: t + 1])
    assert any(
        (a.objects[0].mask != b.objects[0].mask).any() for a, b in zip(ours[t + 1 :], theirs[t + 1 :], strict=True)
    )


def test_adding_an_object_changes_no_other_unless_overlaps_are_forbidden() -> None:
    ticks = ticks_of(NUM_FRAMES)
    both_prompts = [box_prompt(1), box_prompt(2, 0, left=36.0), point_prompt(3, 4)]
    # Other objects are kept out of the camera's estimate, so only without it are objects wholly alone.
    config: dict[str, Any] = {"motion": MotionConfig(camera_compensation=False)}
    alone = track(segmenter_of(**config), [box_prompt(1)], ticks)
    together = track(segmenter_of(**config), both_prompts, ticks)
    for ours, theirs in zip(alone, together, strict=True):
        np.testing.assert_array_equal(ours.objects[0].mask, theirs.objects[0].mask)
        assert ours.objects[0].predicted_iou == theirs.objects[0].predicted_iou
    overlaps = [sum(found.mask.astype(int) for found in tick.objects).max() for tick in together]  # type: ignore[union-attr]
    assert max(overlaps) > 1, "nothing overlapped, so nothing was shown"
    apart = track(segmenter_of(non_overlap=True, **config), both_prompts, ticks)
    for tick, free in zip(apart, together, strict=True):
        assert sum(found.mask.astype(int) for found in tick.objects).max() <= 1  # type: ignore[union-attr]
        union = np.any([found.mask for found in tick.objects], axis=0)
        np.testing.assert_array_equal(union, np.any([found.mask for found in free.objects], axis=0))


FOLLOWED = {"motion": MotionConfig(arbitrate=False)}
"""The motion prompt decides, so that every change of it shows."""


@cache
def masks_under(name: str) -> list[bytes]:
    """Masks of an object that stays in view, under some of the settings."""
    settings: dict[str, dict[str, Any]] = {
        "full": {},
        "followed": FOLLOWED,
        "no prompt": {"motion": MotionConfig(mode="off")},
        "dense prompt": {"motion": MotionConfig(mode="dense", arbitrate=False)},
        "points, box and dense prompt": {"motion": MotionConfig(mode="all", arbitrate=False)},
        "fifo": {"temporal": "fifo"},
        "threshold": {"temporal": "threshold"},
        "all pixels": {"pixel": "off"},
        "pixels biased": {"pixel": "bias"},
        "samurai": {"policy": "samurai"},
        "dam4sam": {"policy": "dam4sam"},
    }
    taken = track(segmenter_of(small_core(object_score=8.0), **settings[name]), [point_prompt(1)], ticks_of(10))
    return [tick.objects[0].mask.tobytes() for tick in taken]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("full", "followed"),
        ("followed", "no prompt"),
        ("followed", "dense prompt"),
        ("followed", "points, box and dense prompt"),
        ("full", "fifo"),
        ("full", "threshold"),
        ("full", "all pixels"),
        ("full", "pixels biased"),
        ("full", "samurai"),
        ("full", "dam4sam"),
    ],
)
def test_each_setting_changes_masks(one: str, other: str) -> None:
    assert masks_under(one)[0] == masks_under(other)[0], "the prompted frame is none of their business"
    assert masks_under(one) != masks_under(other)


def test_a_scene_cut_leaves_the_prompted_frame_and_says_so() -> None:
    def cut_ticks() -> list[Tick]:
        ticks = ticks_of(8)
        dark = [np.full((HEIGHT, WIDTH, 3), 255, np.uint8) - (image_at(i, seed=9) // 8) for i in range(8, 12)]
        return [*ticks, *[Tick(frame_index=8 + i, pts_us=8 + i, images={RGB: image}) for i, image in enumerate(dark)]]

    taken = track(segmenter_of(scene_cut="reset", policy="sam2"), [box_prompt(1)], cut_ticks())
    assert [tick.frame_index for tick in taken if "scene_cut" in tick.flags] == [8]
    traces = [tick.objects[0].trace for tick in taken]
    read = [() if trace is None else trace.memory_frames for trace in traces]
    assert (read[7], read[8], read[10]) == ((0, 4, 5, 6), (0,), (0, 8, 9))
    kept = track(segmenter_of(policy="sam2"), [box_prompt(1)], cut_ticks())
    assert not any(tick.flags for tick in kept)
    assert kept[8].objects[0].trace.memory_frames == (0, 5, 6, 7)  # type: ignore[union-attr]


def test_an_object_may_be_shown_again_and_both_frames_are_read() -> None:
    prompts = [box_prompt(1), box_prompt(1, 5, left=30.0)]
    taken = track(segmenter_of(**PLAIN), prompts, ticks_of(8))
    assert taken[5].objects[0].trace.source == "prompted"  # type: ignore[union-attr]
    assert taken[7].objects[0].trace.memory_frames == (0, 4, 5, 6)  # type: ignore[union-attr]


def test_without_trace_rows_tell_nothing() -> None:
    taken = track(segmenter_of(trace=False), [box_prompt(1, 1)], ticks_of(3))
    assert [found.trace for tick in taken for found in tick.objects] == [None] * 3


def test_prompts_that_no_frame_meets_are_refused_by_name() -> None:
    segmenter = segmenter_of(**PLAIN)
    with pytest.raises(PromptError, match="object 1 is shown on frame 9, but the last frame that came is 2"):
        track(segmenter, [box_prompt(1, 9)], ticks_of(3))
    with pytest.raises(PromptError, match=r"frame 1, .* did not come"):
        track(segmenter, [box_prompt(1, 1)], ticks_of(4)[::2])


def test_settings_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValidationError, match="memory pathways"):
        MosamConfig(policy="sam2long")  # type: ignore[arg-type]
    with pytest.raises(ValidationError, match="pixels"):
        MosamConfig(pixels="drop")  # type: ignore[call-arg]
