"""MemorySAM as a method: semantic segmentation of scenes whose modalities are frames of one memory."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from pipeline.errors import ConfigError, PromptError, SessionError, WeightsError
from pipeline.models.device_precision import Precision, check_precision, inference_precision
from pipeline.models.memorysam_architecture import (
    ARCHITECTURES,
    MemorySamArchitecture,
    infer_architecture,
    named_architecture,
    read_architecture,
)
from pipeline.models.memorysam_checkpoint import load_memorysam, memorysam_tensors_from_checkpoint
from pipeline.models.memorysam_init import random_memorysam
from pipeline.models.memorysam_input import Fit
from pipeline.models.memorysam_network import MemorySamNetwork
from pipeline.models.memorysam_scene import ENCODE, TRACK
from pipeline.models.memorysam_session import MemorySamSession, SessionRules
from pipeline.models.memorysam_stages import MemorySamStages, SceneRequest
from pipeline.segmenter import ModelSpec, Session, State
from pipeline.ticks import RGB, Prompt

METHOD = "memorysam"

EXAMPLE_MODALITIES = (RGB, "depth")
"""What the law tests draw."""

SMALL_IMAGE_PX = 256
"""Up to this size a step on a CPU costs more in overhead than in arithmetic."""

logger = logging.getLogger(__name__)


class MemorySamConfig(BaseModel):
    """How MemorySAM runs; the defaults are the published evaluation.

    Attributes:
        modalities: which to read, and in which order the memory sees them: the first hears of no other, the last of
            all. Others are ignored; one that a tick lacks is left out. None takes each tick's own, in its order.
        class_names: of the data set's classes in order; None for the model's. A model with more classes than names
            has the rest of its logits cut off, lest it predict what the data set does not know.
        image_size: side of the model's square in pixels; None for the architecture's.
        fit: how a frame that is not square comes into it: padded right or below, or stretched.
        antialias: of the resize, as torchvision does from 0.17 on.
        fold_lora: fold the encoder's adapters into its weights, checked by comparing both.
        use_memory: modalities read those before them; otherwise only their mean joins them.
        report_contributions: flag the share of labels that each modality's logits change.
        precision: "bf16" needs CUDA; decoder, mean and labels stay float32.
        allow_tf32: on CUDA. The reference evaluates in float32.
        images_per_encode, rows_per_track: batch sizes. Each stage always runs at its size, filled up with dummy rows,
            so one scene's labels never depend on another's. None chooses by device.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    modalities: tuple[str, ...] | None = None
    class_names: tuple[str, ...] | None = None
    image_size: int | None = Field(default=None, ge=32)
    fit: Fit = "letterbox"
    antialias: bool = True
    fold_lora: bool = True
    use_memory: bool = True
    report_contributions: bool = False
    precision: Precision = "fp32"
    allow_tf32: bool = False
    images_per_encode: int | None = Field(default=None, ge=1)
    rows_per_track: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name, values in (("modalities", self.modalities), ("class_names", self.class_names)):
            if values is not None and (not values or len(set(values)) != len(values)):
                raise ValueError(f"{name} {list(values)}: expected at least one, none of them twice.")
        return self

    def bucket_sizes(self, device: torch.device, *, image_size: int) -> tuple[int, int]:
        """Images per encode batch and rows per track batch on a device.

        A scene of four modalities fills a batch of images by itself on a CPU; on a GPU two share one.
        """
        images, rows = (8, 4) if device.type == "cuda" else (4, 4 if image_size <= SMALL_IMAGE_PX else 1)
        return self.images_per_encode or images, self.rows_per_track or rows


class MemorySamSegmenter:
    """Weights and the two stages: encode modalities of many scenes, then segment one modality of each.

    Attributes:
        network: the weights; nothing of any scene is kept in it.
        class_names: class_id to name, of the classes that can be predicted.
        fold_difference: of the folded adapters' outputs from the unfolded ones', relative; None if not folded.
    """

    method = METHOD

    def __init__(
        self,
        config: MemorySamConfig,
        network: MemorySamNetwork,
        class_names: Sequence[str],
        device: torch.device,
        *,
        fold_difference: float | None = None,
    ) -> None:
        self.config = config
        self.network = network
        self.class_names: Mapping[int, str] = dict(enumerate(class_names))
        self.fold_difference = fold_difference
        architecture = network.architecture
        images, rows = config.bucket_sizes(device, image_size=architecture.sam2.image_size)
        self._stages = MemorySamStages(
            network=network,
            device=device,
            images_per_encode=images,
            rows_per_track=rows,
            num_classes=len(self.class_names),
            use_memory=config.use_memory,
            report_contributions=config.report_contributions,
        )
        self._rules = SessionRules(
            modalities=config.modalities,
            image_size=architecture.sam2.image_size,
            fit=config.fit,
            antialias=config.antialias,
            images_per_encode=images,
            fingerprint={
                "method": METHOD,
                "config": config.model_dump(mode="json"),
                "architecture": architecture.model_dump(mode="json"),
                "buckets": [images, rows],
            },
        )

    @property
    def buckets(self) -> Mapping[str, int]:
        """Images per encode batch, rows per track batch."""
        return {ENCODE: self._stages.images_per_encode, TRACK: self._stages.rows_per_track}

    def open(self, prompts: Sequence[Prompt], frame_size: tuple[int, int]) -> MemorySamSession:
        """Begin a video, or a scene; every class is always looked for, so there is nothing to ask."""
        if prompts:
            raise PromptError(
                f"{len(prompts)} prompts for {METHOD!r}, which segments every class of every frame and takes none. "
                "Leave expressions, points, boxes and masks out of the manifest."
            )
        return MemorySamSession(self._rules, frame_size)

    def restore(self, state: State) -> MemorySamSession:
        """The session that gave this state. Raises SessionError if it ran under other settings."""
        came, own = state.get("fingerprint", {}), self._rules.fingerprint
        other = [key for key in own if came.get(key) != own[key]]
        if other:
            raise SessionError(
                f"this state was taken under another {' and '.join(other)} than this segmenter's. "
                "Restore it with the settings and model of the run that took it, or start the video anew."
            )
        height, width = state["frame_size"]
        session = self.open((), (height, width))
        session.load_state(state)
        return session

    def run(self, stage: str, sessions: Sequence[Session]) -> None:
        """Do the next step of each session; atomic, since scenes are values and accepted at the very end."""
        requests = [self._request(session, stage) for session in sessions]
        _check_batch(stage, [request for _, request in requests], room=self.buckets[stage])
        with inference_precision(
            self._stages.device, precision=self.config.precision, allow_tf32=self.config.allow_tf32
        ):
            results = self._stages.run(stage, [request for _, request in requests])
        released = [session.released_by(*result) for (session, _), result in zip(requests, results, strict=True)]
        for (session, _), (scene, _), masks in zip(requests, results, released, strict=True):
            session.advance(scene, masks)

    def _request(self, session: Session, stage: str) -> tuple[MemorySamSession, SceneRequest]:
        if not isinstance(session, MemorySamSession):
            raise SessionError(f"a {type(session).__name__} cannot be run by {METHOD!r}: it is of another method.")
        request = session.next_step()
        if request is None or request.step.stage != stage:
            wants = "nothing" if request is None else repr(request.step.stage)
            raise SessionError(f"stage {stage!r} asked of a session that wants {wants}. Ask its next_work first.")
        return session, request


def build_segmenter(config: MemorySamConfig, model: ModelSpec, device: str) -> MemorySamSegmenter:
    """A segmenter with a checkpoint's weights, or with seeded random ones if the model has none.

    Args:
        model: tensors in the reference's layout; an empty architecture is read off them.
        device: "cpu", "cuda", "cuda:0", ...

    Raises:
        ConfigError: bf16 without CUDA, an image size that does not fit the model, or more class names than classes.
        WeightsError: the weights do not fit the architecture, or their adapters cannot be folded.
    """
    torch_device = torch.device(device)
    check_precision(config.precision, torch_device)
    tensors = None if model.tensors is None else memorysam_tensors_from_checkpoint(model.tensors)
    architecture = _resize(_architecture_of(model, tensors), config)
    class_names = _class_names(architecture, config, model.name)
    if tensors is None:
        logger.warning("model %r: untrained weights, random with seed %d.", model.name, model.seed)
        network = random_memorysam(architecture, seed=model.seed)
    else:
        network = load_memorysam(tensors, architecture)
    fold_difference = None
    if config.fold_lora and architecture.lora_rank:
        fold_difference = network.fold_adapters()
        logger.info("model %r: adapters folded; outputs differ by at most %.1e.", model.name, fold_difference)
    network = network.to(torch_device).eval().requires_grad_(False)
    return MemorySamSegmenter(config, network, class_names, torch_device, fold_difference=fold_difference)


def tiny(seed: int = 0) -> tuple[MemorySamConfig, ModelSpec]:
    """The small model's sizes, untrained: 128 px, ten classes of the procedural streets, about 1.5 M parameters."""
    architecture = ARCHITECTURES["tiny-multimodal"]
    return MemorySamConfig(), ModelSpec(name="tiny-multimodal", architecture=architecture, tensors=None, seed=seed)


def mini(seed: int = 0) -> tuple[MemorySamConfig, ModelSpec]:
    """The smallest model that has every part, for tests: 64 px, four classes, and batches with room for two scenes."""
    config = MemorySamConfig(images_per_encode=4, rows_per_track=2)
    return config, ModelSpec(name="mini", architecture=ARCHITECTURES["mini"], tensors=None, seed=seed)


def example_prompts(num_objects: int, frame_size: tuple[int, int]) -> list[Prompt]:
    """None, whatever is asked: every class is always looked for."""
    del num_objects, frame_size
    return []


def _check_batch(stage: str, requests: Sequence[SceneRequest], *, room: int) -> None:
    total = sum(len(request.step.places) for request in requests)
    groups = {request.step.group for request in requests}
    if total > room or len(groups) != 1:
        raise ValueError(
            f"stage {stage!r}: a batch of {total} places in groups {sorted(map(str, groups))}; "
            f"expected one group and at most {room} places."
        )


def _architecture_of(model: ModelSpec, tensors: Mapping[str, Any] | None) -> MemorySamArchitecture:
    if model.architecture:
        return read_architecture(model.architecture, name=model.name)
    if model.architecture_name is not None:
        return named_architecture(model.architecture_name)
    if tensors is None:
        raise WeightsError(f"model {model.name!r} has neither weights nor an architecture. Give one of them.")
    return infer_architecture(tensors)


def _class_names(architecture: MemorySamArchitecture, config: MemorySamConfig, model_name: str) -> tuple[str, ...]:
    """Names of the classes to predict; numbers where nobody knows them.

    Raises:
        ConfigError: more names than the model has classes.
    """
    num_classes = architecture.num_classes
    if config.class_names is None:
        return architecture.class_names or tuple(f"class {number}" for number in range(num_classes))
    if len(config.class_names) > num_classes:
        raise ConfigError(
            f"{len(config.class_names)} class_names for model {model_name!r}, which has {num_classes} classes. "
            "Use weights that were trained on these classes."
        )
    if len(config.class_names) < num_classes:
        logger.warning(
            "model %r has %d classes, %d are named: the logits of the others are cut off.",
            model_name,
            num_classes,
            len(config.class_names),
        )
    return config.class_names


def _resize(architecture: MemorySamArchitecture, config: MemorySamConfig) -> MemorySamArchitecture:
    """The architecture at the config's image size."""
    side = config.image_size
    if side is None or side == architecture.sam2.image_size:
        return architecture
    values = architecture.model_dump()
    values["sam2"]["image_size"] = side
    try:
        return MemorySamArchitecture.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"image_size {side} does not fit the model. {error}") from error
