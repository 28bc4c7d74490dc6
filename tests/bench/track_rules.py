"""What the tracking suites must show: full is never worse than an ablation, and what a suite is made for loses on it.

Source: the table "scenario x ablation" of the tracking specification and its acceptance rules.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from tests.bench.track_runs import ABLATIONS, TOY, Measures

ALLOWANCE = 0.02
"""How far below an ablation the full method may be, in mean J."""
MUST_LOSE_BY = 0.15
"""In mean J of the second half."""
STATIC_WITHIN = 0.01
"""In mean J."""

Verdict = Literal["PASS", "FAIL", "not run"]
Table = Mapping[str, Mapping[str, Measures]]
"""suite -> variant -> measures."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """`loser` must lose to `winner` on `suite`.

    `real_only` rows are expected of trained weights: the specification's own toy does not show them.
    """

    suite: str
    loser: str
    winner: str = "full"
    real_only: bool = False


MUST_LOSE = (
    Loss(suite="occlusion", loser="temporal_fifo"),
    Loss(suite="occlusion", loser="mgp_off"),
    Loss(suite="disappearance", loser="temporal_fifo"),
    Loss(suite="camera_jerk", loser="camera_off"),
    Loss(suite="camera_jerk", loser="mgp_off"),
    Loss(suite="fast_turning", loser="forecast_only", winner="mgp_off"),
    Loss(suite="fast_straight", loser="mgp_off"),
    Loss(suite="crossing", loser="mgp_off", real_only=True),
    Loss(suite="flash", loser="pixel_off", real_only=True),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One rule held against the table.

    Attributes:
        claimed: False where the rule is not expected to hold with this core; its verdict is told all the same.
    """

    suite: str
    rule: str
    numbers: str
    verdict: Verdict
    claimed: bool = True


def judge(table: Table, core: str) -> list[Row]:
    """Every rule, in the order of the table; rules whose variants were not run say so."""
    rows: list[Row] = []
    for suite, found in table.items():
        rows += [_not_below(suite, found, ablation) for ablation in ABLATIONS]
    rows += [_loses(table, loss, core) for loss in MUST_LOSE if loss.suite in table]
    if "static" in table:
        rows += [_equal(table["static"], ablation) for ablation in (*ABLATIONS, "sam2")]
    return rows


def _not_below(suite: str, found: Mapping[str, Measures], ablation: str) -> Row:
    rule = f"J of full >= {ablation} - {ALLOWANCE}"
    if not {"full", ablation} <= found.keys():
        return Row(suite=suite, rule=rule, numbers="", verdict="not run")
    ours, theirs = found["full"].j, found[ablation].j
    return Row(
        suite=suite, rule=rule, numbers=f"{ours:.3f} v {theirs:.3f}", verdict=_verdict(ours >= theirs - ALLOWANCE)
    )


def _loses(table: Table, loss: Loss, core: str) -> Row:
    found = table[loss.suite]
    rule = f"{loss.loser} loses to {loss.winner} by >= {MUST_LOSE_BY} on the second half"
    if not {loss.loser, loss.winner} <= found.keys():
        return Row(suite=loss.suite, rule=rule, numbers="", verdict="not run")
    loser, winner = found[loss.loser].j_second, found[loss.winner].j_second
    return Row(
        suite=loss.suite,
        rule=rule,
        numbers=f"{loser:.3f} v {winner:.3f}",
        verdict=_verdict(winner - loser >= MUST_LOSE_BY),
        claimed=not (loss.real_only and core == TOY),
    )


def _equal(found: Mapping[str, Measures], ablation: str) -> Row:
    rule = f"J of full and {ablation} within {STATIC_WITHIN}"
    if not {"full", ablation} <= found.keys():
        return Row(suite="static", rule=rule, numbers="", verdict="not run")
    ours, theirs = found["full"].j, found[ablation].j
    verdict = _verdict(abs(ours - theirs) <= STATIC_WITHIN)
    return Row(suite="static", rule=rule, numbers=f"{ours:.3f} v {theirs:.3f}", verdict=verdict)


def _verdict(holds: bool) -> Verdict:
    return "PASS" if holds else "FAIL"
