"""What is settled of a tracked video after each frame, as one value, and the rules that lead from one to the next."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from pipeline.models.memory_policies_tracking import TrackingPolicy
from pipeline.models.mosam_frame import Buckets, Frame, FrameInFlight, ObjectMemory
from pipeline.models.mosam_passes import BackwardPass, OpenFrame
from pipeline.models.mosam_prompts import ShownByFrame
from pipeline.models.motion_camera import FrameMotion
from pipeline.ticks import TickMasks

Direction = Literal["forward", "backward", "both"]

SCENE_CUT = "scene_cut"


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionRules:
    """What a session must know of its segmenter.

    Attributes:
        policy, reverse_policy: which memories are read and kept, by direction.
        direction: whither a prompt is tracked.
        backward_frames: source frames that a prompt is tracked back at most; as many are held.
        observes: motion is measured.
        resets_at_cut: a scene cut forgets everything but the prompted frames.
        non_overlap: a pixel belongs to one object.
        has_trace: rows tell why.
        fingerprint: method, config and architecture as plain values; a state of another one is refused.
    """

    policy: TrackingPolicy
    reverse_policy: TrackingPolicy
    buckets: Buckets
    direction: Direction
    backward_frames: int
    observes: bool
    resets_at_cut: bool
    non_overlap: bool
    has_trace: bool
    fingerprint: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Books:
    """What changes when a frame is done, as one value: so it is accepted whole or not at all.

    Attributes:
        memories: per object, as of the newest frame of the forward pass.
        last_motion: of that frame.
        open_frames: passed frames that were not given out, in order.
        passes: backward passes to be run, the first at once.
    """

    memories: Mapping[int, ObjectMemory]
    last_motion: FrameMotion | None
    open_frames: tuple[OpenFrame, ...]
    passes: tuple[BackwardPass, ...]


def after_forward(books: Books, job: FrameInFlight, rules: SessionRules, shown: ShownByFrame) -> Books:
    """The books with the newest frame done, and a pass back from it if objects were shown on it."""
    motion = None if job.motion is None else replace(job.motion, field=None)
    flags = (SCENE_CUT,) if job.is_cut and rules.resets_at_cut else ()
    wanted = wanted_later(job.frame, rules, shown) | job.done.keys()
    opened = OpenFrame(frame=job.frame, masks={}, wanted=wanted, flags=flags).with_results(job.done)
    passes = books.passes
    if rules.direction != "forward" and job.shown:
        passes = (*passes, *_pass_back(books.open_frames, job, motion))
    return Books(
        memories={} if rules.direction == "backward" else {i: result.memory for i, result in job.done.items()},
        last_motion=motion,
        open_frames=(*books.open_frames, opened),
        passes=passes,
    )


def after_backward(books: Books, job: FrameInFlight) -> Books:
    """The books with one more frame of the first backward pass done."""
    motion = None if job.motion is None else replace(job.motion, field=None)
    open_frames = tuple(
        frame.with_results(job.done) if frame.frame.position == job.frame.position else frame
        for frame in books.open_frames
    )
    following = books.passes[0].advanced(job.done, motion)
    passes = books.passes[1:] if following is None else (following, *books.passes[1:])
    return replace(books, open_frames=open_frames, passes=passes)


def after_idle(books: Books, frame: Frame, rules: SessionRules, shown: ShownByFrame) -> Books:
    """The books with a frame passed on which nobody is tracked."""
    opened = OpenFrame(frame=frame, masks={}, wanted=wanted_later(frame, rules, shown))
    return replace(books, open_frames=(*books.open_frames, opened), last_motion=None)


def released(books: Books, rules: SessionRules, object_ids: Sequence[int]) -> tuple[Books, tuple[TickMasks, ...]]:
    """The books without the frames at the front that are complete, and those frames' masks."""
    closed = []
    remaining = list(books.open_frames)
    while remaining and remaining[0].is_complete:
        frame = remaining.pop(0)
        closed.append(frame.close(object_ids, non_overlap=rules.non_overlap, has_trace=rules.has_trace))
    return replace(books, open_frames=tuple(remaining)), tuple(closed)


def wanted_later(frame: Frame, rules: SessionRules, shown: ShownByFrame) -> frozenset[int]:
    """Objects that a prompt on a later frame will track back to this one."""
    if rules.direction == "forward":
        return frozenset()
    reach = range(frame.frame_index + 1, frame.frame_index + rules.backward_frames + 1)
    wanted = {entry.object_id for index, entries in shown.items() if index in reach for entry in entries}
    if rules.direction == "both":
        # Whoever was shown before is tracked forward over this frame.
        before = (entries for index, entries in shown.items() if index <= frame.frame_index)
        wanted -= {entry.object_id for entries in before for entry in entries}
    return frozenset(wanted)


def _pass_back(
    open_frames: Sequence[OpenFrame], job: FrameInFlight, motion: FrameMotion | None
) -> tuple[BackwardPass, ...]:
    """The pass from the objects shown on a frame to the frames before that want them; none if there are no such."""
    shown = [entry.object_id for entry in job.shown]
    todo = [
        (frame.frame.position, tuple(i for i in shown if i in frame.wanted and i not in frame.masks))
        for frame in reversed(open_frames)
    ]
    todo = [(position, object_ids) for position, object_ids in todo if object_ids]
    if not todo:
        return ()
    position = job.frame.position
    memories = {}
    for object_id in shown:
        memory = job.done[object_id].memory
        alone = replace(memory.after_cut(), motion=memory.motion)
        for other in list(alone.bank.conditioning):
            if other != position:
                alone.bank.remove(other, conditioning=True)
        memories[object_id] = replace(alone, sources={position: job.frame.frame_index})
    return (BackwardPass(memories=memories, last_motion=motion, todo=tuple(todo)),)
