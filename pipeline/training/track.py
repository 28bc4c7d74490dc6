"""Training of the motion encoders from its settings: a frozen SAM2, the loop, and the model written."""

import io
import json
import logging
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field

from pipeline.engine.load_model import chosen_device, load_model
from pipeline.io.storage import Store, open_store
from pipeline.io.weights import resolve_model
from pipeline.io.weights_local import SIDECAR
from pipeline.models.mosam_model import load_tracking_core
from pipeline.training import checkpoints
from pipeline.training.loop import TrainingResult, train
from pipeline.training.track_learner import TrackLearner, TrackTraining
from pipeline.training.workers import Workers

logger = logging.getLogger(__name__)

MODEL_FOLDER = "model"
MODEL_FILE = "motion_encoders.pt"


class TrackTrainingSettings(BaseModel):
    """All that one worker of the training is built from; travels as JSON.

    Attributes:
        output: store URI or folder for checkpoints, logs and the encoders.
        resume: go on from the latest checkpoint there, if there is one.
        model: the SAM2 that is tracked with, by registry name, path or URI; a SAMWISE gives the SAM2 inside it. The
            encoders belong to it: another one does not know their tokens.
        image_size: side of its square, instead of its own.
        device: "cuda" without CUDA is an error.
        num_threads: that draw clips ahead of time.
        torch_threads: of torch's operators on a CPU; None leaves them.
        track: the recipe.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    output: str
    resume: bool = False
    model: str = "tiny"
    image_size: int | None = Field(default=None, ge=32)
    offline: bool = False
    trust_unpinned: bool = False
    device: Literal["auto", "cpu", "cuda"] = "auto"
    num_threads: int = Field(default=0, ge=0)
    torch_threads: int | None = Field(default=None, ge=1)
    track: TrackTraining = TrackTraining()


def train_track(settings: TrackTrainingSettings, workers: Workers, *, stop_after: int | None = None) -> TrainingResult:
    """Train as the settings say, as one of the workers; the first one writes.

    Leaves `checkpoints/step-*.pt`, `logs/` and, when every step is done, `model/motion_encoders.pt`.

    Raises:
        ConfigError, WeightsError: the settings do not go together, or something they name is not there.
        NonFiniteLoss, StorageError: while training.
    """
    if settings.torch_threads is not None:
        torch.set_num_threads(settings.torch_threads)
    store, loop = open_store(settings.output), settings.track.loop
    learner = build_learner(settings)
    try:
        result = train(learner, loop, store=store, workers=workers, resume=settings.resume, stop_after=stop_after)
    finally:
        learner.close()
    if workers.is_first and result.num_steps == loop.num_steps:
        _write_model(store, settings)
    workers.wait_for_all()
    return result


def build_learner(settings: TrackTrainingSettings) -> TrackLearner:
    """The encoders on this worker's device, with their SAM2.

    Raises:
        ConfigError, WeightsError: see `train_track`.
    """
    resolved = resolve_model(settings.model, offline=settings.offline or None, trust_unpinned=settings.trust_unpinned)
    spec = load_model(resolved, seed=settings.track.loop.seed)
    core = load_tracking_core(spec, image_size=settings.image_size).to(chosen_device(settings.device))
    return TrackLearner(core, settings.track, num_threads=settings.num_threads)


def _write_model(store: Store, settings: TrackTrainingSettings) -> None:
    """The encoders of the last checkpoint, alone in a folder with their card."""
    content = checkpoints.load_latest(store)
    assert content is not None
    buffer = io.BytesIO()
    torch.save({name: content[name] for name in ("model", "architecture")}, buffer)
    store.write_whole(f"{MODEL_FOLDER}/{MODEL_FILE}", buffer.getvalue())
    card = {
        "checkpoint": MODEL_FILE,
        "kind": "motion_encoders",
        "architecture": content["architecture"],
        "trained_on": f"ShapesRef clips, with the SAM2 of {settings.model}",
    }
    store.write_whole(f"{MODEL_FOLDER}/{SIDECAR}", json.dumps(card, indent=1).encode())
    logger.info("the motion encoders are in %s", store.uri(MODEL_FOLDER))
