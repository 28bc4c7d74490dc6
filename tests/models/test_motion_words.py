"""Words and tokens that tell motion."""

import importlib.util

import pytest

from pipeline.errors import ConfigError, PromptError
from pipeline.models.motion_words import marked_tokens, motion_spans
from pipeline.models.tokenizers import ClosedVocabularyTokenizer, TokenizedText


def words_by_rule(text: str) -> list[str]:
    return [text[start:stop] for start, stop in motion_spans(text, given=None, tagger="rules")]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("the bird flying away", ["flying"]),
        ("Horse walks to the left", ["walks"]),
        ("the king in red is running and then jumped", ["running", "jumped"]),
        ("a person standing on the left with a string", ["standing"]),
        ("cat hurries, dog carried", ["hurries", "carried"]),
        ("two dogs that run", ["run"]),
        ("red disc that stops then turns", ["stops", "turns"]),
        ("the blue ring on the wing of a building", []),
        ("skateboarding man", ["skateboarding"]),
        ("", []),
    ],
)
def test_rules_find_motion_verbs(text: str, words: list[str]) -> None:
    assert words_by_rule(text) == words


def test_given_words_win_over_the_tagger_and_are_found_whole_and_without_case() -> None:
    text = "The cart the car goes past, CAR running"
    spans = motion_spans(text, given=("car",), tagger="rules")
    assert [text[start:stop] for start, stop in spans] == ["car", "CAR"]
    assert motion_spans(text, given=(), tagger="rules") == ()


@pytest.mark.parametrize("word", ["plane", "ca", ""])
def test_a_given_word_that_is_not_in_the_text_is_refused(word: str) -> None:
    with pytest.raises(PromptError, match="not in the expression"):
        motion_spans("the car", given=(word,), tagger="rules")


def test_tokens_inside_a_span_are_marked_and_empty_ones_never() -> None:
    text = "running horse"
    tokenized = ClosedVocabularyTokenizer(["running", "horse"])(text)
    assert marked_tokens(tokenized, motion_spans(text, given=None, tagger="rules")) == (1,)


def test_every_piece_of_a_split_verb_is_marked() -> None:
    pieces = TokenizedText(text="dog zigzagging", ids=(0, 5, 6, 7, 2), spans=((0, 0), (0, 3), (4, 7), (7, 14), (0, 0)))
    assert marked_tokens(pieces, [(4, 14)]) == (2, 3)
    assert marked_tokens(pieces, [(5, 14)]) == (3,)


@pytest.mark.skipif(importlib.util.find_spec("spacy") is not None, reason="spaCy is installed here")
def test_without_spacy_the_error_says_what_to_do() -> None:
    with pytest.raises(ConfigError, match=r"masklake\[motion\].*motion_words.*rules"):
        motion_spans("a dog runs", given=None, tagger="spacy")
