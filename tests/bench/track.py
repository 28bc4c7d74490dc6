"""`make bench-track`: MoSAM, its ablations and other trackers' memory rules on the tracking suites, and the verdicts.

    python -m tests.bench.track --core toy --seeds 0 1 2
    python -m tests.bench.track --core tiny --prompt mask --json track.json

The toy core (tests/toy_core.py) shows what the rules do, not how good they are. All variants of a suite run on the
same clips in one process; the status is 1 if a rule that this core is expected to keep does not hold.
"""

import argparse
import json
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import torch

from pipeline.code_version import code_version
from pipeline.synth.track_plays import TRACK_SUITES
from pipeline.synth.track_suites import PromptKind, sample_track_clip, track_suite_config
from tests.bench.track_rules import Row, judge
from tests.bench.track_runs import TOY, VARIANTS, Measures, mean_measures, measure, run_clip, segmenter_maker

HEADER = f"{'':15} {'J&F':>6} {'last':>6} {'J':>6} {'J 2nd':>6} {'recall':>6} {'switch':>6} {'ms':>7}"


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    torch.set_num_threads(1)
    make = segmenter_maker(options.core, options.device, image_size=options.image_size)
    segmenters = {variant: make(variant) for variant in options.variants}
    print(
        f"machine   {platform.machine()}, {os.cpu_count()} cores, {options.device}, torch {torch.__version__}, 1 thread"
    )
    print(f"commit    {code_version()}")
    print(f"work      core {options.core}, seeds {options.seeds}, {options.frames} frames, {options.prompt} prompts")
    table: dict[str, dict[str, Measures]] = {}
    rows: list[Row] = []
    for suite in options.suites:
        config = track_suite_config(suite, height=options.height, num_frames=options.frames)
        print(f"\n{suite} ({config.height} x {config.width})\n{HEADER}", flush=True)
        runs: dict[str, list[Measures]] = {variant: [] for variant in segmenters}
        for seed in options.seeds:
            clip = sample_track_clip(config, seed)
            for variant, segmenter in segmenters.items():
                runs[variant].append(measure(clip, *run_clip(segmenter, clip, options.prompt)))
        table[suite] = {variant: mean_measures(found) for variant, found in runs.items()}
        print("\n".join(_line(variant, found) for variant, found in table[suite].items()), flush=True)
        rows = judge(table, options.core)
        if options.json:
            # After each suite: a long run that is cut off leaves what it has measured.
            _write(options, table, rows)
    _tell(rows)
    return int(any(row.verdict == "FAIL" and row.claimed for row in rows))


def _options(arguments: Sequence[str] | None) -> Any:
    parser = argparse.ArgumentParser(prog="track", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--core", default=TOY, help='"toy", or a model: its name, a file, a folder (SAM2 or SAMWISE)')
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--suites", nargs="+", choices=TRACK_SUITES, default=list(TRACK_SUITES))
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--prompt", choices=get_args(PromptKind), default="mask")
    parser.add_argument("--height", type=int, default=256)
    parser.add_argument("--frames", type=int, default=64)
    parser.add_argument("--image-size", type=int, default=None, help="side of the model's square; its own by default")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, default=None, help="also write all numbers and verdicts to this file")
    return parser.parse_args(arguments)


def _line(variant: str, found: Measures) -> str:
    recall = "     -" if found.recall is None else f"{found.recall:6.3f}"
    return (
        f"{variant:15} {found.j_and_f:6.3f} {found.j_and_f_last:6.3f} {found.j:6.3f} {found.j_second:6.3f} {recall} "
        f"{found.switches:6.1f} {found.ms:7.1f}"
    )


def _tell(rows: Sequence[Row]) -> None:
    print("\nrules")
    for row in rows:
        note = "" if row.claimed else "   (expected of trained weights only)"
        print(f"{row.verdict:8} {row.suite:14} {row.rule:58} {row.numbers}{note}")
    counts = {verdict: sum(row.verdict == verdict for row in rows) for verdict in ("PASS", "FAIL", "not run")}
    unclaimed = sum(row.verdict == "FAIL" and not row.claimed for row in rows)
    told = ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
    print(f"{told}; {unclaimed} of the FAIL rows are not expected to hold with this core")


def _write(options: Any, table: dict[str, dict[str, Measures]], rows: Sequence[Row]) -> None:
    content = {
        "core": options.core,
        "seeds": options.seeds,
        "frames": options.frames,
        "prompt": options.prompt,
        "commit": code_version(),
        "suites": {suite: {name: m.as_dict() for name, m in found.items()} for suite, found in table.items()},
        "rules": [{name: getattr(row, name) for name in Row.__dataclass_fields__} for row in rows],
    }
    options.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
