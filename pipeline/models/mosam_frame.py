"""A frame on its way through the tracker: what to do next for which objects; decides and computes nothing.

Position counts the frames of a video as they come, so that a stride changes nothing; `frame_index` is the source's.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self

import torch
from torch import Tensor

from pipeline.models.image_encoding import ImageFeatures
from pipeline.models.memory import MemoryBank, MemoryEntry, MemorySelection
from pipeline.models.memory_policies_tracking import TrackingPolicy
from pipeline.models.mosam_prompts import Shown
from pipeline.models.motion_camera import FrameMotion
from pipeline.models.motion_forecast import MotionForecast
from pipeline.models.motion_state import ObjectMotion
from pipeline.ticks import Image, ObjectMask

ENCODE: Literal["encode"] = "encode"
OBSERVE: Literal["observe"] = "observe"
DECODE: Literal["decode"] = "decode"
Stage = Literal["encode", "observe", "decode"]

POINTS: Literal["points"] = "points"
MASK: Literal["mask"] = "mask"
TRACK: Literal["track"] = "track"
RowKind = Literal["points", "mask", "track"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Buckets:
    """Places per batch: frames to encode, videos whose motion is measured, rows (an object on a frame) to decode."""

    encode: int
    observe: int
    decode: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """A frame as it came.

    Attributes:
        position: 0, 1, 2, ... as it came in.
        frame_index, pts_us: the source's.
        image_yx3: at the decoded frame's size.
    """

    position: int
    frame_index: int
    pts_us: int
    image_yx3: Image


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectMemory:
    """All that is remembered of one object; a value, never changed in place.

    Attributes:
        bank: entries count positions.
        motion: what motion remembers of it.
        sources: position of each entry to its source frame.
    """

    bank: MemoryBank = field(default_factory=MemoryBank)
    motion: ObjectMotion = field(default_factory=ObjectMotion)
    sources: Mapping[int, int] = field(default_factory=dict)

    def after(self, entry: MemoryEntry, frame_index: int, motion: ObjectMotion, policy: TrackingPolicy) -> Self:
        """The memory after one more frame."""
        bank = policy.remember(self.bank, entry)
        known = {**self.sources, entry.frame_index: frame_index}
        return replace(self, bank=bank, motion=motion, sources={e.frame_index: known[e.frame_index] for e in bank})

    def after_cut(self) -> Self:
        """What a scene cut leaves: the prompted frames."""
        bank = MemoryBank()
        for entry in self.bank.conditioning.values():
            bank.add(entry)
        return replace(self, bank=bank, motion=ObjectMotion(), sources={p: self.sources[p] for p in bank.conditioning})

    def num_bytes(self) -> int:
        """Bytes of all tensors and arrays held."""
        return self.bank.num_bytes() + self.motion.num_bytes()

    def state_dict(self) -> dict[str, Any]:
        """Plain data of tensors, numbers, dicts and lists."""
        return {
            "bank": self.bank.state_dict(),
            "motion": self.motion.state_dict(),
            "sources": list(self.sources.items()),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any], *, device: torch.device) -> Self:
        """The memory that gave this state."""
        return cls(
            bank=MemoryBank.from_state(state["bank"], device=device),
            motion=ObjectMotion.from_state(state["motion"]),
            sources=dict(state["sources"]),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RowResult:
    """What decoding one object on one frame gave.

    Attributes:
        mask: to be given out.
        memory: of the object, afterwards.
        logits_hw: on the CPU, where masks of several objects will be compared; else None.
    """

    mask: ObjectMask
    memory: ObjectMemory
    logits_hw: Tensor | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """The next thing to do with a frame.

    Attributes:
        stage: ENCODE, OBSERVE or DECODE.
        group: steps of one stage and group may share a batch.
        frames: to ENCODE, this one and some that follow.
        object_ids: to DECODE.
        kind: how they are decoded.
    """

    stage: Stage
    group: Hashable = None
    frames: tuple[Frame, ...] = ()
    object_ids: tuple[int, ...] = ()
    kind: RowKind = TRACK

    @property
    def size(self) -> int:
        """Places it takes in a batch."""
        return len(self.frames) or len(self.object_ids) or 1


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameInFlight:
    """One frame of one pass, forward or backward, and how far it has come; a value.

    Attributes:
        shown: objects that the user shows on it.
        memories: of the objects to track on it, and of those shown that were tracked before, as of the frame before.
        reverse: the pass runs towards frame 0.
        observes: motion is to be measured before decoding.
        features: of one image, once encoded.
        motion: as measured against `previous`, the frame before in this pass.
        forecasts: per tracked object.
        selections: what each tracked object reads, once that is decided.
        done: finished objects.
    """

    frame: Frame
    shown: tuple[Shown, ...]
    memories: Mapping[int, ObjectMemory]
    reverse: bool
    observes: bool
    previous: FrameMotion | None
    features: ImageFeatures | None = None
    motion: FrameMotion | None = None
    forecasts: Mapping[int, MotionForecast] = field(default_factory=dict)
    selections: Mapping[int, MemorySelection] | None = None
    done: Mapping[int, RowResult] = field(default_factory=dict)

    @property
    def tracked_ids(self) -> tuple[int, ...]:
        """Objects that are tracked on this frame, not shown."""
        shown = {entry.object_id for entry in self.shown}
        return tuple(object_id for object_id in self.memories if object_id not in shown)

    @property
    def object_ids(self) -> tuple[int, ...]:
        """All objects of this frame: those shown, then those tracked."""
        return (*(entry.object_id for entry in self.shown), *self.tracked_ids)

    @property
    def is_done(self) -> bool:
        return len(self.done) == len(self.object_ids)

    @property
    def is_cut(self) -> bool:
        """Whether the scene changed on this frame."""
        return self.motion is not None and self.motion.is_cut

    def shown_as(self, object_id: int) -> Shown | None:
        """How the user shows an object on this frame, if so."""
        return next((entry for entry in self.shown if entry.object_id == object_id), None)

    def with_selections(self, policy: TrackingPolicy) -> "FrameInFlight":
        """The frame with what each tracked object reads."""
        selections = {i: policy.select(self.memories[i].bank, self.frame.position) for i in self.tracked_ids}
        return replace(self, selections=selections)

    def next_decode(self, bucket: int) -> Step:
        """The first objects not done that may share a batch, as many as fit."""
        remaining = [object_id for object_id in self.object_ids if object_id not in self.done]
        kinds = [self._kind(object_id) for object_id in remaining]
        chosen = [i for i, kind in zip(remaining, kinds, strict=True) if kind == kinds[0]]
        kind, detail = kinds[0]
        group = (kind, detail, self.reverse)
        return Step(stage=DECODE, group=group, object_ids=tuple(chosen[:bucket]), kind=kind)

    def after_decoding(self, results: Sequence[tuple[int, RowResult]]) -> "FrameInFlight":
        """The frame with some more objects done."""
        return replace(self, done={**self.done, **dict(results)})

    def num_bytes(self) -> int:
        """Bytes that it holds beside the session's own memories."""
        maps = () if self.features is None else (*self.features.high_res, self.features.map_BDhw)
        entries = {id(e): e for result in self.done.values() for e in result.memory.bank}
        known = {id(e) for memory in self.memories.values() for e in memory.bank}
        fresh = sum(entry.num_bytes() for key, entry in entries.items() if key not in known)
        motion = 0 if self.motion is None else self.motion.num_bytes()
        masks = sum(result.mask.mask.nbytes for result in self.done.values())
        return sum(x.numel() * x.element_size() for x in maps) + fresh + motion + masks

    def _kind(self, object_id: int) -> tuple[RowKind, Hashable]:
        entry = self.shown_as(object_id)
        if entry is None:
            assert self.selections is not None, "selections are decided before decoding"
            return TRACK, self.selections[object_id].shape
        return (MASK, None) if entry.mask_yx is not None else (POINTS, len(entry.labels))
