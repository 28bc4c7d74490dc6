"""Prompts, frames and finished masks as plain tensors and numbers, so that a session's state can be saved anywhere."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.ticks import Image, Mask, ObjectMask, PointPrompt, Prompt, TickMasks, Trace

_PLAIN_PROMPT_FIELDS = ("object_id", "query_id", "text", "motion_words", "frame_index", "box")
_PLAIN_MASK_FIELDS = ("object_id", "confidence", "object_score", "predicted_iou", "stability", "class_id")


def prompts_to_state(prompts: Iterable[Prompt]) -> list[dict[str, Any]]:
    """Prompts as dicts of numbers, strings and tensors."""
    return [
        {
            **{name: getattr(prompt, name) for name in _PLAIN_PROMPT_FIELDS},
            "points": [(point.x, point.y, point.positive) for point in prompt.points],
            "mask": None if prompt.mask is None else _mask_to_state(prompt.mask),
        }
        for prompt in prompts
    ]


def prompts_from_state(state: Iterable[Mapping[str, Any]]) -> list[Prompt]:
    """The prompts that gave this state."""
    return [
        Prompt(
            **{name: fields[name] for name in _PLAIN_PROMPT_FIELDS},
            points=tuple(PointPrompt(x=x, y=y, positive=positive) for x, y, positive in fields["points"]),
            mask=None if fields["mask"] is None else _mask_from_state(fields["mask"]),
        )
        for fields in state
    ]


def outputs_to_state(outputs: Iterable[TickMasks]) -> list[dict[str, Any]]:
    """Finished ticks that nobody took yet; masks take one bit per pixel."""
    return [
        {
            "frame_index": tick.frame_index,
            "pts_us": tick.pts_us,
            "height": tick.height,
            "width": tick.width,
            "flags": list(tick.flags),
            "objects": [
                {
                    **{name: getattr(found, name) for name in _PLAIN_MASK_FIELDS},
                    "mask": _mask_to_state(found.mask),
                    "trace": None if found.trace is None else asdict(found.trace),
                }
                for found in tick.objects
            ],
        }
        for tick in outputs
    ]


def outputs_from_state(state: Iterable[Mapping[str, Any]]) -> list[TickMasks]:
    """The finished ticks that gave this state."""
    return [
        TickMasks(
            frame_index=fields["frame_index"],
            pts_us=fields["pts_us"],
            height=fields["height"],
            width=fields["width"],
            flags=tuple(fields["flags"]),
            objects=tuple(
                ObjectMask(
                    **{name: found[name] for name in _PLAIN_MASK_FIELDS},
                    mask=_mask_from_state(found["mask"]),
                    trace=_trace_from_state(found.get("trace")),
                )
                for found in fields["objects"]
            ),
        )
        for fields in state
    ]


def image_to_state(image: NDArray[np.generic]) -> torch.Tensor:
    """A copy of a frame."""
    return torch.from_numpy(np.array(image))


def image_from_state(state: torch.Tensor) -> Image:
    """The frame that gave this tensor."""
    image: Image = state.cpu().numpy().copy()
    return image


def to_cpu(state: Any) -> Any:
    """The same nested dicts, lists and tuples with every tensor copied to the CPU, free of its batch's storage."""
    if isinstance(state, torch.Tensor):
        return state.detach().to("cpu", copy=True)
    if isinstance(state, Mapping):
        return {key: to_cpu(value) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(to_cpu(value) for value in state)
    return state


def _trace_from_state(state: Mapping[str, Any] | None) -> Trace | None:
    return None if state is None else Trace(**{**state, "memory_frames": tuple(state["memory_frames"])})


def _mask_to_state(mask: Mask) -> dict[str, Any]:
    return {"shape": list(mask.shape), "bits": torch.from_numpy(np.packbits(mask))}


def _mask_from_state(state: Mapping[str, Any]) -> Mask:
    height, width = state["shape"]
    bits = np.unpackbits(state["bits"].numpy(), count=height * width)
    return bits.reshape(height, width).astype(np.bool_)
