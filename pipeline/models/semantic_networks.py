"""Where class labels of a frame come from: a transformers network, a local callable, or labels that came with the tick.

A SemanticNetwork takes ticks' images and gives label maps at the frame's own size. It remembers nothing between calls.

Axes: B frames, C classes, Q queries, H W pixels of the frame, h w the network's own output grid.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.errors import ConfigError, SessionError, WeightsError
from pipeline.models.vss_votes import VOID
from pipeline.ticks import RGB, Image

LABELS = "labels"
"""Modality, and name of the network, of labels that come with the tick: class ids in the first channel, 255 void."""

NO_SCORE = 1e-30
"""Added to every score, so that a pixel that no query claims has probabilities too."""

Images = Mapping[str, Image]
"""A tick's images by modality."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SemanticMap:
    """What a network says of one frame.

    Attributes:
        labels_HW: int64, 0 .. C - 1, or VOID.
        probabilities_CHW: float32, summing to 1; None where the source gives labels only.
    """

    labels_HW: Tensor
    probabilities_CHW: Tensor | None = None

    def num_bytes(self) -> int:
        """Bytes of the tensors held."""
        return self.labels_HW.nbytes + (0 if self.probabilities_CHW is None else self.probabilities_CHW.nbytes)

    @property
    def confidence_HW(self) -> Tensor:
        """The network's probability of its own label; 1 where it gives labels only."""
        if self.probabilities_CHW is None:
            return torch.ones_like(self.labels_HW, dtype=torch.float32)
        return self.probabilities_CHW.amax(dim=0)


class SemanticNetwork(Protocol):
    """Labels every pixel of single frames.

    Attributes:
        name: for messages.
        class_names: name per class id.
        modality: what it reads of a tick.
    """

    @property
    def name(self) -> str: ...

    @property
    def class_names(self) -> tuple[str, ...]: ...

    @property
    def modality(self) -> str: ...

    def predict(self, frames: Sequence[Images]) -> list[SemanticMap]:
        """One map per frame; all frames are of one size.

        Raises:
            WeightsError: the network gives numbers that are not finite.
            SessionError: a frame's labels, or what a callable gives, cannot be used.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelsOfTheTick:
    """Labels computed elsewhere, in modality LABELS."""

    class_names: tuple[str, ...]
    device: torch.device
    name: str = LABELS
    modality: str = LABELS

    def predict(self, frames: Sequence[Images]) -> list[SemanticMap]:
        found = []
        for frame in frames:
            values = frame[LABELS]
            labels = values[..., 0] if values.ndim == 3 else values
            found.append(SemanticMap(labels_HW=_checked_labels(labels, self.name, self.class_names, self.device)))
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class CallableNetwork:
    """A function of frames, uint8 (H, W, 3) each, to one array per frame.

    Attributes:
        function: gives integer labels (H, W), or probabilities or any scores that rise with them, float (C, H, W);
            its result must depend on the frame alone.
    """

    name: str
    function: Callable[[Sequence[Image]], Sequence[Any]]
    class_names: tuple[str, ...]
    device: torch.device
    modality: str = RGB

    def predict(self, frames: Sequence[Images]) -> list[SemanticMap]:
        images = [frame[RGB] for frame in frames]
        given = list(self.function(images))
        if len(given) != len(images):
            raise SessionError(f"network {self.name!r}: {len(given)} maps for {len(images)} frames; expected as many.")
        return [self._map(np.asarray(one), image.shape[:2]) for one, image in zip(given, images, strict=True)]

    def _map(self, given: Any, size: tuple[int, int]) -> SemanticMap:
        num_classes = len(self.class_names)
        if given.shape == size and np.issubdtype(given.dtype, np.integer):
            return SemanticMap(labels_HW=_checked_labels(given, self.name, self.class_names, self.device))
        if given.shape != (num_classes, *size) or not np.issubdtype(given.dtype, np.floating):
            raise SessionError(
                f"network {self.name!r}: {given.dtype} {given.shape}; expected integer labels {size} or float "
                f"probabilities {(num_classes, *size)}."
            )
        scores_CHW = torch.from_numpy(given).to(self.device).float()
        refuse_not_finite(scores_CHW, self.name)
        if (scores_CHW < 0).any():
            raise SessionError(f"network {self.name!r}: a probability below 0. Give probabilities, not logits.")
        return _map_of(normalised(scores_CHW))


class TransformersNetwork:
    """A network of the transformers library with its own post-processing at the frame's size.

    "pixels": logits per class and pixel. "queries": class logits and a mask per query, combined at the masks' own
    resolution. Departs from the library's processors: those of Mask2Former shrink all masks to 384 x 384 first, which
    blurs exactly the rims that boundary scores measure.

    Args:
        model: eval mode, on the device.
        processor: makes the network's input from pictures.
        family: "pixels" or "queries".
    """

    modality = RGB

    def __init__(self, name: str, model: Any, processor: Any, family: str, device: torch.device) -> None:
        self.name = name
        self.class_names = tuple(str(model.config.id2label[key]) for key in sorted(model.config.id2label))
        self._model, self._processor, self._family, self._device = model, processor, family, device

    def predict(self, frames: Sequence[Images]) -> list[SemanticMap]:
        images = [np.ascontiguousarray(frame[RGB]) for frame in frames]
        size = (images[0].shape[0], images[0].shape[1])
        scores_BCHW = self._pixels(images, size) if self._family == "pixels" else self._queries(images, size)
        return [_map_of(scores_CHW) for scores_CHW in scores_BCHW]

    def _pixels(self, images: Sequence[Image], size: tuple[int, int]) -> Tensor:
        inputs = self._processor(images=list(images), return_tensors="pt")
        logits_BChw = self._model(pixel_values=inputs["pixel_values"].to(self._device)).logits.float()
        refuse_not_finite(logits_BChw, self.name)
        return resized(logits_BChw, size).softmax(dim=1)

    def _queries(self, images: Sequence[Image], size: tuple[int, int]) -> Tensor:
        asked = {"task_inputs": ["semantic"] * len(images)} if self._is("oneformer") else {}
        inputs = self._processor(images=list(images), return_tensors="pt", **asked)
        fed = {key: inputs[key].to(self._device) for key in ("pixel_values", *asked)}
        outputs = self._model(**fed)
        maps_BChw = combine_queries(outputs.class_queries_logits.float(), outputs.masks_queries_logits.float())
        refuse_not_finite(maps_BChw, self.name)
        offsets = inputs.get("patch_offsets") if self._is("eomt") else None
        if offsets is not None and len(offsets):
            maps_BCHW = self._joined_patches(maps_BChw, fed["pixel_values"].shape[-2:], offsets, size, len(images))
        else:
            maps_BCHW = resized(_without_padding(maps_BChw, inputs), size)
        return normalised(maps_BCHW, dim=1)

    def _is(self, model_type: str) -> bool:
        return str(self._model.config.model_type).startswith(model_type)

    def _joined_patches(
        self, maps_PChw: Tensor, patch_size: Sequence[int], offsets: Any, size: tuple[int, int], num_images: int
    ) -> Tensor:
        """EoMT's semantic checkpoints see a picture as overlapping squares along its long side."""
        patches = resized(maps_PChw, (int(patch_size[0]), int(patch_size[1])))
        where = [tuple(int(number) for number in offset) for offset in offsets]
        joined = self._processor.merge_image_patches(patches, where, [size] * num_images, self._processor.size)
        return torch.stack(joined)


def combine_queries(class_BQK: Tensor, masks_BQhw: Tensor) -> Tensor:
    """Scores per class, (B, C, h, w): each query's class probabilities, without its last class "none", times its mask.

    Source: Cheng et al., MaskFormer, arXiv 2107.06278, section 3.4 "Semantic inference".
    """
    return torch.einsum("bqc,bqhw->bchw", class_BQK.softmax(dim=-1)[..., :-1], masks_BQhw.sigmoid())


def resized(maps_BChw: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear, pixel centres aligned: (B, C, H, W)."""
    return F.interpolate(maps_BChw, size=size, mode="bilinear", align_corners=False)


def normalised(scores: Tensor, dim: int = 0) -> Tensor:
    """Scores >= 0 as probabilities over the class axis; equal ones where a pixel has no score at all."""
    raised = scores + NO_SCORE
    return raised / raised.sum(dim=dim, keepdim=True)


def refuse_not_finite(values: Tensor, name: str) -> None:
    """Raises WeightsError if a network's output holds NaN or infinities."""
    bad = int((~torch.isfinite(values)).sum())
    if bad:
        raise WeightsError(
            f"network {name!r}: {bad} of {values.numel()} output values are not finite. Its weights are damaged, or "
            "they overflow at this precision: load the checkpoint in its own library to see, or use another one."
        )


def import_callable(name: str, class_names: Sequence[str] | None, device: torch.device) -> CallableNetwork:
    """The callable that "module:function" names; its classes are `class_names`, or else its own attribute of that name.

    Raises:
        ConfigError: there is no such function, or nobody says which classes it knows.
    """
    module_name, _, attribute = name.partition(":")
    try:
        function = getattr(import_module(module_name), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"network {name!r}: {error}. Name an importable module and a function in it.") from error
    classes = class_names or getattr(function, "class_names", None)
    if not callable(function) or not classes:
        raise ConfigError(
            f"network {name!r}: expected a function, and its classes in the config's class_names or in an attribute "
            "class_names of the function."
        )
    return CallableNetwork(name=name, function=function, class_names=tuple(map(str, classes)), device=device)


def _map_of(probabilities_CHW: Tensor) -> SemanticMap:
    return SemanticMap(labels_HW=probabilities_CHW.argmax(dim=0), probabilities_CHW=probabilities_CHW)


def _checked_labels(given: Any, name: str, class_names: Sequence[str], device: torch.device) -> Tensor:
    labels_HW = torch.from_numpy(np.ascontiguousarray(given)).to(device).long()
    unknown = (labels_HW != VOID) & ((labels_HW < 0) | (labels_HW >= len(class_names)))
    if unknown.any():
        raise SessionError(
            f"network {name!r}: label {int(labels_HW[unknown][0])}, expected 0 to {len(class_names) - 1}, or {VOID} "
            "for void. Give the class list that the labels were made with."
        )
    return labels_HW


def _without_padding(maps_BChw: Tensor, inputs: Any) -> Tensor:
    """The part of the maps that shows the pictures, where the processor padded them right and below."""
    if "pixel_mask" not in inputs:
        return maps_BChw
    shown = inputs["pixel_mask"][0]
    height, width = int(shown.any(dim=1).sum()), int(shown.any(dim=0).sum())
    if (height, width) == tuple(shown.shape):
        return maps_BChw
    return resized(maps_BChw, (int(shown.shape[0]), int(shown.shape[1])))[..., :height, :width]
