"""Scores videos under a named protocol: masks to items, items to one number."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipeline.evaluate.boundary import check_pair
from pipeline.evaluate.mask_sequences import (
    Flags,
    FrameScores,
    MaskSequence,
    check_lengths,
    no_masks,
    score_frames,
    visible_frames,
)
from pipeline.evaluate.protocols import ScoringProtocol
from pipeline.masks.matching import best_assignment

_MIN_INNER_FRAMES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoCase:
    """What is true of one video and what was predicted, on its T annotated frames.

    Attributes:
        truths: masks by item; an expression's is the union of its objects, empty masks if it refers to none.
        predictions: masks by item; under a protocol that matches, by any name.
        void: pixels that do not count, for protocols that exclude them.
        texts: expressions by item, for protocols whose key they are.
        group: the set of expressions that the items belong to, where the protocol has several.
    """

    video_id: str
    truths: Mapping[str, MaskSequence]
    predictions: Mapping[str, MaskSequence]
    void: MaskSequence | None = None
    texts: Mapping[str, str] = field(default_factory=dict)
    group: str = ""

    @property
    def frame_size(self) -> tuple[int, int]:
        height, width = next(iter(self.truths.values()))[0].shape
        return height, width

    @property
    def num_frames(self) -> int:
        return len(next(iter(self.truths.values())))


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemScore:
    """Score of one object or expression.

    Attributes:
        j, f: means over the counted frames, 0..1.
        num_frames: counted frames.
        prediction_id: whose masks were scored; None where nothing was predicted.
        has_target: whether the truth has a pixel on a counted frame.
        is_predicted: whether the prediction has a pixel on a counted frame.
    """

    video_id: str
    item_id: str
    text: str
    group: str
    j: float
    f: float
    num_frames: int
    prediction_id: str | None
    has_target: bool
    is_predicted: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class MeanScore:
    """J, F and J&F of several items, 0..1; `name` is the video's or the group's."""

    name: str
    j: float
    f: float
    j_and_f: float
    num_items: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ProtocolScore:
    """What a protocol says of a whole set.

    Attributes:
        num_missing: items for which nothing was predicted.
        n_acc: share of items without target whose prediction is empty on all frames; None if there are none.
        t_acc: share of items with a target whose prediction is not. Items without prediction count as wrong in both.
            Source: Liu et al., "GRES", CVPR 2023, section 3, with a video in the place of an image.
        groups, videos: the same means over parts, in order of appearance.
    """

    protocol: str
    j: float
    f: float
    j_and_f: float
    num_items: int
    num_missing: int
    n_acc: float | None
    t_acc: float | None
    groups: tuple[MeanScore, ...]
    videos: tuple[MeanScore, ...]


def score_video(protocol: ScoringProtocol, case: VideoCase) -> tuple[ItemScore, ...]:
    """Score each item of one video, in the order of `case.truths`.

    Raises:
        ValueError: frames or sizes do not agree, or predictions are missing or too many where the protocol forbids it.
    """
    _check(protocol, case)
    if protocol.matching == "best":
        return _score_best(protocol, case)
    scores = []
    for item_id, truth in case.truths.items():
        prediction = case.predictions.get(item_id)
        if prediction is None and protocol.missing == "zero":
            scores.append(_zero_score(protocol, case, item_id))
            continue
        masks = no_masks(*case.frame_size, case.num_frames) if prediction is None else prediction
        frames = score_frames(masks, truth, case.void if protocol.excludes_void else None)
        found = _item_score(protocol, case, item_id, frames, masks, None if prediction is None else item_id)
        scores += [] if found is None else [found]
    return tuple(scores)


def summarise(protocol: ScoringProtocol, scores: Iterable[ItemScore]) -> ProtocolScore:
    """The means that the protocol reports.

    Args:
        scores: of all videos (and groups), as `score_video` gave them; the order matters only where texts are keys.

    Raises:
        ValueError: there is nothing to average, or not as many groups as the protocol has.
    """
    items = _keyed(protocol, scores)
    groups = _means(items, [score.group for score in items])
    if len(groups) != protocol.num_groups:
        raise ValueError(
            f"{protocol.name}: scores of {len(groups)} groups ({', '.join(mean.name for mean in groups) or 'none'}), "
            f"expected {protocol.num_groups}. Score every set of expressions, each with a group name of its own."
        )
    j, f = (float(np.mean([getattr(mean, name) for mean in groups])) for name in ("j", "f"))
    return ProtocolScore(
        protocol=protocol.name,
        j=j,
        f=f,
        j_and_f=(j + f) / 2,
        num_items=len(items),
        num_missing=sum(score.prediction_id is None for score in items),
        n_acc=_share([_is_right(score) for score in items if not score.has_target]),
        t_acc=_share([_is_right(score) for score in items if score.has_target]),
        groups=groups,
        videos=_means(items, [score.video_id for score in items]),
    )


def counted_frames(protocol: ScoringProtocol, truth: MaskSequence, prediction: MaskSequence) -> Flags:
    """Which of the T annotated frames the protocol counts for an item, bool (T,).

    Raises:
        ValueError: lengths differ, or the protocol would leave no frame of any item.
    """
    num_frames = check_lengths(prediction, truth)
    is_counted = np.ones(num_frames, dtype=np.bool_)
    if protocol.frames == "inner":
        if num_frames < _MIN_INNER_FRAMES:
            raise ValueError(
                f"{protocol.name} leaves out the first and the last of {num_frames} annotated frames, and no frame "
                f"remains. Leave out videos with fewer than {_MIN_INNER_FRAMES}."
            )
        is_counted[[0, -1]] = False
    if protocol.counting == "once_seen":
        in_truth = visible_frames(truth) & is_counted
        is_seen = in_truth | (visible_frames(prediction) & is_counted)
        is_counted &= np.logical_or.accumulate(is_seen) & in_truth.any()
    return is_counted


def _check(protocol: ScoringProtocol, case: VideoCase) -> None:
    if not case.truths:
        raise ValueError(f"{case.video_id}: no truth to score against; leave the video out.")
    size, num_frames = np.zeros(case.frame_size, dtype=np.bool_), case.num_frames
    void = {} if case.void is None else {"void": case.void}
    for name, masks in [*case.truths.items(), *case.predictions.items(), *void.items()]:
        if len(masks) != num_frames:
            raise ValueError(
                f"{case.video_id}, {name}: {len(masks)} frames, expected the {num_frames} annotated ones. "
                "Take the masks at the frames that are annotated."
            )
        try:
            check_pair(masks[0], size)
        except ValueError as error:
            raise ValueError(f"{case.video_id}, {name}: {error}") from error
    _check_names(protocol, case)


def _check_names(protocol: ScoringProtocol, case: VideoCase) -> None:
    where = f"{case.video_id}: {protocol.name}"
    if protocol.max_predictions is not None and len(case.predictions) > protocol.max_predictions:
        raise ValueError(
            f"{where} takes at most {protocol.max_predictions} predictions, got {len(case.predictions)}. "
            "Keep the most confident ones."
        )
    missing, extra = case.truths.keys() - case.predictions.keys(), case.predictions.keys() - case.truths.keys()
    if protocol.matching == "by_id" and protocol.missing == "error" and missing:
        raise ValueError(f"{where} wants a prediction for every item; none for {', '.join(sorted(missing))}.")
    if protocol.matching == "by_id" and protocol.extra == "error" and extra:
        raise ValueError(f"{where} has no item {', '.join(sorted(extra))}; predictions are named as the truths are.")
    if protocol.key == "text" and case.truths.keys() - case.texts.keys():
        raise ValueError(f"{where} keys results by the expression's text; give `texts` for every item.")


def _score_best(protocol: ScoringProtocol, case: VideoCase) -> tuple[ItemScore, ...]:
    names: list[str | None] = list(case.predictions)
    masks = list(case.predictions.values())
    while len(names) < len(case.truths):
        names.append(None)
        masks.append(no_masks(*case.frame_size, case.num_frames))
    void = case.void if protocol.excludes_void else None
    pairs = [[score_frames(ours, truth, void) for truth in case.truths.values()] for ours in masks]
    gains = np.array([[(pair.j.mean() + pair.f.mean()) / 2 for pair in row] for row in pairs])
    scores = []
    for truth_index, (item_id, best) in enumerate(zip(case.truths, best_assignment(gains), strict=True)):
        found = _item_score(protocol, case, item_id, pairs[best][truth_index], masks[best], names[best])
        scores += [] if found is None else [found]
    return tuple(scores)


def _item_score(
    protocol: ScoringProtocol,
    case: VideoCase,
    item_id: str,
    frames: FrameScores,
    prediction: MaskSequence,
    prediction_id: str | None,
) -> ItemScore | None:
    """None for an item that the protocol drops."""
    truth = case.truths[item_id]
    is_counted = counted_frames(protocol, truth, prediction)
    if not is_counted.any():
        return None
    return ItemScore(
        video_id=case.video_id,
        item_id=item_id,
        text=case.texts.get(item_id, ""),
        group=case.group,
        j=float(frames.j[is_counted].mean()),
        f=float(frames.f[is_counted].mean()),
        num_frames=int(is_counted.sum()),
        prediction_id=prediction_id,
        has_target=bool(visible_frames(truth)[is_counted].any()),
        is_predicted=bool(visible_frames(prediction)[is_counted].any()),
    )


def _zero_score(protocol: ScoringProtocol, case: VideoCase, item_id: str) -> ItemScore:
    num_frames = case.num_frames
    zeros = FrameScores(j=np.zeros(num_frames), f=np.zeros(num_frames))
    found = _item_score(protocol, case, item_id, zeros, no_masks(*case.frame_size, num_frames), None)
    assert found is not None
    return found


def _keyed(protocol: ScoringProtocol, scores: Iterable[ItemScore]) -> list[ItemScore]:
    """The scores that are left when those of equal keys replace each other."""
    kept: dict[Any, ItemScore] = {}
    for score in scores:
        key = score.text if protocol.key == "text" else (score.group, score.video_id, score.item_id)
        if protocol.key == "item" and key in kept:
            raise ValueError(f"{score.video_id}, item {score.item_id}: scored twice. Give every item once.")
        kept[key] = score
    if not kept:
        raise ValueError(f"{protocol.name}: no scores to average.")
    return list(kept.values())


def _means(items: Sequence[ItemScore], names: Sequence[str]) -> tuple[MeanScore, ...]:
    parts: dict[str, list[ItemScore]] = {}
    for name, score in zip(names, items, strict=True):
        parts.setdefault(name, []).append(score)
    return tuple(_mean(name, part) for name, part in parts.items())


def _mean(name: str, items: Sequence[ItemScore]) -> MeanScore:
    j, f = float(np.mean([score.j for score in items])), float(np.mean([score.f for score in items]))
    return MeanScore(name=name, j=j, f=f, j_and_f=(j + f) / 2, num_items=len(items))


def _is_right(score: ItemScore) -> bool:
    return score.prediction_id is not None and score.is_predicted == score.has_target


def _share(verdicts: Sequence[bool]) -> float | None:
    return sum(verdicts) / len(verdicts) if verdicts else None
