"""Frames whose masks are not complete yet, and the passes that run backward over them from a prompted frame."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.models.mosam_frame import Frame, ObjectMemory, RowResult
from pipeline.models.motion_camera import FrameMotion
from pipeline.models.session_state import image_from_state, image_to_state, outputs_from_state, outputs_to_state
from pipeline.ticks import ObjectMask, TickMasks, Trace

UNTRACKED = "untracked"


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenFrame:
    """A frame that was passed, with the masks found on it so far.

    Attributes:
        frame: its image is needed only while `wanted` is not met.
        masks: by object.
        wanted: objects that a prompt on a later frame will track back to this one.
        flags: see TickMasks.
        logits: by object, where masks will be compared.
    """

    frame: Frame
    masks: Mapping[int, ObjectMask]
    wanted: frozenset[int]
    flags: tuple[str, ...] = ()
    logits: Mapping[int, Tensor] = field(default_factory=dict)

    @property
    def is_complete(self) -> bool:
        return self.wanted <= self.masks.keys()

    def with_results(self, results: Mapping[int, RowResult]) -> "OpenFrame":
        """The frame with further objects found on it."""
        logits = {i: r.logits_hw for i, r in results.items() if r.logits_hw is not None}
        return replace(
            self,
            masks={**self.masks, **{i: r.mask for i, r in results.items()}},
            logits={**self.logits, **logits},
        )

    def close(self, object_ids: Iterable[int], *, non_overlap: bool, has_trace: bool) -> TickMasks:
        """Masks of all objects asked for; those not found on this frame are empty."""
        height, width = self.frame.image_yx3.shape[:2]
        empty = np.zeros((height, width), np.bool_)
        trace = Trace(source=UNTRACKED) if has_trace else None
        masks = {
            i: self.masks.get(i) or ObjectMask(object_id=i, mask=empty, confidence=0.0, trace=trace)
            for i in sorted(object_ids)
        }
        if non_overlap and len(self.logits) > 1:
            masks |= _without_overlaps(masks, self.logits)
        return TickMasks(
            frame_index=self.frame.frame_index,
            pts_us=self.frame.pts_us,
            height=height,
            width=width,
            objects=tuple(masks.values()),
            flags=self.flags,
        )

    def num_bytes(self) -> int:
        """Bytes of image, masks and logits."""
        masks = sum(mask.mask.nbytes for mask in self.masks.values())
        return self.frame.image_yx3.nbytes + masks + sum(x.numel() * x.element_size() for x in self.logits.values())

    def state_dict(self) -> dict[str, Any]:
        """Plain data of tensors, numbers, dicts and lists."""
        (masks,) = outputs_to_state([self.close(self.masks, non_overlap=False, has_trace=False)])
        return {
            "frame": frame_to_state(self.frame),
            "masks": masks,
            "wanted": sorted(self.wanted),
            "logits": dict(self.logits),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "OpenFrame":
        """The frame that gave this state."""
        (tick,) = outputs_from_state([state["masks"]])
        return cls(
            frame=frame_from_state(state["frame"]),
            masks={mask.object_id: mask for mask in tick.objects},
            wanted=frozenset(state["wanted"]),
            flags=tick.flags,
            logits=dict(state["logits"]),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class BackwardPass:
    """Objects tracked from a prompted frame towards the video's start.

    Attributes:
        memories: of its objects, as of the frame passed last.
        last_motion: of that frame.
        todo: frames to go, as (position, objects), nearest first.
    """

    memories: Mapping[int, ObjectMemory]
    last_motion: FrameMotion | None
    todo: tuple[tuple[int, tuple[int, ...]], ...]

    def advanced(self, results: Mapping[int, RowResult], motion: FrameMotion | None) -> "BackwardPass | None":
        """The pass after one more frame; None when it has run its course."""
        if len(self.todo) == 1:
            return None
        memories = {i: results[i].memory if i in results else memory for i, memory in self.memories.items()}
        return replace(self, memories=memories, last_motion=motion, todo=self.todo[1:])

    def state_dict(self) -> dict[str, Any]:
        """Plain data of tensors, numbers, dicts and lists."""
        return {
            "memories": memories_to_state(self.memories),
            "last_motion": None if self.last_motion is None else self.last_motion.state_dict(),
            "todo": [(position, list(object_ids)) for position, object_ids in self.todo],
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any], *, device: torch.device) -> "BackwardPass":
        """The pass that gave this state."""
        return cls(
            memories=memories_from_state(state["memories"], device=device),
            last_motion=motion_from_state(state["last_motion"]),
            todo=tuple((position, tuple(object_ids)) for position, object_ids in state["todo"]),
        )


def frame_to_state(frame: Frame) -> dict[str, Any]:
    """A frame as a dict of numbers and a tensor."""
    return {
        "position": frame.position,
        "frame_index": frame.frame_index,
        "pts_us": frame.pts_us,
        "image": image_to_state(frame.image_yx3),
    }


def frame_from_state(state: Mapping[str, Any]) -> Frame:
    """The frame that gave this state."""
    image = image_from_state(state["image"])
    return Frame(position=state["position"], frame_index=state["frame_index"], pts_us=state["pts_us"], image_yx3=image)


def memories_to_state(memories: Mapping[int, ObjectMemory]) -> list[tuple[int, dict[str, Any]]]:
    """Memories by object, in order."""
    return [(object_id, memory.state_dict()) for object_id, memory in memories.items()]


def memories_from_state(
    state: Iterable[tuple[int, Mapping[str, Any]]], *, device: torch.device
) -> dict[int, ObjectMemory]:
    """The memories that gave this state."""
    return {object_id: ObjectMemory.from_state(fields, device=device) for object_id, fields in state}


def motion_from_state(state: Mapping[str, Any] | None) -> FrameMotion | None:
    """The measured motion that gave this state."""
    return None if state is None else FrameMotion.from_state(state)


def _without_overlaps(masks: Mapping[int, ObjectMask], logits: Mapping[int, Tensor]) -> dict[int, ObjectMask]:
    """Each pixel goes to the object with the largest logit there, the first of several equal ones."""
    object_ids = [object_id for object_id in masks if object_id in logits]
    height, width = masks[object_ids[0]].mask.shape
    logits_O1hw = torch.stack([logits[object_id] for object_id in object_ids]).unsqueeze(1)
    logits_Oyx = F.interpolate(logits_O1hw, size=(height, width), mode="bilinear", align_corners=False)[:, 0]
    owner_yx = logits_Oyx.argmax(dim=0).numpy()
    return {
        object_id: replace(masks[object_id], mask=masks[object_id].mask & (owner_yx == place))
        for place, object_id in enumerate(object_ids)
    }
