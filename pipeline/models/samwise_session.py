"""All that one video remembers under SAMWISE: frames of the clip being filled, memories, masks not yet taken."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from pipeline.errors import SessionError
from pipeline.models.confidence import IsotonicMap, raw_confidence
from pipeline.models.frame_order import check_order
from pipeline.models.letterbox import letterbox_size, resize_frame
from pipeline.models.memory import MemoryBank
from pipeline.models.memory_policies import LastFrames
from pipeline.models.samwise_clip import ENCODE, Buckets, ClipInFlight, Expression, RowMask
from pipeline.models.samwise_rows import ExpressionMemory
from pipeline.models.samwise_stages import StepRequest
from pipeline.models.session_state import (
    image_from_state,
    image_to_state,
    outputs_from_state,
    outputs_to_state,
    prompts_to_state,
    to_cpu,
)
from pipeline.segmenter import State, Work
from pipeline.ticks import RGB, Image, ObjectMask, Prompt, Tick, TickMasks

TailPolicy = Literal["keep_memory", "reference"]

MEMORY_RESET = "memory_reset"
CME_SWITCH = "cme_switch"


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionRules:
    """What a session must know of its segmenter.

    Attributes:
        clip_length: frames per clip.
        tail_policy: "reference" forgets everything before a clip of one frame.
        buckets: batch sizes.
        policy: which memories are read, and so kept.
        image_size, short_side_px: of the model's square.
        has_object_score: otherwise the score is not reported.
        calibration: makes a probability of the confidence; None leaves it as it is.
        fingerprint: method, config and architecture as plain values; a state of another one is refused.
    """

    clip_length: int
    tail_policy: TailPolicy
    buckets: Buckets
    policy: LastFrames
    image_size: int
    short_side_px: int
    has_object_score: bool
    calibration: IsotonicMap | None
    fingerprint: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingFrame:
    """A frame that waits for its clip to be done, already resized."""

    frame_index: int
    pts_us: int
    image_hw3: Image


class SamwiseSession:
    """One video and its expressions; see `pipeline.segmenter.Session` for the laws.

    Holds at most a few memories per expression, the frames of unfinished clips, the features of one wave of
    expressions, and masks that nobody took yet.
    """

    def __init__(
        self,
        rules: SessionRules,
        prompts: Sequence[Prompt],
        expressions: Sequence[Expression],
        frame_size: tuple[int, int],
    ) -> None:
        self.rules = rules
        self.expressions = tuple(expressions)
        self.frame_size = frame_size
        self.inner_size = letterbox_size(*frame_size, short_side_px=rules.short_side_px, image_size=rules.image_size)
        self._clip: ClipInFlight | None = None
        self._prompts = tuple(prompts)
        self._memories = tuple(ExpressionMemory.empty() for _ in expressions)
        self._pending: list[PendingFrame] = []
        self._ready: list[TickMasks] = []
        self._last_frame_index: int | None = None
        self._ended = False

    def push(self, tick: Tick) -> None:
        """Resize and keep a frame until its clip is full."""
        check_order(tick.frame_index, last=self._last_frame_index, has_ended=self._ended)
        image = tick.images.get(RGB)
        if image is None or image.dtype != np.uint8 or image.shape != (*self.frame_size, 3):
            came = f"modalities {sorted(tick.images)}" if image is None else f"{image.dtype} {image.shape}"
            raise SessionError(
                f"frame {tick.frame_index}: {came}; expected 'rgb' as uint8 {(*self.frame_size, 3)}, the size the "
                "session was opened with."
            )
        resized = resize_frame(image, self.inner_size)
        self._pending.append(PendingFrame(frame_index=tick.frame_index, pts_us=tick.pts_us, image_hw3=resized))
        self._last_frame_index = tick.frame_index

    def end(self) -> None:
        """What is left becomes a last, shorter clip."""
        self._ended = True

    def next_work(self) -> Work | None:
        """The next step of the clip at hand; None until a clip is full or the video ends."""
        found = self.next_step()
        if found is None:
            return None
        group = found.clip.group(found.step, self.rules.policy, self.expressions)
        return Work(stage=found.step.stage, group=group, size=found.step.size)

    def next_step(self) -> StepRequest | None:
        """The clip at hand, what to do with it, and what that takes."""
        clip = self._clip or self._next_clip()
        step = None if clip is None else clip.next_step(self.rules.buckets)
        if clip is None or step is None:
            return None
        frames = self._pending[step.frames.start : step.frames.stop] if step.stage == ENCODE else []
        return StepRequest(
            clip=clip,
            step=step,
            expressions=self.expressions,
            images_hw3=[frame.image_hw3 for frame in frames],
            inner_size=self.inner_size,
            frame_size=self.frame_size,
        )

    def released_by(self, clip: ClipInFlight) -> list[TickMasks]:
        """The masks that accepting this clip would release: all of them if it is done, else none."""
        if clip.next_step(self.rules.buckets) is not None:
            return []
        reset = self._forgets(clip.num_frames)
        return [self._tick_masks(clip, place, reset=reset) for place in range(clip.num_frames)]

    def advance(self, clip: ClipInFlight, released: Sequence[TickMasks]) -> None:
        """Accept a clip with one more step done; assignments only, so it cannot fail half way."""
        if not released:
            self._clip = clip
            return
        self._ready.extend(released)
        self._memories = clip.memories
        self._clip = None
        del self._pending[: clip.num_frames]

    def take(self) -> list[TickMasks]:
        """Masks of the clips finished since the last call."""
        taken, self._ready = self._ready, []
        return taken

    def state_bytes(self) -> int:
        """Memories, frames, features of the clip at hand, and masks waiting to be taken."""
        memories = self._memories if self._clip is None else self._memories + self._clip.memories
        # A clip's memories share entries with those before it; both are counted once per tensor.
        entries = {id(entry): entry.num_bytes() for memory in memories for entry in memory.bank}
        pending = sum(frame.image_hw3.nbytes for frame in self._pending)
        ready = sum(found.mask.nbytes for tick in self._ready for found in tick.objects)
        return sum(entries.values()) + pending + ready + (self._clip.num_bytes() if self._clip else 0)

    def state_dict(self) -> State:
        """Memories as of the last finished clip and the frames since: the clip at hand will be redone."""
        state: State = to_cpu(
            {
                "fingerprint": dict(self.rules.fingerprint),
                "prompts": prompts_to_state(self._prompts),
                "frame_size": list(self.frame_size),
                "memories": [
                    {
                        "bank": memory.bank.state_dict(),
                        "position": memory.position,
                        "last_switch": memory.last_switch,
                    }
                    for memory in self._memories
                ],
                "pending": [
                    {
                        "frame_index": frame.frame_index,
                        "pts_us": frame.pts_us,
                        "image": image_to_state(frame.image_hw3),
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
        """Go on from where `state_dict` was taken; the prompts must be the same."""
        self._memories = tuple(
            ExpressionMemory(
                bank=MemoryBank.from_state(fields["bank"], device=device),
                position=fields["position"],
                last_switch=fields["last_switch"],
            )
            for fields in state["memories"]
        )
        self._pending = [
            PendingFrame(
                frame_index=fields["frame_index"],
                pts_us=fields["pts_us"],
                image_hw3=image_from_state(fields["image"]),
            )
            for fields in state["pending"]
        ]
        self._ready = outputs_from_state(state["ready"])
        self._last_frame_index = state["last_frame_index"]
        self._ended = state["ended"]

    def _next_clip(self) -> ClipInFlight | None:
        num_frames = min(self.rules.clip_length, len(self._pending))
        if num_frames == 0 or (num_frames < self.rules.clip_length and not self._ended):
            return None
        memories = self._memories
        if self._forgets(num_frames):
            memories = tuple(ExpressionMemory.empty() for _ in self.expressions)
        return ClipInFlight.begin(num_frames, self.expressions, memories, self.rules.buckets)

    def _forgets(self, num_frames: int) -> bool:
        """Whether a clip begins without memory although the video has one."""
        has_memory = any(memory.position for memory in self._memories)
        return self.rules.tail_policy == "reference" and num_frames == 1 and has_memory

    def _tick_masks(self, clip: ClipInFlight, frame_place: int, *, reset: bool) -> TickMasks:
        frame, (height, width) = self._pending[frame_place], self.frame_size
        found = zip(self.expressions, clip.masks, strict=True)
        rows = sorted(((e.object_id, masks[frame_place]) for e, masks in found), key=lambda row: row[0])
        switches = tuple(f"{CME_SWITCH}:{object_id}" for object_id, row in rows if row.switched)
        return TickMasks(
            frame_index=frame.frame_index,
            pts_us=frame.pts_us,
            height=height,
            width=width,
            objects=tuple(self._object_mask(object_id, row) for object_id, row in rows),
            flags=((MEMORY_RESET,) if reset else ()) + switches,
        )

    def _object_mask(self, object_id: int, row: RowMask) -> ObjectMask:
        object_score = row.object_score if self.rules.has_object_score else None
        confidence = raw_confidence(object_score=object_score, predicted_iou=row.predicted_iou)
        if self.rules.calibration is not None:
            confidence = float(self.rules.calibration(confidence))
        return ObjectMask(
            object_id=object_id,
            mask=row.mask_yx,
            confidence=confidence,
            object_score=object_score,
            predicted_iou=row.predicted_iou,
            stability=row.stability,
        )
