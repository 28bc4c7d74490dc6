"""From an expression to token ids and character spans: RoBERTa, CLIP, and a closed vocabulary."""

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, cast

from tokenizers import Tokenizer as BackendTokenizer

from pipeline.errors import PromptError, WeightsError
from pipeline.models.closed_vocabulary import SPECIAL_TOKENS

logger = logging.getLogger(__name__)

TokenizerKind = Literal["roberta", "clip", "closed"]

_ORIGINS = {"roberta": "FacebookAI/roberta-base", "clip": "openai/clip-vit-base-patch32"}
_BYTE_PAIR_CLASSES = {"roberta": "RobertaTokenizerFast", "clip": "CLIPTokenizerFast"}
"""Of transformers, which is imported where one is used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizedText:
    """An expression as a text encoder reads it.

    Attributes:
        text: the characters that the spans count in.
        ids: token ids, begin and end tokens included.
        spans: per token the half-open range of characters it stands for; (0, 0) for begin and end tokens.
    """

    text: str
    ids: tuple[int, ...]
    spans: tuple[tuple[int, int], ...]


class Tokenizer(Protocol):
    """Any callable of this form; tests pass one that returns fixed ids."""

    @property
    def vocabulary_size(self) -> int:
        """One more than the largest id it can give."""
        ...

    def __call__(self, text: str) -> TokenizedText: ...


def normalize_expression(text: str) -> str:
    """Lower case with single spaces: what SAMWISE does to captions in training, but not at inference."""
    return " ".join(text.lower().split())


def check_length(tokenized: TokenizedText, *, max_tokens: int) -> TokenizedText:
    """The text itself.

    Raises:
        PromptError: it has more tokens than the encoder has positions; it is never cut in silence.
    """
    if len(tokenized.ids) > max_tokens:
        raise PromptError(
            f"expression {tokenized.text[:60]!r}...: {len(tokenized.ids)} tokens, begin and end included; "
            f"the text encoder reads at most {max_tokens}. Shorten it."
        )
    return tokenized


class FolderTokenizer:
    """Byte-pair tokenizer of a published model, from its files in a local folder.

    Args:
        folder: holds tokenizer.json, or vocab.json and merges.txt.
        kind: which rules go with vocab.json and merges.txt, and where the files are published.

    Raises:
        WeightsError: the folder lacks the files.
    """

    def __init__(self, folder: str | None, *, kind: Literal["roberta", "clip"]) -> None:
        self._backend = _read_backend(folder, kind)
        self._backend.no_truncation()
        self._backend.no_padding()

    @property
    def vocabulary_size(self) -> int:
        return max(self._backend.get_vocab(with_added_tokens=True).values()) + 1

    @property
    def end_id(self) -> int:
        """Id of the token that ends every text."""
        return int(self._backend.encode("").ids[-1])

    def __call__(self, text: str) -> TokenizedText:
        encoding = self._backend.encode(text)
        return TokenizedText(
            text=text, ids=tuple(encoding.ids), spans=tuple((start, stop) for start, stop in encoding.offsets)
        )


class ClosedVocabularyTokenizer:
    """One token per word of a fixed list, case ignored; any other word becomes `<unk>`, with a warning.

    Args:
        words: lower case; the place in the sequence, after the special tokens, is the id.
    """

    def __init__(self, words: Sequence[str]) -> None:
        self._words = tuple(words)
        self._ids = {word: index for index, word in enumerate((*SPECIAL_TOKENS, *self._words))}
        self._told_vocabulary = False

    @property
    def vocabulary_size(self) -> int:
        return len(SPECIAL_TOKENS) + len(self._words)

    def __call__(self, text: str) -> TokenizedText:
        found = [(match.group().lower(), match.span()) for match in re.finditer(r"[^\W_]+(?:'\w+)?", text)]
        self._warn_of_unknown([word for word, _ in found if word not in self._ids], text)
        ids = [self._ids.get(word, self._ids["<unk>"]) for word, _ in found]
        return TokenizedText(
            text=text,
            ids=(self._ids["<s>"], *ids, self._ids["</s>"]),
            spans=((0, 0), *(span for _, span in found), (0, 0)),
        )

    def _warn_of_unknown(self, unknown: list[str], text: str) -> None:
        if not unknown:
            return
        logger.warning("expression %r: the model does not know the words %s.", text, ", ".join(unknown))
        if not self._told_vocabulary:
            logger.warning("The model's whole vocabulary: %s.", " ".join(self._words))
            self._told_vocabulary = True


def _read_backend(folder: str | None, kind: Literal["roberta", "clip"]) -> BackendTokenizer:
    wanted = "tokenizer.json, or vocab.json and merges.txt"
    advice = (
        f"Put {wanted} of {_ORIGINS[kind]} into a folder and name it as the model's tokenizer_dir; "
        "they are published in the model's repository on the Hugging Face hub."
    )
    if folder is None:
        raise WeightsError(f"the model reads text with the {kind} tokenizer, but has no tokenizer_dir. {advice}")
    directory = Path(folder)
    if (directory / "tokenizer.json").is_file():
        return BackendTokenizer.from_file(str(directory / "tokenizer.json"))
    if (directory / "vocab.json").is_file() and (directory / "merges.txt").is_file():
        import transformers

        byte_pair = getattr(transformers, _BYTE_PAIR_CLASSES[kind]).from_pretrained(folder, local_files_only=True)
        return cast(BackendTokenizer, byte_pair.backend_tokenizer)
    found = sorted(path.name for path in directory.iterdir()) if directory.is_dir() else "no such folder"
    raise WeightsError(f"tokenizer_dir {folder}: expected {wanted}; found {found}. {advice}")
