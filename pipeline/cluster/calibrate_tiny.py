"""masklake evaluate tiny --calibrate: how often a confidence is right, and the map that makes a probability of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.cluster.clip_runs import run_cases
from pipeline.cluster.evaluate_tiny import MeasuredModel, lineage, write_json
from pipeline.evaluate.boundary import jaccard
from pipeline.evaluate.calibration import ReliabilityTable, fit_isotonic, reliability_table
from pipeline.evaluate.tiny_clips import CALIBRATION_SEEDS, SETS, ClipCase, held_out_seed, iter_cases
from pipeline.models.confidence import FEATURE, IsotonicMap, raw_confidence
from pipeline.segmenter import Segmenter
from pipeline.ticks import TickMasks

CALIBRATION_SETS = ("still_pan", "twins_pan", "streaming24", "late", "plural")
"""Short and long clips, sentences with and without referents, referents that are not there yet."""

RIGHT_IOU = 0.5
"""A mask is right if its object is in view and it overlaps it by more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """One mask of one frame: what was claimed, before any calibration, and whether it was right."""

    confidence: float
    is_right: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """A map fitted to one half of the clips, and what it does to the claims of the other half."""

    map: IsotonicMap
    before: ReliabilityTable
    after: ReliabilityTable
    num_claims: int


def calibrate_confidence(measured: MeasuredModel, *, seed: int, clips: int, path: Path) -> int:
    """Measure claims on held-out clips of the calibration seeds, fit the map, print the errors, write the file.

    Args:
        clips: in all, spread over `CALIBRATION_SETS`; every second one is fitted to.
    """
    claims = claims_of(measured.segmenter("refer"), seed=held_out_seed(seed, base=CALIBRATION_SEEDS), clips=clips)
    found = fit_calibration(claims)
    print(calibration_text(found))
    write_json(path, {**lineage(measured, seed=seed, clips=clips), **calibration_json(found)})
    return 0


def claims_of(segmenter: Segmenter, *, seed: int, clips: int) -> list[list[Claim]]:
    """The claims of every clip, one list a clip, the sets by turns.

    Args:
        seed: as `held_out_seed` gives it for `CALIBRATION_SEEDS`.
    """
    shares = [len(range(place, clips, len(CALIBRATION_SETS))) for place in range(len(CALIBRATION_SETS))]
    by_set = [
        run_cases(segmenter, iter_cases(SETS[name], seed, share), _claims)
        for name, share in zip(CALIBRATION_SETS, shares, strict=True)
        if share
    ]
    return [found[turn] for turn in range(max(shares)) for found in by_set if turn < len(found)]


def fit_calibration(claims: Sequence[Sequence[Claim]]) -> Calibration:
    """Fit to every other clip, measure on those between.

    Raises:
        ValueError: fewer than two clips.
    """
    if len(claims) < 2:
        raise ValueError(f"claims of {len(claims)} clips: expected at least 2, to fit to one and measure on another.")
    fitted, held = ([claim for clip in half for claim in clip] for half in (claims[::2], claims[1::2]))
    mapping = _thinned(fit_isotonic([c.confidence for c in fitted], np.array([c.is_right for c in fitted])))
    claimed, happened = np.array([c.confidence for c in held]), np.array([c.is_right for c in held])
    return Calibration(
        map=mapping,
        before=reliability_table(claimed, happened),
        after=reliability_table(mapping(claimed), happened),
        num_claims=len(fitted) + len(held),
    )


def calibration_text(found: Calibration) -> str:
    """Errors before and after, and the reliability of both."""
    lines = [
        f"{found.num_claims} masks; expected calibration error {found.before.calibration_error:.4f} before, "
        f"{found.after.calibration_error:.4f} after; Brier score {found.before.brier_score:.4f} before, "
        f"{found.after.brier_score:.4f} after (on the half of the clips that the map was not fitted to)",
        f"{'confidence':14}{'before':>24}{'after':>24}",
    ]
    for one, other in zip(found.before.bins, found.after.bins, strict=True):
        cells = "".join(
            f"{'-' if part.frequency is None else f'{part.frequency:.3f} of {part.count}':>24}" for part in (one, other)
        )
        lines.append(f"{one.low:.1f} .. {one.high:.1f}    {cells}")
    return "\n".join(lines)


def calibration_json(found: Calibration) -> dict[str, Any]:
    """The calibration file's content, as `pipeline.models.confidence.read_calibration` reads it."""
    return {
        "feature": FEATURE,
        "outcome": f"the object is in view and IoU > {RIGHT_IOU}",
        "sets": list(CALIBRATION_SETS),
        "masks": found.num_claims,
        "calibration_error": {"before": found.before.calibration_error, "after": found.after.calibration_error},
        "brier_score": {"before": found.before.brier_score, "after": found.after.brier_score},
        "map": found.map.to_json(),
    }


def _claims(case: ClipCase, masks: list[TickMasks]) -> list[Claim]:
    truth = {
        prompt.object_id: case.clip.expression_mask(said)
        for prompt, said in zip(case.prompts, case.clip.expressions, strict=True)
    }
    return [
        Claim(
            confidence=raw_confidence(object_score=thing.object_score, predicted_iou=thing.predicted_iou or 0.0),
            is_right=bool(
                truth[thing.object_id][place].any() and jaccard(thing.mask, truth[thing.object_id][place]) > RIGHT_IOU
            ),
        )
        for place, tick in enumerate(masks)
        for thing in tick.objects
    ]


def _thinned(mapping: IsotonicMap) -> IsotonicMap:
    """The map with six decimals, which is finer than any of its steps is known, and equal knots once."""
    knots = {
        round(score, 6): round(value, 6) for score, value in zip(mapping.scores, mapping.probabilities, strict=True)
    }
    return IsotonicMap(scores=tuple(knots), probabilities=tuple(knots.values()))
