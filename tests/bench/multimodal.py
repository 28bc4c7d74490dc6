"""`make bench-multimodal`: MemorySAM on held-out streets, all sensors against RGB alone and every other subset.

    python -m tests.bench.multimodal --write docs/measurements
    python -m tests.bench.multimodal --without-memory A/model --on-rgb B/model --without-prototypes C/model

Both protocols of missing modalities, the same weights with memory unread, weights trained without it, on RGB alone or
without the prototype loss where they are given, bfloat16 against float32, and scenes of a batch against scenes alone.
Weights that are not given are named in the report, each with the command that trains them.
The status is 1 if something the released weights are held to does not hold.
"""

import argparse
import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from pipeline.code_version import code_version
from pipeline.engine.load_model import build_segmenter, load_model
from pipeline.evaluate.modality_subsets import SubsetRun, average_subsets, subset_runs
from pipeline.io.weights import resolve_model
from pipeline.io.weights_pins import hash_file
from pipeline.io.weights_registry import CHECKPOINT
from pipeline.ticks import RGB
from tests.bench.multimodal_report import ON_RGB, UNREAD, WITHOUT_MEMORY, WITHOUT_PROTOTYPES, judge, table_text
from tests.bench.multimodal_runs import (
    MODALITIES,
    SEED,
    SLICES,
    Counts,
    Scene,
    agreement,
    confusions,
    difference,
    draw_scenes,
    predict,
    scene_tick,
    score,
)

SUBSET_SLICES = ("night_failure", "clear_day")
PROTOCOLS = ("skipped", "zero_filled")
REPORT = "multimodal_streets"

RUNS: Mapping[str, SubsetRun] = {run.name: run for run in subset_runs(MODALITIES, "skipped")}
COMPLETE = RUNS["+".join(MODALITIES)]


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    torch.set_num_threads(1)
    scenes = {name: draw_scenes(name, options.scenes, seed=options.seed) for name in SLICES}
    report = {"lineage": _lineage(options), **_measured(options, scenes)}
    report["goals"] = judge(report)
    text = table_text(report)
    print(text)
    if options.write:
        options.write.mkdir(parents=True, exist_ok=True)
        (options.write / f"{REPORT}.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        (options.write / f"{REPORT}.md").write_text(text, encoding="utf-8")
    return int(any(goal["holds"] is False for goal in report["goals"]))


def _options(arguments: Sequence[str] | None) -> Any:
    parser = argparse.ArgumentParser(
        prog="multimodal", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", default="tiny-multimodal", help="its name, a file, a folder")
    parser.add_argument("--without-memory", default=None, help="weights that were trained with memory off")
    parser.add_argument("--on-rgb", default=None, help="weights that were trained on RGB alone, which read it alone")
    parser.add_argument("--without-prototypes", default=None, help="weights that were trained with spmm off")
    parser.add_argument("--seed", type=int, default=SEED, help="of the held-out streets")
    parser.add_argument("--scenes", type=int, default=40, help="of each slice")
    parser.add_argument("--subset-scenes", type=int, default=20, help="of each slice for all subsets, and the checks")
    parser.add_argument("--write", type=Path, default=None, help=f"folder for {REPORT}.json and {REPORT}.md")
    return parser.parse_args(arguments)


def _lineage(options: Any) -> dict[str, Any]:
    resolved = resolve_model(options.model)
    checkpoint = resolved.files.get(CHECKPOINT)
    return {
        "commit": code_version(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, cpu, torch {torch.__version__}, 1 thread",
        "model": resolved.name,
        "weights_sha256": None if checkpoint is None else hash_file(checkpoint),
        "trained": resolved.trained,
        "seed": options.seed,
        "split": "test",
        "scenes": options.scenes,
        "subset_scenes": min(options.scenes, options.subset_scenes),
        "slices": SLICES,
    }


def _segmenter(model: str, **settings: Any) -> Any:
    return build_segmenter("memorysam", settings, load_model(resolve_model(model)), "cpu")


def _measured(options: Any, scenes: Mapping[str, Sequence[Scene]]) -> dict[str, Any]:
    segmenter = _segmenter(options.model)
    fewer = {name: part[: options.subset_scenes] for name, part in scenes.items()}
    own = {name: {run: _counts(segmenter, RUNS[run], scenes[name]) for run in (COMPLETE.name, RGB)} for name in scenes}
    others = {UNREAD: (_segmenter(options.model, use_memory=False), COMPLETE)}
    if options.without_memory:
        others[WITHOUT_MEMORY] = _segmenter(options.without_memory, use_memory=False), COMPLETE
    if options.on_rgb:
        others[ON_RGB] = _segmenter(options.on_rgb), RUNS[RGB]
    if options.without_prototypes:
        others[WITHOUT_PROTOTYPES] = _segmenter(options.without_prototypes), COMPLETE
    variants: dict[str, Any] = {}
    for name, (other, run) in others.items():
        found = {slice_name: _counts(other, run, scenes[slice_name]) for slice_name in scenes}
        variants[name] = {key: _compared(own[key][COMPLETE.name], counts) for key, counts in found.items()}
        print(f"{name}: done", file=sys.stderr, flush=True)
    return {
        "slices": {
            name: {
                **{run: asdict(score(counts)) for run, counts in found.items()},
                "complete_less_rgb": asdict(difference(found[COMPLETE.name], found[RGB])),
            }
            for name, found in own.items()
        },
        "variants": variants,
        "protocols": _protocols(segmenter, fewer),
        "checks": _checks(segmenter, fewer),
    }


def _compared(own_NCC: Counts, other_NCC: Counts) -> dict[str, Any]:
    return {"miou": score(other_NCC).miou, "model_less_this": asdict(difference(own_NCC, other_NCC))}


def _protocols(segmenter: Any, scenes: Mapping[str, Sequence[Scene]]) -> dict[str, Any]:
    """Protocol to slice to the score of each subset and their averages."""
    found: dict[str, Any] = {}
    for protocol in PROTOCOLS:
        runs = subset_runs(MODALITIES, protocol)
        for name in SUBSET_SLICES:
            scores = {run.name: score(_counts(segmenter, run, scenes[name])).miou for run in runs}
            found.setdefault(protocol, {})[name] = {"miou": scores, **asdict(average_subsets(runs, scores))}
            print(f"{protocol}, {name}: done", file=sys.stderr, flush=True)
    return found


def _checks(segmenter: Any, scenes: Mapping[str, Sequence[Scene]]) -> dict[str, float]:
    """Shares of pixels with equal labels over all scenes: bfloat16 and float32, batches and scenes alone."""
    ticks = [scene_tick(scene, COMPLETE) for part in scenes.values() for scene in part]
    labels = predict(segmenter, ticks)
    alone = [predict(segmenter, [tick])[0] for tick in ticks]
    return {
        "bf16_equals_fp32": agreement(predict(segmenter, ticks, is_bf16=True), labels),
        "batch_equals_alone": agreement(alone, labels),
    }


def _counts(segmenter: Any, run: SubsetRun, scenes: Sequence[Scene]) -> Counts:
    return confusions(predict(segmenter, [scene_tick(scene, run) for scene in scenes]), scenes)


if __name__ == "__main__":
    sys.exit(main())
