"""What the multimodal bench is held to, and its tables in Markdown."""

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.ticks import RGB
from tests.bench.multimodal_runs import MODALITIES

COMPLETE = "+".join(MODALITIES)
NIGHT, DAY = "night_failure", "clear_day"
UNREAD = "memory unread"
WITHOUT_MEMORY = "trained without memory"
ON_RGB = "trained on rgb alone, reading it alone"
WITHOUT_PROTOTYPES = "trained without prototypes"

TRAINING = "python jobs/train_multimodal.py --data streets --device cpu --num-threads 1 --torch-threads 1"
"""What trained the released weights; the others differ from them by one setting each."""

TRAINED_APART: Mapping[str, tuple[str, str]] = {
    WITHOUT_MEMORY: ("--without-memory", "--memorysam.no-use-memory"),
    ON_RGB: ("--on-rgb", "--memorysam.modalities rgb"),
    WITHOUT_PROTOTYPES: ("--without-prototypes", "--memorysam.spmm off"),
}
"""Variant to the bench's option that takes its weights, and the settings that they are trained with."""

NIGHT_GAIN_POINTS = 5.0
BF16_AGREEMENT = 0.995


def judge(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Goals with what was measured; `holds` is None where the weights to compare with were not given."""
    gains = {name: report["slices"][name]["complete_less_rgb"]["points"] for name in (NIGHT, DAY)}
    checks = report["checks"]
    return [
        _goal(f"all sensors less RGB, {NIGHT}, points", gains[NIGHT], NIGHT_GAIN_POINTS),
        _goal(f"all sensors less RGB, {DAY}, points", gains[DAY], 0.0),
        _goal(f"all sensors less a model of RGB, {NIGHT}, points", _gained(report, ON_RGB, NIGHT), NIGHT_GAIN_POINTS),
        _goal(f"all sensors less a model of RGB, {DAY}, points", _gained(report, ON_RGB, DAY), 0.0),
        _goal("trained with memory less trained without, mixed, points", _gained(report, WITHOUT_MEMORY, "mixed"), 0.0),
        _goal("bfloat16 equals float32, share of pixels", checks["bf16_equals_fp32"], BF16_AGREEMENT),
        _goal("batch equals alone, share of pixels", checks["batch_equals_alone"], 1.0),
    ]


def table_text(report: Mapping[str, Any]) -> str:
    """The whole report as Markdown."""
    lineage = report["lineage"]
    told = (
        f"`{lineage['model']}`, weights sha256 {str(lineage['weights_sha256'])[:12]}, commit {lineage['commit']}; "
        f"{lineage['scenes']} scenes of each slice ({lineage['subset_scenes']} for the subsets and checks), split "
        f"`{lineage['split']}`, seed {lineage['seed']}; "
        f"{lineage['machine']}. mIoU in percent over all ten classes; differences in points with 95 % intervals."
    )
    parts = [
        told,
        _slices(report),
        _variants(report),
        _not_run(report),
        _subsets(report),
        _class_table(report),
        _goals(report),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _slices(report: Mapping[str, Any]) -> str:
    rows = [
        [name, _percent(found[COMPLETE]["miou"]), _percent(found[RGB]["miou"]), _gain(found["complete_less_rgb"])]
        for name, found in report["slices"].items()
    ]
    return _table(["slice", COMPLETE, RGB, "difference"], rows)


def _variants(report: Mapping[str, Any]) -> str:
    rows = [
        [variant, name, _percent(cell["miou"]), _gain(cell["model_less_this"])]
        for variant, found in report["variants"].items()
        for name, cell in found.items()
    ]
    return _table(["variant", "slice", "mIoU", "the model less this"], rows)


def _not_run(report: Mapping[str, Any]) -> str:
    missing = [name for name in TRAINED_APART if name not in report["variants"]]
    if not missing:
        return ""
    lines = [
        f"- {name}: `{settings}`, its weights to `{option} OUT/model`"
        for name, (option, settings) in TRAINED_APART.items()
        if name in missing
    ]
    return f"Not run, for want of weights. Each is trained by `{TRAINING} --output OUT` and\n\n" + "\n".join(lines)


def _subsets(report: Mapping[str, Any]) -> str:
    columns = [(protocol, name) for protocol, found in report["protocols"].items() for name in found]
    cells = [report["protocols"][protocol][name] for protocol, name in columns]
    rows = [[run, *(_percent(cell["miou"][run]) for cell in cells)] for run in cells[0]["miou"]]
    rows.append(["mean of 15", *(_percent(cell["mean"]) for cell in cells)])
    expected = cells[0]["expected"]
    rows += [
        [f"expected, each fails with p = {p}", *(_percent(cell["expected"][p]) for cell in cells)] for p in expected
    ]
    return _table(["sensors present", *(f"{protocol}, {name}" for protocol, name in columns)], rows)


def _class_table(report: Mapping[str, Any]) -> str:
    columns = [(name, run) for name in (NIGHT, DAY) for run in (COMPLETE, RGB)]
    cells = [report["slices"][name][run]["class_iou"] for name, run in columns]
    rows = [[label, *(_percent(cell[label]) for cell in cells)] for label in cells[0]]
    return _table(["class", *(f"{name}, {'all' if run == COMPLETE else run}" for name, run in columns)], rows)


def _goals(report: Mapping[str, Any]) -> str:
    verdicts = {True: "holds", False: "MISSED", None: "not run"}
    rows = []
    for goal in report["goals"]:
        measured = "-" if goal["measured"] is None else f"{goal['measured']:.4f}"
        rows.append([goal["goal"], f">= {goal['at_least']}", measured, verdicts[goal["holds"]]])
    return _table(["goal", "bound", "measured", ""], rows)


def _gained(report: Mapping[str, Any], variant: str, slice_name: str) -> float | None:
    found = report["variants"].get(variant)
    return None if found is None else float(found[slice_name]["model_less_this"]["points"])


def _goal(name: str, measured: float | None, at_least: float) -> dict[str, Any]:
    holds = None if measured is None else measured >= at_least
    return {"goal": name, "measured": measured, "at_least": at_least, "holds": holds}


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _gain(cell: Mapping[str, float]) -> str:
    return f"{cell['points']:+.1f} ({cell['low']:+.1f} .. {cell['high']:+.1f})"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
