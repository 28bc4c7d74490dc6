"""masklake evaluate tiny: the embedded model, or another, measured on held-out clips through the engine."""

import json as json_format
import logging
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pipeline.cluster.clip_runs import masks_by_object, run_cases
from pipeline.cluster.logs import set_up_logging
from pipeline.code_version import code_version
from pipeline.engine.load_model import build_segmenter, load_model
from pipeline.errors import ConfigError
from pipeline.evaluate.slices import Measurement
from pipeline.evaluate.tiny_clips import SETS, Task, held_out_seed, iter_cases
from pipeline.evaluate.tiny_slices import (
    SliceRule,
    SliceScores,
    chosen_slices,
    explain_slices,
    measure_case,
    score_slices,
    sets_of,
    slices_json,
    slices_text,
)
from pipeline.io.weights import ResolvedModel, resolve_model
from pipeline.io.weights_pins import hash_file
from pipeline.io.weights_registry import CHECKPOINT
from pipeline.segmenter import ModelSpec, Segmenter

logger = logging.getLogger(__name__)

DEFAULT_SEED = 1
DEFAULT_CLIPS = 200

METHODS: dict[Task, str] = {"refer": "samwise", "track": "mosam", "guided": "mosam"}
"""Which method does what; tracking reads the SAM2 part of the same weights."""

_SAM2_MEMORY: Mapping[str, Any] = {"policy": "sam2", "pixel": "off", "trace": False}
TRACKING: dict[Task, Mapping[str, Any]] = {"track": {**_SAM2_MEMORY, "motion": {"mode": "off"}}, "guided": _SAM2_MEMORY}
"""Settings of the tracking method that make it plain SAM2, and SAM2 with motion-guided prompts."""

QUICK: Mapping[str, Any] = {"rows_per_decode": 12}
"""Three sentences of four clips share a batch: a fifth less time than with the default on a CPU, the same masks but
for the last bits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredModel:
    """A model that is measured, with its methods built when first asked for.

    Attributes:
        spec: the weights.
        settings: of the referring method, over its defaults.
    """

    spec: ModelSpec
    resolved: ResolvedModel
    device: str
    settings: Mapping[str, Any]

    def segmenter(self, task: Task, **changes: Any) -> Segmenter:
        """The method for a task, with `changes` over the settings."""
        settings = {**QUICK, **self.settings} if task == "refer" else TRACKING[task]
        return build_segmenter(METHODS[task], {**settings, **changes}, self.spec, self.device)


def evaluate_tiny(
    seed: int = DEFAULT_SEED,
    clips: int = DEFAULT_CLIPS,
    model: str = "tiny",
    json: Path | None = None,
    slices: str = "",
    explain: bool = False,
    ablations: bool = False,
    variant: tuple[str, ...] = (),
    calibrate: Path | None = None,
    set: tuple[str, ...] = (),
    device: str = "auto",
) -> int:
    """Measure the tiny model on held-out clips, through the engine: J, F and what goes wrong, slice by slice.

    Clips come from the split "test" and from seeds that no training uses: the seed given here and 2^31 make theirs.

    Args:
        seed: names the clips; other seeds, other clips.
        clips: of each set that the slices need.
        model: a model's name, path or URI.
        json: write the numbers here as well.
        slices: names of some slices, with commas between; by default all.
        explain: say what each slice measures, and measure nothing.
        ablations: switch parts off, or read other checkpoints, and compare; instead of the slices.
        variant: NAME=CHECKPOINT, weights that were trained for an ablation.
        calibrate: measure how often confidences are right on clips of their own seeds, and write the map that mends
            them here; instead of the slices.
        set: KEY=VALUE, settings of the referring method over its defaults, as clip_length=4.
        device: auto, cpu, cuda or cuda:N.
    """
    if explain:
        print(explain_slices())
        return 0
    set_up_logging(as_json=False, quiet=False)
    try:
        held_out = held_out_seed(seed)
    except ValueError as error:
        raise ConfigError(f"--seed: {error}") from error
    if clips < 1 or (ablations and calibrate is not None):
        raise ConfigError(f"--clips {clips}: expected at least 1, and either --ablations or --calibrate.")
    measured = open_model(model, settings=read_settings(set), device=device)
    if calibrate is not None:
        from pipeline.cluster.calibrate_tiny import calibrate_confidence

        return calibrate_confidence(measured, seed=seed, clips=clips, path=calibrate)
    if ablations:
        from pipeline.cluster.ablate_tiny import run_ablations

        return run_ablations(measured, variant, seed=seed, clips=clips, json=json)
    rules = chosen_slices([name.strip() for name in slices.split(",") if name.strip()])
    scores = measure_slices(measured, rules, seed=held_out, clips=clips)
    print(slices_text(scores))
    if json is not None:
        write_json(json, {**lineage(measured, seed=seed, clips=clips), "slices": slices_json(scores)})
    return 0


def open_model(model: str, *, settings: Mapping[str, Any], device: str) -> MeasuredModel:
    """A model whose files are on this machine, loaded.

    Raises:
        WeightsError: it cannot be found or read.
    """
    resolved = resolve_model(model)
    return MeasuredModel(spec=load_model(resolved), resolved=resolved, device=device, settings=settings)


def measure_slices(
    measured: MeasuredModel, rules: Mapping[str, SliceRule], *, seed: int, clips: int
) -> list[SliceScores]:
    """Draw each set that the slices need, run it through the engine, and score the slices.

    Args:
        seed: as `held_out_seed` gives it.
        clips: of each set.
    """
    segmenters: dict[Task, Segmenter] = {}
    results: dict[str, Sequence[Measurement]] = {}
    for name in sets_of(rules.values()):
        task = SETS[name].task
        if task not in segmenters:
            segmenters[task] = measured.segmenter(task)
        results[name] = measure_set(segmenters[task], name, seed=seed, clips=clips)
    return score_slices(rules, results, seed=seed)


def measure_set(
    segmenter: Segmenter, name: str, *, seed: int, clips: int, window: int | None = None
) -> list[Measurement]:
    """What is measured on the first `clips` clips of a set, in their order."""
    started = time.monotonic()
    cases = iter_cases(SETS[name], seed, clips)
    found = run_cases(
        segmenter, cases, lambda case, masks: measure_case(case, masks_by_object(case, masks)), window=window
    )
    print(f"{name}: {clips} clips in {time.monotonic() - started:.1f} s", file=sys.stderr, flush=True)
    return [item for items in found for item in items]


def read_settings(pairs: Sequence[str]) -> dict[str, Any]:
    """KEY=VALUE pairs, values as YAML reads them.

    Raises:
        ConfigError: not such a pair.
    """
    settings = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not (key and equals):
            raise ConfigError(f"--set {pair!r}: expected KEY=VALUE, as clip_length=4.")
        settings[key] = yaml.safe_load(value)
    return settings


def lineage(measured: MeasuredModel, *, seed: int, clips: int) -> dict[str, Any]:
    """What the numbers of a report are of."""
    resolved = measured.resolved
    checkpoint = resolved.files.get(CHECKPOINT)
    return {
        "seed": seed,
        "clips": clips,
        "model": resolved.name,
        # The checkpoint's own: a calibration beside it changes no mask.
        "weights_sha256": None if checkpoint is None else hash_file(checkpoint),
        "trained": resolved.trained,
        "settings": dict(measured.settings),
        "commit": code_version(),
    }


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a report as indented JSON, its folder made if it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json_format.dumps(content, indent=2) + "\n", encoding="utf-8")
    print(f"numbers  {path}", file=sys.stderr)
