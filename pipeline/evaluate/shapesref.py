"""Measures predictions on ShapesRef clips: every metric that applies to an expression, with the slices it is in."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluate.mask_sequences import MaskSequence, RleMasks, score_frames, to_array, visible_frames
from pipeline.evaluate.referring import (
    absent_frames_empty,
    identity_switches,
    mean_after_reappearance,
    mean_before_appearance,
    mean_since_appearance,
    mean_while_visible,
    switch_delay,
    twin_choice,
)
from pipeline.evaluate.slices import Measurement
from pipeline.masks import rle

Masks = NDArray[np.bool_]

METRICS: dict[str, str] = {
    "j": "J, mean over all frames; 1 where nothing is referred to and nothing is predicted",
    "f": "F, likewise",
    "j_and_f": "mean of j and f",
    "j_visible": "J, mean over frames on which the referent is visible",
    "no_target_frames_empty": "expressions without target: share of frames on which nothing is predicted",
    "absent_frames_empty": "others: share of the frames without referent on which nothing is predicted",
    "right_twin": "1 if the masklet overlaps the referent more than its look-alike, else 0; look-alikes only",
    "opposite_twin": "1 if it overlaps the look-alike more, else 0",
    "found": "late referents: 1 if IoU > 0.5 on some frame, else 0",
    "switch_delay_frames": "late referents that are found: frames from first visible to IoU > 0.5",
    "switch_delay_censored": "late referents: the same; where they are never found, frames to the end of the clip",
    "j_before": "late referents: J, mean over the frames before they appear",
    "j_since": "late referents: J, mean over the frames since",
    "j_after_reappearance": "J, mean over the visible frames after the first absence",
    "identity_switches": "single referents: times the masklet goes over from one object to another",
}
"""What `measure_video` tells; a metric that does not apply to an expression is left out of its values."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Case:
    """One expression of a clip: masks bool (T, H, W), of every object by id."""

    prediction: Masks
    truth: Masks
    target_ids: tuple[int, ...]
    objects: Mapping[int, Masks]
    twins: tuple[int, ...]


def measure_video(truth: Mapping[str, Any], predictions: Mapping[str, MaskSequence]) -> tuple[Measurement, ...]:
    """Measure what was predicted for each expression of a clip.

    Args:
        truth: a row of the corpus' truth.jsonl.
        predictions: masks of all frames by expression id.

    Raises:
        ValueError: an expression has no prediction, frames or sizes do not agree, or the row is not such a row.
    """
    try:
        video_id, size = truth["video_id"], (truth["height"], truth["width"])
        objects = {thing["object_id"]: _masks(thing["rles"], *size) for thing in truth["objects"]}
        twins, expressions = tuple(truth["twins"] or ()), truth["expressions"]
    except (KeyError, TypeError) as error:
        raise ValueError(f"truth row with {sorted(truth)}: expected a row of truth.jsonl, lacks {error}.") from error
    missing = sorted({said["id"] for said in expressions} - predictions.keys())
    if missing:
        raise ValueError(f"{video_id}: no prediction for expressions {', '.join(missing)}; give empty masks for none.")
    return tuple(
        Measurement(
            clip_id=video_id,
            slices=_slices(said, twins),
            values=_values(
                _Case(
                    prediction=to_array(predictions[said["id"]]),
                    truth=_masks(said["rles"], *size),
                    target_ids=tuple(said["object_ids"]),
                    objects=objects,
                    twins=twins,
                )
            ),
        )
        for said in expressions
    )


def _masks(rles: Sequence[Mapping[str, Any] | None], height: int, width: int) -> Masks:
    counts = tuple(None if coco is None else rle.from_coco(coco)[0] for coco in rles)
    return to_array(RleMasks(height=height, width=width, counts=counts))


def _slices(said: Mapping[str, Any], twins: tuple[int, ...]) -> frozenset[str]:
    flags = {name for name, is_set in said["flags"].items() if is_set}
    twin = {"twin"} if set(said["object_ids"]) & set(twins) else set()
    return frozenset({said["kind"], *flags, *twin})


def _values(case: _Case) -> dict[str, float]:
    scores = score_frames(case.prediction, case.truth)
    is_visible = visible_frames(case.truth)
    j, f = float(scores.j.mean()), float(scores.f.mean())
    absent = absent_frames_empty(case.prediction, case.truth)
    found: dict[str, float | None] = {
        "j": j,
        "f": f,
        "j_and_f": (j + f) / 2,
        "j_visible": mean_while_visible(scores.j, is_visible),
        "absent_frames_empty" if case.target_ids else "no_target_frames_empty": absent,
        "j_after_reappearance": mean_after_reappearance(scores.j, is_visible),
        **_twin_values(case),
    }
    if len(case.target_ids) == 1:
        found["identity_switches"] = float(identity_switches(case.prediction, case.objects))
    if is_visible.any() and not is_visible[0]:
        found |= _late_values(case)
        found["j_before"] = mean_before_appearance(scores.j, is_visible)
        found["j_since"] = mean_since_appearance(scores.j, is_visible)
    return {name: value for name, value in found.items() if value is not None}


def _twin_values(case: _Case) -> dict[str, float | None]:
    if len(case.target_ids) != 1 or case.target_ids[0] not in case.twins:
        return {}
    (twin_id,) = set(case.twins) - set(case.target_ids)
    if not (case.truth.any() and case.objects[twin_id].any()):
        return {}
    choice = twin_choice(case.prediction, case.truth, case.objects[twin_id])
    return {"right_twin": float(choice == "referent"), "opposite_twin": float(choice == "twin")}


def _late_values(case: _Case) -> dict[str, float | None]:
    delay = switch_delay(case.prediction, case.truth)
    assert delay is not None
    return {
        "found": float(delay.is_found),
        "switch_delay_frames": float(delay.frames) if delay.is_found else None,
        "switch_delay_censored": float(delay.frames),
    }
