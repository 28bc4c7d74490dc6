"""SAMWISE as a method: text-referring segmentation in clips, with a memory that can notice its own mistake."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline.errors import ConfigError, SessionError, WeightsError
from pipeline.models.conditional_memory import CmeFusion
from pipeline.models.confidence import IsotonicMap, read_calibration
from pipeline.models.device_precision import Precision, check_precision, inference_precision
from pipeline.models.motion_words import MotionTagger
from pipeline.models.samwise_architecture import SamwiseArchitecture, infer_architecture, read_architecture
from pipeline.models.samwise_checkpoint import load_samwise, samwise_tensors_from_checkpoint
from pipeline.models.samwise_clip import DECODE, ENCODE, FUSE, Buckets
from pipeline.models.samwise_expressions import ExpressionReader, MotionPool
from pipeline.models.samwise_init import random_samwise
from pipeline.models.samwise_network import SamwiseNetwork
from pipeline.models.samwise_session import SamwiseSession, SessionRules, TailPolicy
from pipeline.models.samwise_stages import SamwiseStages, StepRequest
from pipeline.models.samwise_variants import ARCHITECTURES
from pipeline.models.session_state import prompts_from_state
from pipeline.models.tokenizers import ClosedVocabularyTokenizer, FolderTokenizer, Tokenizer
from pipeline.segmenter import ModelSpec, Session, State
from pipeline.ticks import Prompt

METHOD = "samwise"

SMALL_IMAGE_PX = 256
"""Up to this size a step on a CPU costs more in overhead than in arithmetic."""

logger = logging.getLogger(__name__)


class SamwiseConfig(BaseModel):
    """How SAMWISE runs; the defaults are the published inference settings, but for the tail of a video.

    Attributes:
        hsa: frames of a clip exchange information; "auto" as the weights were trained.
        use_cme: question the memory, and let a switch rewrite it. The official demo turns it off.
        cme_decision_window: frames before the first question, and least distance after a switch plus one.
        cme_fusion: what the memory sees after a switch.
        motion_prompt: a second prompt from the expression's verb; no published weights have it.
        motion_tagger: finds verbs where a prompt does not name its motion words.
        motion_pool: "first" marked token (the reference) or the mean of "all".
        clip_length: frames that are fused together; clip borders change the numbers.
        tail_policy: the reference forgets the whole video when its last clip has one frame, which is an accident
            of how it detects a video's start; "keep_memory", the default, does not. "reference" is for parity.
        threshold: probability above which a pixel is inside.
        image_size: side of the model's square in pixels; None for the architecture's.
        normalize_text: lower case, single spaces. The reference does so in training only, hence off.
        precision: "bf16" needs CUDA.
        allow_tf32: on CUDA; the published scores were computed with TF32.
        frames_per_encode, expressions_per_fuse, rows_per_decode: batch sizes. Each stage always runs at its size,
            filled up with dummy rows, so one video's masks never depend on another's. None chooses by device.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    hsa: bool | Literal["auto"] = "auto"
    use_cme: bool = True
    cme_decision_window: int = Field(default=4, ge=1)
    cme_fusion: CmeFusion = "reweight"
    motion_prompt: bool = False
    motion_tagger: MotionTagger = "rules"
    motion_pool: MotionPool = "first"
    clip_length: int = Field(default=8, ge=1)
    tail_policy: TailPolicy = "keep_memory"
    threshold: float = Field(default=0.5, gt=0, lt=1)
    image_size: int | None = Field(default=None, ge=32)
    normalize_text: bool = False
    precision: Precision = "fp32"
    allow_tf32: bool = True
    frames_per_encode: int | None = Field(default=None, ge=1)
    expressions_per_fuse: int | None = Field(default=None, ge=1)
    rows_per_decode: int | None = Field(default=None, ge=1)

    def buckets(self, device: torch.device, *, image_size: int) -> Buckets:
        """The batch sizes on a device.

        One expression's clip fills a batch of frames by itself, and others can join only if they have equally
        many tokens. Rows are small and alike, and are worth batching wherever overhead counts: four take 7.9 ms and
        one 4.1 ms at 128 px on one CPU thread, while at 1024 px a CPU would pay in full for every dummy row.
        """
        rows = 8 if device.type == "cuda" else 4 if image_size <= SMALL_IMAGE_PX else 1
        return Buckets(
            encode=self.frames_per_encode or self.clip_length,
            fuse=self.expressions_per_fuse or 1,
            decode=self.rows_per_decode or rows,
        )


class SamwiseSegmenter:
    """Weights and the three stages: encode a clip's frames, fuse expressions with it, decode frame by frame.

    "encode" is shared by all expressions of a video; see `pipeline.segmenter.Segmenter` for the laws.

    Attributes:
        network: the weights; nothing of any video is kept in it.
        reader: how prompts become expressions.
    """

    method = METHOD

    def __init__(
        self,
        config: SamwiseConfig,
        network: SamwiseNetwork,
        reader: ExpressionReader,
        device: torch.device,
        calibration: IsotonicMap | None = None,
    ) -> None:
        self.config = config
        self.network = network
        self.reader = reader
        architecture, buckets = (
            network.architecture,
            config.buckets(device, image_size=network.architecture.sam2.image_size),
        )
        self._stages = SamwiseStages(
            network=network,
            buckets=buckets,
            device=device,
            cme_window=config.cme_decision_window,
            cme_fusion=config.cme_fusion,
            threshold=config.threshold,
        )
        self._rules = SessionRules(
            clip_length=config.clip_length,
            tail_policy=config.tail_policy,
            buckets=buckets,
            policy=network.memory_policy,
            image_size=architecture.sam2.image_size,
            short_side_px=architecture.short_side_px,
            has_object_score=architecture.sam2.pred_obj_scores,
            calibration=calibration,
            fingerprint={
                "method": METHOD,
                "config": config.model_dump(mode="json"),
                "architecture": architecture.model_dump(mode="json"),
                "buckets": [buckets.encode, buckets.fuse, buckets.decode],
                "calibration": None if calibration is None else [*calibration.scores, *calibration.probabilities],
            },
        )

    @property
    def buckets(self) -> Mapping[str, int]:
        """Frames per encode batch, expressions per fuse batch, rows per decode batch."""
        buckets = self._rules.buckets
        return {ENCODE: buckets.encode, FUSE: buckets.fuse, DECODE: buckets.decode}

    def open(self, prompts: Sequence[Prompt], frame_size: tuple[int, int]) -> SamwiseSession:
        """Begin a video; text prompts only, read at once."""
        return SamwiseSession(self._rules, prompts, self.reader.read_all(prompts), frame_size)

    def restore(self, state: State) -> SamwiseSession:
        """The session that gave this state. Raises SessionError if it ran under other settings."""
        came, own = state.get("fingerprint", {}), self._rules.fingerprint
        other = [key for key in own if came.get(key) != own[key]]
        if other:
            raise SessionError(
                f"this state was taken under another {' and '.join(other)} than this segmenter's. "
                "Restore it with the settings and model of the run that took it, or start the video anew."
            )
        height, width = state["frame_size"]
        session = self.open(prompts_from_state(state["prompts"]), (height, width))
        session.load_state(state, device=self._stages.device)
        return session

    def run(self, stage: str, sessions: Sequence[Session]) -> None:
        """Do the next step of each session; atomic, since clips are values and accepted at the very end."""
        requests = [self._request(session, stage) for session in sessions]
        _check_batch(stage, requests, room=self.buckets[stage])
        with inference_precision(
            self._stages.device, precision=self.config.precision, allow_tf32=self.config.allow_tf32
        ):
            clips = self._stages.run(stage, [request for _, request in requests])
        released = [session.released_by(clip) for (session, _), clip in zip(requests, clips, strict=True)]
        for (session, _), clip, masks in zip(requests, clips, released, strict=True):
            session.advance(clip, masks)

    def _request(self, session: Session, stage: str) -> tuple[SamwiseSession, StepRequest]:
        if not isinstance(session, SamwiseSession):
            raise SessionError(f"a {type(session).__name__} cannot be run by {METHOD!r}: it is of another method.")
        request = session.next_step()
        if request is None or request.step.stage != stage:
            wants = "nothing" if request is None else repr(request.step.stage)
            raise SessionError(f"stage {stage!r} asked of a session that wants {wants}. Ask its next_work first.")
        return session, request


def build_segmenter(config: SamwiseConfig, model: ModelSpec, device: str) -> SamwiseSegmenter:
    """A segmenter with a checkpoint's weights, or with seeded random ones if the model has none.

    Args:
        config: may switch parts of the model off, not on.
        model: tensors in the official layout; an empty architecture is read off them.
        device: "cpu", "cuda", "cuda:0", ...

    Raises:
        ConfigError: bf16 without CUDA, or an image size that does not fit the model.
        WeightsError: a part the config asks for is not in the weights, or they do not fit.
    """
    torch_device = torch.device(device)
    check_precision(config.precision, torch_device)
    tensors = None if model.tensors is None else samwise_tensors_from_checkpoint(model.tensors)
    architecture = _resize(_with_parts(_architecture_of(model, tensors), config, model.name), config)
    reader = ExpressionReader(
        tokenizer=_tokenizer_of(architecture, model),
        max_tokens=architecture.text.max_tokens,
        normalize_text=config.normalize_text,
        motion_tagger=config.motion_tagger if config.motion_prompt else None,
        motion_pool=config.motion_pool,
    )
    if tensors is None:
        logger.warning("model %r: untrained weights, random with seed %d.", model.name, model.seed)
        network = random_samwise(architecture, seed=model.seed)
    else:
        network = load_samwise(tensors, architecture, name=model.name)
    calibration = None if model.calibration is None else read_calibration(model.calibration, name=model.name)
    return SamwiseSegmenter(config, network.to(torch_device).eval(), reader, torch_device, calibration)


def tiny(seed: int = 0) -> tuple[SamwiseConfig, ModelSpec]:
    """The embedded model's sizes, untrained: 128 px, about 2 M parameters."""
    return SamwiseConfig(), ModelSpec(name="tiny", architecture=ARCHITECTURES["tiny"], tensors=None, seed=seed)


def mini(seed: int = 0) -> tuple[SamwiseConfig, ModelSpec]:
    """The smallest model that has every part, for tests: 64 px, and batches with room for several videos."""
    config = SamwiseConfig(frames_per_encode=16, expressions_per_fuse=4, rows_per_decode=5)
    return config, ModelSpec(name="mini", architecture=ARCHITECTURES["mini"], tensors=None, seed=seed)


def example_prompts(num_objects: int, frame_size: tuple[int, int]) -> list[Prompt]:
    """Prompts that this method accepts on any video, of different lengths."""
    words = ("red disc moving left", "the blue square", "star", "all small triangles that are turning")
    texts = (words[number % len(words)] for number in range(num_objects))
    return [Prompt(object_id=number, text=text) for number, text in enumerate(texts, start=1)]


def _check_batch(stage: str, requests: Sequence[tuple[SamwiseSession, StepRequest]], *, room: int) -> None:
    total = sum(request.step.size for _, request in requests)
    works = [session.next_work() for session, _ in requests]
    groups = {work.group for work in works if work is not None}
    if total > room or len(groups) != 1:
        raise ValueError(
            f"stage {stage!r}: a batch of {total} places in groups {sorted(map(str, groups))}; "
            f"expected one group and at most {room} places."
        )


def _architecture_of(model: ModelSpec, tensors: Mapping[str, Any] | None) -> SamwiseArchitecture:
    if model.architecture:
        return read_architecture(model.architecture, name=model.name)
    if model.architecture_name is not None:
        if model.architecture_name not in ARCHITECTURES:
            known = ", ".join(sorted(ARCHITECTURES))
            raise WeightsError(f"model {model.name!r}: no architecture {model.architecture_name!r}; known: {known}.")
        return read_architecture(ARCHITECTURES[model.architecture_name], name=model.name)
    if tensors is None:
        raise WeightsError(f"model {model.name!r} has neither weights nor an architecture. Give one of them.")
    return infer_architecture(tensors)


def _with_parts(architecture: SamwiseArchitecture, config: SamwiseConfig, name: str) -> SamwiseArchitecture:
    """The architecture with the parts that the config wants.

    Raises:
        WeightsError: it wants one that the model does not have.
    """
    wanted = {
        "hsa": architecture.hsa if config.hsa == "auto" else config.hsa,
        "cme": config.use_cme,
        "motion_prompt": config.motion_prompt,
    }
    lacking = [part for part, is_wanted in wanted.items() if is_wanted and not getattr(architecture, part)]
    if lacking:
        settings = {"hsa": "hsa=False", "cme": "use_cme=False", "motion_prompt": "motion_prompt=False"}
        raise WeightsError(
            f"model {name!r} was made without {', '.join(lacking)}, which the config asks for. "
            f"Use other weights or set {', '.join(settings[part] for part in lacking)}."
        )
    if config.hsa is False and architecture.hsa:
        logger.warning("model %r was trained with hsa and runs without it.", name)
    return architecture.model_copy(update=wanted)


def _resize(architecture: SamwiseArchitecture, config: SamwiseConfig) -> SamwiseArchitecture:
    """The architecture at the config's image size; the short side shrinks in proportion."""
    side, own = config.image_size, architecture.sam2.image_size
    if side is None or side == own:
        return architecture
    values = architecture.model_dump()
    values["sam2"]["image_size"] = side
    values["short_side_px"] = architecture.short_side_px * side // own
    try:
        return SamwiseArchitecture.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"image_size {side} does not fit the model. {error}") from error


def _tokenizer_of(architecture: SamwiseArchitecture, model: ModelSpec) -> Tokenizer:
    if architecture.tokenizer == "closed":
        return ClosedVocabularyTokenizer(architecture.vocabulary)
    tokenizer = FolderTokenizer(model.tokenizer_dir, kind=architecture.tokenizer)
    if tokenizer.vocabulary_size > architecture.text.vocabulary_size:
        raise WeightsError(
            f"tokenizer_dir {model.tokenizer_dir} knows {tokenizer.vocabulary_size} tokens, model {model.name!r} only "
            f"{architecture.text.vocabulary_size}. Use the tokenizer that belongs to the model."
        )
    return tokenizer
