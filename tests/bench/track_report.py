"""One table out of several runs of the tracking bench, and its Markdown.

    python -m tests.bench.track_report part1.json part2.json --json docs/measurements/track_toy.json

Runs are of one core, one length and one kind of prompt; where several seeds ran a suite's variant, means are weighted
by their number. The rules are judged on the joined table.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tests.bench.track_rules import Row, judge
from tests.bench.track_runs import Measures

SHARED = ("core", "frames", "prompt")
COLUMNS = {"J&F": "j_and_f", "J&F last third": "j_and_f_last", "J": "j", "J 2nd half": "j_second", "recall": "recall"}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="track_report", description=__doc__)
    parser.add_argument("parts", type=Path, nargs="+")
    parser.add_argument("--json", type=Path, required=True, help="the Markdown is written beside it")
    options = parser.parse_args(arguments)
    report = joined([json.loads(part.read_text(encoding="utf-8")) for part in options.parts])
    options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    options.json.with_suffix(".md").write_text(markdown(report), encoding="utf-8")
    return 0


def joined(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The runs as one.

    Raises:
        ValueError: they are of different cores, lengths or prompts, or a seed comes twice for a suite's variant.
    """
    for name in SHARED:
        came = sorted({str(part[name]) for part in parts})
        if len(came) > 1:
            raise ValueError(f"runs of different {name}: {', '.join(came)}. Join runs that differ in seeds and suites.")
    found: dict[str, dict[str, list[tuple[list[int], Measures]]]] = {}
    for part in parts:
        for suite, variants in part["suites"].items():
            for variant, values in variants.items():
                runs = found.setdefault(suite, {}).setdefault(variant, [])
                twice = {seed for seeds, _ in runs for seed in seeds} & set(part["seeds"])
                if twice:
                    raise ValueError(
                        f"{suite}, {variant}: seeds {sorted(twice)} come twice. Leave one of the runs out."
                    )
                runs.append((part["seeds"], Measures(**values)))
    table = {suite: {name: _mean(runs) for name, runs in variants.items()} for suite, variants in found.items()}
    return {
        **{name: parts[0][name] for name in SHARED},
        "commits": sorted({part["commit"] for part in parts}),
        "seeds": {
            suite: {name: sorted(seed for seeds, _ in runs for seed in seeds) for name, runs in variants.items()}
            for suite, variants in found.items()
        },
        "suites": {suite: {name: m.as_dict() for name, m in variants.items()} for suite, variants in table.items()},
        "rules": [_rule(row) for row in judge(table, parts[0]["core"])],
    }


def markdown(report: Mapping[str, Any]) -> str:
    """The table of a report, a line per suite and variant, and every rule that was judged."""
    lines = [
        f"Core `{report['core']}`, {report['frames']} frames, {report['prompt']} prompts, commits "
        f"{', '.join(report['commits'])}.",
        "",
        "| suite | variant | " + " | ".join(COLUMNS) + " | id switches | seeds |",
        "|---|---|" + "--:|" * (len(COLUMNS) + 1) + "---|",
    ]
    for suite, variants in report["suites"].items():
        for variant, values in variants.items():
            numbers = " | ".join(_number(values[name]) for name in COLUMNS.values())
            seeds = ", ".join(map(str, report["seeds"][suite][variant]))
            lines.append(f"| {suite} | {variant} | {numbers} | {values['switches']:.1f} | {seeds} |")
    lines += ["", "| suite | rule | numbers | verdict |", "|---|---|---|---|"]
    for rule in report["rules"]:
        if rule["verdict"] != "not run":
            note = "" if rule["claimed"] else " (expected of trained weights only)"
            lines.append(f"| {rule['suite']} | {rule['rule']} | {rule['numbers']} | {rule['verdict']}{note} |")
    return "\n".join(lines) + "\n"


def _mean(runs: Sequence[tuple[list[int], Measures]]) -> Measures:
    """Number by number, over seeds."""
    means: dict[str, float | None] = {}
    for name in Measures.__dataclass_fields__:
        known = [(getattr(m, name), len(seeds)) for seeds, m in runs if getattr(m, name) is not None]
        means[name] = _average(known) if known else None
    return Measures(**means)  # type: ignore[arg-type]


def _average(known: Sequence[tuple[float, int]]) -> float:
    values, weights = zip(*known, strict=True)
    return float(np.average(values, weights=weights))


def _rule(row: Row) -> dict[str, Any]:
    return {name: getattr(row, name) for name in Row.__dataclass_fields__}


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


if __name__ == "__main__":
    sys.exit(main())
