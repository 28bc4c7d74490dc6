"""From queries to English: every wording that ShapesRef knows, word by word with what each word stands for."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from pipeline.synth.draws import Draws
from pipeline.synth.meanings import ASKED_MOTIONS
from pipeline.synth.referents import EVENTS, VERB_ROLES, Condition, Number, Query, Role
from pipeline.synth.witness import RELATIONS
from pipeline.synth.world import COLOURS, SHAPES, SIZES, TEXTURES

ADJECTIVE_ROLES: tuple[Role, ...] = ("size", "texture", "colour")
"""In the order in which they stand before the noun."""
_TRAILING_ROLES: tuple[Role, ...] = ("speed", "event", "relation")
FUNCTION_WORDS = frozenset({"the", "a", "all", "both", "two", "three", "that", "is", "are", "to", "of", "in", "and"})
"""Words that demand nothing of an object by themselves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Word:
    """One word of an expression.

    Attributes:
        condition: index of the query's condition that it tells, or -1 for a function word or a noun like "object".
        about_anchor: it describes the anchor of a relation, not the referent.
    """

    text: str
    condition: int = -1
    about_anchor: bool = False


def word_query(query: Query, draws: Draws) -> tuple[Word, ...]:
    """One wording of a query, drawn from all that the grammar has for it."""
    plural = query.number != "one"
    before, noun, after = _parts(query.conditions, plural=plural, draws=draws)
    determiners = _PLURAL_DETERMINERS[query.number] if plural else _SINGULAR_DETERMINERS
    determiner = draws.weighted(determiners)
    words = [*before, *noun, *after]
    if determiner == "a" and words[0].text[0] in "aeiou":
        determiner = "the"
    return (*_content(determiner, -1), *words)


def is_sayable(query: Query) -> bool:
    """Whether the grammar has words for all of it: some motions and events are said of one object only."""
    tables = {"motion": _MOTIONS, "event": _EVENTS}
    verbs = [tables[part.role][part.value] for part in query.conditions if part.role in tables]
    return query.number == "one" or all(verb.participles or verb.plural_clauses for verb in verbs)


def motion_word_positions(query: Query, words: tuple[Word, ...]) -> tuple[int, ...]:
    """Positions of the content words that tell motion, speed or events of the referent."""
    return tuple(
        position
        for position, word in enumerate(words)
        if word.condition >= 0 and not word.about_anchor and query.conditions[word.condition].role in VERB_ROLES
    )


def all_words() -> set[str]:
    """Every word that any wording of any query can contain."""
    phrases: set[str] = {*COLOURS, *TEXTURES, *SHAPES, *_PLURAL_SHAPES.values(), _NOUN, _PLURAL_NOUN}
    phrases |= {synonym for synonyms in _SIZES.values() for synonym in synonyms}
    for verbs in (*_MOTIONS.values(), *_EVENTS.values()):
        phrases |= {*verbs.participles, *verbs.clauses, *verbs.plural_clauses}
    phrases |= {phrase for group in (_SPEEDS, _RELATIONS) for options in group.values() for phrase in options}
    phrases |= {*_SINGULAR_DETERMINERS, *(word for group in _PLURAL_DETERMINERS.values() for word in group)}
    return {word for phrase in phrases for word in phrase.split()}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Verbs:
    """Wordings of one motion or event: "moving left"; "that moves left", "that move left"."""

    participles: tuple[str, ...]
    clauses: tuple[str, ...]
    plural_clauses: tuple[str, ...]


def _straight(*directions: str) -> _Verbs:
    return _Verbs(
        participles=tuple(f"{verb} {way}" for way in directions for verb in ("moving", "going", "heading")),
        clauses=tuple(f"that {verb} {way}" for way in directions for verb in ("moves", "goes", "is moving")),
        plural_clauses=tuple(f"that {verb} {way}" for way in directions for verb in ("move", "go", "are moving")),
    )


def _verbs(*participles: str, clauses: tuple[str, ...] = (), plural_clauses: tuple[str, ...] = ()) -> _Verbs:
    is_doing = tuple(f"that is {participle}" for participle in participles)
    are_doing = tuple(f"that are {participle}" for participle in participles)
    return _Verbs(participles=participles, clauses=(*clauses, *is_doing), plural_clauses=(*plural_clauses, *are_doing))


def _clauses(*clauses: str) -> _Verbs:
    """Wordings that have no participle and are said of one object only."""
    return _Verbs(participles=(), clauses=clauses, plural_clauses=())


def _with(verbs: _Verbs, participle: str, clause: str) -> _Verbs:
    return replace(verbs, participles=(*verbs.participles, participle), clauses=(*verbs.clauses, clause))


_MOTIONS: dict[str, _Verbs] = {
    "still": _verbs("standing still", "resting", clauses=("that stays still",)),
    "moving": _verbs("moving", clauses=("that moves",), plural_clauses=("that move",)),
    "left": _straight("left", "to the left"),
    "right": _straight("right", "to the right"),
    "up": _with(_straight("up"), "rising", "that is rising"),
    "down": _with(_straight("down"), "falling", "that is falling"),
    "up_left": _straight("up and left", "up and to the left"),
    "up_right": _straight("up and right", "up and to the right"),
    "down_left": _straight("down and left", "down and to the left"),
    "down_right": _straight("down and right", "down and to the right"),
    "circle": _verbs("circling", "moving in a circle", clauses=("that moves in a circle",)),
    "circle_clockwise": _verbs("circling clockwise", "moving clockwise", clauses=("that moves clockwise",)),
    "circle_counterclockwise": _verbs(
        "circling counterclockwise", "moving counterclockwise", clauses=("that moves counterclockwise",)
    ),
    "zigzag": _verbs("zigzagging", "moving in a zigzag", clauses=("that moves in a zigzag",)),
    "bounce": _verbs("bouncing", "hopping"),
    "spin": _verbs("spinning", "rotating"),
    "grow": _verbs("growing", "getting larger"),
    "shrink": _verbs("shrinking", "getting smaller"),
    "starts": _clauses("that starts moving", "that starts to move", "that begins to move"),
    "stops": _clauses("that stops", "that stops moving"),
    "turns_back": _clauses("that turns back"),
}
_EVENTS: dict[str, _Verbs] = {
    "enters": _clauses("that enters", "that appears", "that enters late", "that appears late"),
    "enters_last": _clauses("that enters last", "that appears last"),
    "leaves": _clauses("that leaves", "that disappears"),
    "reappears": _clauses("that reappears", "that returns", "that comes back"),
}
_SPEEDS: dict[str, tuple[str, ...]] = {"slow": ("slowly",), "fast": ("fast",)}
_RELATIONS: dict[str, tuple[str, ...]] = {
    "left_of": ("left of", "to the left of"),
    "right_of": ("right of", "to the right of"),
    "above": ("above",),
    "below": ("below", "under"),
    "behind": ("behind",),
    "in_front_of": ("in front of",),
}
_SIZES: dict[str, tuple[str, ...]] = {"small": ("small",), "large": ("large", "big")}
_PLURAL_SHAPES: dict[str, str] = {shape: "crosses" if shape == "cross" else f"{shape}s" for shape in SHAPES}
_NOUN, _PLURAL_NOUN = "object", "objects"
_SINGULAR_DETERMINERS = {"the": 0.7, "": 0.2, "a": 0.1}
_PLURAL_DETERMINERS: dict[Number, dict[str, float]] = {
    "one": {},
    "two": {"the two": 0.4, "two": 0.2, "both": 0.4},
    "three": {"the three": 0.6, "three": 0.4},
    "all": {"all": 0.4, "all the": 0.3, "the": 0.3},
}
assert set(_SIZES) == set(SIZES)
assert set(_MOTIONS) == set(ASKED_MOTIONS)
assert set(_EVENTS) == set(EVENTS)
assert set(_RELATIONS) == set(RELATIONS)


def _parts(
    conditions: tuple[Condition, ...], *, plural: bool, draws: Draws
) -> tuple[list[Word], list[Word], list[Word]]:
    """Words before the noun, the noun, and what follows it."""
    told = {part.role: _told(part, index, plural=plural, draws=draws) for index, part in enumerate(conditions)}
    before = [word for role in ADJECTIVE_ROLES for word in told.get(role, [])]
    motion = told.pop("motion", [])
    if len(motion) == 1 and "speed" not in told and draws.chance(0.4):
        before, motion = [*motion, *before], []
    noun = told.get("shape", [Word(text=_PLURAL_NOUN if plural else _NOUN)])
    after = [*motion, *(word for role in _TRAILING_ROLES for word in told.get(role, []))]
    return before, noun, after


def _told(condition: Condition, index: int, *, plural: bool, draws: Draws) -> list[Word]:
    """The words that tell one condition."""
    value = condition.value
    match condition.role:
        case "motion":
            phrase = _verb_phrase(_MOTIONS[value], plural=plural, draws=draws)
        case "event":
            phrase = _verb_phrase(_EVENTS[value], plural=plural, draws=draws)
        case "relation":
            anchor = _anchor_words(condition.anchor, index, draws)
            return [*_content(draws.pick(_RELATIONS[value]), index), *anchor]
        case "speed":
            phrase = draws.pick(_SPEEDS[value])
        case "size":
            phrase = draws.pick(_SIZES[value])
        case "shape":
            phrase = _PLURAL_SHAPES[value] if plural else value
        case "colour" | "texture":
            phrase = value
    return list(_content(phrase, index))


def _verb_phrase(verbs: _Verbs, *, plural: bool, draws: Draws) -> str:
    clauses = verbs.plural_clauses if plural else verbs.clauses
    use_participle = bool(verbs.participles) and (not clauses or draws.chance(0.65))
    return draws.pick(verbs.participles if use_participle else clauses)


def _anchor_words(anchor: tuple[Condition, ...], index: int, draws: Draws) -> Iterator[Word]:
    before, noun, after = _parts(anchor, plural=False, draws=draws)
    for word in (Word(text="the"), *before, *noun, *after):
        yield replace(word, condition=index if word.condition >= 0 else -1, about_anchor=True)


def _content(phrase: str, condition: int) -> Iterator[Word]:
    """The words of a phrase; function words in it stand for nothing."""
    for text in phrase.split():
        yield Word(text=text, condition=-1 if text in FUNCTION_WORDS else condition)
