"""Training of the masklet classifier over a cache of feature vectors: losses, the loop, and the checkpoint written."""

# Axes: N vectors of the cache, B of a batch, K the classes and "mixed".

import hashlib
import logging
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.engine.load_model import chosen_device
from pipeline.io.storage import Store, open_store
from pipeline.models.masklet_classifier import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    ClassifierConfig,
    MaskletClassifier,
    new_config,
    save_classifier,
)
from pipeline.training.gradients import BatchLosses
from pipeline.training.loop import LoopConfig, TrainingResult, train
from pipeline.training.masklet_cache import CacheSettings, MaskletVectors, ensure_cache, read_cache
from pipeline.training.schedule import ScheduleConfig
from pipeline.training.workers import Workers

logger = logging.getLogger(__name__)

MODEL_FOLDER = "model"


class ClassifierTraining(BaseModel):
    """How the classifier is trained. Not stated in the paper: all of it is ours.

    Attributes:
        epochs: passes over the cache; the loop's number of steps follows from it.
        width, dropout: of the hidden layer.
        label_smoothing: share of the target that is spread over all classes.
        max_area_weight: a vector counts by the square root of the masklet's share of the frame, up to this.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: int = Field(default=20, ge=1)
    width: int = Field(default=512, ge=1)
    dropout: float = Field(default=0.1, ge=0, lt=1)
    label_smoothing: float = Field(default=0.05, ge=0, lt=1)
    max_area_weight: float = Field(default=0.3, gt=0)
    loop: LoopConfig = LoopConfig(
        batch_size=1024,
        learning_rate=1e-3,
        weight_decay=1e-4,
        schedule=ScheduleConfig(kind="cosine"),
        checkpoint_every=100,
        log_every=20,
    )

    def for_vectors(self, num_vectors: int) -> Self:
        """With the number of steps that the epochs come to; a batch is never larger than the cache."""
        batch = min(self.loop.batch_size, num_vectors)
        steps = self.epochs * -(-num_vectors // batch)
        return self.model_copy(update={"loop": self.loop.model_copy(update={"batch_size": batch, "num_steps": steps})})


class ClassifierSettings(BaseModel):
    """All that one worker of the training is built from; travels as JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    output: str
    resume: bool = False
    device: str = "auto"
    torch_threads: int | None = Field(default=None, ge=1)
    cache: CacheSettings
    classifier: ClassifierTraining = ClassifierTraining()


class ClassifierLearner:
    """The classifier as the training loop sees it.

    Args:
        training: with the number of steps of `for_vectors`.
    """

    def __init__(
        self,
        vectors: MaskletVectors,
        training: ClassifierTraining,
        *,
        device: torch.device,
        trained_on: str = "vectors",
    ) -> None:
        self._vectors, self._training, self._device = vectors, training, device
        self.config: ClassifierConfig = new_config(
            vectors.class_names, vectors.schema, width=training.width, dropout=training.dropout, trained_on=trained_on
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(training.loop.seed)
            self._network = MaskletClassifier(self.config).to(device).train()
        self._weights_N = sample_weights(vectors.classes_N, vectors.areas_N, max_area_weight=training.max_area_weight)
        self._order: tuple[int, NDArray[np.int64]] = (-1, np.zeros(0, np.int64))

    @property
    def module(self) -> MaskletClassifier:
        return self._network

    def trained(self) -> Mapping[str, nn.Parameter]:
        """Every parameter."""
        return dict(self._network.named_parameters())

    def trained_buffers(self) -> Mapping[str, Tensor]:
        """None."""
        return {}

    def losses(self, positions: Sequence[int]) -> BatchLosses:
        """Weighted cross entropy of the vectors at these positions, each epoch in an order of its own."""
        rows = np.array([self._row(position) for position in positions])
        features = torch.from_numpy(self._vectors.features_ND[rows]).to(self._device)
        truth = torch.from_numpy(self._vectors.classes_N[rows]).to(self._device)
        weights = torch.from_numpy(self._weights_N[rows]).to(self._device)
        logits_BK = self._network(features)
        each = F.cross_entropy(logits_BK, truth, reduction="none", label_smoothing=self._training.label_smoothing)
        with torch.no_grad():
            accuracy = (logits_BK.argmax(dim=1) == truth).float().mean()
        return BatchLosses(means={"cross_entropy": (weights * each).mean()}, metrics={"accuracy": accuracy})

    def look_ahead(self, positions: Sequence[int]) -> None:
        """Nothing to do: the cache is in memory."""
        del positions

    def model_content(self) -> dict[str, Any]:
        """The weights."""
        return {"model": {name: value.detach().cpu().clone() for name, value in self._network.state_dict().items()}}

    def recipe(self) -> dict[str, Any]:
        """The training's settings, and digests of what it reads."""
        own = self._training.model_dump(mode="json", exclude={"loop"})
        vectors = hashlib.sha256(self._vectors.features_ND.tobytes() + self._vectors.classes_N.tobytes()).hexdigest()
        return {**own, "class_names": list(self.config.class_names), "vectors": vectors}

    def _row(self, position: int) -> int:
        epoch, place = divmod(position, len(self._vectors.classes_N))
        if self._order[0] != epoch:
            random = np.random.default_rng([self._training.loop.seed, epoch])
            self._order = (epoch, random.permutation(len(self._vectors.classes_N)))
        return int(self._order[1][place])


def sample_weights(
    classes_N: NDArray[np.int64], areas_N: NDArray[np.float32], *, max_area_weight: float
) -> NDArray[np.float32]:
    """1 / sqrt(frequency of the class) times sqrt(area) up to a cap, with mean 1."""
    frequency = np.bincount(classes_N) / len(classes_N)
    weights = np.minimum(np.sqrt(areas_N), max_area_weight) / np.sqrt(frequency[classes_N])
    scaled: NDArray[np.float32] = (weights / weights.mean()).astype(np.float32)
    return scaled


def train_classifier(
    settings: ClassifierSettings, workers: Workers, *, stop_after: int | None = None
) -> TrainingResult:
    """Train as the settings say, as one of the workers; the first one writes.

    Builds the cache here if nobody has, and leaves `cache/`, `checkpoints/step-*.pt`, `logs/` and, when every step is
    done, the folder `model/`, which `--classifier` of the semantic job takes.

    Raises:
        ConfigError, WeightsError, DecodeError, NonFiniteLoss, StorageError: as the data, SAM2 or the loop do.
    """
    if settings.torch_threads is not None:
        torch.set_num_threads(settings.torch_threads)
    if workers.is_first:
        ensure_cache(settings.cache)
    workers.wait_for_all()
    store = open_store(settings.output)
    vectors = read_cache(open_store(settings.cache.output))
    training = settings.classifier.for_vectors(len(vectors.classes_N))
    learner = ClassifierLearner(
        vectors, training, device=torch.device(chosen_device(settings.device)), trained_on=settings.cache.data
    )
    result = train(learner, training.loop, store=store, workers=workers, resume=settings.resume, stop_after=stop_after)
    if workers.is_first and result.num_steps == training.loop.num_steps:
        _write_folder(learner, store)
    workers.wait_for_all()
    return result


def _write_folder(learner: ClassifierLearner, store: Store) -> None:
    with tempfile.TemporaryDirectory() as folder:
        save_classifier(Path(folder), learner.config, learner.model_content()["model"])
        # config.json last: it says that the folder is whole.
        for name in (WEIGHTS_FILE, CONFIG_FILE):
            store.upload(Path(folder) / name, f"{MODEL_FOLDER}/{name}")
    logger.info("the classifier is in %s", store.uri(MODEL_FOLDER))
