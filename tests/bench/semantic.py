"""`make bench-semantic`: a small network on held-out streets, alone and refined by SAM2's masklets, and the verdicts.

    python -m tests.bench.semantic --json docs/measurements/semantic_streets.json
    python -m tests.bench.semantic --network FOLDER --model tiny-streets --streets 6 --seed 1

Without --network a network is trained first, with fixed seeds, for 500 steps (about 90 s of one core). Thresholds are
chosen on streets of the validation split (--calibrate 0 takes the method's own); all variants then run on the same
held-out streets in one process. The status is 0 whatever the verdicts: they are measured, not promised.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from pipeline.code_version import code_version
from pipeline.engine.load_model import load_model
from pipeline.io.weights import resolve_model
from pipeline.models.mosam_model import load_tracking_core
from pipeline.models.semantic_checkpoints import load_network
from pipeline.segmenter import ModelSpec
from pipeline.synth.street import Street, iter_streets
from pipeline.synth.street_config import street_config
from pipeline.training.semantic_network import NetworkSettings, train_network
from pipeline.training.workers import Workers
from tests.bench.semantic_calibration import Calibration, calibrated
from tests.bench.semantic_report import judge, report_markdown, table_markdown
from tests.bench.semantic_runs import (
    COLUMNS,
    VARIANTS,
    Measured,
    batching,
    network_maps,
    refined_maps,
    scored,
)

HELD_OUT_SEED = 2**31
"""Added to --seed: no training draws from it."""


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        network = options.network or _trained_network(Path(folder))
        return _run(options, str(network), sys.argv[1:] if arguments is None else arguments)


def _run(options: Any, network: str, arguments: Sequence[str]) -> int:
    resolved = resolve_model(options.model, trust_unpinned=True)
    spec = load_model(resolved)
    config = street_config("street_eval").derive(num_frames=options.frames)
    streets = list(iter_streets(config, HELD_OUT_SEED + options.seed, "heldout", range(options.streets)))
    facts = {
        "command": " ".join(["python -m tests.bench.semantic", *_without_places(arguments, options)]),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, 1 thread, CPU seconds",
        "commit": code_version(),
        "sam2": f"{resolved.name}, {'trained' if resolved.trained else 'untrained: random weights'}",
        "streets": f"{options.streets} held out, seed {options.seed}, {options.frames} frames of "
        f"{config.height} x {config.width}",
    }
    for name, fact in facts.items():
        print(f"{name:10} {fact}", flush=True)
    calibration, settings = _settings(options, network, spec)
    size = settings["image_size"] or "its own"
    facts["settings"] = f"image size {size}; {calibration.told() if calibration else 'thresholds of the method'}"
    print(f"settings   {facts['settings']}\n\n{'':26}" + "".join(f"{column:>9}" for column in COLUMNS), flush=True)
    table = _table(network, spec, streets, settings)
    claims = judge(table)
    print()
    for claim, holds, numbers in claims:
        print(f"{'holds' if holds else 'DOES NOT HOLD':14} {claim}: {numbers}")
    cost = batching(network, spec, streets[0], image_size=settings["image_size"])
    facts["batched"] = cost.told()
    print(f"\nbatched    {cost.told()}\n\n{table_markdown(table)}", flush=True)
    if options.json is not None:
        content = {
            **facts,
            "calibration": None if calibration is None else asdict(calibration),
            "table": {name: found.as_dict() for name, found in table.items()},
            "claims": [{"claim": claim, "holds": holds, "numbers": numbers} for claim, holds, numbers in claims],
            "batching": {**asdict(cost), "ratio": cost.ratio},
        }
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        options.json.with_suffix(".md").write_text(report_markdown(facts, table, claims), encoding="utf-8")
    return 0


def _without_places(arguments: Sequence[str], options: Any) -> list[str]:
    """The arguments as another machine would give them: without this one's folders."""
    told = {options.network: "NETWORK", str(options.json): "FILE.json"}
    return [told.get(one, one) for one in arguments]


def _settings(options: Any, network: str, spec: ModelSpec) -> tuple[Calibration | None, dict[str, Any]]:
    """What the options say over the method's defaults; what they leave open is chosen on validation streets."""
    size, calibration = options.image_size[0] if options.image_size else None, None
    proposals: dict[str, float] = {}
    votes: dict[str, float] = {}
    if options.calibrate:
        size, calibration = _calibrated(options, network, spec)
        if (best := calibration.chosen) is not None:
            proposals = {"min_predicted_iou": best.min_predicted_iou, "min_stability": best.min_stability}
            votes = {"min_purity": best.min_purity}
    for name, value in (("min_predicted_iou", options.min_predicted_iou), ("min_stability", options.min_stability)):
        if value is not None:
            proposals[name] = value
    if options.min_purity is not None:
        votes["min_purity"] = options.min_purity
    return calibration, {"image_size": size, "proposals": proposals, "votes": votes}


def _calibrated(options: Any, network: str, spec: ModelSpec) -> tuple[int | None, Calibration]:
    """The size whose best setting has the best boundary mIoU, and how it was chosen."""
    net, found = load_network(network, torch.device("cpu")), []
    for size in options.image_size or [None]:
        core = load_tracking_core(spec, image_size=size).eval()
        calibration = calibrated(net, core, num_frames=options.calibrate, seed=options.seed)
        print(f"{core.config.image_size:7} px {calibration.told()}", flush=True)
        found.append((size, calibration))
    return max(found, key=lambda one: one[1].chosen.boundary_miou if one[1].chosen else -1.0)


def _table(
    network: str, spec: ModelSpec, streets: Sequence[Street], settings: Mapping[str, Any]
) -> dict[str, Measured]:
    table: dict[str, Measured] = {"network alone": scored(streets, *network_maps(network, streets))}
    _tell("network alone", table["network alone"])
    for name, changes in VARIANTS.items():
        votes = {**settings["votes"], **changes["votes"]}
        table[name] = scored(streets, *refined_maps(network, spec, streets, {**settings, **changes, "votes": votes}))
        _tell(name, table[name])
    return table


def _trained_network(folder: Path) -> Path:
    settings = NetworkSettings(output=str(folder), torch_threads=1, device="cpu")
    print(f"training   a network of {settings.network.loop.num_steps} steps", flush=True)
    train_network(settings, Workers())
    return folder / "model"


def _tell(name: str, found: Measured) -> None:
    print(f"{name:26}" + "".join(f"{value:9.3f}" for value in found.columns()), flush=True)


def _options(arguments: Sequence[str] | None) -> Any:
    parser = argparse.ArgumentParser(
        prog="semantic", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--network", default=None, help="a trained network's folder; by default one is trained")
    parser.add_argument("--model", default="tiny-streets", help="SAM2: a name, a file, a folder (SAM2 or SAMWISE)")
    parser.add_argument(
        "--image-size", type=int, nargs="+", help="side of SAM2's square, or several to choose from; by default its own"
    )
    parser.add_argument("--streets", type=int, default=6)
    parser.add_argument("--frames", type=int, default=24)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--calibrate", type=int, default=16, help="validation frames to choose thresholds on; 0 takes the method's own"
    )
    parser.add_argument("--min-predicted-iou", type=float, default=None, help="instead of the chosen one")
    parser.add_argument("--min-stability", type=float, default=None, help="instead of the chosen one")
    parser.add_argument("--min-purity", type=float, default=None, help="instead of the chosen one")
    parser.add_argument("--json", type=Path, default=None, help="also write all numbers here, and the page beside it")
    options = parser.parse_args(arguments)
    if not options.calibrate and len(options.image_size or ()) > 1:
        parser.error("several --image-size are chosen from by --calibrate, which is 0.")
    return options


if __name__ == "__main__":
    sys.exit(main())
