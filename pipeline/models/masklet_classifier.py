"""Names the class of a masklet from its feature vector; its checkpoint says which classes and which vectors.

Source: "Evaluating SAM2 for Video Semantic Segmentation", arXiv 2512.01774, approach 2: a simple network classifies
each mask's vector. Not stated in the paper: its layers, and the class "mixed" of masks that no class fills.

Axes: N vectors, K the classes and after them "mixed".
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pipeline.errors import WeightsError
from pipeline.models.masklet_features import FeatureSchema

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
KIND = "masklet_classifier"
"""What config.json says that it is of."""

MIXED = "mixed"
"""Name of what comes after the classes: masks that no class fills. They paint nothing."""


class ClassifierConfig(BaseModel):
    """All that goes with the weights.

    Attributes:
        class_names: in the order of their ids, without "mixed".
        features, features_sha256: which vectors it reads.
        trained_on: for lineage.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str = Field(default=KIND, pattern=f"^{KIND}$")
    class_names: tuple[str, ...] = Field(min_length=1, max_length=255)
    features: FeatureSchema
    features_sha256: str
    width: int = Field(default=512, ge=1)
    dropout: float = Field(default=0.1, ge=0, lt=1)
    trained_on: str = "nothing"

    @property
    def mixed(self) -> int:
        """The index of "mixed"."""
        return len(self.class_names)


class MaskletClassifier(nn.Module):
    """LayerNorm, a hidden layer with GELU and dropout, and one score per class and for "mixed"."""

    def __init__(self, config: ClassifierConfig) -> None:
        super().__init__()
        self.config = config
        size = config.features.size
        self.layers = nn.Sequential(
            nn.LayerNorm(size),
            nn.Linear(size, config.width),
            nn.GELU(),
            nn.Dropout(config.dropout),
            nn.Linear(config.width, len(config.class_names) + 1),
        )

    def forward(self, features_Nd: Tensor) -> Tensor:
        """Logits (N, K)."""
        logits_NK: Tensor = self.layers(features_Nd)
        return logits_NK

    def log_probabilities(self, features_Nd: Tensor) -> Tensor:
        """float64 (N, K), never in a narrower format than float32.

        Raises:
            WeightsError: they are not finite.
        """
        with torch.autocast(features_Nd.device.type, enabled=False):
            found_NK = self(features_Nd.float()).double().log_softmax(dim=1)
        if not torch.isfinite(found_NK).all():
            raise WeightsError("the masklet classifier gives values that are not finite: its weights are damaged.")
        return torch.as_tensor(found_NK)


def new_config(class_names: tuple[str, ...], features: FeatureSchema, **others: Any) -> ClassifierConfig:
    """The config of a classifier of these vectors."""
    return ClassifierConfig(class_names=class_names, features=features, features_sha256=features.sha256, **others)


def save_classifier(folder: Path, config: ClassifierConfig, tensors: Mapping[str, Tensor]) -> None:
    """Write config.json and the weights."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, folder / WEIGHTS_FILE)
    (folder / CONFIG_FILE).write_text(config.model_dump_json(indent=1) + "\n", encoding="utf-8")


def load_classifier(folder: str | Path, *, name: str | None = None) -> MaskletClassifier:
    """The classifier in a folder, on the CPU, in eval mode.

    Raises:
        WeightsError: no such classifier, one whose schema and hash disagree, or tensors that do not fit.
    """
    folder = Path(folder)
    name = name or folder.name
    try:
        said = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        if not isinstance(said, dict) or said.get("kind") != KIND:
            raise ValueError(f"its {CONFIG_FILE} is not that of a {KIND}")
        config = ClassifierConfig.model_validate(said)
        tensors = load_file(folder / WEIGHTS_FILE)
    except (OSError, ValueError, ValidationError, SafetensorError) as error:
        raise WeightsError(
            f"classifier {name!r}: {error}. Expected {CONFIG_FILE} and {WEIGHTS_FILE} as jobs/train_semantic.py "
            "--what classifier leaves them in model/."
        ) from error
    if config.features_sha256 != config.features.sha256:
        raise WeightsError(
            f"classifier {name!r}: feature schema {config.features.sha256[:12]}, but it was trained on "
            f"{config.features_sha256[:12]}. It belongs to another version of masklake: train it again."
        )
    classifier = MaskletClassifier(config)
    try:
        classifier.load_state_dict(tensors)
    except RuntimeError as error:
        raise WeightsError(f"classifier {name!r}: {error}") from error
    return classifier.eval()


def refuse_other_features(config: ClassifierConfig, own: FeatureSchema, *, name: str) -> None:
    """Raises WeightsError unless a classifier was trained on the vectors that this SAM2 gives; says what differs."""
    theirs = config.features
    differ = [
        f"{key} {getattr(theirs, key)!s:.12} there, {getattr(own, key)!s:.12} here"
        for key in FeatureSchema.model_fields
        if getattr(theirs, key) != getattr(own, key)
    ]
    if differ:
        raise WeightsError(
            f"classifier {name!r} reads feature vectors of another SAM2: {'; '.join(differ)}. Name the model it was "
            "trained with, or train a classifier for this one."
        )
