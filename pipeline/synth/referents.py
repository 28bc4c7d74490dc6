"""The solver: which objects of a clip a query refers to, and what it takes to tell them from the others."""

from dataclasses import dataclass, replace
from typing import Literal, cast, get_args

from pipeline.synth.config import Kind
from pipeline.synth.meanings import AskedMotion, Verdict, motion_verdict
from pipeline.synth.motion import CHANGING_MOTIONS
from pipeline.synth.witness import Relation, Witness, is_fast, is_late, is_slow

Role = Literal["colour", "shape", "texture", "size", "motion", "speed", "event", "relation"]
Number = Literal["one", "two", "three", "all"]
Speed = Literal["slow", "fast"]
Event = Literal["enters", "enters_last", "leaves", "reappears"]

EVENTS: tuple[Event, ...] = get_args(Event)
VERB_ROLES: tuple[Role, ...] = ("motion", "speed", "event")
"""Roles that take more than one frame to see."""

_EVENT_MARGIN_SHARE = 0.15  # of the clip: how late an entry or how early an exit has to be to count as one
_LAST_MARGIN_FRAMES = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """One thing that a query demands of its referents: a colour, a motion, a relation to an anchor, ...

    Attributes:
        value: one of the values of that role, such as "red", "left" or "left_of".
        anchor: for a relation, what is demanded of the object that the referent is related to.
    """

    role: Role
    value: str
    anchor: tuple["Condition", ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """All conditions at once, and how many referents the wording presumes."""

    conditions: tuple[Condition, ...]
    number: Number = "one"

    def without(self, *roles: Role) -> "Query":
        """The query with the conditions of these roles dropped."""
        return replace(self, conditions=tuple(part for part in self.conditions if part.role not in roles))


@dataclass(frozen=True, slots=True, kw_only=True)
class Flags:
    """Slices that an expression belongs to.

    Attributes:
        needs_motion: without its words of motion, speed and events it would match more objects.
        needs_relation: without its relation it would match more objects.
        late: a target is first seen after a quarter of the clip.
        reappears: a target is seen, gone for two frames or more, and seen again.
        fast: a target moves at 4.5 px or more per frame, at 128.
        plural: it has several targets.
        none: it has no target.
    """

    needs_motion: bool
    needs_relation: bool
    late: bool
    reappears: bool
    fast: bool
    plural: bool
    none: bool


def verdicts(condition: Condition, witness: Witness) -> tuple[Verdict, ...]:
    """For each object, whether it meets the condition; None where people might disagree."""
    known = witness.judged.get(condition)
    if known is None:
        known = tuple(_verdict(condition, witness, slot) for slot in range(witness.num_objects))
        witness.judged[condition] = known
    return known


def matches(query: Query, witness: Witness) -> tuple[Verdict, ...]:
    """For each object, whether it meets all conditions (Kleene's three-valued "and") and is there to be seen."""
    known = witness.judged.get(query.conditions)
    if known is None:
        rows = [witness.exists, *(verdicts(condition, witness) for condition in query.conditions)]
        known = tuple(_all_of(column) for column in zip(*rows, strict=True))
        witness.judged[query.conditions] = known
    return known


def resolve(query: Query, witness: Witness) -> tuple[int, ...] | None:
    """Ids of the referents, in order; () if there provably is none.

    Returns:
        None if any object is in doubt, or if there are referents but not as many as the wording presumes.
    """
    found = matches(query, witness)
    if None in found:
        return None
    ids = tuple(slot + 1 for slot, is_match in enumerate(found) if is_match)
    return ids if not ids or _agrees(query.number, len(ids)) else None


def near_misses(query: Query, witness: Witness) -> tuple[int, ...]:
    """Ids of the visible objects that fail exactly one condition and meet all others."""
    rows = [verdicts(condition, witness) for condition in query.conditions]
    columns = list(zip(*rows, strict=True))
    return tuple(
        slot + 1
        for slot, column in enumerate(columns)
        if witness.exists[slot] and column.count(False) == 1 and column.count(None) == 0
    )


def kind_of(query: Query, targets: tuple[int, ...]) -> Kind:
    """The kind of a resolved query: by its number of targets first, then by its most demanding condition."""
    if not targets:
        return "none"
    if len(targets) > 1:
        return "plural"
    roles = {condition.role for condition in query.conditions}
    changes = any(part.role == "motion" and part.value in CHANGING_MOTIONS for part in query.conditions)
    if "event" in roles or changes:
        return "temporal"
    return "relation" if "relation" in roles else "motion" if "motion" in roles else "attribute"


def flags_of(query: Query, targets: tuple[int, ...], witness: Witness) -> Flags:
    """The slices of a query that was resolved to `targets`."""
    slots = [target - 1 for target in targets]
    return Flags(
        needs_motion=_surely(query.without(*VERB_ROLES), witness) != targets,
        needs_relation=_surely(query.without("relation"), witness) != targets,
        late=any(is_late(witness, slot) for slot in slots),
        reappears=any(witness.reappears[slot] is True for slot in slots),
        fast=any(is_fast(witness, slot) is True for slot in slots),
        plural=len(targets) > 1,
        none=not targets,
    )


def _surely(query: Query, witness: Witness) -> tuple[int, ...]:
    return tuple(slot + 1 for slot, is_match in enumerate(matches(query, witness)) if is_match)


def _all_of(column: tuple[Verdict, ...]) -> Verdict:
    if False in column:
        return False
    return None if None in column else True


def _agrees(number: Number, count: int) -> bool:
    return {"one": count == 1, "two": count == 2, "three": count == 3, "all": count >= 2}[number]


def _verdict(condition: Condition, witness: Witness, slot: int) -> Verdict:
    thing = witness.truth.objects[slot]
    match condition.role:
        case "colour":
            return thing.colour == condition.value
        case "shape":
            return thing.shape == condition.value
        case "texture":
            return thing.texture == condition.value
        case "size":
            return None if thing.motion in ("grow", "shrink") else thing.size == condition.value
        case "motion":
            asked = cast(AskedMotion, condition.value)
            return motion_verdict(asked, thing.motion) if witness.motion_seen[slot] else None
        case "speed":
            return is_fast(witness, slot) if condition.value == "fast" else is_slow(witness, slot)
        case "event":
            return _event_verdict(cast(Event, condition.value), witness, slot)
        case "relation":
            return _relation_verdict(condition, witness, slot)


def _event_verdict(event: Event, witness: Witness, slot: int) -> Verdict:
    last_frame = witness.truth.num_frames - 1
    first, last = witness.first_seen[slot], witness.last_seen[slot]
    margin = max(2.0, _EVENT_MARGIN_SHARE * witness.truth.num_frames)
    reappears = witness.reappears[slot]
    if first < 0 or event == "reappears":
        return reappears if event == "reappears" else None
    if reappears is not False:
        return None  # an object that comes and goes also "appears" and "disappears"
    if event == "leaves":
        is_gone = not witness.truth.visible_px[-1, slot]
        return False if last == last_frame else _if_clear(is_gone, last_frame - last, margin)
    is_new = not witness.truth.visible_px[0, slot]
    has_entered = False if first == 0 else _if_clear(is_new, first, margin)
    return has_entered if event == "enters" else _all_of((has_entered, _is_last_to_enter(witness, slot)))


def _if_clear(clear: bool, frames: int, margin: float) -> Verdict:
    return True if clear and frames >= margin else None


def _is_last_to_enter(witness: Witness, slot: int) -> Verdict:
    others = [first for other, first in enumerate(witness.first_seen) if other != slot and witness.exists[other]]
    lead = witness.first_seen[slot] - max(others, default=-_LAST_MARGIN_FRAMES)
    if abs(lead) < _LAST_MARGIN_FRAMES:
        return None
    return lead > 0


def _relation_verdict(condition: Condition, witness: Witness, slot: int) -> Verdict:
    """In doubt for all but the anchor where the anchor itself is."""
    anchors = resolve(Query(conditions=condition.anchor), witness)
    if anchors is None or len(anchors) != 1:
        return None
    return witness.related[cast(Relation, condition.value)][slot][anchors[0] - 1]
