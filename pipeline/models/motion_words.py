"""Which words, and so which tokens, of an expression tell motion: as given, by rule, or by spaCy."""

import re
from collections.abc import Sequence
from functools import cache
from typing import Any, Literal

from pipeline.errors import ConfigError, PromptError
from pipeline.models.tokenizers import TokenizedText

MotionTagger = Literal["rules", "spacy"]
Span = tuple[int, int]

SPACY_MODEL = "en_core_web_sm"


def _words(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"\w+", text))


# Endings are added to these.
_STEMS = _words(
    "accelerat appear approach ascend bark bit board bounc bow bump carr chas chew circl climb clos "
    "collid com cover crawl creep cross danc dart dash descend disappear div drag drift driv drop eat "
    "enter escap exchang fac fall fight flap fli float fly follow gallop glid go grab graz grow hang head "
    "hid hit hold hop hover hunt hurr jog jump keep kick lay lead lean leap leav lick lie lift look low "
    "march mov nibbl open orbit overtak paddl pass pedal perform pick play pull push rac rais reach "
    "return revers ride ris roar roll rotat run rush sail shak sit skat skid slid slip soar speed spin "
    "splash spread squat stand start stay step stop strid stroll surf sway swerv swim swing switch tail "
    "tak throw touch tow trail travel trot tumbl turn twirl twist wad wag wait walk wander watch wav "
    "wiggl wrestl zigzag"
)

# Irregular forms, and base forms that are rarely nouns in expressions ("two dogs that run").
_WHOLE_WORDS = _words(
    "ate bitten came climb danced dove driven drove eaten fell fight flew flown fought go gone grew grown "
    "held hid hidden hung jump kept laid lay leapt led left lying move ran ridden risen rode rose run sat "
    "shaken shook spun stood swam swim swum swung taken threw thrown took turn tying walk went"
)

_NOT_VERBS = _words(
    "anything bed beginning building ceiling clothing during earring evening everything hundred king "
    "lightning morning nothing red ring seed shed sibling sled something speed spring string thing weed "
    "wing"
)

# "left", "lay" and "low" end a path or a place far more often than they tell an action in expressions.
_AMBIGUOUS = _words("bars bowed cover face faces head lay left low lower lowers tail tails")


def motion_spans(text: str, *, given: Sequence[str] | None, tagger: MotionTagger) -> tuple[Span, ...]:
    """Character ranges of the words that tell motion, in reading order.

    Args:
        given: the caller's words win over any tagger; an empty sequence means that there are none.
        tagger: who finds them otherwise.

    Raises:
        PromptError: a given word is not in the text.
        ConfigError: spaCy or its model is not installed.
    """
    if given is not None:
        return _find_given(text, given)
    return _spacy_verbs(text) if tagger == "spacy" else _verbs_by_rule(text)


def marked_tokens(tokenized: TokenizedText, spans: Sequence[Span]) -> tuple[int, ...]:
    """Places of the tokens that lie wholly inside one of the spans.

    Departs from SAMWISE, which marks empty spans (padding) when the text begins with a verb: they stand for no
    characters and are left out.
    """
    return tuple(
        place
        for place, (start, stop) in enumerate(tokenized.spans)
        if stop > start and any(first <= start and stop <= last for first, last in spans)
    )


def _find_given(text: str, given: Sequence[str]) -> tuple[Span, ...]:
    spans: set[Span] = set()
    for word in given:
        found = [match.span() for match in re.finditer(rf"(?<!\w){re.escape(word)}(?!\w)", text, re.IGNORECASE)]
        if not found or not word:
            raise PromptError(
                f"motion word {word!r} is not in the expression {text!r}. "
                "Give words as they stand there, or leave motion_words out."
            )
        spans.update(found)
    return tuple(sorted(spans))


def _verbs_by_rule(text: str) -> tuple[Span, ...]:
    """Inflected forms of common motion verbs, and any other -ing word that is not a known noun."""
    return tuple(match.span() for match in re.finditer(r"[^\W\d_]+", text) if _looks_like_verb(match.group().lower()))


def _looks_like_verb(word: str) -> bool:
    if word in _NOT_VERBS or word in _AMBIGUOUS:
        return False
    return word in _WHOLE_WORDS or word in _known_forms() or (word.endswith("ing") and len(word) > 4)


@cache
def _known_forms() -> frozenset[str]:
    """Third person, past and -ing forms: "bounc" gives bounces, bounced, bouncing; "run" gives runs, running."""
    forms: set[str] = set()
    for stem in _STEMS:
        forms.update(stem + ending for ending in ("s", "es", "ed", "ing", "e"))
        forms.update(stem + stem[-1] + ending for ending in ("ed", "ing"))
        if stem[-1] in "yr":
            forms.update(stem.removesuffix("y") + ending for ending in ("ies", "ied", "ying"))
    return frozenset(forms)


def _spacy_verbs(text: str) -> tuple[Span, ...]:
    """Words whose coarse part of speech is VERB; auxiliaries do not count. As SAMWISE's motion prompt."""
    return tuple((token.idx, token.idx + len(token)) for token in _spacy_pipeline()(text) if token.pos_ == "VERB")


@cache
def _spacy_pipeline() -> Any:
    try:
        import spacy

        return spacy.load(SPACY_MODEL)
    except (ImportError, OSError) as error:
        raise ConfigError(
            f"motion_tagger='spacy' needs spaCy and its model {SPACY_MODEL}: {error}. "
            "Install masklake[motion] and the model, give motion_words, or set motion_tagger='rules'."
        ) from error
