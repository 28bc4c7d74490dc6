"""What goes into a session and what comes out: Prompt, Tick, Trace, ObjectMask, TickMasks."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import PromptError

Image = NDArray[np.uint8]
Values = NDArray[np.float32]
Mask = NDArray[np.bool_]

RGB = "rgb"


@dataclass(frozen=True, slots=True, kw_only=True)
class PointPrompt:
    """One click in pixels of the decoded frame: x to the right, y down; `positive` or background."""

    x: float
    y: float
    positive: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """What one object (or expression) of a video is asked by.

    Attributes:
        object_id: stable within the video, >= 1, never reused.
        query_id: the caller's name of the expression, or None.
        text: the expression, verbatim, or None.
        motion_words: the words of `text` that tell motion, if the caller knows them; None means "not told",
            an empty tuple means "there are none".
        frame_index: source frame that points, box or mask refer to; None for text.
        points: clicks, in pixels of the decoded frame.
        box: (x0, y0, x1, y1) in pixels of the decoded frame, x1 > x0, y1 > y0.
        mask: bool (H, W) at the decoded frame's size.

    Raises:
        PromptError: nothing is asked, or a geometric prompt lacks its frame.
    """

    object_id: int
    query_id: str | None = None
    text: str | None = None
    motion_words: tuple[str, ...] | None = None
    frame_index: int | None = None
    points: tuple[PointPrompt, ...] = ()
    box: tuple[float, float, float, float] | None = None
    mask: Mask | None = None

    def __post_init__(self) -> None:
        if self.object_id < 1:
            raise PromptError(f"object_id {self.object_id}: expected >= 1. Number objects from 1.")
        geometric = bool(self.points) or self.box is not None or self.mask is not None
        if not geometric and self.text is None:
            raise PromptError(f"object {self.object_id}: no text, point, box or mask. Give one of them.")
        if geometric and self.frame_index is None:
            raise PromptError(f"object {self.object_id}: points, box and mask need their frame_index.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """One time step of one video, every modality of it.

    Attributes:
        frame_index: 0-based position in the source, in presentation order (gaps where a stride skips).
        pts_us: presentation time in microseconds.
        images: modality name to uint8 (H, W, 3) RGB; "rgb" for plain video. All of one size. Measured values (depth of
            16 bits, angles, arrays) are float32 (H, W, 3) as they were stored, finite; never those of "rgb". Empty on a
            frame that reading leaves out: no session is given it.
        flags: what reading tells of the frame, for the frames table.
    """

    frame_index: int
    pts_us: int
    images: Mapping[str, Image]
    flags: tuple[str, ...] = ()

    @property
    def rgb(self) -> Image:
        return self.images[RGB]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """Why a mask is what it is.

    Attributes:
        source: "prompted" (the user showed the object on this frame), "tracked" (memory alone), "motion" (the decode
            with the motion prompt won), or "untracked" (the object was not asked for on this frame yet).
        prompt_kind: what the user showed, or what the motion prompt consisted of; None without a prompt.
        memory_frames: source frames whose memory was read.
        kalman_iou: IoU of the mask's box with the box that motion foretold; None where nothing was foretold.
    """

    source: str
    prompt_kind: str | None = None
    memory_frames: tuple[int, ...] = ()
    kalman_iou: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectMask:
    """One object on one frame.

    Attributes:
        object_id: as in the prompt.
        mask: bool (H, W) at the decoded frame's size; all False when the object is not there.
        confidence: 0..1, the estimate that the object is in view and that this mask is good.
        object_score: logit that the object is in view; None when the model has no such head.
        predicted_iou: the decoder's own estimate of the mask's IoU, 0..1.
        stability: IoU between the mask cut one logit above and one logit below the threshold, or None.
        class_id: semantic class, for methods that give one.
        trace: why the mask is what it is, for methods that tell.
    """

    object_id: int
    mask: Mask
    confidence: float
    object_score: float | None = None
    predicted_iou: float | None = None
    stability: float | None = None
    class_id: int | None = None
    trace: Trace | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TickMasks:
    """Every object's mask on one frame; comes out once per tick, in order, possibly later than the tick.

    Attributes:
        frame_index, pts_us: those of the tick.
        height, width: size of the masks in pixels, that of the decoded frame.
        objects: one entry per object asked for, also when it is absent.
        flags: what the method wants told of this frame, e.g. "cme_switch:3" or "memory_reset".
    """

    frame_index: int
    pts_us: int
    height: int
    width: int
    objects: tuple[ObjectMask, ...]
    flags: tuple[str, ...] = field(default=())
