"""Training of text-referring segmentation from its settings: data, first weights, the loop, and the model written."""

import io
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, cast

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from pipeline.engine.load_model import chosen_device
from pipeline.errors import ConfigError
from pipeline.io.storage import Store, open_store
from pipeline.io.weights_local import SIDECAR, TOKENIZER_FILES
from pipeline.models.samwise_architecture import SamwiseArchitecture
from pipeline.models.samwise_network import SamwiseNetwork
from pipeline.models.tokenizers import ClosedVocabularyTokenizer, FolderTokenizer, Tokenizer
from pipeline.training import checkpoints
from pipeline.training.datasets import open_source
from pipeline.training.initial_weights import architecture_of, initial_network, named_architecture, read_weights
from pipeline.training.loop import TrainingResult, train
from pipeline.training.samwise import SamwiseLearner
from pipeline.training.samwise_recipes import SamwiseTraining, trained_architecture
from pipeline.training.workers import Workers

logger = logging.getLogger(__name__)

MODEL_FOLDER = "model"
MODEL_FILE = "model.pt"


class ReferTraining(BaseModel):
    """All that one worker of a training is built from; travels as JSON.

    Attributes:
        data: see `open_source`.
        output: store URI or folder for checkpoints, logs and the model.
        resume: go on from the latest checkpoint there, if there is one.
        architecture: name of an architecture; None takes that of `init`, or "tiny" for ShapesRef and "samwise-base"
            for the rest.
        init: SAMWISE weights to begin with: a registry name, path or URI.
        sam2, text_encoder: weights of the frozen parts, likewise, which `init` overrides.
        tokenizer: folder of the text encoder's tokenizer, unless its vocabulary is closed.
        device: "cuda" without CUDA is an error.
        num_threads: that read clips ahead of time.
        torch_threads: of torch's operators on a CPU; None leaves them.
        samwise: the recipe.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: str
    output: str
    resume: bool = False
    architecture: str | None = None
    init: str | None = None
    sam2: str | None = None
    text_encoder: str | None = None
    tokenizer: str | None = None
    offline: bool = False
    trust_unpinned: bool = False
    device: Literal["auto", "cpu", "cuda"] = "auto"
    num_threads: int = Field(default=0, ge=0)
    torch_threads: int | None = Field(default=None, ge=1)
    samwise: SamwiseTraining = SamwiseTraining()


def train_refer(settings: ReferTraining, workers: Workers, *, stop_after: int | None = None) -> TrainingResult:
    """Train as the settings say, as one of the workers; the first one writes.

    Leaves `checkpoints/step-*.pt`, `logs/` and, when every step is done, `model/`. A checkpoint and the model are in
    SAMWISE's official layout with `model.json` beside them, so each is what `--model` of the corpus job takes.

    Raises:
        ConfigError, WeightsError: the settings do not go together, or something they name is not there.
        DecodeError, NonFiniteLoss, StorageError: while training.
    """
    if settings.torch_threads is not None:
        torch.set_num_threads(settings.torch_threads)
    store = open_store(settings.output)
    learner = build_learner(settings, workers)
    training = settings.samwise.for_source(learner.source)
    architecture = learner.module.architecture
    if workers.is_first:
        _write_card(store, checkpoints.FOLDER, architecture, settings, checkpoint=None)
    try:
        result = train(
            learner, training.loop, store=store, workers=workers, resume=settings.resume, stop_after=stop_after
        )
    finally:
        learner.close()
    if workers.is_first and result.num_steps == training.loop.num_steps:
        _write_model(store, architecture, settings)
    workers.wait_for_all()
    return result


def build_learner(settings: ReferTraining, workers: Workers) -> SamwiseLearner:
    """The network on this worker's device, with its tokenizer and its clips.

    Raises:
        ConfigError, WeightsError: see `train_refer`.
    """
    training = settings.samwise
    device = torch.device(chosen_device(settings.device))
    found: dict[str, Any] = {}
    architecture: SamwiseArchitecture | None = None
    for part in ("sam2", "text_encoder", "init"):
        name = getattr(settings, part)
        if name is not None:
            resolved, found[part] = read_weights(name, offline=settings.offline, trust_unpinned=settings.trust_unpinned)
            if part == "init":
                architecture = architecture_of(resolved, found[part])
    architecture = trained_architecture(_architecture(settings, architecture), training)
    network = initial_network(
        architecture,
        seed=training.loop.seed,
        trained=training.trained,
        sam2=found.get("sam2"),
        text=found.get("text_encoder"),
        samwise=found.get("init"),
    ).to(device)
    if device.type == "cuda" and workers.num_workers > 1:
        convert: Callable[[nn.Module], nn.Module] = nn.SyncBatchNorm.convert_sync_batchnorm
        network = cast(SamwiseNetwork, convert(network))
    source = open_source(
        settings.data,
        num_frames=training.num_frames,
        seed=training.loop.seed,
        image_size=architecture.sam2.image_size,
    )
    tokenizer = _tokenizer(architecture, settings)
    return SamwiseLearner(network, tokenizer, source, training, num_threads=settings.num_threads)


def _architecture(settings: ReferTraining, of_init: SamwiseArchitecture | None) -> SamwiseArchitecture:
    if of_init is not None:
        if settings.architecture is not None and named_architecture(settings.architecture) != of_init:
            raise ConfigError(f"architecture {settings.architecture!r} is not that of init. Leave it out.")
        return of_init
    default = "tiny" if settings.data.startswith("shapesref") else "samwise-base"
    return named_architecture(settings.architecture or default)


def _tokenizer(architecture: SamwiseArchitecture, settings: ReferTraining) -> Tokenizer:
    if architecture.tokenizer == "closed":
        return ClosedVocabularyTokenizer(architecture.vocabulary)
    return FolderTokenizer(settings.tokenizer, kind=architecture.tokenizer)


def _write_model(store: Store, architecture: SamwiseArchitecture, settings: ReferTraining) -> None:
    """The weights of the last checkpoint, alone in a folder with all that goes with them."""
    content = checkpoints.load_latest(store)
    assert content is not None
    buffer = io.BytesIO()
    torch.save({"model": content["model"]}, buffer)
    store.write_whole(f"{MODEL_FOLDER}/{MODEL_FILE}", buffer.getvalue())
    if settings.tokenizer is not None:
        for name in TOKENIZER_FILES:
            file = Path(settings.tokenizer) / name
            if file.is_file():
                store.upload(file, f"{MODEL_FOLDER}/{name}")
    _write_card(store, MODEL_FOLDER, architecture, settings, checkpoint=MODEL_FILE)
    logger.info("the model is in %s", store.uri(MODEL_FOLDER))


def _write_card(
    store: Store, folder: str, architecture: SamwiseArchitecture, settings: ReferTraining, *, checkpoint: str | None
) -> None:
    card = {
        "checkpoint": checkpoint,
        "kind": "samwise",
        "architecture": architecture.model_dump(mode="json"),
        "trained_on": settings.data.partition(":")[0],
    }
    store.write_whole(f"{folder}/{SIDECAR}", json.dumps(card, indent=1).encode())
