"""The slices of `masklake evaluate tiny`: what each one measures on which clips, its intervals, its table and JSON.

`explain_slices` prints the definitions. J and F are means over all frames of an expression (MeViS counts two empty
masks as 1); slices of J hold the expressions that have a referent, since those without have slices of their own.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ConfigError
from pipeline.evaluate.mask_sequences import score_frames
from pipeline.evaluate.shapesref import measure_video
from pipeline.evaluate.slices import Measurement, SliceRow, slice_table
from pipeline.evaluate.tiny_clips import SETS, ClipCase

Masks = NDArray[np.bool_]
Results = Mapping[str, Sequence[Measurement]]
"""Name of a set to what was measured on its clips."""

LAST_FRAMES = 8
"""J_last8 is over so many frames at the end of a tracked clip."""

_QUALITY = {"J": "j", "F": "f", "J&F": "j_and_f"}
_TRACKING = {**_QUALITY, "J_last8": "j_last8", "F_last8": "f_last8"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """What a column is held to: at least `bound`, or at most it."""

    column: str
    bound: float
    is_upper: bool = False

    def is_met(self, mean: float) -> bool:
        return mean <= self.bound if self.is_upper else mean >= self.bound

    def __str__(self) -> str:
        return f"{self.column} {'<=' if self.is_upper else '>='} {self.bound:.2f}"


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceRule:
    """One slice.

    Attributes:
        told: which expressions or objects are in it.
        sets: names in `SETS`; the slice pools them.
        columns: key in the table and the JSON to the metric of `pipeline.evaluate.shapesref.METRICS`, or of
            `measure_tracks`; the first one gives `n`.
        has, lacks: what `measure_video` says of an expression in the slice, and of none in it.
        goals: what the released weights are held to.
    """

    told: str
    sets: tuple[str, ...]
    columns: Mapping[str, str]
    has: frozenset[str] = frozenset()
    lacks: frozenset[str] = frozenset()
    goals: tuple[Goal, ...] = ()

    def holds(self, item: Measurement) -> bool:
        """Whether an item of one of its sets is in the slice."""
        return self.has <= item.slices and not self.lacks & item.slices


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceScores:
    """A slice's rows by column; a column that applied to no item is left out."""

    name: str
    rule: SliceRule
    rows: Mapping[str, SliceRow]


def _rule(
    told: str,
    *sets: str,
    columns: Mapping[str, str] = _QUALITY,
    has: Iterable[str] = (),
    lacks: Iterable[str] = ("none",),
    goals: Mapping[str, float] | None = None,
    ceilings: Mapping[str, float] | None = None,
) -> SliceRule:
    floors = tuple(Goal(column=column, bound=bound) for column, bound in (goals or {}).items())
    return SliceRule(
        told=told,
        sets=sets,
        columns=columns,
        has=frozenset(has),
        lacks=frozenset(lacks),
        goals=floors
        + tuple(Goal(column=column, bound=bound, is_upper=True) for column, bound in (ceilings or {}).items()),
    )


_TWINS = {"right": "right_twin", **_QUALITY}
_EMPTY = {"empty": "no_target_frames_empty"}

SLICES: dict[str, SliceRule] = {
    "attribute": _rule("attribute sentences", "still", "still_pan", has=["attribute"], goals={"J": 0.80}),
    "motion_still": _rule("sentences that need motion", "twins", has=["needs_motion"], goals={"J": 0.83}),
    "motion_pan": _rule("sentences that need motion", "twins_pan", has=["needs_motion"], goals={"J": 0.80}),
    "twin_still": _rule(
        "share of sentences on a twin whose masklet overlaps that twin more than the other",
        "twins",
        columns=_TWINS,
        has=["twin", "needs_motion"],
        goals={"right": 0.98},
    ),
    "twin_pan": _rule(
        "as twin_still", "twins_pan", columns=_TWINS, has=["twin", "needs_motion"], goals={"right": 0.95}
    ),
    "no_target_attribute": _rule(
        "attribute sentences without referent: share of frames left empty",
        "still",
        "still_pan",
        columns=_EMPTY,
        has=["none"],
        lacks=(),
        goals={"empty": 0.85},
    ),
    "no_target_motion": _rule(
        "motion sentences without referent: share of frames left empty",
        "twins",
        "twins_pan",
        columns=_EMPTY,
        has=["none"],
        lacks=(),
        goals={"empty": 0.93},
    ),
    "frozen": _rule(
        "right twin where no motion is shown: more than chance would be a short cut",
        "frozen",
        columns=_TWINS,
        has=["twin"],
        ceilings={"right": 0.5},
    ),
    "reversed": _rule(
        "share whose masklet overlaps the opposite twin more, which then does what is said; J is that of the "
        "forward clip's referent, and should be low",
        "backwards",
        columns={"opposite": "opposite_twin", **_QUALITY},
        has=["twin"],
        goals={"opposite": 0.95},
    ),
    # The bound was set by a figure measured on such clips; the next slice holds what they leave out.
    "streaming24": _rule("all sentences, of straight twins", "twins24", goals={"J": 0.78}),
    "streaming24_all": _rule("all sentences, of every motion and kind", "streaming24"),
    "no_target_streaming24": _rule(
        "sentences without referent: share of frames left empty",
        "twins24",
        "streaming24",
        columns=_EMPTY,
        has=["none"],
        lacks=(),
    ),
    "track_mask": _rule(
        "first-frame masks, frames 1..23; last8 are the last eight",
        "tracks",
        columns=_TRACKING,
        has=["mask"],
        goals={"J": 0.75, "J_last8": 0.65},
    ),
    "track_mask_guided": _rule(
        "as track_mask, with motion-guided prompts beside SAM2's own memories",
        "guided",
        columns=_TRACKING,
        has=["mask"],
    ),
    "track_point": _rule("first-frame points, likewise", "tracks", columns=_TRACKING, has=["point"]),
    "track_box": _rule("first-frame boxes, likewise", "tracks", columns=_TRACKING, has=["box"]),
    "late": _rule(
        "all sentences; empty: frames before the referent enters; found: IoU > 0.5 on some frame",
        "late",
        columns={**_QUALITY, "J_since": "j_since", "empty": "absent_frames_empty", "found": "found"},
    ),
    "reappearance": _rule(
        "all sentences; J_after: visible frames after the first absence",
        "reappears",
        columns={**_QUALITY, "J_after": "j_after_reappearance"},
    ),
    "plural": _rule("all sentences", "plural"),
    "relation": _rule("all sentences", "relation"),
    "temporal": _rule("all sentences", "temporal"),
    "held_out_triples": _rule("motion sentences on object 1", "heldout", columns=_TWINS, has=["needs_motion"]),
}
"""All slices by name, in the order of the table."""


def chosen_slices(names: Sequence[str]) -> dict[str, SliceRule]:
    """The named slices, or all of them for no names.

    Raises:
        ConfigError: there is no slice of a name.
    """
    unknown = [name for name in names if name not in SLICES]
    if unknown:
        raise ConfigError(f"slices {', '.join(unknown)}: no such slices; known: {', '.join(SLICES)}.")
    return {name: rule for name, rule in SLICES.items() if not names or name in names}


def sets_of(rules: Collection[SliceRule]) -> list[str]:
    """The sets that some slices need, each once, in the order of `SETS`."""
    return [name for name in SETS if any(name in rule.sets for rule in rules)]


def measure_sentences(case: ClipCase, masks: Mapping[int, Masks]) -> tuple[Measurement, ...]:
    """What was predicted for each sentence of a "refer" case.

    Args:
        masks: object_id of the prompt to bool (T, H, W).
    """
    return measure_video(case.truth, {str(p.query_id): masks[p.object_id] for p in case.prompts})


def measure_tracks(case: ClipCase, masks: Mapping[int, Masks]) -> tuple[Measurement, ...]:
    """J and F of each prompted object of a "track" case, the prompted frame excluded.

    Metrics are j, f and j_and_f over frames 1 .. T - 1, j_last8 and f_last8 over the last `LAST_FRAMES` of them;
    slices the kind of prompt.
    """
    measured = []
    for prompt in case.prompts:
        kind, _, object_id = str(prompt.query_id).partition(":")
        truth = case.clip.object_mask(int(object_id))
        scores = score_frames(masks[prompt.object_id][1:], truth[1:])
        j, f = float(scores.j.mean()), float(scores.f.mean())
        values = {
            "j": j,
            "f": f,
            "j_and_f": (j + f) / 2,
            "j_last8": float(scores.j[-LAST_FRAMES:].mean()),
            "f_last8": float(scores.f[-LAST_FRAMES:].mean()),
        }
        measured.append(Measurement(clip_id=case.clip.video_id, slices=frozenset({kind}), values=values))
    return tuple(measured)


def measure_case(case: ClipCase, masks: Mapping[int, Masks]) -> tuple[Measurement, ...]:
    """What was predicted for each prompt of a case of either task."""
    tracks = any(prompt.text is None for prompt in case.prompts)
    return measure_tracks(case, masks) if tracks else measure_sentences(case, masks)


def select(rule: SliceRule, items: Iterable[Measurement]) -> list[Measurement]:
    """The items of a slice with its columns as their values; of no slice but `ALL` any more."""
    return [
        Measurement(
            clip_id=item.clip_id,
            slices=frozenset(),
            values={column: item.values[metric] for column, metric in rule.columns.items() if metric in item.values},
        )
        for item in items
        if rule.holds(item)
    ]


def score_slices(rules: Mapping[str, SliceRule], results: Results, *, seed: int) -> list[SliceScores]:
    """Means and bootstrap intervals of some slices, clips drawn with replacement.

    Args:
        seed: of the bootstrap.
    """
    return [SliceScores(name=name, rule=rule, rows=_rows(rule, results, seed)) for name, rule in rules.items()]


def slices_json(scores: Iterable[SliceScores]) -> dict[str, dict[str, Any]]:
    """Slice to {column: mean, "column_interval": [low, high], "n": items, "clips": clips}.

    A column that applied to nothing is null, and has no interval; one that applied to fewer items than the first has
    its own "column_n".
    """
    found = {}
    for score in scores:
        rows, (first, *_) = score.rows, score.rule.columns
        num_items = rows[first].num_items if first in rows else 0
        entry: dict[str, Any] = {}
        for column in score.rule.columns:
            entry[column] = rows[column].mean if column in rows else None
            if column in rows:
                entry[f"{column}_interval"] = [rows[column].low, rows[column].high]
            if column in rows and rows[column].num_items != num_items:
                entry[f"{column}_n"] = rows[column].num_items
        found[score.name] = {**entry, "n": num_items, "clips": rows[first].num_clips if first in rows else 0}
    return found


def slices_text(scores: Iterable[SliceScores]) -> str:
    """The table that is printed: a line per slice and column."""
    lines = [f"{'slice':22}{'':10}{'mean':>7}  {'95 % interval':16}{'n':>6}{'clips':>7}  held to"]
    for score in scores:
        goals = {goal.column: goal for goal in score.rule.goals}
        for place, column in enumerate(score.rule.columns):
            name = score.name if place == 0 else ""
            row = score.rows.get(column)
            if row is None:
                lines.append(f"{name:22}{column:10}{'-':>7}  {'nothing to measure':16}")
                continue
            goal = goals.get(column)
            verdict = "" if goal is None else f"{goal}  {'met' if goal.is_met(row.mean) else 'MISSED'}"
            interval = f"{row.low:.3f} .. {row.high:.3f}"
            numbers = f"{row.mean:7.3f}  {interval:16}{row.num_items:6}{row.num_clips:7}"
            lines.append(f"{name:22}{column:10}{numbers}  {verdict}".rstrip())
    return "\n".join(lines)


def explain_slices() -> str:
    """What every slice and every set of clips is."""
    lines = ["Slices (clips of 128 px; J over expressions with a referent):"]
    for name, rule in SLICES.items():
        goals = f" Held to {', '.join(map(str, rule.goals))}." if rule.goals else ""
        lines.append(f"  {name:22}{' + '.join(rule.sets)}: {rule.told}.{goals}")
    lines += ["", "Sets of clips:", *(f"  {name:22}{clip_set.told}." for name, clip_set in SETS.items())]
    return "\n".join(lines)


def _rows(rule: SliceRule, results: Results, seed: int) -> dict[str, SliceRow]:
    items = [item for item in select(rule, [item for name in rule.sets for item in results[name]]) if item.values]
    return {row.metric: row for row in slice_table(items, seed=seed).rows} if items else {}
