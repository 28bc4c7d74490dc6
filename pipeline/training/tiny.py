"""Training of the embedded tiny model: its stages one after the other, and the file that ships."""

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self, get_args

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from safetensors.torch import save
from torch import Tensor

from pipeline.engine.load_model import chosen_device
from pipeline.errors import WeightsError
from pipeline.io.storage import Store, open_store
from pipeline.io.weights_local import SIDECAR
from pipeline.models.samwise_checkpoint import load_samwise
from pipeline.models.samwise_network import SamwiseNetwork
from pipeline.training import checkpoints
from pipeline.training.grounded import GroundedLearner, ReferLearner
from pipeline.training.grounded_contact import ContactLearner
from pipeline.training.grounded_memory import CmeLearner, MemoryLearner, TrackLearner
from pipeline.training.initial_weights import named_architecture
from pipeline.training.loop import train
from pipeline.training.tiny_recipes import (
    choosing,
    detailing,
    firming,
    guiding,
    heeding,
    holding,
    keeping,
    pacing,
    ripening,
    sharpening,
    telling,
    touching,
)
from pipeline.training.tiny_stages import CmeStage, ContactStage, MemoryStage, ReferStage, TrackStage
from pipeline.training.workers import Workers

logger = logging.getLogger(__name__)

StageName = Literal[
    "refer",
    "ripen",
    "sharpen",
    "detail",
    "track",
    "memory",
    "contact",
    "guide",
    "choose",
    "keep",
    "tell",
    "pace",
    "hold",
    "firm",
    "heed",
    "cme",
]
STAGES: tuple[StageName, ...] = get_args(StageName)
Stage = ReferStage | TrackStage | MemoryStage | ContactStage | CmeStage
MIXES: dict[StageName, dict[StageName, float]] = {
    "keep": {"choose": 0.6, "guide": 0.4},
    "tell": {"choose": 0.6, "guide": 0.4},
    "pace": {"keep": 0.4, "tell": 0.4, "choose": 0.2},
    "hold": {"keep": 0.4, "tell": 0.4, "choose": 0.2},
    "firm": {"pace": 0.5, "hold": 0.5},
    "heed": {"pace": 0.5, "hold": 0.5},
    "cme": {"firm": 0.35, "heed": 0.35, "pace": 0.15, "hold": 0.15},
}
"""See `TinyTraining.mixes`. The last was chosen on development seed 777; MODEL_CARD.md has the table."""
_SHARES_OFF = 1e-6
MODEL_FOLDER = "model"
MODEL_FILE = "tiny.safetensors"
OBJECT_SCORE_BIAS = "sam.sam_mask_decoder.pred_obj_score_head.layers.2.bias"


class TinyTraining(BaseModel):
    """All that one worker of the training is built from; travels as JSON.

    Attributes:
        output: store URI or folder; each stage leaves checkpoints and logs in a folder of its name, the last one the
            model in `model/`.
        architecture: a named one with grounded fusion.
        stages: to run, in order; each begins with the weights that the one before left, or as `mixes` says.
        device: "cuda" without CUDA is an error.
        num_threads: that draw clips ahead of time.
        torch_threads: of torch's operators on a CPU; more than one is slower on few busy cores.
        presence_shift: added to every object score of the model that is written; below 0 it calls more frames empty.
            0: on development seed 777 a shift of -0.4 cost more of the masks than it gained of empty frames.
        mixes: what a stage begins with where it is not what the stage before left: shares of stages' weights. Averages
            of a training's end and its beginning, and of trainings from one beginning, keep what each knew (Wortsman
            et al., WiSE-FT, CVPR 2022, arXiv 2109.01903; Model soups, ICML 2022, arXiv 2203.05482).
        refer, ripen, sharpen, detail, track, memory, contact, guide, choose, keep, tell, pace, hold, firm, heed,
            cme: the stages' recipes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    output: str
    architecture: str = "tiny"
    stages: tuple[StageName, ...] = STAGES
    device: Literal["auto", "cpu", "cuda"] = "auto"
    num_threads: int = Field(default=0, ge=0)
    torch_threads: int | None = Field(default=1, ge=1)
    presence_shift: float = 0.0
    mixes: dict[StageName, dict[StageName, float]] = MIXES
    refer: ReferStage = ReferStage()
    ripen: ReferStage = ripening()
    sharpen: ReferStage = sharpening()
    detail: ReferStage = detailing()
    track: TrackStage = TrackStage()
    memory: MemoryStage = MemoryStage()
    contact: ContactStage = touching()
    guide: ContactStage = guiding()
    choose: ContactStage = choosing()
    keep: ContactStage = keeping()
    tell: ContactStage = telling()
    pace: ContactStage = pacing()
    hold: ContactStage = holding()
    firm: ContactStage = firming()
    heed: ContactStage = heeding()
    cme: CmeStage = CmeStage()

    @model_validator(mode="after")
    def _check(self) -> Self:
        for stage, shares in self.mixes.items():
            are_before = all(STAGES.index(name) < STAGES.index(stage) for name in shares)
            # Asked so that a share that is no number fails, too.
            are_whole = all(share > 0 for share in shares.values()) and abs(sum(shares.values()) - 1) <= _SHARES_OFF
            if not (are_before and are_whole):
                raise ValueError(
                    f"mixes: {stage} begins with {shares}; expected stages before it, shares above 0 that sum to 1."
                )
        return self

    def recipe(self, stage: StageName) -> Stage:
        """What a stage is configured by."""
        found: Stage = getattr(self, stage)
        return found


def train_tiny(settings: TinyTraining, workers: Workers, *, stop_after: int | None = None) -> None:
    """Run the stages as one of the workers, going on where there are checkpoints; the first worker writes.

    Args:
        stop_after: end each stage, and so the whole, after this many steps.

    Raises:
        ConfigError, WeightsError: the settings do not go together.
        NonFiniteLoss, StorageError: while training.
    """
    if settings.torch_threads is not None:
        torch.set_num_threads(settings.torch_threads)
    for stage in settings.stages:
        loop, store = settings.recipe(stage).loop, stage_store(settings, stage)
        learner = build_learner(settings, stage)
        logger.info("stage %s: %d steps, %d tensors trained", stage, loop.num_steps, len(learner.trained()))
        try:
            result = train(learner, loop, store=store, workers=workers, resume=True, stop_after=stop_after)
        finally:
            learner.close()
        if result.num_steps < loop.num_steps:
            return
    if workers.is_first:
        write_model(settings)
    workers.wait_for_all()


def build_learner(settings: TinyTraining, stage: StageName) -> GroundedLearner:
    """A stage's learner: with fresh weights if it is the first of all, else with those of the stage before, or a mean.

    Raises:
        WeightsError: a stage that it begins with left none, or has not ended.
    """
    network = _initial(settings, stage).to(chosen_device(settings.device)).eval()
    match settings.recipe(stage):
        case ReferStage() as recipe:
            return ReferLearner(network, recipe, num_threads=settings.num_threads)
        case TrackStage() as recipe:
            return TrackLearner(network, recipe, num_threads=settings.num_threads)
        case ContactStage() as recipe:  # a MemoryStage, too
            return ContactLearner(network, recipe, num_threads=settings.num_threads)
        case MemoryStage() as recipe:
            return MemoryLearner(network, recipe, num_threads=settings.num_threads)
        case CmeStage() as recipe:
            return CmeLearner(network, recipe, num_threads=settings.num_threads)


def stage_store(settings: TinyTraining, stage: StageName) -> Store:
    """Where a stage leaves its checkpoints."""
    return open_store(f"{settings.output.rstrip('/')}/{stage}")


def write_model(settings: TinyTraining) -> str:
    """The weights of the last stage as float16 with their card, and their sha256."""
    content = _finished(settings, settings.stages[-1])
    shifted = {**content["model"], OBJECT_SCORE_BIAS: content["model"][OBJECT_SCORE_BIAS] + settings.presence_shift}
    tensors = {
        name: tensor.half().contiguous() if tensor.is_floating_point() else tensor.contiguous()
        for name, tensor in shifted.items()
    }
    payload = save(tensors)
    sha256 = hashlib.sha256(payload).hexdigest()
    store = open_store(settings.output)
    store.write_whole(f"{MODEL_FOLDER}/{MODEL_FILE}", payload)
    card = {
        "name": "tiny",
        "checkpoint": MODEL_FILE,
        "kind": "samwise",
        "architecture": content["architecture"],
        "trained_on": "ShapesRef",
        "licence": "Apache-2.0",
    }
    store.write_whole(f"{MODEL_FOLDER}/{SIDECAR}", json.dumps(card, indent=1).encode())
    logger.info("%s: %d bytes, sha256 %s", store.uri(f"{MODEL_FOLDER}/{MODEL_FILE}"), len(payload), sha256)
    return sha256


def _initial(settings: TinyTraining, stage: StageName) -> SamwiseNetwork:
    place = STAGES.index(stage)
    if place == 0:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.recipe(stage).loop.seed)
            return SamwiseNetwork(named_architecture(settings.architecture))
    shares = settings.mixes.get(stage, {STAGES[place - 1]: 1.0})
    tensors = _mixed([(_finished(settings, name)["model"], share) for name, share in shares.items()])
    return load_samwise(tensors, named_architecture(settings.architecture), name=settings.architecture)


def _mixed(parts: Sequence[tuple[Mapping[str, Tensor], float]]) -> dict[str, Tensor]:
    """Tensor by tensor a mean with these shares; whole numbers are the first part's."""
    first = parts[0][0]
    return {
        name: torch.stack([share * tensors[name].double() for tensors, share in parts]).sum(dim=0).to(tensor.dtype)
        if tensor.is_floating_point()
        else tensor
        for name, tensor in first.items()
    }


def _finished(settings: TinyTraining, stage: StageName) -> dict[str, Any]:
    """The last checkpoint of a stage.

    Raises:
        WeightsError: there is none, or one from before its last step.
    """
    store = stage_store(settings, stage)
    content = checkpoints.load_latest(store)
    if content is None:
        raise WeightsError(f"{store.root_uri}: no checkpoint of stage {stage!r} to go on from. Run that stage first.")
    step, num_steps = content["training"]["step"], settings.recipe(stage).loop.num_steps
    if step < num_steps:
        raise WeightsError(
            f"{store.root_uri}: stage {stage!r} ended after {step} of {num_steps} steps. Run it to its end first."
        )
    return content
