"""All that one video remembers under video semantic segmentation: waiting frames, masklets, votes, masks to take."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from pipeline.errors import SessionError
from pipeline.models.frame_order import check_order
from pipeline.models.session_state import (
    image_from_state,
    image_to_state,
    outputs_from_state,
    outputs_to_state,
    to_cpu,
)
from pipeline.models.vss_frames import (
    FrameInFlight,
    FrameRules,
    FrameStep,
    PendingFrame,
    VideoMemory,
    memory_from_state,
    memory_to_state,
)
from pipeline.models.vss_stages import StepRequest
from pipeline.segmenter import State, Work
from pipeline.ticks import RGB, Image, Tick, TickMasks


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionRules:
    """What a session must know of its segmenter.

    Attributes:
        modalities: what is read of a tick: "rgb", and what the semantic network reads.
        fingerprint: method, config and architecture as plain values; a state of another one is refused.
    """

    frames: FrameRules
    modalities: tuple[str, ...]
    fingerprint: Mapping[str, Any]


class VssSession:
    """One video; see `pipeline.segmenter.Session` for the laws.

    Holds the masklets of one frame with their memories of one window, votes, in "window" emission the label maps and
    run-length masks of one window, and frames that wait.
    """

    def __init__(self, rules: SessionRules, frame_size: tuple[int, int]) -> None:
        self.rules = rules
        self.frame_size = frame_size
        self._memory = VideoMemory()
        self._flight: FrameInFlight | None = None
        self._step: FrameStep | None = None
        self._pending: list[PendingFrame] = []
        self._ready: list[TickMasks] = []
        self._last_frame_index: int | None = None
        self._ended = False

    def push(self, tick: Tick) -> None:
        """Keep a frame until its turn comes."""
        check_order(tick.frame_index, last=self._last_frame_index, has_ended=self._ended)
        images = {name: self._checked(tick, name) for name in self.rules.modalities}
        self._pending.append(PendingFrame(frame_index=tick.frame_index, pts_us=tick.pts_us, images=images))
        self._last_frame_index = tick.frame_index
        self._look_ahead()

    def end(self) -> None:
        """What waits for its window's votes is painted with those there are."""
        self._ended = True
        self._look_ahead()

    def next_work(self) -> Work | None:
        """The next step of the frame at hand."""
        step = self._step
        return None if step is None else Work(stage=step.stage, group=self._group(step), size=step.size)

    def next_request(self) -> StepRequest | None:
        """The frame at hand and what to do with it."""
        if self._flight is None or self._step is None:
            return None
        return StepRequest(flight=self._flight, step=self._step, frame_size=self.frame_size)

    def accept(self, flight: FrameInFlight, next_step: FrameStep | None) -> None:
        """Take over a frame with one more step done; assignments only, so it cannot fail half way.

        Args:
            next_step: what `flight.next_step` says.
        """
        self._flight, self._step = flight, next_step
        if flight.done is None:
            return
        self._memory = flight.done
        self._ready.extend(flight.released)
        if flight.frame is not None:
            del self._pending[0]
        self._flight = None
        self._look_ahead()

    def take(self) -> list[TickMasks]:
        """Masks of the frames that came out since the last call."""
        taken, self._ready = self._ready, []
        return taken

    def state_bytes(self) -> int:
        """Masklets, votes, frames that wait, the frame at hand, and masks waiting to be taken."""
        pending = sum(image.nbytes for frame in self._pending for image in frame.images.values())
        ready = sum(found.mask.nbytes for tick in self._ready for found in tick.objects)
        return self._memory.num_bytes() + pending + ready + (self._flight.num_bytes() if self._flight else 0)

    def state_dict(self) -> State:
        """Memory as the last finished frame left it, and the frames since: the frame at hand will be redone."""
        state: State = to_cpu(
            {
                "fingerprint": dict(self.rules.fingerprint),
                "frame_size": list(self.frame_size),
                "memory": memory_to_state(self._memory),
                "pending": [
                    {
                        "frame_index": frame.frame_index,
                        "pts_us": frame.pts_us,
                        "images": {name: image_to_state(image) for name, image in frame.images.items()},
                    }
                    for frame in self._pending
                ],
                "ready": outputs_to_state(self._ready),
                "last_frame_index": self._last_frame_index,
                "ended": self._ended,
            }
        )
        return state

    def load_state(self, state: State, *, device: torch.device) -> None:
        """Go on from where `state_dict` was taken."""
        self._memory = memory_from_state(state["memory"], device=device)
        self._pending = [
            PendingFrame(
                frame_index=fields["frame_index"],
                pts_us=fields["pts_us"],
                images={name: image_from_state(image) for name, image in fields["images"].items()},
            )
            for fields in state["pending"]
        ]
        self._ready = outputs_from_state(state["ready"])
        self._last_frame_index = state["last_frame_index"]
        self._ended = state["ended"]
        self._flight = None
        self._look_ahead()

    def _look_ahead(self) -> None:
        """Begin the next frame if there is one and none is at hand."""
        if self._flight is not None:
            return
        frames, self._step = self.rules.frames, None
        if self._pending:
            self._flight = FrameInFlight.begin(self._memory, self._pending[0], frames)
        elif self._ended and self._memory.held:
            self._flight = FrameInFlight.begin(self._memory, None, frames)
        if self._flight is not None:
            self._step = self._flight.next_step(frames)

    def _group(self, step: FrameStep) -> Any:
        # Frames of one size make one input size of a semantic network.
        return self.frame_size if step.stage == "label" else step.group

    def _checked(self, tick: Tick, name: str) -> Image:
        image = tick.images.get(name)
        if image is None or image.dtype != np.uint8 or image.shape != (*self.frame_size, 3):
            came = f"modalities {sorted(tick.images)}" if image is None else f"{image.dtype} {image.shape}"
            raise SessionError(
                f"frame {tick.frame_index}: {came}; expected {name!r} as uint8 {(*self.frame_size, 3)}, the size the "
                "session was opened with."
            )
        # Of labels the first channel says all.
        return np.array(image) if name == RGB else np.array(image[..., 0])


def check_batch(stage: str, sessions: Sequence[VssSession], *, room: int) -> None:
    """Raises ValueError unless the sessions' next works are of one group and fit."""
    works = [session.next_work() for session in sessions]
    groups = {work.group for work in works if work is not None}
    total = sum(work.size for work in works if work is not None)
    if total > room or len(groups) != 1:
        raise ValueError(
            f"stage {stage!r}: a batch of {total} places in groups {sorted(map(str, groups))}; "
            f"expected one group and at most {room} places."
        )
