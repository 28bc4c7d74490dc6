"""Wordings: closed vocabulary, word order, and what each word stands for."""

import pytest

from pipeline.synth.draws import Draws
from pipeline.synth.grammar import all_words, motion_word_positions, word_query
from pipeline.synth.meanings import ASKED_MOTIONS
from pipeline.synth.referents import EVENTS, Query
from pipeline.synth.vocabulary import VOCABULARY
from tests.synth.reader import read_text
from tests.synth.staged import query

NUM_SEEDS = 200


def wordings(asked: Query) -> set[str]:
    return {" ".join(word.text for word in word_query(asked, Draws(seed))) for seed in range(NUM_SEEDS)}


def test_the_vocabulary_is_exactly_what_the_grammar_can_say() -> None:
    assert set(VOCABULARY) == all_words()
    assert len(set(VOCABULARY)) == len(VOCABULARY)
    assert all(word.isalpha() and word.islower() for word in VOCABULARY)
    assert 80 <= len(VOCABULARY) <= 100


def test_the_order_of_the_vocabulary_stays() -> None:
    """Trained models count on it: append only."""
    assert VOCABULARY[:4] == ("the", "a", "all", "both")
    assert VOCABULARY.index("red") == 15
    assert VOCABULARY.index("left") == 53
    assert VOCABULARY[96] == "front"


def test_adjectives_come_as_size_texture_colour() -> None:
    assert wordings(query(colour="red", size="large", texture="striped", shape="disc")) == {
        f"{determiner}{size} striped red disc" for determiner in ("the ", "", "a ") for size in ("large", "big")
    }


def test_a_motion_follows_the_noun_or_as_one_word_leads() -> None:
    told = wordings(query(shape="star", motion="spin"))
    assert {"the spinning star", "the star spinning", "the star that is rotating"} <= told
    left = wordings(query(shape="star", motion="left"))
    assert {"the star moving left", "the star that goes left", "star heading to the left"} <= left
    assert not any(text.startswith(("the moving left", "moving")) for text in left)


def test_plurals_agree() -> None:
    assert "both red crosses" in wordings(query(colour="red", shape="cross", number="two"))
    told = wordings(query(shape="disc", motion="up", number="all"))
    assert {"all discs that go up", "all the discs moving up"} <= told
    assert not any("goes" in text or "moves" in text or " is " in text for text in told)
    assert wordings(query(colour="blue", number="three")) == {"the three blue objects", "three blue objects"}


def test_an_anchor_is_definite_and_last() -> None:
    asked = query(shape="disc", relation="left_of", anchor=[("shape", "square"), ("colour", "blue")])
    assert wordings(asked) == {
        f"{determiner}disc {way} the blue square"
        for determiner in ("the ", "", "a ")
        for way in ("left of", "to the left of")
    }


def test_a_vowel_never_follows_the_article_a() -> None:
    for asked in (query(colour="orange", shape="disc"), query(motion="left"), query(event="enters")):
        assert not any(text.startswith(("a o", "a e", "a a", "a i")) for text in wordings(asked))


@pytest.mark.parametrize("motion", ASKED_MOTIONS)
def test_every_wording_of_a_motion_reads_back_as_it(motion: str) -> None:
    for number in ("one", "all") if motion not in ("starts", "stops", "turns_back") else ("one",):
        for text in wordings(query(shape="star", motion=motion, number=number)):  # type: ignore[arg-type]
            assert read_text(text).motion == motion, text


@pytest.mark.parametrize("event", EVENTS)
def test_every_wording_of_an_event_reads_back_as_it(event: str) -> None:
    for text in wordings(query(shape="star", event=event)):
        assert read_text(text).event == event, text


def test_each_word_knows_its_condition() -> None:
    asked = query(colour="red", shape="disc", relation="behind", anchor=[("shape", "star"), ("colour", "blue")])
    words = {word.text: word for word in word_query(asked, Draws(1))}
    assert [words[text].condition for text in ("red", "disc", "behind", "blue", "star")] == [0, 1, 2, 2, 2]
    assert [text for text, word in words.items() if word.about_anchor] == ["the", "blue", "star"]
    assert words["the"].condition == -1


def test_motion_words_are_content_words_of_verbs_only() -> None:
    asked = query(shape="ring", motion="up_left", speed="fast")
    for seed in range(NUM_SEEDS):
        words = word_query(asked, Draws(seed))
        told = [words[position].text for position in motion_word_positions(asked, words)]
        assert set(told) <= {"moving", "going", "heading", "moves", "goes", "up", "left", "fast"}
        assert {"up", "left", "fast"} < set(told)
    related = query(shape="ring", relation="left_of", anchor=[("shape", "star")])
    assert motion_word_positions(related, word_query(related, Draws(0))) == ()
