"""`make bench-semantic`: a small network on held-out streets, alone and refined by SAM2's masklets, and the verdicts.

    python -m tests.bench.semantic --json docs/measurements/semantic_streets.json --table
    python -m tests.bench.semantic --network FOLDER --model tiny --streets 8 --seed 1

Without --network a network is trained first, with fixed seeds, for 500 steps (about 90 s of one core). All variants
run on the same streets in one process. The status is 0 whatever the verdicts: they are measured, not promised.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from pipeline.code_version import code_version
from pipeline.engine.load_model import load_model
from pipeline.io.weights import resolve_model
from pipeline.synth.street import iter_streets
from pipeline.synth.street_config import street_config
from pipeline.training.semantic_network import NetworkSettings, train_network
from pipeline.training.workers import Workers
from tests.bench.semantic_runs import (
    COLUMNS,
    VARIANTS,
    Measured,
    batch_ratio,
    judge,
    markdown,
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
        return _run(options, str(network))


def _run(options: Any, network: str) -> int:
    resolved = resolve_model(options.model, trust_unpinned=True)
    spec = load_model(resolved)
    config = street_config("street_eval").derive(num_frames=options.frames)
    streets = list(iter_streets(config, HELD_OUT_SEED + options.seed, "heldout", range(options.streets)))
    lines = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, 1 thread",
        "commit": code_version(),
        "sam2": f"{resolved.name}, {'trained' if resolved.trained else 'untrained: random weights'}",
        "streets": f"{options.streets} held out, seed {options.seed}, {options.frames} frames of "
        f"{config.height} x {config.width}",
    }
    for name, told in lines.items():
        print(f"{name:9} {told}", flush=True)
    print(f"\n{'':26}" + "".join(f"{column:>9}" for column in COLUMNS), flush=True)
    table: dict[str, Measured] = {"network alone": scored(streets, *network_maps(network, streets))}
    _tell("network alone", table["network alone"])
    for name, changes in VARIANTS.items():
        table[name] = scored(streets, *refined_maps(network, spec, streets, changes))
        _tell(name, table[name])
    verdicts = judge(table)
    print()
    for claim, holds, numbers in verdicts:
        print(f"{'holds' if holds else 'DOES NOT HOLD':14} {claim}: {numbers}")
    ratio = batch_ratio(spec, network, streets[0])
    print(f"\nbatched   {ratio:.2f} times as fast as one masklet at a time (seconds of the track stage, one run)")
    content = {
        **lines,
        "table": {name: found.as_dict() for name, found in table.items()},
        "claims": [{"claim": claim, "holds": holds, "numbers": numbers} for claim, holds, numbers in verdicts],
        "batched_over_one_by_one": ratio,
    }
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    if options.table:
        print("\n" + markdown(table))
    return 0


def _trained_network(folder: Path) -> Path:
    settings = NetworkSettings(output=str(folder), torch_threads=1, device="cpu")
    print(f"training  a network of {settings.network.loop.num_steps} steps", flush=True)
    train_network(settings, Workers())
    return folder / "model"


def _tell(name: str, found: Measured) -> None:
    print(f"{name:26}" + "".join(f"{value:9.3f}" for value in found.columns()), flush=True)


def _options(arguments: Sequence[str] | None) -> Any:
    parser = argparse.ArgumentParser(
        prog="semantic", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--network", default=None, help="a trained network's folder; by default one is trained")
    parser.add_argument("--model", default="tiny", help="SAM2: a name, a file, a folder (SAM2 or SAMWISE)")
    parser.add_argument("--streets", type=int, default=6)
    parser.add_argument("--frames", type=int, default=24)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, default=None, help="also write all numbers to this file")
    parser.add_argument("--table", action="store_true", help="also print the table as Markdown")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
