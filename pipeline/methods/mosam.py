"""MoSAM as a method: promptable tracking that looks where things go and remembers what was seen well."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, field_validator

from pipeline.errors import ConfigError, SessionError
from pipeline.models.device_precision import Precision, check_precision, inference_precision
from pipeline.models.frame_selection import SelectedFrames, TemporalMode
from pipeline.models.memory_policies import RecentFrames
from pipeline.models.memory_policies_field import SAM2LONG_REFUSED, DistractorAwareMemory, MotionAwareMemory
from pipeline.models.memory_policies_tracking import Fifo, TrackingPolicy, pool_settings
from pipeline.models.mosam_books import Direction, SessionRules
from pipeline.models.mosam_frame import DECODE, ENCODE, OBSERVE, Buckets
from pipeline.models.mosam_model import load_tracking_core
from pipeline.models.mosam_prompts import read_prompts
from pipeline.models.mosam_rows import TrackRules
from pipeline.models.mosam_session import MosamSession, Request
from pipeline.models.mosam_stages import MosamStages, RowRules
from pipeline.models.motion_config import MotionConfig
from pipeline.models.motion_encoders import MotionEncoders, load_motion_encoders
from pipeline.models.motion_flow import build_flow
from pipeline.models.pixel_selection import PixelMode, PixelSelection
from pipeline.models.sam2_core import Sam2Core
from pipeline.models.sam2_variants import Sam2Config
from pipeline.models.samwise_variants import ARCHITECTURES
from pipeline.models.session_state import prompts_from_state
from pipeline.segmenter import ModelSpec, Session, State
from pipeline.ticks import PointPrompt, Prompt

METHOD = "mosam"

SMALL_IMAGE_PX = 256
"""Up to this size a step on a CPU costs more in overhead than in arithmetic."""

SAMURAI_PRESENT_SCORE = -1.0
"""Object score above which SAMURAI's released configuration takes the object to be in view; SAM2's is 0."""

Policy = Literal["mosam", "sam2", "samurai", "dam4sam"]


class MosamConfig(BaseModel):
    """How tracking runs; with policy "sam2" and motion mode "off" it is SAM2's own.

    Source: MoSAM, arXiv 2505.00739; which of its numbers are the paper's and which are ours stands where they are:
    `MotionConfig`, `SelectedFrames`, `PixelSelection`.

    Attributes:
        policy: who chooses the memories: MoSAM's selection, SAM2's recent frames, SAMURAI's or DAM4SAM's rule.
        temporal: MoSAM's frame selection: the best of the pool, the newest above a threshold, or SAM2's fifo.
        pool_frames: accepted frames per object that "topk" chooses from: 20 MiB at 1024 px for 32.
        pixel: MoSAM's pixel selection: "drop" tokens in doubt, "bias" attention against them, or "off".
        pixel_threshold: confidence from which "drop" keeps a token.
        motion: motion-guided prompting; `motion.mode` "off" switches it off.
        direction: track each prompt to the video's end, to its start, or both.
        backward_frames: source frames that a prompt is tracked back at most. So many frames before a prompted frame
            are held, with their masks, until it was reached: memory grows with this number, not with the video.
        scene_cut: "reset" forgets all but the prompted frames where the scene changes; rows of `frames` say so.
        non_overlap: a pixel belongs to one object, the one with the largest logit. Then objects change each other.
        trace: rows tell source, prompt, memory frames and agreement with motion.
        image_size: side of the model's square in pixels; None for the architecture's.
        precision: "bf16" needs CUDA.
        allow_tf32: on CUDA.
        frames_per_encode, videos_per_observe, rows_per_decode: batch sizes. Each stage always runs at its size, filled
            up with dummy rows, so one video's masks never depend on another's. None chooses by device.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    policy: Policy = "mosam"
    temporal: TemporalMode = "topk"
    pool_frames: int = Field(default=32, ge=1)
    pixel: PixelMode = "drop"
    pixel_threshold: float = Field(default=0.5, gt=0, lt=1)
    motion: MotionConfig = MotionConfig()
    direction: Direction = "forward"
    backward_frames: int = Field(default=64, ge=1)
    scene_cut: Literal["off", "reset"] = "off"
    non_overlap: bool = False
    trace: bool = True
    image_size: int | None = Field(default=None, ge=32)
    precision: Precision = "fp32"
    allow_tf32: bool = True
    frames_per_encode: int | None = Field(default=None, ge=1)
    videos_per_observe: int | None = Field(default=None, ge=1)
    rows_per_decode: int | None = Field(default=None, ge=1)

    @field_validator("policy", mode="before")
    @classmethod
    def _sam2long_does_not_stream(cls, value: Any) -> Any:
        if value == "sam2long":
            raise ValueError(SAM2LONG_REFUSED)
        return value

    @property
    def follows_motion(self) -> bool:
        """Whether frames are measured and objects' motion is kept."""
        return self.motion.mode != "off" or self.policy == "samurai" or self.scene_cut == "reset"

    @property
    def selects_pixels(self) -> bool:
        return self.policy == "mosam" and self.pixel != "off"

    def memory_policy(self, sam2: Sam2Config, *, reverse: bool = False) -> TrackingPolicy:
        """Who reads and keeps which memories of a model."""
        recent = RecentFrames.of(sam2, reverse=reverse)
        if self.policy == "sam2" or (self.policy == "mosam" and self.temporal == "fifo"):
            policy: TrackingPolicy = Fifo(recent=recent)
        else:
            shared = pool_settings(recent)
            if self.policy == "samurai":
                policy = MotionAwareMemory(**shared)
            elif self.policy == "dam4sam":
                policy = DistractorAwareMemory(**shared)
            else:
                policy = SelectedFrames(
                    **shared,
                    mode="threshold" if self.temporal == "threshold" else "topk",
                    pool_frames=self.pool_frames,
                    accept_predicted_iou=self.motion.accept_predicted_iou,
                )
        if self.selects_pixels:
            assert self.pixel != "off"
            return PixelSelection(policy=policy, mode=self.pixel, threshold=self.pixel_threshold)
        return policy

    def buckets(self, device: torch.device, *, image_size: int) -> Buckets:
        """The batch sizes on a device: where overhead counts, several; a large image on a CPU pays for dummy rows."""
        small = device.type == "cuda" or image_size <= SMALL_IMAGE_PX
        return Buckets(
            encode=self.frames_per_encode or (4 if device.type == "cuda" else 2 if small else 1),
            observe=self.videos_per_observe or 1,
            decode=self.rows_per_decode or (8 if device.type == "cuda" else 4 if small else 1),
        )


class MosamSegmenter:
    """Weights and the three stages: encode frames, measure motion, decode objects.

    See `pipeline.segmenter.Segmenter` for the laws.

    Attributes:
        core: the weights, SAM2's; nothing of any video is kept in it.
    """

    method = METHOD

    def __init__(self, config: MosamConfig, core: Sam2Core, device: torch.device) -> None:
        self.config = config
        self.core = core
        sam2 = core.config
        buckets = config.buckets(device, image_size=sam2.image_size)
        policy, reverse_policy = (config.memory_policy(sam2, reverse=reverse) for reverse in (False, True))
        samurai = config.policy == "samurai"
        self._device = device
        self._stages = MosamStages(
            core=core,
            buckets=buckets,
            device=device,
            flow=build_flow(config.motion, device=device) if config.motion.mode != "off" else None,
            encoders=_trained_encoders(config.motion, core).to(device) if config.motion.encoder_weights else None,
            rules=RowRules(
                policy=policy,
                reverse_policy=reverse_policy,
                track=TrackRules(
                    num_points=config.motion.num_points,
                    arbitrates=config.motion.arbitrate and (samurai or config.motion.mode != "off"),
                    present_score=SAMURAI_PRESENT_SCORE if samurai else 0.0,
                ),
                motion=config.motion,
                follows_motion=config.follows_motion,
                keeps_logits=config.selects_pixels,
                non_overlap=config.non_overlap,
                has_trace=config.trace,
                has_object_score=sam2.pred_obj_scores,
            ),
        )
        self._rules = SessionRules(
            policy=policy,
            reverse_policy=reverse_policy,
            buckets=buckets,
            direction=config.direction,
            backward_frames=config.backward_frames,
            observes=config.follows_motion,
            resets_at_cut=config.scene_cut == "reset",
            non_overlap=config.non_overlap,
            has_trace=config.trace,
            fingerprint={
                "method": METHOD,
                "config": config.model_dump(mode="json"),
                "architecture": sam2.model_dump(mode="json"),
                "buckets": [buckets.encode, buckets.observe, buckets.decode],
            },
        )

    @property
    def buckets(self) -> Mapping[str, int]:
        """Frames per encode batch, videos per observe batch, rows per decode batch."""
        buckets = self._rules.buckets
        return {ENCODE: buckets.encode, OBSERVE: buckets.observe, DECODE: buckets.decode}

    def open(self, prompts: Sequence[Prompt], frame_size: tuple[int, int]) -> MosamSession:
        """Begin a video; points, boxes and masks, read at once."""
        shown = read_prompts(prompts, frame_size, self.core.config.image_size)
        return MosamSession(self._rules, prompts, shown, frame_size)

    def restore(self, state: State) -> MosamSession:
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
        session.load_state(state, device=self._device)
        return session

    def run(self, stage: str, sessions: Sequence[Session]) -> None:
        """One step of each session; all results are made before any session changes."""
        requests = [self._request(stage, session) for session in sessions]
        _check_batch(stage, requests, room=self.buckets[stage])
        config = self.config
        with inference_precision(self._device, precision=config.precision, allow_tf32=config.allow_tf32):
            progress = self._stages.run(stage, [request for _, request in requests])
            prepared = [session.prepare(made) for (session, _), made in zip(requests, progress, strict=True)]
        for (session, _), made in zip(requests, prepared, strict=True):
            session.accept(made)

    def _request(self, stage: str, session: Session) -> tuple[MosamSession, Request]:
        if not isinstance(session, MosamSession):
            raise SessionError(f"a {type(session).__name__} given to {METHOD}. Run it with the method that opened it.")
        request = session.next_request()
        if request is None or request.step.stage != stage:
            wants = "nothing" if request is None else repr(request.step.stage)
            raise SessionError(f"stage {stage!r} asked of a session that wants {wants}. Ask its next_work first.")
        return session, request


def build_segmenter(config: MosamConfig, model: ModelSpec, device: str) -> MosamSegmenter:
    """A segmenter with a checkpoint's weights, or with seeded random ones if the model has none.

    Args:
        model: a SAM2 or SAM2.1 checkpoint in the official layout, or a SAMWISE one, of which the SAM2 inside is used.
        device: "cpu", "cuda", "cuda:0", ...

    Raises:
        ConfigError: bf16 without CUDA, or an image size that does not fit the model.
        WeightsError: there are no weights of a SAM2, or they do not fit.
    """
    torch_device = torch.device(device)
    check_precision(config.precision, torch_device)
    core = load_tracking_core(model, image_size=config.image_size)
    return MosamSegmenter(config, core.to(torch_device).eval(), torch_device)


def tiny(seed: int = 0) -> tuple[MosamConfig, ModelSpec]:
    """The SAM2 inside the embedded model's sizes, untrained: 128 px."""
    return MosamConfig(), ModelSpec(name="tiny", architecture=ARCHITECTURES["tiny"], tensors=None, seed=seed)


def mini(seed: int = 0) -> tuple[MosamConfig, ModelSpec]:
    """The smallest model that has every part, for tests: 64 px, and batches with room for several videos."""
    config = MosamConfig(pool_frames=6, frames_per_encode=4, videos_per_observe=4, rows_per_decode=5)
    return config, ModelSpec(name="mini", architecture=ARCHITECTURES["mini"], tensors=None, seed=seed)


def example_prompts(num_objects: int, frame_size: tuple[int, int]) -> list[Prompt]:
    """Prompts that this method accepts on any video: on frame 0, a box, a point, and both in turn."""
    height, width = frame_size
    prompts = []
    for number in range(num_objects):
        x, y = width * (number + 1) / (num_objects + 1), height * (1 + number % 3) / 4
        box = (
            max(0.0, x - width / 8),
            max(0.0, y - height / 8),
            min(width, x + width / 8),
            min(height, y + height / 8),
        )
        points = (PointPrompt(x=x, y=y),)
        prompts.append(
            Prompt(
                object_id=number + 1,
                frame_index=0,
                points=points if number % 3 else (),
                box=box if number % 3 != 1 else None,
            )
        )
    return prompts


def _trained_encoders(config: MotionConfig, core: Sam2Core) -> MotionEncoders:
    """The motion encoders that a config names.

    Raises:
        ConfigError: they were trained for another number of key points.
        WeightsError: their file cannot be read or belongs to another SAM2.
    """
    encoders = load_motion_encoders(str(config.encoder_weights), d_model=core.config.d_model)
    if encoders.config.num_points != config.num_points:
        raise ConfigError(
            f"motion.num_points {config.num_points}, but {config.encoder_weights} was trained with "
            f"{encoders.config.num_points}. Set motion.num_points to that."
        )
    return encoders


def _check_batch(stage: str, requests: Sequence[tuple[MosamSession, Request]], *, room: int) -> None:
    total = sum(request.step.size for _, request in requests)
    groups = {request.step.group for _, request in requests}
    if total > room or len(groups) != 1:
        raise ValueError(
            f"stage {stage!r}: a batch of {total} places in groups {sorted(map(str, groups))}; "
            f"expected one group and at most {room} places."
        )
