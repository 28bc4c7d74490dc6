"""The embedded model's words are the ones that ShapesRef says, in the same order."""

from pipeline.models.closed_vocabulary import SPECIAL_TOKENS, WORDS
from pipeline.synth.vocabulary import VOCABULARY


def test_the_model_knows_the_words_of_the_world_in_their_order() -> None:
    assert WORDS == VOCABULARY


def test_no_word_has_two_ids() -> None:
    tokens = (*SPECIAL_TOKENS, *WORDS)
    assert len(set(tokens)) == len(tokens)
