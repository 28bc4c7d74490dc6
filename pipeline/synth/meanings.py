"""What motion words mean: which motions answer to a word, and on which it had better not be used."""

from typing import Literal, get_args

from pipeline.synth.world import MOTIONS, Motion

AskedMotion = Literal[Motion, "moving", "circle"]
"""What an expression can ask about motion: one class, or a family of them."""

ASKED_MOTIONS: tuple[AskedMotion, ...] = (*MOTIONS, "moving", "circle")
assert set(ASKED_MOTIONS) == {part for option in get_args(AskedMotion) for part in (get_args(option) or (option,))}

Verdict = bool | None
"""True, False, or None where people might disagree; expressions that hang on a None are never used."""

_CIRCLES = frozenset({"circle_clockwise", "circle_counterclockwise"})
_DIAGONALS = frozenset({"up_left", "up_right", "down_left", "down_right"})
_STRAIGHT = frozenset({"left", "right", "up", "down"}) | _DIAGONALS
_CHANGING = frozenset({"starts", "stops", "turns_back"})
_WANDERING = _CIRCLES | _CHANGING | {"zigzag", "bounce"}
_IN_PLACE = frozenset({"spin", "grow", "shrink"})

_MEMBERS: dict[AskedMotion, frozenset[str]] = {
    **{motion: frozenset({motion}) for motion in MOTIONS},
    "moving": _STRAIGHT | _CIRCLES | {"zigzag", "bounce"},
    "circle": _CIRCLES,
}
"""Motions that answer to the word, where these are more than the class of that name."""


def _unsure(asked: AskedMotion) -> frozenset[str]:
    """Motions that do answer to the word in part, or at times."""
    if asked in ("left", "right", "up", "down"):
        return _WANDERING | {diagonal for diagonal in _DIAGONALS if asked in diagonal.split("_")}
    if asked in _DIAGONALS:
        return _WANDERING | set(asked.split("_"))
    partly: dict[AskedMotion, frozenset[str]] = {
        "moving": _CHANGING | _IN_PLACE,
        "still": _IN_PLACE | {"starts", "stops"},
        "zigzag": frozenset({"bounce", "turns_back"}),
        "bounce": frozenset({"zigzag", "turns_back"}),
        "spin": _CIRCLES,
        "stops": frozenset({"turns_back", "bounce"}),
        "turns_back": _CIRCLES | {"zigzag", "bounce"},
    }
    return partly.get(asked, frozenset())


_UNSURE = {asked: _unsure(asked) for asked in ASKED_MOTIONS}


def motion_verdict(asked: AskedMotion, motion: Motion) -> Verdict:
    """Whether an object of class `motion` is one that does what is asked."""
    if motion in _MEMBERS[asked]:
        return True
    return None if motion in _UNSURE[asked] else False


def are_distinct(one: Motion, other: Motion) -> bool:
    """Whether each of two motions has a word that fits it and surely does not fit the other."""
    return motion_verdict(one, other) is False and motion_verdict(other, one) is False
