"""masklake evaluate tiny --ablations: parts switched off or trained without, each against the model as it is."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.cluster.evaluate_tiny import MeasuredModel, lineage, measure_set, open_model, write_json
from pipeline.errors import WeightsError
from pipeline.evaluate.slices import Measurement
from pipeline.evaluate.tiny_ablations import (
    ABLATION_SLICES,
    VARIANTS,
    Comparison,
    Variant,
    compare,
    comparisons_json,
    comparisons_text,
    read_variants,
)
from pipeline.evaluate.tiny_clips import held_out_seed
from pipeline.evaluate.tiny_slices import sets_of
from pipeline.methods.samwise import SamwiseSegmenter
from pipeline.segmenter import Segmenter

Measured = dict[str, list[Measurement]]
"""Name of a set to what was measured on its clips."""


def run_ablations(
    measured: MeasuredModel,
    variants: Sequence[str],
    *,
    seed: int,
    clips: int,
    json: Path | None,
    names: Sequence[str] = tuple(VARIANTS),
) -> int:
    """Measure the model as it is and every variant that can be had, and print how they compare.

    Args:
        variants: NAME=CHECKPOINT, weights that were trained for a variant.
        names: in `VARIANTS`, the ones to measure.

    Raises:
        ConfigError: a variant that is not known.
        WeightsError: its checkpoint cannot be had.
    """
    checkpoints = read_variants(variants)
    base = measured.segmenter("refer")
    as_is: Measured = {}
    told: dict[str, Any] = {}
    for name in names:
        changed = _changed(measured, base, VARIANTS[name], checkpoints.get(name))
        if isinstance(changed, str):
            print(f"{name}: {VARIANTS[name].told}\n  not measured: {changed}")
            told[name] = {"told": VARIANTS[name].told, "not_measured": changed}
            continue
        found = _compared(name, base, changed, as_is, seed=held_out_seed(seed), clips=clips)
        print(comparisons_text(name, found), flush=True)
        told[name] = {"told": VARIANTS[name].told, "slices": comparisons_json(found)}
    if json is not None:
        write_json(json, {**lineage(measured, seed=seed, clips=clips), "ablations": told})
    return 0


def _changed(
    measured: MeasuredModel, base: Segmenter, variant: Variant, checkpoint: str | None
) -> SamwiseSegmenter | str:
    """The changed method, or why there is none."""
    if checkpoint is not None:
        measured = open_model(checkpoint, settings=measured.settings, device=measured.device)
    elif not variant.is_switch:
        return "needs weights of its own, --variant NAME=CHECKPOINT"
    try:
        changed = measured.segmenter("refer", **variant.settings)
    except WeightsError as error:
        if checkpoint is not None:
            raise
        return f"these weights cannot: {error}"
    assert isinstance(base, SamwiseSegmenter)
    assert isinstance(changed, SamwiseSegmenter), "ablations are of the referring method"
    if checkpoint is None and not variant.window and changed.config == base.config:
        return "the model runs so already"
    return changed


def _compared(
    name: str, base: Segmenter, changed: SamwiseSegmenter, as_is: Measured, *, seed: int, clips: int
) -> list[Comparison]:
    """Every slice of a variant; `as_is` gains the sets that nobody has measured yet."""
    variant = VARIANTS[name]
    rules = {slice_name: ABLATION_SLICES[slice_name] for slice_name in variant.slices}
    wanted = sets_of(rules.values())
    for set_name in wanted:
        if set_name not in as_is:
            as_is[set_name] = measure_set(base, set_name, seed=seed, clips=clips)
    window = changed.config.clip_length if variant.window else None
    after = {s: measure_set(changed, s, seed=seed, clips=clips, window=window) for s in wanted}
    return [
        comparison
        for slice_name, rule in rules.items()
        for comparison in compare(slice_name, _pooled(as_is, rule.sets), _pooled(after, rule.sets), seed=seed)
    ]


def _pooled(found: Mapping[str, Sequence[Measurement]], sets: Sequence[str]) -> list[Measurement]:
    return [item for name in sets for item in found[name]]
