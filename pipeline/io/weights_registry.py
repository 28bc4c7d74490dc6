"""The registry of models: weights_registry.yaml, read and checked."""

import functools
import re
from collections.abc import Mapping
from importlib import resources
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from pipeline.errors import WeightsError

ModelKind = Literal["samwise", "memorysam", "sam2", "text_encoder", "unknown"]

CHECKPOINT = "checkpoint"
TOKENIZER = "tokenizer"
CALIBRATION = "calibration"

_FILE_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_URL = re.compile(r"(hf:[\w.-]+/[\w.-]+(@[\w./-]+?)?/[\w./-]+|[a-z][a-z0-9]*://\S.*|gdrive:[\w-]+|package:[\w./-]+)")


class WeightFile(BaseModel):
    """One file of a model.

    Attributes:
        role: unique within the model; "checkpoint" holds the tensors, "tokenizer" what reads text, "calibration"
            what turns confidences into probabilities.
        name: what the file is called wherever it is put.
        urls: where it may be fetched, best first.
        sha256: 64 hex digits, or None where upstream publishes none and nobody has pinned it.
        bytes: size, if known.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    role: str
    name: Annotated[str, Field(pattern=_FILE_NAME)]
    urls: tuple[str, ...] = ()
    sha256: Annotated[str | None, Field(pattern=r"[0-9a-f]{64}")] = None
    bytes: int | None = None
    format: Literal["torch", "safetensors", "json", "text"] = "torch"

    @model_validator(mode="after")
    def _urls_are_known(self) -> Self:
        for url in self.urls:
            if not _URL.fullmatch(url):
                raise ValueError(
                    f"url {url!r}: expected hf:ORG/NAME@REVISION/FILE, https://, gdrive:ID or package:FILE"
                )
        return self


class ModelEntry(BaseModel):
    """One model of the registry.

    Attributes:
        architecture: its sizes; or their name among those that pipeline.models knows; or None: read off the tensors.
        files: empty means seeded random weights.
        tokenizer: name of the entry whose tokenizer reads this model's text.
        gated: the host asks for an account that has accepted the licence.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, Field(pattern=_FILE_NAME)]
    kind: ModelKind
    architecture: dict[str, Any] | str | None
    files: tuple[WeightFile, ...]
    tokenizer: str | None = None
    trained: bool
    licence: str
    licence_url: str
    gated: bool = False
    trained_on: str
    card: str

    @model_validator(mode="after")
    def _roles_are_unique(self) -> Self:
        roles = [file.role for file in self.files]
        if len(set(roles)) < len(roles):
            raise ValueError(f"model {self.name}: roles {roles} repeat")
        if self.trained and not self.files:
            raise ValueError(f"model {self.name}: trained, but has no file")
        return self


Registry = Mapping[str, ModelEntry]


@functools.cache
def load_registry() -> Registry:
    """Model name to entry, from the package's own file."""
    text = (resources.files("pipeline.io") / "weights_registry.yaml").read_text(encoding="utf-8")
    return parse_registry(text, "weights_registry.yaml")


def parse_registry(text: str, where: str) -> Registry:
    """Model name to entry.

    Raises:
        WeightsError: not YAML, an unknown or missing key, a name twice, a tokenizer that is no entry.
    """
    try:
        entries = [ModelEntry.model_validate(entry) for entry in yaml.safe_load(text)]
    except (yaml.YAMLError, ValidationError, TypeError) as error:
        raise WeightsError(f"{where}: not a registry of models: {error}") from error
    registry = {entry.name: entry for entry in entries}
    if len(registry) < len(entries):
        raise WeightsError(f"{where}: a model name is there twice.")
    for entry in entries:
        if entry.tokenizer is not None and entry.tokenizer not in registry:
            raise WeightsError(f"{where}: model {entry.name}: tokenizer {entry.tokenizer!r} is no entry.")
    return registry
