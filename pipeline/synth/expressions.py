"""Samples referring expressions: propose a query, let the solver judge it, word what has a certain answer."""

from dataclasses import dataclass

from pipeline.synth.config import ClipConfig, ExpressionPlan, Kind
from pipeline.synth.draws import Draws
from pipeline.synth.grammar import Word, is_sayable, motion_word_positions, word_query
from pipeline.synth.proposals import Sayings, collect_sayings, propose, turn_false
from pipeline.synth.referents import Flags, Query, flags_of, kind_of, near_misses, resolve, verdicts
from pipeline.synth.witness import Witness

_TRIES = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Expression:
    """One referring expression and all that is known of its meaning.

    Attributes:
        expression_id: "0", "1", ... within the clip.
        text: lower-case words of `VOCABULARY`, one space between them.
        target_ids: the objects it refers to, in order; () if it refers to none.
        near_miss_ids: visible objects that fail exactly one of its conditions, look-alike twins among them.
        motion_word_positions: positions of the words that tell motion, speed or events of the referent.
        word_truth: for each word, for each object: 1 if the word is true of it, 0 if not, -1 if the word says
            nothing of the referent or people might disagree.
        query: what the text says.
    """

    expression_id: str
    text: str
    kind: Kind
    target_ids: tuple[int, ...]
    near_miss_ids: tuple[int, ...]
    motion_word_positions: tuple[int, ...]
    word_truth: tuple[tuple[int, ...], ...]
    flags: Flags
    query: Query

    @property
    def words(self) -> tuple[str, ...]:
        return tuple(self.text.split())

    @property
    def motion_words(self) -> tuple[str, ...]:
        return tuple(self.words[position] for position in self.motion_word_positions)


def sample_expressions(config: ClipConfig, witness: Witness, draws: Draws) -> tuple[Expression, ...] | None:
    """One expression for each entry of `config.expressions`, all of them different.

    Returns:
        None if the scene has nothing to say for one of the entries.
    """
    expressions: list[Expression] = []
    sayings = collect_sayings(witness)
    for plan in config.expressions:
        found = _sample_planned(plan, tuple(expressions), config, witness, sayings, draws)
        if found is None:
            return None
        expressions.append(found)
    return tuple(expressions)


def judge(query: Query, words: tuple[Word, ...], expression_id: str, witness: Witness) -> Expression | None:
    """The expression that a worded query makes in a clip, or None where it has no certain answer."""
    targets = resolve(query, witness)
    if targets is None:
        return None
    return Expression(
        expression_id=expression_id,
        text=" ".join(word.text for word in words),
        kind=kind_of(query, targets),
        target_ids=targets,
        near_miss_ids=near_misses(query, witness),
        motion_word_positions=motion_word_positions(query, words),
        word_truth=_word_truth(query, words, witness),
        flags=flags_of(query, targets, witness),
        query=query,
    )


def _sample_planned(
    plan: ExpressionPlan,
    earlier: tuple[Expression, ...],
    config: ClipConfig,
    witness: Witness,
    sayings: tuple[Sayings, ...],
    draws: Draws,
) -> Expression | None:
    expression_id = str(len(earlier))
    slot = {"referent": 0, "twin": 1}.get(plan)
    for kind in _kinds(plan, config, draws):
        for attempt in range(_TRIES):
            query = _proposal(kind, slot, config, witness, sayings, draws)
            if query is None:
                break
            if not is_sayable(query) or not _is_good(query, kind, slot, witness):
                continue
            found = judge(query, word_query(query, draws), expression_id, witness)
            if found is not None and not _is_stale(found, earlier, insist=attempt < _TRIES // 2):
                return found
    return None


def _is_stale(found: Expression, earlier: tuple[Expression, ...], *, insist: bool) -> bool:
    """Whether the clip has this text already or, as long as we insist on variety, has the same targets."""
    same_text = any(found.text == other.text for other in earlier)
    same_targets = any(found.target_ids == other.target_ids != () for other in earlier)
    return same_text or (insist and same_targets)


def _kinds(plan: ExpressionPlan, config: ClipConfig, draws: Draws) -> list[Kind]:
    """The kinds to try, in order."""
    if plan == "any":
        return draws.by_weight(config.kind_weights)
    if plan == "referent" or plan == "twin":  # mypy narrows this form only
        return [kind for kind in draws.by_weight(_referring(config)) if kind != "plural"]
    return [plan]


def _proposal(
    kind: Kind, slot: int | None, config: ClipConfig, witness: Witness, sayings: tuple[Sayings, ...], draws: Draws
) -> Query | None:
    """A query that may come out as this kind; None if the clip has nothing to make one from."""
    told = draws.weighted(_referring(config)) if kind == "none" else kind
    bearers = [said for said in sayings if said.bears(told) and slot in (None, said.slot)]
    if kind == "none" and not bearers:
        told, bearers = "attribute", list(sayings)
    query = None
    for _ in range(_TRIES if bearers else 0):
        query = propose(told, draws.pick(bearers), config, witness, draws)
        if query is not None:
            break
    return turn_false(query, config, witness, draws) if query is not None and kind == "none" else query


def _referring(config: ClipConfig) -> dict[Kind, float]:
    """The configured weights of the kinds that have referents; attributes if there are none."""
    weights: dict[Kind, float] = {**config.kind_weights, "none": 0.0}
    return weights if any(weights.values()) else {"attribute": 1.0}


def _is_good(query: Query, kind: Kind, slot: int | None, witness: Witness) -> bool:
    """Whether a proposal came out as the kind it was to be, with its special part doing some work."""
    targets = resolve(query, witness)
    if targets is None or kind_of(query, targets) != kind or (slot is not None and targets != (slot + 1,)):
        return False
    if kind == "plural":
        return len(targets) < witness.exists.count(True)
    if kind in ("motion", "temporal"):
        return flags_of(query, targets, witness).needs_motion
    return kind != "relation" or flags_of(query, targets, witness).needs_relation


def _word_truth(query: Query, words: tuple[Word, ...], witness: Witness) -> tuple[tuple[int, ...], ...]:
    truths = [
        tuple(-1 if verdict is None else int(verdict) for verdict in verdicts(condition, witness))
        for condition in query.conditions
    ]
    nothing = (-1,) * witness.num_objects
    return tuple(nothing if word.condition < 0 or word.about_anchor else truths[word.condition] for word in words)
