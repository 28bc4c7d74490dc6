"""The ablations of `masklake evaluate tiny --ablations`: what is switched or trained anew, on which clips."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pipeline.errors import ConfigError
from pipeline.evaluate.slices import Measurement, SliceRow, slice_table
from pipeline.evaluate.tiny_slices import SLICES, SliceRule, select


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One change to the model that is measured.

    Attributes:
        told: what is changed.
        slices: names in `ABLATION_SLICES` that are compared.
        settings: of the method, over those of the model as it is; without any, and with `window` False, the change
            takes weights that were trained for it.
        window: the memory is let go after every clip that is fused together.
    """

    told: str
    slices: tuple[str, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    window: bool = False

    @property
    def is_switch(self) -> bool:
        return bool(self.settings) or self.window


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One column of one slice, the model as it is against a variant.

    Attributes:
        as_is, changed: mean and interval of each.
        difference: of paired items, changed minus as it is.
    """

    slice: str
    column: str
    as_is: SliceRow
    changed: SliceRow
    difference: SliceRow

    @property
    def intervals_overlap(self) -> bool:
        return self.as_is.low <= self.changed.high and self.changed.low <= self.as_is.high


ABLATION_SLICES: dict[str, SliceRule] = {
    "tracking_bias": SliceRule(
        told="the referent enters while its look-alike is followed; delay: frames to IoU > 0.5, to the end if never",
        sets=("tracking_bias",),
        columns={"J_since": "j_since", "delay": "switch_delay_censored", "found": "found", "J_before": "j_before"},
    ),
    **{name: SLICES[name] for name in ("attribute", "motion_still", "motion_pan")},
    **{name: replace(SLICES[name], columns={"right": "right_twin"}) for name in ("twin_still", "twin_pan")},
    **{name: SLICES[name] for name in ("streaming24", "late", "reappearance")},
}
"""Slices that ablations compare."""

_GROUNDING = ("attribute", "motion_still", "motion_pan", "twin_still", "twin_pan")

VARIANTS: dict[str, Variant] = {
    "cme_off": Variant(
        told="the conditional memory encoder never asked", slices=("tracking_bias", "late"), settings={"use_cme": False}
    ),
    "memory_off": Variant(told="memory let go after every clip", slices=("streaming24", "reappearance"), window=True),
    "hsa_off": Variant(
        told="frames exchange nothing in the adapters, weights as they are", slices=_GROUNDING, settings={"hsa": False}
    ),
    "contextual_prompt": Variant(
        told="the sentence's prompt token alone", slices=_GROUNDING, settings={"motion_prompt": False}
    ),
    "motion_prompt": Variant(
        told="a second prompt token from the motion words", slices=_GROUNDING, settings={"motion_prompt": True}
    ),
    "trained_without_hsa": Variant(told="trained without exchange between frames", slices=_GROUNDING),
    "trained_without_motion_stem": Variant(told="trained without the motion stem", slices=_GROUNDING),
    "trained_without_word_evidence": Variant(told="trained without word evidence", slices=_GROUNDING),
}
"""Ablations by name; `--variant NAME=CHECKPOINT` gives one its weights."""


def read_variants(pairs: Iterable[str]) -> dict[str, str]:
    """NAME=CHECKPOINT pairs.

    Raises:
        ConfigError: not such a pair, or no such ablation.
    """
    found = {}
    for pair in pairs:
        name, equals, checkpoint = pair.partition("=")
        if name not in VARIANTS or not (equals and checkpoint):
            raise ConfigError(f"--variant {pair!r}: expected NAME=CHECKPOINT with one of {', '.join(VARIANTS)}.")
        found[name] = checkpoint
    return found


def compare(
    slice_name: str, as_is: Sequence[Measurement], changed: Sequence[Measurement], *, seed: int
) -> list[Comparison]:
    """Every column of a slice, from the same items measured twice.

    Args:
        as_is, changed: of the slice's sets, item by item the same expressions.
        seed: of the bootstrap.

    Raises:
        ValueError: they are not of the same clips.
    """
    if [item.clip_id for item in as_is] != [item.clip_id for item in changed]:
        raise ValueError(f"{slice_name}: {len(as_is)} and {len(changed)} items of other clips; measure the same clips.")
    rule = ABLATION_SLICES[slice_name]
    before, after = select(rule, as_is), select(rule, changed)
    gains = [_difference(one, other) for one, other in zip(before, after, strict=True)]
    tables = [_rows(items, seed) for items in (before, after, gains)]
    return [
        Comparison(slice=slice_name, column=column, as_is=rows[0], changed=rows[1], difference=rows[2])
        for column in rule.columns
        if all(column in table for table in tables)
        for rows in [[table[column] for table in tables]]
    ]


def comparisons_text(name: str, comparisons: Sequence[Comparison]) -> str:
    """The lines of one variant."""
    lines = [f"{name}: {VARIANTS[name].told}"]
    for found in comparisons:
        overlap = "overlap" if found.intervals_overlap else "APART"
        lines.append(
            f"  {found.slice:16}{found.column:9}as is {_told(found.as_is)}  changed {_told(found.changed)}  {overlap:8}"
            f"difference {_told(found.difference)}  n {found.as_is.num_items}"
        )
    return "\n".join(lines)


def comparisons_json(comparisons: Iterable[Comparison]) -> dict[str, dict[str, Any]]:
    """Slice to column to means with intervals."""
    found: dict[str, dict[str, Any]] = {}
    for item in comparisons:
        found.setdefault(item.slice, {})[item.column] = {
            "as_is": _triple(item.as_is),
            "changed": _triple(item.changed),
            "difference": _triple(item.difference),
            "intervals_overlap": item.intervals_overlap,
            "n": item.as_is.num_items,
        }
    return found


def _difference(one: Measurement, other: Measurement) -> Measurement:
    shared = one.values.keys() & other.values.keys()
    return Measurement(
        clip_id=one.clip_id, slices=one.slices, values={name: other.values[name] - one.values[name] for name in shared}
    )


def _rows(items: Sequence[Measurement], seed: int) -> dict[str, SliceRow]:
    measured = [item for item in items if item.values]
    return {row.metric: row for row in slice_table(measured, seed=seed).rows} if measured else {}


def _told(row: SliceRow) -> str:
    return f"{row.mean:6.3f} [{row.low:6.3f}, {row.high:6.3f}]"


def _triple(row: SliceRow) -> list[float]:
    return [row.mean, row.low, row.high]
