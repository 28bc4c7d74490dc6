"""Masks of street things: SAM2 weights that answer clicks and boxes on generated streets, and follow what they show."""

# Axes: F frames of all streets of a step, H W the model's square.

import hashlib
import json
import logging
from collections.abc import Sequence
from typing import Any, Literal, Self

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.engine.load_model import chosen_device, load_model
from pipeline.errors import ConfigError
from pipeline.io.storage import Store, open_store
from pipeline.io.weights import resolve_model
from pipeline.io.weights_local import SIDECAR
from pipeline.models.image_encoding import ImageFeatures
from pipeline.models.mosam_model import load_tracking_core
from pipeline.models.samwise_network import SamwiseNetwork
from pipeline.models.text_free_core import TextFreeCore
from pipeline.synth.street import sample_street
from pipeline.synth.street_config import STREET_PRESETS, StreetConfig
from pipeline.synth.street_world import STREET_CLASSES
from pipeline.training import checkpoints
from pipeline.training.gradients import BatchLosses
from pipeline.training.grounded import GroundedLearner
from pipeline.training.grounded_contact import MIN_REGION_PX, nearest, street_batch
from pipeline.training.grounded_memory import step_generator
from pipeline.training.loop import LoopConfig, TrainingResult, train
from pipeline.training.mask_losses import row_losses, row_metrics
from pipeline.training.rollout import choose_objects, track_encoded
from pipeline.training.schedule import ScheduleConfig
from pipeline.training.tiny_stages import ShownBy
from pipeline.training.workers import Workers

logger = logging.getLogger(__name__)

MODEL_FOLDER = "model"
MODEL_FILE = "streets.safetensors"

_WITHOUT_TEXT = ("network.core.model.", "network.detail.", "network.grounding.")
_HELPER = "street_classes"
_OF_TEXT = (
    "text_down", "read_8", "film", "to_middle", "coarse_down", "norm_16", "hsa_late", "read_16", "tell_text",
    "text_up", "to_coarse", "words",
)  # fmt: skip
"""Parts of grounded fusion that only sentences use."""


class StreetPhase(BaseModel):
    """Some steps of the training.

    Attributes:
        num_frames: of each street; 1 teaches to answer a prompt, more to follow what was shown.
        streets_per_step, objects_per_street: how many of each.
        min_region_px: smaller regions, in pixels of the model's square, are not shown.
        kinds: how regions are shown, one of them drawn for each step; "mask" needs a second frame.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_steps: int = Field(ge=1)
    num_frames: int = Field(ge=1)
    streets_per_step: int = Field(ge=1)
    objects_per_street: int = Field(ge=1)
    min_region_px: int = Field(default=MIN_REGION_PX, ge=1)
    kinds: tuple[ShownBy, ...]

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.num_frames == 1 and "mask" in self.kinds:
            raise ValueError('one frame, shown by "mask": a mask is followed to a second frame, give two.')
        return self


class MasksTraining(BaseModel):
    """The recipe: first what a click means on one frame, then the same things over several.

    Attributes:
        streets: that regions are drawn from.
        class_weight: of the helper head that names each cell's class, dropped afterwards.
        phases: one after the other; the last one lasts to the end.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    streets: StreetConfig = STREET_PRESETS["street_train"]
    class_weight: float = Field(default=0.5, ge=0)
    phases: tuple[StreetPhase, ...] = Field(
        default=(
            StreetPhase(
                num_steps=1600,
                num_frames=1,
                streets_per_step=8,
                objects_per_street=10,
                min_region_px=100,
                kinds=("point", "point", "box"),
            ),
            StreetPhase(
                num_steps=1200,
                num_frames=3,
                streets_per_step=5,
                objects_per_street=5,
                kinds=("point", "mask", "point", "box"),
            ),
        ),
        min_length=1,
    )
    loop: LoopConfig = LoopConfig(
        num_steps=2800,
        batch_size=1,
        learning_rate=1e-3,
        betas=(0.9, 0.98),
        weight_decay=0.02,
        schedule=ScheduleConfig(kind="cosine", warmup_steps=30, final_factor=0.03),
        rate_factors={
            "network.core.model.image_encoder.": 0.3,
            "network.grounding.": 0.3,
            "network.detail.": 0.3,
        },
        ema_decay=0.995,
        checkpoint_every=100,
        log_every=10,
        seed=12,
    )

    def phase(self, step: int) -> tuple[StreetPhase, int]:
        """The one that a step, counted from 0, belongs to, and the number of its first street."""
        first = 0
        for phase in self.phases[:-1]:
            if step < phase.num_steps:
                return phase, first + step * phase.streets_per_step
            step -= phase.num_steps
            first += phase.num_steps * phase.streets_per_step
        return self.phases[-1], first + step * self.phases[-1].streets_per_step


class MasksSettings(BaseModel):
    """All that one worker of the training is built from; travels as JSON.

    Attributes:
        output: store URI or folder for checkpoints, logs and the model.
        resume: go on from the latest checkpoint there, if there is one.
        model: weights to begin with: a SAMWISE with grounded fusion, as "tiny", by registry name, path or URI.
        device: "cuda" without CUDA is an error.
        torch_threads: of torch's operators on a CPU; None leaves them.
        masks: the recipe.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    output: str
    resume: bool = False
    model: str = "tiny"
    offline: bool = False
    trust_unpinned: bool = False
    device: Literal["auto", "cpu", "cuda"] = "auto"
    torch_threads: int | None = Field(default=None, ge=1)
    masks: MasksTraining = MasksTraining()


class MasksLearner(GroundedLearner):
    """Regions of streets shown by clicks, boxes and masks; what only sentences use is left as it is."""

    def __init__(self, network: SamwiseNetwork, training: MasksTraining) -> None:
        super().__init__(network, seed=training.loop.seed)
        self._training = training
        self._tracking = TextFreeCore(network)
        width = network.core.config.d_model
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(training.loop.seed)
            head = nn.Conv2d(width + width // 4 + width // 8, len(STREET_CLASSES), 1)
        self._classes = head.to(network.core.device)
        self._module.add_module(_HELPER, self._classes)
        self._trained |= {f"{_HELPER}.{name}": parameter for name, parameter in self._classes.named_parameters()}

    def is_trained(self, name: str) -> bool:
        """SAM2, the stems, and of grounded fusion what sees frames."""
        of_text = name.startswith(tuple(f"network.grounding.{part}" for part in _OF_TEXT))
        return super().is_trained(name) and name.startswith(_WITHOUT_TEXT) and not of_text

    def losses(self, positions: Sequence[int]) -> BatchLosses:
        """Draw a step's streets and track some of their regions; a position is a step."""
        training, core = self._training, self.network.core
        phase, first = training.phase(positions[0] // training.loop.batch_size)
        config = training.streets.derive(num_frames=phase.num_frames)
        streets = [
            sample_street(config, training.loop.seed, "train", first + place) for place in range(phase.streets_per_step)
        ]
        side = core.config.image_size
        batch = street_batch(streets, image_size=side, device=core.device, min_region_px=phase.min_region_px)
        labels_FHW = np.concatenate([nearest(street.labels().astype(np.int64), (side, side)) for street in streets])
        generator = step_generator(training.loop, positions)
        objects = choose_objects(batch, per_clip=phase.objects_per_street, generator=generator, kinds=phase.kinds)
        features = self._tracking.encode_image(batch.images_F3HW)
        scores = track_encoded(self._tracking, features, objects, num_frames=batch.num_frames)
        named = self._class_loss(features, torch.from_numpy(labels_FHW).to(core.device))
        return BatchLosses(
            means={**row_losses(scores), "classes": training.class_weight * named},
            metrics=row_metrics(scores),
            sample_ids=batch.sample_ids,
        )

    def _class_loss(self, features: ImageFeatures, labels_FHW: Tensor) -> Tensor:
        """Cross-entropy of each cell's class at stride 4, read off all that the decoder reads."""
        fine, middle = features.high_res
        size = fine.shape[-2:]
        enlarged = [F.interpolate(x, size=size, mode="bilinear") for x in (middle, features.map_BDhw)]
        stride = labels_FHW.shape[-1] // size[-1]
        cells_Fhw = labels_FHW[:, stride // 2 :: stride, stride // 2 :: stride]
        return F.cross_entropy(self._classes(torch.cat([fine, *enlarged], dim=1)), cells_Fhw)

    def look_ahead(self, positions: Sequence[int]) -> None:
        """Streets are drawn when they are needed: a step's take a tenth of its time."""

    def recipe(self) -> dict[str, Any]:
        """The training's settings."""
        return self._training.model_dump(mode="json", exclude={"loop"})


def train_masks(settings: MasksSettings, workers: Workers, *, stop_after: int | None = None) -> TrainingResult:
    """Train as the settings say, as one of the workers; the first one writes.

    Leaves `checkpoints/step-*.pt`, `logs/` and, when every step is done, `model/`, which `--model` of the semantic
    job takes.

    Raises:
        ConfigError, WeightsError: the model is not there, or not one with grounded fusion.
        NonFiniteLoss, StorageError: while training.
    """
    if settings.torch_threads is not None:
        torch.set_num_threads(settings.torch_threads)
    store, loop = open_store(settings.output), settings.masks.loop
    learner = build_learner(settings)
    try:
        result = train(learner, loop, store=store, workers=workers, resume=settings.resume, stop_after=stop_after)
    finally:
        learner.close()
    if workers.is_first and result.num_steps == loop.num_steps:
        _write_model(store, settings)
    workers.wait_for_all()
    return result


def build_learner(settings: MasksSettings) -> MasksLearner:
    """The network on this worker's device.

    Raises:
        ConfigError, WeightsError: see `train_masks`.
    """
    resolved = resolve_model(settings.model, offline=settings.offline or None, trust_unpinned=settings.trust_unpinned)
    core = load_tracking_core(load_model(resolved, seed=settings.masks.loop.seed))
    if not isinstance(core, TextFreeCore):
        raise ConfigError(
            f"model {settings.model!r}: training of masks begins with a SAMWISE with grounded fusion, as 'tiny'; "
            "other SAM2 weights are used as they are."
        )
    return MasksLearner(core.network.to(chosen_device(settings.device)), settings.masks)


def _write_model(store: Store, settings: MasksSettings) -> None:
    """The weights of the last checkpoint as float16, with their card."""
    content = checkpoints.load_latest(store)
    assert content is not None
    tensors = {
        name: (tensor.half() if tensor.is_floating_point() else tensor).contiguous()
        for name, tensor in content["model"].items()
    }
    payload = save(tensors)
    card = {
        "checkpoint": MODEL_FILE,
        "kind": "samwise",
        "architecture": content["architecture"],
        "trained_on": f"generated streets, from the weights of {settings.model}",
        "licence": "Apache-2.0",
    }
    store.write_whole(f"{MODEL_FOLDER}/{MODEL_FILE}", payload)
    store.write_whole(f"{MODEL_FOLDER}/{SIDECAR}", json.dumps(card, indent=1).encode())
    sha256 = hashlib.sha256(payload).hexdigest()
    logger.info("%s: %d bytes, sha256 %s", store.uri(f"{MODEL_FOLDER}/{MODEL_FILE}"), len(payload), sha256)
