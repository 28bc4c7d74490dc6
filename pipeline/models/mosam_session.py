"""All that one tracked video remembers: frames to come, objects, frames whose masks are not complete, masks to take."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from pipeline.errors import PromptError, SessionError
from pipeline.models.frame_order import check_order
from pipeline.models.image_encoding import ImageFeatures
from pipeline.models.mosam_books import Books, SessionRules, after_backward, after_forward, after_idle, released
from pipeline.models.mosam_frame import ENCODE, OBSERVE, Frame, FrameInFlight, Step
from pipeline.models.mosam_passes import (
    BackwardPass,
    OpenFrame,
    frame_from_state,
    frame_to_state,
    memories_from_state,
    memories_to_state,
    motion_from_state,
)
from pipeline.models.mosam_prompts import Shown, ShownByFrame
from pipeline.models.session_state import outputs_from_state, outputs_to_state, prompts_to_state, to_cpu
from pipeline.segmenter import State, Work
from pipeline.ticks import RGB, Prompt, Tick, TickMasks


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One video's part of a batch: the frame at hand and what is to be done with it."""

    job: FrameInFlight
    step: Step
    frame_size: tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """What a batch did for one video: features by position, or the frame at hand, further on."""

    features: Mapping[int, ImageFeatures] | None = None
    job: FrameInFlight | None = None


class MosamSession:
    """One video and its objects; see `pipeline.segmenter.Session` for the laws.

    Holds the memories of each object (bounded by the policy), frames not yet passed, features of the frame at hand
    and of those encoded ahead, and, where prompts are tracked backward, up to `backward_frames` frames before the
    next prompted frame with the masks already found on them.
    """

    def __init__(
        self, rules: SessionRules, prompts: Sequence[Prompt], shown: ShownByFrame, frame_size: tuple[int, int]
    ) -> None:
        self.rules = rules
        self.frame_size = frame_size
        self.object_ids = tuple(sorted({entry.object_id for entries in shown.values() for entry in entries}))
        self._prompts = tuple(prompts)
        self._shown = shown
        self._pending: list[Frame] = []
        self._features: dict[int, ImageFeatures] = {}
        self._job: FrameInFlight | None = None
        self._books = Books(memories={}, last_motion=None, open_frames=(), passes=())
        self._ready: list[TickMasks] = []
        self._num_pushed = 0
        self._last_frame_index: int | None = None
        self._ended = False

    def push(self, tick: Tick) -> None:
        """Keep a frame until its turn comes. Raises PromptError if a frame with a prompt was skipped."""
        self._check(tick)
        after = -1 if self._last_frame_index is None else self._last_frame_index
        skipped = [index for index in self._shown if after < index < tick.frame_index]
        if skipped:
            names = ", ".join(str(entry.object_id) for entry in self._shown[skipped[0]])
            raise PromptError(
                f"frame {skipped[0]}, on which object {names} is shown, did not come: the video went on with frame "
                f"{tick.frame_index}. Prompt a frame that is read (mind start_frame, stride and dropped frames)."
            )
        self._pending.append(
            Frame(
                position=self._num_pushed,
                frame_index=tick.frame_index,
                pts_us=tick.pts_us,
                image_yx3=np.array(tick.rgb),
            )
        )
        self._num_pushed += 1
        self._last_frame_index = tick.frame_index
        self._pass_idle_frames()

    def end(self) -> None:
        """No more frames. Raises PromptError if a prompt lies beyond the last one."""
        self._ended = True
        if self._last_frame_index is None:
            return
        beyond = [
            entry for index, on_frame in self._shown.items() if index > self._last_frame_index for entry in on_frame
        ]
        if beyond:
            raise PromptError(
                f"object {beyond[0].object_id} is shown on frame {beyond[0].frame_index}, but the last frame that came "
                f"is {self._last_frame_index}. Prompt a frame within the video; frames count from 0."
            )

    def next_work(self) -> Work | None:
        """The next step of the frame at hand; None until a frame comes that has objects to find."""
        step = self._next_step()
        return None if step is None else Work(stage=step.stage, group=step.group, size=step.size)

    def next_request(self) -> Request | None:
        """The frame at hand and what to do with it."""
        step = self._next_step()
        if step is None:
            return None
        assert self._job is not None
        return Request(job=self._job, step=step, frame_size=self.frame_size)

    def prepare(self, progress: Progress) -> "Prepared":
        """What accepting this progress means; may fail, and changes nothing."""
        job = progress.job
        if job is None or not job.is_done:
            return Prepared(progress=progress, books=None, released=())
        if job.reverse:
            books = after_backward(self._books, job)
        else:
            books = after_forward(self._books, job, self.rules, self._shown)
        books, complete = released(books, self.rules, self.object_ids)
        return Prepared(progress=progress, books=books, released=complete)

    def accept(self, prepared: "Prepared") -> None:
        """Go on from what was prepared; assignments only, so it cannot fail half way."""
        progress = prepared.progress
        if progress.features is not None:
            self._features |= progress.features
            return
        assert progress.job is not None
        if prepared.books is None:
            self._job = progress.job
            return
        job, self._job = progress.job, None
        self._books = prepared.books
        self._features.pop(job.frame.position, None)
        if not job.reverse:
            del self._pending[0]
        self._ready.extend(prepared.released)
        self._pass_idle_frames()

    def take(self) -> list[TickMasks]:
        """Masks of the frames completed since the last call."""
        taken, self._ready = self._ready, []
        return taken

    def state_bytes(self) -> int:
        """Memories, motion, frames, features, and masks waiting to be completed or taken."""
        books = self._books
        memories = [*books.memories.values(), *(m for p in books.passes for m in p.memories.values())]
        entries = {id(entry): entry.num_bytes() for memory in memories for entry in memory.bank}
        motions = sum(memory.motion.num_bytes() for memory in memories)
        motions += 0 if books.last_motion is None else books.last_motion.num_bytes()
        maps = [x for f in self._features.values() for x in (*f.high_res, f.map_BDhw)]
        return (
            sum(entries.values())
            + motions
            + sum(frame.image_yx3.nbytes for frame in self._pending)
            + sum(x.numel() * x.element_size() for x in maps)
            + sum(frame.num_bytes() for frame in books.open_frames)
            + sum(mask.mask.nbytes for tick in self._ready for mask in tick.objects)
            + (0 if self._job is None else self._job.num_bytes())
        )

    def state_dict(self) -> State:
        """As of the last frame that was done: the one at hand will be redone."""
        books = self._books
        state: State = to_cpu(
            {
                "fingerprint": dict(self.rules.fingerprint),
                "prompts": prompts_to_state(self._prompts),
                "frame_size": list(self.frame_size),
                "memories": memories_to_state(books.memories),
                "last_motion": None if books.last_motion is None else books.last_motion.state_dict(),
                "open_frames": [frame.state_dict() for frame in books.open_frames],
                "passes": [backward.state_dict() for backward in books.passes],
                "pending": [frame_to_state(frame) for frame in self._pending],
                "ready": outputs_to_state(self._ready),
                "num_pushed": self._num_pushed,
                "last_frame_index": self._last_frame_index,
                "ended": self._ended,
            }
        )
        return state

    def load_state(self, state: State, *, device: torch.device) -> None:
        """Go on from where `state_dict` was taken; the prompts must be the same."""
        self._books = Books(
            memories=memories_from_state(state["memories"], device=device),
            last_motion=motion_from_state(state["last_motion"]),
            open_frames=tuple(OpenFrame.from_state(fields) for fields in state["open_frames"]),
            passes=tuple(BackwardPass.from_state(fields, device=device) for fields in state["passes"]),
        )
        self._pending = [frame_from_state(fields) for fields in state["pending"]]
        self._ready = outputs_from_state(state["ready"])
        self._num_pushed = state["num_pushed"]
        self._last_frame_index = state["last_frame_index"]
        self._ended = state["ended"]

    def _check(self, tick: Tick) -> None:
        check_order(tick.frame_index, last=self._last_frame_index, has_ended=self._ended)
        image = tick.images.get(RGB)
        if image is None or image.dtype != np.uint8 or image.shape != (*self.frame_size, 3):
            came = f"modalities {sorted(tick.images)}" if image is None else f"{image.dtype} {image.shape}"
            raise SessionError(
                f"frame {tick.frame_index}: {came}; expected 'rgb' as uint8 {(*self.frame_size, 3)}, the size the "
                "session was opened with."
            )

    def _next_step(self) -> Step | None:
        """What comes next; what it derives on the way is kept, and follows from the state alone."""
        if self._job is None:
            self._job = self._next_job()
        job, buckets = self._job, self.rules.buckets
        if job is None:
            return None
        if job.features is None:
            if job.frame.position not in self._features:
                return Step(stage=ENCODE, frames=self._frames_to_encode(job))
            self._job = job = replace(job, features=self._features[job.frame.position])
        if job.observes and job.motion is None:
            return Step(stage=OBSERVE)
        if job.selections is None:
            policy = self.rules.reverse_policy if job.reverse else self.rules.policy
            job = self._after_cut(job) if job.is_cut and self.rules.resets_at_cut else job
            self._job = job = job.with_selections(policy)
        return job.next_decode(buckets.decode)

    def _next_job(self) -> FrameInFlight | None:
        rules, books = self.rules, self._books
        if books.passes:
            backward = books.passes[0]
            position, object_ids = backward.todo[0]
            open_frame = next(f for f in books.open_frames if f.frame.position == position)
            return FrameInFlight(
                frame=open_frame.frame,
                shown=(),
                memories={object_id: backward.memories[object_id] for object_id in object_ids},
                reverse=True,
                observes=rules.observes,
                previous=backward.last_motion,
            )
        if not self._pending:
            return None
        frame = self._pending[0]
        return FrameInFlight(
            frame=frame,
            shown=self._shown_on(frame),
            memories=books.memories,
            reverse=False,
            observes=rules.observes,
            previous=books.last_motion,
        )

    def _frames_to_encode(self, job: FrameInFlight) -> tuple[Frame, ...]:
        """The frame at hand and those that will follow it in its pass, as many as share a batch."""
        if job.reverse:
            positions = [position for position, _ in self._books.passes[0].todo]
            by_position = {f.frame.position: f.frame for f in self._books.open_frames}
            coming = [by_position[position] for position in positions]
        else:
            coming = self._pending
        wanted = [frame for frame in coming if frame.position not in self._features]
        return tuple(wanted[: self.rules.buckets.encode])

    def _after_cut(self, job: FrameInFlight) -> FrameInFlight:
        return replace(job, memories={i: memory.after_cut() for i, memory in job.memories.items()}, forecasts={})

    def _shown_on(self, frame: Frame) -> tuple[Shown, ...]:
        return self._shown.get(frame.frame_index, ())

    def _pass_idle_frames(self) -> None:
        """Frames on which nobody is tracked and nobody shown need neither model nor motion."""
        while self._pending and self._job is None and not self._books.passes:
            frame = self._pending[0]
            if self._books.memories or self._shown_on(frame):
                return
            books = after_idle(self._books, frame, self.rules, self._shown)
            self._books, complete = released(books, self.rules, self.object_ids)
            del self._pending[0]
            self._features.pop(frame.position, None)
            self._ready.extend(complete)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """Progress and what follows from it; `books` is None while the frame at hand is not done."""

    progress: Progress
    books: Books | None
    released: tuple[TickMasks, ...]
