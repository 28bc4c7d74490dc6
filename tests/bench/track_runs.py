"""Runs trackers on the tracking suites and measures them: the variants, one run, and what a table row holds."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from pipeline.engine.load_model import chosen_device, load_model
from pipeline.evaluate.mask_sequences import FrameScores, score_frames, visible_frames
from pipeline.evaluate.referring import FOUND_IOU, identity_switches, mean_after_reappearance
from pipeline.io.weights import resolve_model
from pipeline.methods.mosam import MosamConfig, MosamSegmenter, build_segmenter
from pipeline.segmenter import finish, step
from pipeline.synth.track_suites import PromptKind, TrackClip
from pipeline.ticks import RGB, Mask, Tick
from tests.toy_core import ToyCore

TOY = "toy"

_MOTION: dict[str, dict[str, Any]] = {
    "mgp_off": {"mode": "off"},
    "camera_off": {"camera_compensation": False},
    "arbitration_off": {"arbitrate": False},
    "forecast_only": {"flow": "none", "search_share": 0.0, "arbitrate": False},
}
_MEMORY: dict[str, dict[str, Any]] = {
    "full": {},
    "temporal_fifo": {"temporal": "fifo"},
    "pixel_off": {"pixel": "off"},
}
_POLICIES = ("sam2", "samurai", "dam4sam")

ABLATIONS = ("mgp_off", "temporal_fifo", "pixel_off", "camera_off", "arbitration_off")
VARIANTS = ("full", *ABLATIONS, "forecast_only", *_POLICIES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measures:
    """What one variant came to on one suite; means over objects and seeds, in 0..1 where no unit is named.

    Attributes:
        j, j_and_f: over all frames; a frame on which truth and prediction are empty counts as 1.
        j_and_f_last: over the last third.
        j_second: J over the second half, by which "must lose" is judged.
        recall: share of the visible frames after an absence on which IoU exceeds 0.5; None if nothing comes back.
        switches: times a masklet went over to another object, summed over objects, mean over seeds.
        ms: milliseconds per object and frame, drawing and scoring not counted.
    """

    j: float
    j_and_f: float
    j_and_f_last: float
    j_second: float
    recall: float | None
    switches: float
    ms: float

    def as_dict(self) -> dict[str, float | None]:
        return asdict(self)


def variant_config(variant: str, *, base: Mapping[str, Any]) -> MosamConfig:
    """The method's config of a variant; policies of the field run without motion prompts and pixel selection."""
    values: dict[str, Any] = dict(base)
    if variant in _MOTION:
        values["motion"] = _MOTION[variant]
    elif variant in _MEMORY:
        values |= _MEMORY[variant]
    else:
        # SAMURAI arbitrates among SAM2's own candidates by its filter; the others have no motion at all.
        values |= {"policy": variant, "pixel": "off", "motion": {"mode": "off"}}
    return MosamConfig.model_validate(values)


def segmenter_maker(core: str, device: str, *, image_size: int | None) -> Callable[[str], MosamSegmenter]:
    """Segmenters of one set of weights, by variant.

    Args:
        core: "toy"; or a model as the jobs take it: a registered name ("tiny"), a file, a folder.
        device: of a model; the toy runs on the CPU.
    """
    # Batches of one: a clip is run by itself, and a larger batch would be filled up with dummy rows.
    base: dict[str, Any] = {"frames_per_encode": 1, "rows_per_decode": 1}
    if core == TOY:
        toy = ToyCore()
        return lambda variant: MosamSegmenter(variant_config(variant, base=base), toy, torch.device("cpu"))
    spec, where = load_model(resolve_model(core)), chosen_device(device)
    base["image_size"] = image_size
    return lambda variant: build_segmenter(variant_config(variant, base=base), spec, where)


def run_clip(segmenter: MosamSegmenter, clip: TrackClip, kind: PromptKind) -> tuple[dict[int, list[Mask]], float]:
    """Masks of each tracked object on every frame, and the seconds it took."""
    session = segmenter.open(clip.prompts(kind), clip.labels.shape[1:])
    started, out = time.perf_counter(), []
    for index, image in enumerate(clip.frames):
        pts_us = index * 1_000_000 // clip.frames_per_second
        out += step(segmenter, [session], [Tick(frame_index=index, pts_us=pts_us, images={RGB: image})])[0]
    out += finish(segmenter, session)
    seconds = time.perf_counter() - started
    found = [{entry.object_id: entry.mask for entry in masks.objects} for masks in out]
    return {object_id: [frame[object_id] for frame in found] for object_id in clip.tracked_ids}, seconds


def measure(clip: TrackClip, masks: Mapping[int, Sequence[Mask]], seconds: float) -> Measures:
    """One run's numbers."""
    objects = {object_id: clip.object_mask(object_id) for object_id in clip.object_ids}
    scores = {object_id: score_frames(masks[object_id], objects[object_id]) for object_id in masks}
    recalls = [mean_after_reappearance((s.j > FOUND_IOU) * 1.0, visible_frames(objects[i])) for i, s in scores.items()]
    return Measures(
        j=float(np.mean([s.j.mean() for s in scores.values()])),
        j_and_f=_j_and_f(list(scores.values()), slice(None)),
        j_and_f_last=_j_and_f(list(scores.values()), clip.last_third),
        j_second=float(np.mean([s.j[clip.second_half].mean() for s in scores.values()])),
        recall=mean_of([recall for recall in recalls if recall is not None]),
        switches=float(sum(identity_switches(masks[object_id], objects) for object_id in masks)),
        ms=1000 * seconds / (clip.num_frames * len(masks)),
    )


def mean_measures(runs: Sequence[Measures]) -> Measures:
    """The mean over seeds, number by number."""
    names = Measures.__dataclass_fields__
    means = {name: mean_of([v for run in runs if (v := getattr(run, name)) is not None]) for name in names}
    return Measures(**means)  # type: ignore[arg-type]


def mean_of(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _j_and_f(scores: Sequence[FrameScores], frames: slice) -> float:
    return float(np.mean([(s.j[frames].mean() + s.f[frames].mean()) / 2 for s in scores]))
