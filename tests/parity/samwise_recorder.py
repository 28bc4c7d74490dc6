"""Listens to a segmenter at work: what its network was given and gave, frame by frame."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

from torch import Tensor

from pipeline.methods.samwise import SamwiseSegmenter
from pipeline.models.image_encoding import ImageFeatures
from pipeline.models.mask_decoding import MaskOutput
from pipeline.models.samwise_network import FusedClip


@dataclass(slots=True, kw_only=True)
class FrameRecord:
    """One expression on one frame, in the order in which it happened.

    Attributes:
        features, prompt_RSE: what the decode with memory started from.
        pix: image input of each decode: with memory, then without if the memory was questioned.
        outputs: of each decode.
        decision: keep and switch logits, if questioned.
        enlarged: logits at the model's size, as the masks given out.
        remembered, memory: what the memory encoder was given, and gave.
    """

    features: ImageFeatures
    prompt_RSE: Tensor
    pix: list[Tensor] = field(default_factory=list)
    outputs: list[MaskOutput] = field(default_factory=list)
    decision: Tensor | None = None
    enlarged: Tensor | None = None
    remembered: Tensor | None = None
    memory: Tensor | None = None


@dataclass(slots=True, kw_only=True)
class ClipRecord:
    """One clip as one expression sees it.

    Attributes:
        sentence: what the text projection was given.
        adapters: per level (vision, text, vision delta, text delta), text batch first.
        fused: what came out.
    """

    sentence: Tensor | None = None
    adapters: list[tuple[Tensor, Tensor, Tensor, Tensor]] = field(default_factory=list)
    fused: FusedClip | None = None


@dataclass(slots=True, kw_only=True)
class Recording:
    """All that was heard; batches of one row only."""

    clips: list[ClipRecord] = field(default_factory=list)
    frames: list[FrameRecord] = field(default_factory=list)


@contextmanager
def recording(segmenter: SamwiseSegmenter) -> Iterator[Recording]:
    """Listen until the block ends; the segmenter computes as ever."""
    heard, network, core = Recording(), segmenter.network, segmenter.network.core
    hooks = [adapter.register_forward_hook(_adapter_hook(heard), with_kwargs=True) for adapter in network.adapters]
    hooks.append(network.project_text.register_forward_hook(_sentence_hook(heard)))
    if network.cme is not None:
        hooks.append(network.cme.register_forward_hook(_decision_hook(heard)))
    with (
        patch.object(network, "fuse_related", _fuse(heard, network.fuse_related)),
        patch.object(network, "segment", _segment(heard, network.segment)),
        patch.object(core, "decode", _decode(heard, core.decode)),
        patch.object(core, "enlarge", _enlarge(heard, core.enlarge)),
        patch.object(core, "encode_memory", _encode_memory(heard, core.encode_memory)),
    ):
        yield heard
    for hook in hooks:
        hook.remove()


def _adapter_hook(heard: Recording) -> Callable[..., None]:
    def hook(_: Any, inputs: tuple[Tensor, Tensor], __: dict[str, Any], outputs: tuple[Tensor, Tensor]) -> None:
        heard.clips[-1].adapters.append((*inputs, *outputs))

    return hook


def _sentence_hook(heard: Recording) -> Callable[..., None]:
    def hook(_: Any, inputs: tuple[Tensor], __: Tensor) -> None:
        heard.clips[-1].sentence = inputs[0]

    return hook


def _decision_hook(heard: Recording) -> Callable[..., None]:
    def hook(_: Any, __: Any, output: Tensor) -> None:
        heard.frames[-1].decision = output[0]

    return hook


def _fuse(heard: Recording, original: Callable[..., FusedClip]) -> Callable[..., FusedClip]:
    def listen(*args: Any, **kwargs: Any) -> FusedClip:
        heard.clips.append(ClipRecord())
        heard.clips[-1].fused = original(*args, **kwargs)
        return heard.clips[-1].fused

    return listen


def _segment(heard: Recording, original: Callable[..., MaskOutput]) -> Callable[..., MaskOutput]:
    def listen(features: ImageFeatures, selections: Any, prompt_RSE: Tensor, **kwargs: Any) -> MaskOutput:
        is_second = bool(heard.frames) and heard.frames[-1].memory is None
        if not is_second:
            heard.frames.append(FrameRecord(features=features, prompt_RSE=prompt_RSE))
        return original(features, selections, prompt_RSE, **kwargs)

    return listen


def _decode(heard: Recording, original: Callable[..., MaskOutput]) -> Callable[..., MaskOutput]:
    def listen(pix: Tensor, *args: Any, **kwargs: Any) -> MaskOutput:
        output = original(pix, *args, **kwargs)
        heard.frames[-1].pix.append(pix[0])
        heard.frames[-1].outputs.append(output)
        return output

    return listen


def _enlarge(heard: Recording, original: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    def listen(low_res: Tensor) -> Tensor:
        enlarged = original(low_res)
        if heard.frames[-1].enlarged is None:
            heard.frames[-1].enlarged = enlarged[0, 0]
        return enlarged

    return listen


def _encode_memory(heard: Recording, original: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def listen(features: ImageFeatures, mask_logits: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        memory = original(features, mask_logits, *args, **kwargs)
        heard.frames[-1].remembered, heard.frames[-1].memory = mask_logits[0, 0], memory[0]
        return memory

    return listen
