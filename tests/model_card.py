"""The numbers of docs/MODEL_CARD.md, made from reports: `python -m tests.model_card --write [report.json ...]`.

Reports are what `masklake evaluate tiny --json`, `--ablations --json` and `--calibrate` write; without any named, those
in docs/measurements whose names begin with "tiny_" are taken.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.evaluate.tiny_slices import SLICES

ROOT = Path(__file__).resolve().parents[1]
CARD = ROOT / "docs" / "MODEL_CARD.md"
MEASUREMENTS = ROOT / "docs" / "measurements"
BEGIN, END = "<!-- numbers: python -m tests.model_card --write -->", "<!-- end of numbers -->"

Report = dict[str, Any]


def with_numbers(card: str, reports: Sequence[Report]) -> str:
    """The card's text with its block of numbers made anew.

    Raises:
        ValueError: the markers are missing, or the reports are of different weights or settings.
    """
    before, begin, rest = card.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"the card lacks {BEGIN} or {END}")
    return f"{before}{BEGIN}\n{numbers(reports)}\n{END}{after}"


def numbers(reports: Sequence[Report]) -> str:
    """Markdown tables of slices by seed, of ablations and of the calibration, and what they were measured on."""
    if not reports:
        return "No report in docs/measurements: nothing was measured on these weights."
    measured = {json.dumps([report[key] for key in ("model", "weights_sha256", "settings")]) for report in reports}
    if len(measured) > 1:
        raise ValueError(f"reports of different models, weights or settings: {'; '.join(sorted(measured))}")
    slices = sorted((report for report in reports if "slices" in report), key=lambda report: int(report["seed"]))
    parts = [_slice_table(slices)] if slices else []
    parts += [_ablation_table(report) for report in reports if "ablations" in report]
    parts += [_calibration(report) for report in reports if "calibration_error" in report]
    return "\n\n".join([*parts, _lineage(reports)])


def read_reports(files: Sequence[Path]) -> list[Report]:
    return [json.loads(file.read_text(encoding="utf-8")) for file in files]


def _slice_table(reports: Sequence[Report]) -> str:
    seeds = [f"seed {report['seed']}" for report in reports]
    lines = [_row(["slice", "", "held to", *seeds, "n"]), _row(["---"] * 3 + ["--:"] * (len(seeds) + 1))]
    for name, rule in SLICES.items():
        goals = {goal.column: str(goal).removeprefix(goal.column) for goal in rule.goals}
        entries = [report["slices"].get(name, {}) for report in reports]
        for place, column in enumerate(rule.columns):
            cells = [_cell(entry.get(column), entry.get(f"{column}_interval")) for entry in entries]
            counts = [str(entry.get(f"{column}_n", entry.get("n", 0))) for entry in entries]
            told = f"`{name}`" if place == 0 else ""
            lines.append(_row([told, column, goals.get(column, "").strip(), *cells, " / ".join(counts)]))
    return "\n".join(lines)


def _ablation_table(report: Report) -> str:
    head = ["ablation", "slice", "", "as is", "changed", "difference", "intervals"]
    lines = [_row(head), _row(["---"] * 3 + ["--:"] * 3 + ["---"])]
    for name, entry in report["ablations"].items():
        if "not_measured" in entry:
            lines.append(_row([f"`{name}`", f"not measured: {entry['not_measured']}", "", "", "", "", ""]))
            continue
        for slice_name, columns in entry["slices"].items():
            for column, found in columns.items():
                cells = [
                    _cell(mean, [low, high])
                    for mean, low, high in (found[key] for key in ("as_is", "changed", "difference"))
                ]
                overlap = "overlap" if found["intervals_overlap"] else "apart"
                lines.append(_row([f"`{name}`", slice_name, column, *cells, overlap]))
    return "\n".join(lines)


def _calibration(report: Report) -> str:
    error, brier = report["calibration_error"], report["brier_score"]
    return (
        f"Confidence, on {report['masks']} masks of {report['clips']} clips: expected calibration error "
        f"{error['before']:.4f} before the calibration and {error['after']:.4f} with it, Brier score "
        f"{brier['before']:.4f} and {brier['after']:.4f}, on the half of the clips that it was not fitted to."
    )


def _lineage(reports: Sequence[Report]) -> str:
    first = reports[0]
    commits = ", ".join(sorted({str(report["commit"]) for report in reports}))
    clips = ", ".join(sorted({str(report["clips"]) for report in reports}, key=int))
    return (
        f"Means with 95 % bootstrap intervals over clips. Model {first['model']}, weights {first['weights_sha256']}, "
        f"settings {json.dumps(first['settings'])}, code {commits}, clips per set: {clips}."
    )


def _cell(mean: float | None, interval: Sequence[float] | None) -> str:
    if mean is None or interval is None:
        return "-"
    return f"{mean:.3f} [{interval[0]:.3f}, {interval[1]:.3f}]"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    named = [Path(argument) for argument in sys.argv[1:] if argument != "--write"]
    made = with_numbers(CARD.read_text(), read_reports(named or sorted(MEASUREMENTS.glob("tiny_*.json"))))
    if "--write" in sys.argv:
        CARD.write_text(made)
    sys.exit(0 if made == CARD.read_text() else "docs/MODEL_CARD.md is out of date: python -m tests.model_card --write")
