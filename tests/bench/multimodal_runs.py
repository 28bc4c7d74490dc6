"""Held-out streets in all sensors, a segmenter's labels of them with some sensors missing, scores with intervals."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.evaluate.modality_subsets import SubsetRun
from pipeline.evaluate.semantic import VOID, class_ious, confusion_matrix, miou_all, pixel_accuracy
from pipeline.methods.memorysam import MemorySamSegmenter
from pipeline.segmenter import Session
from pipeline.synth.street import sample_street
from pipeline.synth.street_config import street_config
from pipeline.synth.street_world import FAILURES, STREET_CLASSES
from pipeline.ticks import RGB, Image, Tick, TickMasks

MODALITIES = (RGB, "hha", "event", "lidar")
"""In the order of the memory, as in training."""

SEED = 606
"""Of the held-out streets; training draws from the split "train", which shares no stream with "test"."""

SLICES: dict[str, dict[str, Any]] = {
    "night_failure": {
        "weathers": {"night": 1.0},
        "failures": {name: 1.0 for name in FAILURES if name != "none"},
    },
    "clear_day": {"weathers": {"sun": 1.0}, "failures": {"none": 1.0}},
    "mixed": {},
}
"""Changes of the preset "street_modal", which training draws from too: "mixed" is its own weathers and failures."""

NUM_RESAMPLES = 1000
_BOOTSTRAP_SEED = 7

Labels = NDArray[np.uint8]
Counts = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """One frame of a street: images (H, W, 3) by modality, true class ids (H, W)."""

    images: Mapping[str, Image]
    truth: Labels


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """What a run over a slice scores, 0..1; `class_iou` by name."""

    miou: float
    pixel_accuracy: float
    class_iou: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """mIoU of one run less that of another on the same scenes, with a 95 % interval over scenes."""

    points: float
    low: float
    high: float


def draw_scenes(slice_name: str, num_scenes: int, *, seed: int = SEED) -> list[Scene]:
    """The first frames of the slice's first streets of the split "test"."""
    changes = {"name": f"bench_{slice_name}", "num_frames": 1, "modalities": MODALITIES[1:], **SLICES[slice_name]}
    config = street_config("street_modal").derive(**changes)
    frames = (sample_street(config, seed, "test", index).frames[0] for index in range(num_scenes))
    return [Scene(images={RGB: frame.rgb, **frame.modalities}, truth=frame.labels) for frame in frames]


def scene_tick(scene: Scene, run: SubsetRun) -> Tick:
    """The scene as a run shows it: absent modalities are zeros or not there."""
    images = {
        name: np.zeros_like(scene.images[name]) if name in run.zero_filled else scene.images[name] for name in run.order
    }
    return Tick(frame_index=0, pts_us=0, images=images)


def predict(segmenter: MemorySamSegmenter, ticks: Sequence[Tick], *, is_bf16: bool = False) -> list[Labels]:
    """Label maps of scenes, each in a session of its own, as many in a batch as fit.

    Args:
        is_bf16: under CPU autocast to bfloat16, which the method's own setting leaves to CUDA.
    """
    sessions = [segmenter.open((), tick.images[next(iter(tick.images))].shape[:2]) for tick in ticks]
    for session, tick in zip(sessions, ticks, strict=True):
        session.push(tick)
    autocast = torch.autocast("cpu", dtype=torch.bfloat16) if is_bf16 else nullcontext()
    with autocast:
        for stage, batch in _batches(segmenter, sessions):
            segmenter.run(stage, batch)
    return [_labels(session.take()[0], tick) for session, tick in zip(sessions, ticks, strict=True)]


def confusions(predictions: Sequence[Labels], scenes: Sequence[Scene]) -> Counts:
    """Scene by scene: (N, C, C + 1)."""
    num_classes = len(STREET_CLASSES)
    pairs = zip(predictions, scenes, strict=True)
    return np.stack([confusion_matrix(found, scene.truth, num_classes=num_classes) for found, scene in pairs])


def score(counts_NCC: Counts) -> Score:
    """Of all scenes together, as DELIVER's evaluator adds them up."""
    total = counts_NCC.sum(axis=0)
    return Score(
        miou=_miou(total),
        pixel_accuracy=pixel_accuracy(total) or 0.0,
        class_iou=dict(zip(STREET_CLASSES, class_ious(total).tolist(), strict=True)),
    )


def difference(counts_NCC: Counts, other_NCC: Counts) -> Difference:
    """Of two runs over the same scenes, in points of mIoU; scenes are drawn with replacement, alike for both."""
    generator = np.random.default_rng(_BOOTSTRAP_SEED)
    num_scenes = len(counts_NCC)
    drawn = (generator.integers(num_scenes, size=num_scenes) for _ in range(NUM_RESAMPLES))
    found = [_miou(counts_NCC[rows].sum(axis=0)) - _miou(other_NCC[rows].sum(axis=0)) for rows in drawn]
    low, high = np.percentile(found, [2.5, 97.5])
    points = _miou(counts_NCC.sum(axis=0)) - _miou(other_NCC.sum(axis=0))
    return Difference(points=100 * points, low=100 * float(low), high=100 * float(high))


def agreement(labels: Sequence[Labels], others: Sequence[Labels]) -> float:
    """Share of pixels with the same label."""
    return float(np.mean([np.mean(a == b) for a, b in zip(labels, others, strict=True)]))


def _batches(segmenter: MemorySamSegmenter, sessions: Sequence[Session]) -> Iterator[tuple[str, list[Session]]]:
    """What the engine does with all sessions at once: the first one's work, shared by those that fit."""
    while wanting := [(session, work) for session in sessions if (work := session.next_work()) is not None]:
        first, room, batch = wanting[0][1], 0, []
        for session, work in wanting:
            fits = room + work.size <= segmenter.buckets[first.stage]
            if (work.stage, work.group) == (first.stage, first.group) and fits:
                batch.append(session)
                room += work.size
        yield first.stage, batch


def _labels(masks: TickMasks, tick: Tick) -> Labels:
    labels = np.full(next(iter(tick.images.values())).shape[:2], VOID, np.uint8)
    for region in masks.objects:
        assert region.class_id is not None
        labels[region.mask] = region.class_id
    return labels


def _miou(confusion: Counts) -> float:
    return miou_all(confusion) or 0.0
