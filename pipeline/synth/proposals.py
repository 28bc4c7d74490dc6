"""Proposes queries: what can truly be said of each object of a clip, and what nearly can."""

from dataclasses import dataclass, replace

from pipeline.synth.config import ClipConfig, Kind
from pipeline.synth.draws import Draws
from pipeline.synth.meanings import ASKED_MOTIONS
from pipeline.synth.motion import CHANGING_MOTIONS, MIN_FRAMES
from pipeline.synth.referents import EVENTS, Condition, Number, Query, Role, resolve, verdicts
from pipeline.synth.witness import RELATIONS, Relation, Witness
from pipeline.synth.world import COLOURS, OPPOSITE_MOTION, SHAPES, SIZES, TEXTURES

ATTRIBUTE_SHARES: dict[Kind, dict[Role, float]] = {
    "attribute": {"shape": 0.85, "colour": 0.75, "texture": 0.3, "size": 0.3},
    "motion": {"shape": 0.75, "colour": 0.6, "texture": 0.1, "size": 0.1},
    "relation": {"shape": 0.8, "colour": 0.4, "texture": 0.1, "size": 0.1},
    "temporal": {"shape": 0.75, "colour": 0.5, "texture": 0.1, "size": 0.1},
    "plural": {"shape": 0.6, "colour": 0.4, "texture": 0.1, "size": 0.15},
}
"""How often a query of a kind names each attribute of its target."""

_GENERAL_MOTION_SHARE = 0.25
_PLURAL_MOTION_SHARE = 0.35
_SHAPE_ONLY_ANCHOR_SHARE = 0.3
_BORROWED_SHARE = 0.5
_ATTRIBUTES: tuple[Role, ...] = ("colour", "shape", "texture", "size")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sayings:
    """What is true of one object beyond its attributes.

    Attributes:
        motions: its class of motion first, then the families that it belongs to; no changing ones.
        temporal: events of its life, and a motion that changes.
        relations: with the slots of the objects that it stands in them to.
    """

    slot: int
    motions: tuple[Condition, ...]
    speeds: tuple[Condition, ...]
    temporal: tuple[Condition, ...]
    relations: tuple[tuple[Relation, int], ...]

    def bears(self, kind: Kind) -> bool:
        """Whether anything can be said that makes a query of that kind."""
        needed = {"motion": self.motions, "temporal": self.temporal, "relation": self.relations}
        return bool(needed.get(kind, True))


def collect_sayings(witness: Witness) -> tuple[Sayings, ...]:
    """What is true of each object, by slot."""
    return tuple(_sayings(slot, witness) for slot in range(witness.num_objects))


def propose(kind: Kind, sayings: Sayings, config: ClipConfig, witness: Witness, draws: Draws) -> Query | None:
    """A query of a kind with referents that is true of one object; it may be true of others, too.

    Args:
        config: of the clip, for how often speeds are named.

    Returns:
        None if it came out empty.
    """
    chosen = [role for role, share in ATTRIBUTE_SHARES[kind].items() if draws.chance(share)]
    conditions = [_attribute(role, sayings.slot, witness) for role in chosen]
    match kind:
        case "motion":
            conditions += _some_motion(sayings, config, draws)
        case "temporal":
            conditions.append(draws.pick(sayings.temporal))
        case "relation":
            conditions.append(_some_relation(sayings, witness, draws))
        case "plural":
            if sayings.motions and draws.chance(_PLURAL_MOTION_SHARE):
                conditions += _some_motion(sayings, config, draws)
            return _counted(Query(conditions=tuple(conditions), number="all"), witness, draws)
    return Query(conditions=tuple(conditions)) if conditions else None


def turn_false(query: Query, config: ClipConfig, witness: Witness, draws: Draws) -> Query:
    """The query with another value in one of its conditions, so that it nearly fits."""
    index = draws.below(len(query.conditions))
    turned = _turned(query.conditions[index], config, witness, draws)
    return replace(query, conditions=(*query.conditions[:index], turned, *query.conditions[index + 1 :]))


_MOTIONS = tuple(Condition(role="motion", value=asked) for asked in ASKED_MOTIONS)
_STEADY_MOTIONS = tuple(condition for condition in _MOTIONS if condition.value not in CHANGING_MOTIONS)
_CHANGES = tuple(condition for condition in _MOTIONS if condition.value in CHANGING_MOTIONS)
_EVENTS = tuple(Condition(role="event", value=event) for event in EVENTS)
_SPEEDS = (Condition(role="speed", value="slow"), Condition(role="speed", value="fast"))
_OPPOSITES: dict[str, str] = dict(OPPOSITE_MOTION.items())
_VALUES: dict[Role, tuple[str, ...]] = {
    "colour": COLOURS,
    "shape": SHAPES,
    "texture": TEXTURES,
    "size": SIZES,
    "speed": ("slow", "fast"),
    "event": EVENTS,
    "relation": RELATIONS,
}


def _sayings(slot: int, witness: Witness) -> Sayings:
    def true_ones(conditions: tuple[Condition, ...]) -> tuple[Condition, ...]:
        return tuple(condition for condition in conditions if verdicts(condition, witness)[slot])

    return Sayings(
        slot=slot,
        motions=true_ones(_STEADY_MOTIONS),
        speeds=true_ones(_SPEEDS),
        temporal=true_ones((*_EVENTS, *_CHANGES)),
        relations=tuple(
            (relation, other)
            for relation in RELATIONS
            for other in range(witness.num_objects)
            if witness.related[relation][slot][other]
        ),
    )


def _attribute(role: Role, slot: int, witness: Witness) -> Condition:
    return Condition(role=role, value=getattr(witness.truth.objects[slot], role))


def _some_motion(sayings: Sayings, config: ClipConfig, draws: Draws) -> list[Condition]:
    """The object's motion, at times by a more general word, at times with its speed."""
    told = draws.pick(sayings.motions) if draws.chance(_GENERAL_MOTION_SHARE) else sayings.motions[0]
    return [told, *(sayings.speeds if draws.chance(config.speed_share) else ())]


def _some_relation(sayings: Sayings, witness: Witness, draws: Draws) -> Condition:
    relation, other = draws.pick(sayings.relations)
    roles: tuple[Role, ...] = ("shape",) if draws.chance(_SHAPE_ONLY_ANCHOR_SHARE) else ("shape", "colour")
    anchor = tuple(_attribute(role, other, witness) for role in roles)
    return Condition(role="relation", value=relation, anchor=anchor)


def _counted(query: Query, witness: Witness, draws: Draws) -> Query | None:
    """A plural query, at times with the number of its referents."""
    if not query.conditions:
        return None
    numbers: dict[int, Number] = {2: "two", 3: "three"}
    count = len(resolve(query, witness) or ())
    return replace(query, number=numbers[count]) if count in numbers and draws.chance(0.5) else query


def _turned(condition: Condition, config: ClipConfig, witness: Witness, draws: Draws) -> Condition:
    """The same demand with another value: often the opposite motion, or an attribute that some other object has."""
    if condition.role == "motion":
        motions = [motion for motion in config.motions if MIN_FRAMES[motion] <= config.num_frames]
        opposite = _OPPOSITES.get(condition.value)
        if opposite is not None and opposite in motions and draws.chance(0.5):
            return replace(condition, value=opposite)
        return replace(condition, value=draws.pick(motions))
    others = [value for value in _VALUES[condition.role] if value != condition.value]
    if condition.role in _ATTRIBUTES and draws.chance(_BORROWED_SHARE):
        present = {getattr(item, condition.role) for item in witness.truth.objects}
        others = [value for value in others if value in present] or others
    return replace(condition, value=draws.pick(others))
