"""Scores of label maps over a whole set: confusion matrix, mIoU in its public meanings, and all of a protocol's scores.

Axes: T frames, H W pixels, C classes.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluate.semantic_boundary import BoundaryCounts, boundary_counts
from pipeline.evaluate.semantic_consistency import vc_windows
from pipeline.evaluate.semantic_protocols import VC_LENGTHS, VC_OFFICIAL, VC_STRICT, SemanticProtocol, VcRules

Labels = NDArray[np.integer[Any]]
Counts = NDArray[np.int64]
Ious = NDArray[np.float64]

VOID = 255
"""Label of pixels that nobody scores; as a prediction it means that nothing was predicted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SemanticScores:
    """What a set of label maps scores, 0..1; None where nothing could be measured.

    Attributes:
        miou: `miou_present` or `miou_all`, as the protocol says.
        miou_present: mean IoU over the classes that the truth shows.
        miou_all: mean IoU over all classes; one that neither side shows counts 0.
        boundary_miou: mean over the classes of the truth of boundary IoU, each from counts of the whole set.
        boundary_miou_per_image: the same mean for each frame alone, then over frames.
        consistency: vc_official_8, vc_official_16, vc_strict_8, vc_strict_16, see `pipeline.evaluate.
            semantic_consistency`.
        class_iou: IoU per class; None for a class that neither side shows.
        num_frames: frames scored.
    """

    miou: float | None
    miou_present: float | None
    miou_all: float | None
    pixel_accuracy: float | None
    boundary_miou: float | None
    boundary_miou_per_image: float | None
    consistency: Mapping[str, float | None]
    class_iou: tuple[float | None, ...]
    num_frames: int

    def as_dict(self) -> dict[str, float | None]:
        """All numbers by name, for a table's row."""
        names = ("miou", "miou_present", "miou_all", "pixel_accuracy", "boundary_miou", "boundary_miou_per_image")
        return {name: getattr(self, name) for name in names} | dict(self.consistency)


def confusion_matrix(
    prediction: Labels, truth: Labels, *, num_classes: int, ignore_labels: Iterable[int] = (VOID,)
) -> Counts:
    """Pixels by true class (rows) and predicted class (columns), the last column for no prediction: (C, C + 1).

    Args:
        prediction: class ids of any shape; VOID means that nothing was predicted, which is a miss.
        truth: of the same shape; pixels of an ignored label are left out.

    Raises:
        ValueError: the shapes differ, or a label is neither a class nor ignored.
    """
    labels, true_labels = check_labels(prediction, truth, num_classes=num_classes, ignore_labels=ignore_labels)
    kept = true_labels != VOID
    columns = np.where(labels[kept] == VOID, num_classes, labels[kept])
    pairs = true_labels[kept] * (num_classes + 1) + columns
    return np.bincount(pairs, minlength=num_classes * (num_classes + 1)).reshape(num_classes, num_classes + 1)


def class_ious(confusion: Counts) -> Ious:
    """IoU per class (C,), NaN for a class that neither side shows."""
    hits, true, predicted = _marginals(confusion)
    union = true + predicted - hits
    ious: Ious = np.divide(hits, union, out=np.full(len(hits), np.nan), where=union > 0)
    return ious


def miou_present(confusion: Counts) -> float | None:
    """Mean IoU over classes that the truth shows (VSPW's evaluator); None when it shows none."""
    _, true, _ = _marginals(confusion)
    shown = class_ious(confusion)[true > 0]
    return float(shown.mean()) if shown.size else None


def miou_all(confusion: Counts) -> float | None:
    """Mean IoU over all classes, one that neither side shows counting 0 (DELIVER's evaluator)."""
    return float(np.nan_to_num(class_ious(confusion)).mean()) if confusion.sum() else None


def pixel_accuracy(confusion: Counts) -> float | None:
    """Share of scored pixels whose class is right."""
    return float(np.trace(confusion) / confusion.sum()) if confusion.sum() else None


@dataclass(slots=True)
class SemanticScorer:
    """Takes in videos one by one and keeps counts alone.

    Attributes:
        protocol: what is void and whose quirks are kept.
        num_classes: C.
    """

    protocol: SemanticProtocol
    num_classes: int
    _confusion: Counts = field(init=False)
    _boundary: BoundaryCounts = field(init=False)
    _per_image: list[float] = field(default_factory=list)
    _windows: dict[str, list[float]] = field(default_factory=dict)
    _num_frames: int = 0

    def __post_init__(self) -> None:
        self._confusion = np.zeros((self.num_classes, self.num_classes + 1), np.int64)
        self._boundary = BoundaryCounts.empty(self.num_classes)

    def add_video(self, prediction_THW: Sequence[Labels] | Labels, truth_THW: Sequence[Labels] | Labels) -> None:
        """Score one video (or one picture, T = 1).

        Args:
            prediction_THW: class ids; VOID where nothing was predicted.
            truth_THW: class ids and the protocol's ignored labels.

        Raises:
            ValueError: no frames, sizes that differ, or labels out of range.
        """
        labels, true_labels = check_labels(
            np.asarray(prediction_THW),
            np.asarray(truth_THW),
            num_classes=self.num_classes,
            ignore_labels=self.protocol.ignore_labels,
        )
        if labels.ndim != 3 or not len(labels):
            raise ValueError(f"label maps {labels.shape}: expected (frames, height, width) with at least one frame.")
        self._confusion += confusion_matrix(labels, true_labels, num_classes=self.num_classes)
        for frame, true_frame in zip(labels, true_labels, strict=True):
            counts = boundary_counts(frame, true_frame, num_classes=self.num_classes)
            self._boundary += counts
            if (mean := counts.mean_iou()) is not None:
                self._per_image.append(mean)
        self._add_windows(labels, true_labels)
        self._num_frames += len(labels)

    def scores(self) -> SemanticScores:
        """All scores of what was taken in so far."""
        present, every = miou_present(self._confusion), miou_all(self._confusion)
        return SemanticScores(
            miou=present if self.protocol.miou == "present" else every,
            miou_present=present,
            miou_all=every,
            pixel_accuracy=pixel_accuracy(self._confusion),
            boundary_miou=self._boundary.mean_iou(),
            boundary_miou_per_image=_mean(self._per_image),
            consistency={name: _mean(windows) for name, windows in self._pooled().items()},
            class_iou=tuple(None if np.isnan(iou) else float(iou) for iou in class_ious(self._confusion)),
            num_frames=self._num_frames,
        )

    def _add_windows(self, labels_THW: Labels, truth_THW: Labels) -> None:
        for name, rules, length in vc_names():
            found = vc_windows(labels_THW, truth_THW, length=length, rules=rules)
            self._windows.setdefault(name, []).extend(found)

    def _pooled(self) -> dict[str, list[float]]:
        """The windows of each score; some scripts never empty their list between n = 8 and n = 16."""
        windows = {name: list(self._windows.get(name, ())) for name, _, _ in vc_names()}
        if self.protocol.pools_vc_lengths:
            pooled: list[float] = []
            for name, rules, _ in vc_names():
                if rules == VC_OFFICIAL:
                    pooled += windows[name]
                    windows[name] = list(pooled)
        return windows


def vc_names() -> list[tuple[str, VcRules, int]]:
    """(name, rules, length) of every video consistency that is reported."""
    kinds = (("vc_official", VC_OFFICIAL), ("vc_strict", VC_STRICT))
    return [(f"{kind}_{length}", rules, length) for kind, rules in kinds for length in VC_LENGTHS]


def check_labels(
    prediction: Labels, truth: Labels, *, num_classes: int, ignore_labels: Iterable[int] = (VOID,)
) -> tuple[Labels, Labels]:
    """Both maps as int64, with VOID for what is ignored.

    Raises:
        ValueError: the shapes differ, or a label is neither a class nor ignored.
    """
    if prediction.shape != truth.shape:
        raise ValueError(
            f"prediction {prediction.shape} against truth {truth.shape}: expected one size. "
            "Scale the prediction to the size of the truth, with nearest neighbours."
        )
    ignored = {*ignore_labels, VOID}
    maps = []
    for side, labels, allowed in (("prediction", prediction, {VOID}), ("truth", truth, ignored)):
        if not np.issubdtype(labels.dtype, np.integer):
            raise ValueError(f"{side}: {labels.dtype}, expected class ids as integers.")
        wide = labels.astype(np.int64)
        outside = (wide < 0) | (wide >= num_classes)
        unknown = set(np.unique(wide[outside]).tolist()) - allowed
        if unknown:
            raise ValueError(
                f"{side}: labels {sorted(unknown)[:5]}, expected 0 to {num_classes - 1} or one of {sorted(allowed)}. "
                "Name the class list that the maps were written with."
            )
        wide[outside | np.isin(wide, list(allowed))] = VOID
        maps.append(wide)
    return maps[0], maps[1]


def _marginals(confusion: Counts) -> tuple[Counts, Counts, Counts]:
    """Right pixels, true pixels, predicted pixels per class."""
    return np.diagonal(confusion), confusion.sum(axis=1), confusion[:, : len(confusion)].sum(axis=0)


def _mean(values: Sequence[float]) -> float | None:
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else None
