"""Recipe of the tiny model: its stages, each a config of clips and a loop."""

from pydantic import BaseModel, ConfigDict, Field

from pipeline.synth.config import ClipConfig, Kind
from pipeline.synth.presets import SUITES, TRAIN
from pipeline.training.loop import LoopConfig
from pipeline.training.schedule import ScheduleConfig


def _loop(*, warmup_steps: int, **own: object) -> LoopConfig:
    """What the loops of all stages share, with what is a stage's own."""
    shared = {
        "betas": (0.9, 0.98),
        "weight_decay": 0.02,
        "schedule": ScheduleConfig(kind="cosine", warmup_steps=warmup_steps, final_factor=0.03),
        "checkpoint_every": 100,
        "log_every": 20,
    }
    return LoopConfig.model_validate({**shared, **own})


class ReferStage(BaseModel):
    """Words to things: short clips, every frame by itself.

    Attributes:
        early_clips, late_clips: the first `num_early_steps` steps take a whole batch of the former, the others half
            a batch of the latter.
        presence_weight: of the loss on "the referent is in view".
        texture_weight: of the helper head that names textures.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    early_clips: ClipConfig = TRAIN.derive(name="refer2", num_frames=2)
    late_clips: ClipConfig = TRAIN.derive(name="refer4", num_frames=4)
    num_early_steps: int = Field(default=630, ge=0)
    presence_weight: float = Field(default=0.5, ge=0)
    texture_weight: float = Field(default=0.0, ge=0)
    loop: LoopConfig = _loop(
        num_steps=1050,
        batch_size=16,
        learning_rate=1.5e-3,
        warmup_steps=80,
        ema_decay=0.998,
    )


_LATER_MIX: dict[Kind, float] = {
    "attribute": 0.4,
    "motion": 0.35,
    "relation": 0.08,
    "temporal": 0.05,
    "plural": 0.08,
    "none": 0.3,
}
"""Kinds of expressions in the later stages; sentences without referent come on top of it."""


def ripening() -> ReferStage:
    """The same again from the weights of the first time: four frames, and as many sentences without referent."""
    clips = TRAIN.derive(
        name="ripen4",
        num_frames=4,
        expressions=("referent", "twin", "any", "none"),
        kind_weights=_LATER_MIX,
    )
    loop = _loop(
        num_steps=800,
        batch_size=12,
        learning_rate=8e-4,
        warmup_steps=20,
        ema_decay=0.998,
        seed=1,
    )
    return ReferStage(early_clips=clips, late_clips=clips, num_early_steps=0, presence_weight=1.0, loop=loop)


def sharpening() -> ReferStage:
    """Look-alikes that differ in what they are more often than in how they move; nothing stands in their way."""
    clips = TRAIN.derive(
        name="sharpen4",
        num_frames=4,
        twin_differs={"motion": 0.2, "colour": 0.1, "shape": 0.25, "texture": 0.3, "size": 0.15},
        crossing_fraction=0.1,
        late_fraction=0.0,
        blink_fraction=0.0,
        occluder_fraction=0.0,
        distractor_fraction=0.15,
        expressions=("referent", "twin", "none"),
        kind_weights={**_LATER_MIX, "attribute": 0.5, "relation": 0.04},
    )
    loop = _loop(
        num_steps=900,
        batch_size=16,
        learning_rate=1e-3,
        warmup_steps=20,
        ema_decay=0.998,
        seed=4,
    )
    return ReferStage(
        early_clips=clips, late_clips=clips, num_early_steps=0, presence_weight=2.0, texture_weight=0.5, loop=loop
    )


class MemoryStage(BaseModel):
    """Memory and prompts: longer clips frame by frame, half of them referred to, half tracked from the first frame.

    Attributes:
        clips: a third of their expressions have no referent, or memory would unlearn to see nothing.
        objects_per_clip: tracked in the second half of a batch.
        motion_prompt_every: every so manyth step the decoder gets the motion prompt too.
        evidence_weight: of the losses on words and whole expressions.
        presence_weight: of the loss on "the referent is in view".
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    clips: ClipConfig = TRAIN.derive(
        name="memory8", num_frames=8, expressions=("referent", "twin", "none"), kind_weights=_LATER_MIX
    )
    objects_per_clip: int = Field(default=3, ge=1)
    motion_prompt_every: int = Field(default=2, ge=1)
    evidence_weight: float = Field(default=0.5, ge=0)
    presence_weight: float = Field(default=1.0, ge=0)
    loop: LoopConfig = _loop(
        num_steps=400,
        batch_size=7,
        learning_rate=1e-3,
        warmup_steps=20,
        ema_decay=0.995,
        rate_factors={
            "network.core.model.image_encoder.": 0.3,
            "network.grounding.": 0.3,
            "network.text_encoder.": 0.3,
        },
        seed=2,
        checkpoint_every=50,
        log_every=10,
    )


class CmeStage(BaseModel):
    """When to distrust the memory: the memory encoder's head alone, on clips whose referent enters late.

    Attributes:
        late_clips, plain_clips: in turns, a batch each; the plain ones teach to keep.
        window: frames without question at the beginning and after each switch; 1 asks most.
        margin: the memory-less mask must be better by more IoU than this to be worth a switch.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    late_clips: ClipConfig = SUITES["tracking_bias"].derive(name="cme_late", num_frames=16)
    plain_clips: ClipConfig = TRAIN.derive(name="cme_plain", num_frames=16)
    window: int = Field(default=1, ge=1)
    margin: float = Field(default=0.1, ge=0, lt=1)
    loop: LoopConfig = _loop(
        num_steps=150,
        batch_size=6,
        learning_rate=1e-3,
        warmup_steps=10,
        ema_decay=0.98,
        seed=3,
        checkpoint_every=50,
        log_every=10,
    )
