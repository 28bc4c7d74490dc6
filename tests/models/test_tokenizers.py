"""Tokenizers: ids, character spans, limits, and what is said when files or words are missing."""

import json
import logging
from pathlib import Path

import pytest
from tokenizers import ByteLevelBPETokenizer
from transformers import CLIPTokenizerFast, RobertaTokenizerFast

from pipeline.errors import PromptError, WeightsError
from pipeline.models.tokenizers import (
    ClosedVocabularyTokenizer,
    FolderTokenizer,
    TokenizedText,
    check_length,
    normalize_expression,
)

CORPUS = ["the horse running to the left", "a horse walking slowly", "two birds flying away over the sea"] * 3
TEXTS = ["the horse running", "A horse, walking  slowly!", "zebra über alles", "", "birds' sea"]


@pytest.fixture(scope="module")
def roberta_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """vocab.json and merges.txt of a small byte-pair model, with RoBERTa's special tokens at RoBERTa's ids."""
    folder = tmp_path_factory.mktemp("roberta")
    trained = ByteLevelBPETokenizer()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trained.train_from_iterator(CORPUS, vocab_size=330, min_frequency=1, special_tokens=special)
    trained.save_model(str(folder))
    return folder


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clip")
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    merges = ["t h", "th e</w>"]
    words = [*letters, *(f"{letter}</w>" for letter in letters), "th", "the</w>", ",</w>", "!</w>"]
    vocabulary = {word: index for index, word in enumerate([*words, "<|startoftext|>", "<|endoftext|>"])}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    return folder


@pytest.mark.parametrize("text", TEXTS)
def test_roberta_ids_and_spans_are_those_of_transformers(roberta_folder: Path, text: str) -> None:
    ours = FolderTokenizer(str(roberta_folder), kind="roberta")(text)
    reference = RobertaTokenizerFast.from_pretrained(str(roberta_folder), local_files_only=True)
    wanted = reference(text, return_offsets_mapping=True)
    assert list(ours.ids) == wanted["input_ids"]
    assert [tuple(span) for span in wanted["offset_mapping"]] == list(ours.spans)
    assert (ours.ids[0], ours.ids[-1]) == (0, 2)


def test_spans_point_at_the_characters_of_each_token(roberta_folder: Path) -> None:
    text = "the horse running"
    tokenized = FolderTokenizer(str(roberta_folder), kind="roberta")(text)
    shown = "".join(text[start:stop] for start, stop in tokenized.spans)
    assert shown == "thehorserunning"
    assert tokenized.spans[0] == tokenized.spans[-1] == (0, 0)


def test_a_tokenizer_json_gives_the_same_as_vocabulary_and_merges(roberta_folder: Path, tmp_path: Path) -> None:
    by_merges = FolderTokenizer(str(roberta_folder), kind="roberta")
    RobertaTokenizerFast.from_pretrained(str(roberta_folder)).save_pretrained(str(tmp_path))
    for name in ("vocab.json", "merges.txt"):
        (tmp_path / name).unlink(missing_ok=True)
    by_json = FolderTokenizer(str(tmp_path), kind="roberta")
    for text in TEXTS:
        assert by_json(text) == by_merges(text)
    assert by_json.vocabulary_size == by_merges.vocabulary_size


def test_clip_ids_are_those_of_transformers(clip_folder: Path) -> None:
    ours = FolderTokenizer(str(clip_folder), kind="clip")
    reference = CLIPTokenizerFast.from_pretrained(str(clip_folder), local_files_only=True)
    for text in ("the cat", "The  CAT, the dog!"):
        assert list(ours(text).ids) == reference(text)["input_ids"]
    assert ours.end_id == ours("the").ids[-1] == reference.eos_token_id


def test_a_saved_truncation_is_not_applied(roberta_folder: Path, tmp_path: Path) -> None:
    reference = RobertaTokenizerFast.from_pretrained(str(roberta_folder))
    reference.backend_tokenizer.enable_truncation(4)
    reference.backend_tokenizer.save(str(tmp_path / "tokenizer.json"))
    tokenized = FolderTokenizer(str(tmp_path), kind="roberta")("the horse running to the left")
    assert len(tokenized.ids) > 4


def test_a_folder_without_the_files_is_told_with_names_and_place(tmp_path: Path) -> None:
    (tmp_path / "vocab.json").write_text("{}")
    with pytest.raises(WeightsError, match=r"tokenizer\.json.*merges\.txt.*found \['vocab\.json'\].*roberta-base") as e:
        FolderTokenizer(str(tmp_path), kind="roberta")
    assert str(tmp_path) in str(e.value)
    with pytest.raises(WeightsError, match="no such folder"):
        FolderTokenizer(str(tmp_path / "nowhere"), kind="clip")
    with pytest.raises(WeightsError, match="no tokenizer_dir"):
        FolderTokenizer(None, kind="roberta")


def test_a_closed_vocabulary_gives_one_token_per_word_with_its_span() -> None:
    tokenizer = ClosedVocabularyTokenizer(["red", "disc", "moving"])
    tokenized = tokenizer("Red  disc, moving.")
    assert tokenized.ids == (0, 4, 5, 6, 2)
    assert [tokenized.text[start:stop] for start, stop in tokenized.spans] == ["", "Red", "disc", "moving", ""]
    assert tokenizer.vocabulary_size == 7


def test_unknown_words_are_told_and_the_vocabulary_is_listed_once(caplog: pytest.LogCaptureFixture) -> None:
    tokenizer = ClosedVocabularyTokenizer(["red", "disc"])
    with caplog.at_level(logging.WARNING):
        assert tokenizer("red zebra disc").ids == (0, 4, 3, 5, 2)
        tokenizer("blue disc")
        tokenizer("red disc")
    said = [record.getMessage() for record in caplog.records]
    assert [("zebra" in line, "blue" in line, "red disc." in line) for line in said] == [
        (True, False, False),
        (False, False, True),
        (False, True, False),
    ]


def test_a_text_longer_than_the_encoder_is_refused_with_its_count() -> None:
    tokenized = TokenizedText(text="word " * 600, ids=(5,) * 602, spans=((0, 0),) * 602)
    with pytest.raises(PromptError, match=r"602 tokens.*at most 512"):
        check_length(tokenized, max_tokens=512)
    assert check_length(tokenized, max_tokens=602) is tokenized


def test_normalising_lowers_case_and_joins_white_space() -> None:
    assert normalize_expression("  A  Dog\tRUNNING\n") == "a dog running"
