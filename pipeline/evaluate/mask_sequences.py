"""The masks of one object over the scored frames: boolean arrays, or RLE that is decoded a frame at a time."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluate.boundary import check_pair, jaccard, score_frame
from pipeline.masks import rle
from pipeline.ticks import Mask

Scores = NDArray[np.float64]
Flags = NDArray[np.bool_]


class MaskSequence(Protocol):
    """Masks bool (H, W) of T frames in order: bool (T, H, W), a list of masks, or `RleMasks`."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Mask: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RleMasks:
    """Masks as a mask table holds them.

    Attributes:
        counts: COCO RLE counts for each frame; None where the object is absent.
    """

    height: int
    width: int
    counts: tuple[bytes | None, ...]

    def __len__(self) -> int:
        return len(self.counts)

    def __getitem__(self, index: int, /) -> Mask:
        counts = self.counts[index]
        if counts is None:
            return np.zeros((self.height, self.width), dtype=np.bool_)
        return rle.decode(counts, self.height, self.width)


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameScores:
    """J and F of a masklet on T frames: float64 (T,), 0..1."""

    j: Scores
    f: Scores


def score_frames(prediction: MaskSequence, truth: MaskSequence, void: MaskSequence | None = None) -> FrameScores:
    """J and F frame by frame.

    Args:
        prediction, truth: of the same T frames, one size.
        void: pixels that do not count: they are taken out of both, before boundaries are drawn.

    Raises:
        ValueError: lengths or sizes differ.
    """
    num_frames = check_lengths(prediction, truth)
    scores = [score_frame(*_pair(prediction, truth, void, frame)) for frame in range(num_frames)]
    return FrameScores(j=np.array([score.j for score in scores]), f=np.array([score.f for score in scores]))


def jaccards(prediction: MaskSequence, truth: MaskSequence, void: MaskSequence | None = None) -> Scores:
    """J frame by frame, float64 (T,); straight from the runs where both are `RleMasks` and nothing is void.

    Raises:
        ValueError: lengths or sizes differ.
    """
    num_frames = check_lengths(prediction, truth)
    if isinstance(prediction, RleMasks) and isinstance(truth, RleMasks) and void is None:
        return _jaccards_of_runs(prediction, truth)
    return np.array([jaccard(*_pair(prediction, truth, void, frame)) for frame in range(num_frames)])


def masklet_iou(prediction: MaskSequence, truth: MaskSequence) -> float:
    """Overlap in space and time: all shared pixels over all pixels of either, over all frames; 1.0 if both are empty.

    Raises:
        ValueError: lengths or sizes differ.
    """
    shared = union = 0
    for frame in range(check_lengths(prediction, truth)):
        ours, theirs = prediction[frame], truth[frame]
        check_pair(ours, theirs)
        shared += int(np.count_nonzero(ours & theirs))
        union += int(np.count_nonzero(ours | theirs))
    return shared / union if union else 1.0


def visible_frames(masks: MaskSequence) -> Flags:
    """Frames on which there is a pixel: bool (T,)."""
    if isinstance(masks, RleMasks):
        areas = [0 if counts is None else rle.area(counts, masks.height, masks.width) for counts in masks.counts]
        return np.array(areas, dtype=np.int64) > 0
    return np.array([bool(masks[frame].any()) for frame in range(len(masks))], dtype=np.bool_)


def no_masks(height: int, width: int, num_frames: int) -> RleMasks:
    """The masks of an object that was never predicted: empty on every frame."""
    return RleMasks(height=height, width=width, counts=(None,) * num_frames)


def to_array(masks: MaskSequence) -> NDArray[np.bool_]:
    """All masks at once, bool (T, H, W)."""
    return masks if isinstance(masks, np.ndarray) else np.stack([masks[frame] for frame in range(len(masks))])


def check_lengths(prediction: MaskSequence, truth: MaskSequence) -> int:
    """The number of frames of both.

    Raises:
        ValueError: it differs, or is 0.
    """
    if len(prediction) != len(truth) or not len(truth):
        raise ValueError(
            f"prediction of {len(prediction)} frames against truth of {len(truth)}: expected the same annotated "
            "frames, at least one. Take the predicted masks at the frames that are annotated."
        )
    return len(truth)


def _pair(prediction: MaskSequence, truth: MaskSequence, void: MaskSequence | None, frame: int) -> tuple[Mask, Mask]:
    if void is None:
        return prediction[frame], truth[frame]
    ours, theirs, counts = prediction[frame], truth[frame], ~void[frame]
    check_pair(ours, theirs)
    check_pair(counts, theirs)
    return ours & counts, theirs & counts


def _jaccards_of_runs(prediction: RleMasks, truth: RleMasks) -> Scores:
    size = prediction.height, prediction.width
    if size != (truth.height, truth.width):
        raise ValueError(
            f"prediction of {size[0]} x {size[1]} against truth of {truth.height} x {truth.width}: expected one size. "
            "Scale the prediction to the size of the truth first."
        )
    scores = np.zeros(len(truth))
    for frame, (ours, theirs) in enumerate(zip(prediction.counts, truth.counts, strict=True)):
        if ours is not None and theirs is not None:
            scores[frame] = rle.iou(ours, theirs, *size)
        else:
            present = ours if theirs is None else theirs
            scores[frame] = float(present is None or rle.area(present, *size) == 0)
    return scores
