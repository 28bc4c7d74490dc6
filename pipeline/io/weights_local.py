"""Models named by path: a checkpoint file, or a folder with a checkpoint, its tokenizer and a model.json."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline.errors import WeightsError
from pipeline.io.weights_pins import Pins
from pipeline.io.weights_registry import ModelKind

SIDECAR = "model.json"
CHECKPOINT_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")
TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "merges.txt")


class ModelCard(BaseModel):
    """What `model.json` beside a checkpoint says of it; each field may be left out.

    Attributes:
        checkpoint: the file that this is about; by default the only checkpoint of the folder.
        calibration: file of the folder that turns the checkpoint's confidences into probabilities.
        kind, architecture, tokenizer, trained, licence, trained_on: as in the registry.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str | None = None
    checkpoint: str | None = None
    calibration: str | None = None
    kind: ModelKind = "unknown"
    architecture: dict[str, Any] | str | None = None
    tokenizer: str | None = None
    trained: bool = True
    licence: str = "not stated"
    trained_on: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalModel:
    """A model in a file or folder; `tokenizer_dir` and `calibration` are None where it has none."""

    checkpoint: Path
    card: ModelCard
    tokenizer_dir: Path | None
    calibration: Path | None


def read_local_model(path: Path) -> LocalModel:
    """The model at a path.

    Raises:
        WeightsError: no checkpoint, several of them, or a model.json that cannot be read.
    """
    folder = path if path.is_dir() else path.parent
    card = _read_card(folder / SIDECAR)
    if path.is_dir():
        checkpoint = _checkpoint_in(folder, card)
    else:
        checkpoint = path
        if card.checkpoint not in (None, path.name):
            card = ModelCard()  # it is about another file of the folder
    candidates = [folder, folder / "tokenizer"]
    return LocalModel(
        checkpoint=checkpoint,
        card=card,
        tokenizer_dir=next((candidate for candidate in candidates if is_tokenizer_folder(candidate)), None),
        calibration=_calibration_in(folder, card),
    )


def is_tokenizer_folder(folder: Path) -> bool:
    """Whether a folder holds tokenizer.json, or vocab.json and merges.txt."""
    whole, vocabulary, merges = ((folder / name).is_file() for name in TOKENIZER_FILES)
    return whole or (vocabulary and merges)


def tokenizer_hashes(folder: Path, pins: Pins) -> dict[str, str]:
    """File name to sha256 of a tokenizer's files."""
    return {name: pins.sha256_of(folder / name) for name in TOKENIZER_FILES if (folder / name).is_file()}


def _checkpoint_in(folder: Path, card: ModelCard) -> Path:
    if card.checkpoint is not None:
        if not (folder / card.checkpoint).is_file():
            raise WeightsError(f"{folder / SIDECAR}: names the checkpoint {card.checkpoint!r}, which is not there.")
        return folder / card.checkpoint
    found = sorted(file for file in folder.iterdir() if file.suffix in CHECKPOINT_SUFFIXES and file.is_file())
    if len(found) != 1:
        names = ", ".join(file.name for file in found) or "none"
        expected = f"Expected one file of {', '.join(CHECKPOINT_SUFFIXES)}; name the file itself"
        raise WeightsError(f"{folder}: checkpoints found: {names}. {expected}, or its name in {SIDECAR}.")
    return found[0]


def _calibration_in(folder: Path, card: ModelCard) -> Path | None:
    if card.calibration is None:
        return None
    if not (folder / card.calibration).is_file():
        raise WeightsError(f"{folder / SIDECAR}: names the calibration {card.calibration!r}, which is not there.")
    return folder / card.calibration


def _read_card(path: Path) -> ModelCard:
    if not path.is_file():
        return ModelCard()
    try:
        return ModelCard.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, ValidationError) as error:
        raise WeightsError(f"{path}: not a model card that can be read: {error}") from error
