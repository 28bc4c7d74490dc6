"""Training of multimodal segmentation from its settings: data, first weights, the loop, and the model written."""

import hashlib
import io
import json
import logging
from collections.abc import Mapping
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from safetensors.torch import save

from pipeline.engine.load_model import chosen_device
from pipeline.errors import ConfigError, WeightsError
from pipeline.io.storage import Store, open_store
from pipeline.io.weights import ResolvedModel
from pipeline.io.weights_local import SIDECAR
from pipeline.models.memorysam_architecture import (
    MemorySamArchitecture,
    infer_architecture,
    named_architecture,
    read_architecture,
)
from pipeline.models.memorysam_checkpoint import load_memorysam, memorysam_tensors_from_checkpoint
from pipeline.models.memorysam_init import memorysam_from_sam2, random_memorysam
from pipeline.models.memorysam_network import MemorySamNetwork
from pipeline.training import checkpoints
from pipeline.training.initial_weights import read_weights
from pipeline.training.loop import TrainingResult, train
from pipeline.training.memorysam import MemorySamLearner
from pipeline.training.memorysam_recipes import MemorySamTraining
from pipeline.training.memorysam_sources import ARCHITECTURES, kind_of, open_source
from pipeline.training.workers import Workers

logger = logging.getLogger(__name__)

MODEL_FOLDER = "model"
MODEL_FILE = "model.pt"
HALF_MODEL_FILE = "model.safetensors"


class MultimodalTraining(BaseModel):
    """All that one worker of a training is built from; travels as JSON.

    Attributes:
        data: see `open_source`.
        output: store URI or folder for checkpoints, logs and the model.
        resume: go on from the latest checkpoint there, if there is one.
        architecture: name of an architecture; None takes that of `init`, or the one with the data's classes.
        image_size: side of the model's square; None for the architecture's.
        init: MemorySAM weights to begin with: a registry name, path or URI.
        sam2: SAM 2.0 weights to begin with, where there is no `init`.
        device: "cuda" without CUDA is an error.
        num_threads: that read scenes ahead of time.
        torch_threads: of torch's operators on a CPU; None leaves them.
        half: write the model in float16, as safetensors; a finished training that is resumed writes it again.
        memorysam: the recipe.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: str
    output: str
    resume: bool = False
    architecture: str | None = None
    image_size: int | None = Field(default=None, ge=32)
    init: str | None = None
    sam2: str | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"
    offline: bool = False
    trust_unpinned: bool = False
    num_threads: int = Field(default=2, ge=0)
    torch_threads: int | None = Field(default=None, ge=1)
    half: bool = False
    memorysam: MemorySamTraining = MemorySamTraining()


def train_multimodal(
    settings: MultimodalTraining, workers: Workers, *, stop_after: int | None = None
) -> TrainingResult:
    """Train as the settings say, as one of the workers; the first one writes.

    Leaves `checkpoints/step-*.pt`, `logs/` and, when every step is done, `model/`. A checkpoint and the model are in
    the reference's layout with `model.json` beside them, so each is what `--model` of the corpus job takes.

    Raises:
        ConfigError, WeightsError: the settings do not go together, or something they name is not there.
        DecodeError, NonFiniteLoss, StorageError: while training.
    """
    if settings.torch_threads is not None:
        torch.set_num_threads(settings.torch_threads)
    store = open_store(settings.output)
    learner = build_learner(settings, workers)
    loop = settings.memorysam.for_items(learner.source.num_items).loop
    architecture = learner.network.architecture
    if workers.is_first:
        _write_card(store, checkpoints.FOLDER, architecture, settings, checkpoint=None)
    try:
        result = train(learner, loop, store=store, workers=workers, resume=settings.resume, stop_after=stop_after)
    finally:
        learner.close()
    if workers.is_first and result.num_steps == loop.num_steps:
        _write_model(store, architecture, settings)
    workers.wait_for_all()
    return result


def build_learner(settings: MultimodalTraining, workers: Workers) -> MemorySamLearner:
    """The network on this worker's device, with its scenes.

    Raises:
        ConfigError, WeightsError: see `train_multimodal`.
    """
    network = _initial_network(settings).to(torch.device(chosen_device(settings.device)))
    source = open_source(settings.data, seed=settings.memorysam.loop.seed, num_classes=network.architecture.num_classes)
    return MemorySamLearner(network, source, settings.memorysam, workers=workers, num_threads=settings.num_threads)


def _initial_network(settings: MultimodalTraining) -> MemorySamNetwork:
    """The network, filled from an earlier MemorySAM, from SAM2, or at random.

    Raises:
        ConfigError: two kinds of first weights, or an architecture that is not that of `init`.
        WeightsError: they do not fit, or the recipe would leave random parts frozen.
    """
    seed = settings.memorysam.loop.seed
    if settings.init is not None and settings.sam2 is not None:
        raise ConfigError("both init and sam2 are given. An init holds SAM2's weights too: leave sam2 out.")
    if settings.init is not None:
        resolved, tensors = _read(settings.init, settings)
        architecture = _of_init(resolved, tensors)
        if settings.architecture is not None and named_architecture(settings.architecture) != architecture:
            raise ConfigError(f"architecture {settings.architecture!r} is not that of init. Leave it out.")
        return load_memorysam(tensors, _sized(architecture, settings.image_size))
    named = settings.architecture or ARCHITECTURES[kind_of(settings.data)]
    architecture = _sized(named_architecture(named), settings.image_size)
    if settings.sam2 is not None:
        return memorysam_from_sam2(_read(settings.sam2, settings)[1], architecture, seed=seed)
    if settings.memorysam.trained != "all":
        raise WeightsError(
            f"trained {settings.memorysam.trained!r} without weights: the frozen encoder would stay random. Give sam2 "
            "(SAM 2.0's checkpoint of the architecture's size) or init, or train 'all'."
        )
    logger.warning("no weights given: everything begins random, with seed %d.", seed)
    return random_memorysam(architecture, seed=seed)


def _read(name: str, settings: MultimodalTraining) -> tuple[ResolvedModel, dict[str, torch.Tensor]]:
    return read_weights(name, offline=settings.offline, trust_unpinned=settings.trust_unpinned)


def _of_init(resolved: ResolvedModel, tensors: dict[str, torch.Tensor]) -> MemorySamArchitecture:
    if resolved.architecture:
        return read_architecture(resolved.architecture, name=resolved.name)
    if resolved.architecture_name is not None:
        return named_architecture(resolved.architecture_name)
    return infer_architecture(memorysam_tensors_from_checkpoint(tensors))


def _sized(architecture: MemorySamArchitecture, image_size: int | None) -> MemorySamArchitecture:
    if image_size is None:
        return architecture
    values: dict[str, Any] = architecture.model_dump()
    values["sam2"]["image_size"] = image_size
    try:
        return MemorySamArchitecture.model_validate(values)
    except ValueError as error:
        raise ConfigError(f"image_size {image_size} does not fit the model. {error}") from error


def _write_model(store: Store, architecture: MemorySamArchitecture, settings: MultimodalTraining) -> None:
    """The weights of the last checkpoint, alone in a folder with their card."""
    content = checkpoints.load_latest(store)
    assert content is not None
    name, payload = _half_file(content["model"]) if settings.half else _full_file(content["model"])
    store.write_whole(f"{MODEL_FOLDER}/{name}", payload)
    _write_card(store, MODEL_FOLDER, architecture, settings, checkpoint=name)
    sha256 = hashlib.sha256(payload).hexdigest()
    logger.info("%s: %d bytes, sha256 %s", store.uri(f"{MODEL_FOLDER}/{name}"), len(payload), sha256)


def _full_file(tensors: Mapping[str, torch.Tensor]) -> tuple[str, bytes]:
    buffer = io.BytesIO()
    torch.save({"model": dict(tensors)}, buffer)
    return MODEL_FILE, buffer.getvalue()


def _half_file(tensors: Mapping[str, torch.Tensor]) -> tuple[str, bytes]:
    halved = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    return HALF_MODEL_FILE, save({name: tensor.contiguous() for name, tensor in halved.items()})


def _write_card(
    store: Store,
    folder: str,
    architecture: MemorySamArchitecture,
    settings: MultimodalTraining,
    *,
    checkpoint: str | None,
) -> None:
    card = {
        "checkpoint": checkpoint,
        "kind": "memorysam",
        "architecture": architecture.model_dump(mode="json"),
        "trained_on": kind_of(settings.data),
    }
    store.write_whole(f"{folder}/{SIDECAR}", json.dumps(card, indent=1).encode())
