"""Stages of the tiny model's training: what each is configured by, a config of clips and a loop."""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, model_validator

from pipeline.synth.config import ClipConfig, Kind
from pipeline.synth.presets import SUITES, TRAIN
from pipeline.synth.street_config import STREET_PRESETS, StreetConfig
from pipeline.training.loop import LoopConfig
from pipeline.training.schedule import ScheduleConfig


def stage_loop(*, warmup_steps: int, **own: object) -> LoopConfig:
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
        trains_detail: the detail stem is trained too; until then it adds nothing.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    early_clips: ClipConfig = TRAIN.derive(name="refer2", num_frames=2)
    late_clips: ClipConfig = TRAIN.derive(name="refer4", num_frames=4)
    num_early_steps: int = Field(default=630, ge=0)
    presence_weight: float = Field(default=0.5, ge=0)
    texture_weight: float = Field(default=0.0, ge=0)
    trains_detail: bool = False
    loop: LoopConfig = stage_loop(
        num_steps=1050,
        batch_size=16,
        learning_rate=1.5e-3,
        warmup_steps=80,
        ema_decay=0.998,
    )


LATER_MIX: dict[Kind, float] = {
    "attribute": 0.4,
    "motion": 0.35,
    "relation": 0.08,
    "temporal": 0.05,
    "plural": 0.08,
    "none": 0.3,
}
"""Kinds of expressions in the later stages; sentences without referent come on top of it."""


FOUR_FRAMES = TRAIN.derive(
    name="later4", num_frames=4, expressions=("referent", "twin", "none"), kind_weights=LATER_MIX
)
"""What whole short clips look like in the later stages, but for what a stage is about."""


ShownBy = Literal["mask", "box", "point"]
SHOWN_BY: tuple[ShownBy, ...] = ("mask", "mask", "box", "point")
"""Ways to show an object, the harder one to remember twice as often."""


_TRACKED = TRAIN.derive(
    name="tracked2",
    num_frames=2,
    late_fraction=0.0,
    blink_fraction=0.02,
    occluder_fraction=0.05,
    expressions=("referent",),
)


class TrackPhase(BaseModel):
    """Some steps of the tracking stage.

    Attributes:
        num_frames: of each clip that are used; 1 teaches to answer a prompt, without any memory.
        kinds: how objects are shown, one of them drawn for each step; "mask" needs a second frame.
        every: of the batch's clips so manyth one is taken.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_steps: int = Field(ge=1)
    clips: ClipConfig
    num_frames: int = Field(ge=1)
    kinds: tuple[ShownBy, ...] = SHOWN_BY
    every: int = Field(default=1, ge=1)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.num_frames > self.clips.num_frames or (self.num_frames == 1 and "mask" in self.kinds):
            raise ValueError(
                f"{self.num_frames} of {self.clips.num_frames} frames, shown by {', '.join(self.kinds)}: expected "
                'no more frames than a clip has, and two of them where "mask" is among the kinds.'
            )
        return self


class TrackStage(BaseModel):
    """How to read prompts and a memory, with what encodes frames held still.

    Reading a memory does not begin to be learnt beside referring, whose gradients are several times as large; alone,
    and over two frames, it takes about a hundred steps.

    Attributes:
        phases: one after the other; the last one lasts to the end.
        objects_per_clip: that are shown.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    phases: tuple[TrackPhase, ...] = Field(
        default=(
            TrackPhase(num_steps=260, clips=_TRACKED, num_frames=1, kinds=("box", "point")),
            TrackPhase(num_steps=140, clips=_TRACKED, num_frames=2),
            TrackPhase(num_steps=60, clips=_TRACKED.derive(name="tracked4", num_frames=4), num_frames=4, every=2),
        ),
        min_length=1,
    )
    objects_per_clip: int = Field(default=4, ge=1)
    loop: LoopConfig = stage_loop(
        num_steps=460,
        batch_size=12,
        learning_rate=2e-3,
        warmup_steps=20,
        ema_decay=0.98,
        seed=6,
    )

    def phase(self, step: int) -> TrackPhase:
        """The one that a step, counted from 0, belongs to."""
        for phase in self.phases[:-1]:
            if step < phase.num_steps:
                return phase
            step -= phase.num_steps
        return self.phases[-1]


class MemoryStage(BaseModel):
    """Memory over longer clips, in turns: a step refers, the next one tracks.

    What is shown is a part of a clip, as an engine sees long videos: a motion that fills 24 frames looks otherwise in
    eight of them than one that is over in eight.

    Attributes:
        num_frames: of each clip that are shown, from a random one on.
        refer_clips: a third of their expressions have no referent, or memory would unlearn to see nothing.
        track_clips: of which objects are tracked.
        objects_per_clip: that are tracked.
        motion_prompt_every: every so manyth referring step the decoder gets the motion prompt too.
        evidence_weight: of the losses on words and whole expressions.
        presence_weight: of the loss on "the referent is in view".
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    refer_clips: ClipConfig = TRAIN.derive(
        name="memory24", num_frames=24, expressions=("referent", "twin", "none"), kind_weights=LATER_MIX
    )
    track_clips: ClipConfig = _TRACKED.derive(name="tracked24", num_frames=24)
    num_frames: int = Field(default=8, ge=2)
    objects_per_clip: int = Field(default=3, ge=1)
    motion_prompt_every: int = Field(default=2, ge=1)
    evidence_weight: float = Field(default=0.5, ge=0)
    presence_weight: float = Field(default=2.0, ge=0)
    loop: LoopConfig = stage_loop(
        num_steps=1000,
        batch_size=4,
        learning_rate=8e-4,
        warmup_steps=20,
        ema_decay=0.998,
        rate_factors={
            "network.core.model.image_encoder.": 0.3,
            "network.grounding.": 0.3,
            "network.detail.": 0.3,
            "network.text_encoder.": 0.3,
        },
        seed=2,
        log_every=25,
    )


Turn = Literal["refer", "short", "track", "guided", "street"]


class ContactStage(MemoryStage):
    """Where things touch: parts from the middle of long clips, where paths meet; short clips, and streets, in turns.

    A part of eight frames from anywhere in a clip seldom shows things that touch, where masks are lost most: over 24
    frames of straight look-alikes J fell from 0.84 to 0.72 in the middle third and rose again after it (30 clips,
    development seed 777).

    Attributes:
        turns: what a step does, one after the other: sentences with memory on a part of a long clip, sentences on
            whole short clips, of which a batch has twice as many, objects tracked through a part, the same with motion
            prompts, regions of streets tracked likewise.
        starts: lowest and highest frame that a part begins with.
        short_clips: for "short".
        streets: of which regions are tracked; all their frames are used.
        streets_per_step: number of them.
        forecast_share: of the later frames of a "guided" part that have a motion prompt.
        num_tracked_frames: of a part of which objects are tracked; by default `num_frames`.
        tracked_clips_per_step: of the batch's clips so many are tracked; by default all.
        drawn_share: of the tracking steps that read memories drawn at random; the others read SAM2's.
    """

    turns: tuple[Turn, ...] = Field(default=("refer", "track", "short", "refer", "track", "street"), min_length=1)
    starts: tuple[NonNegativeInt, NonNegativeInt] = (2, 12)
    short_clips: ClipConfig = FOUR_FRAMES.derive(
        name="short4",
        twin_differs={"motion": 0.5, "colour": 0.1, "shape": 0.1, "texture": 0.2, "size": 0.1},
        late_fraction=0.0,
        blink_fraction=0.0,
        occluder_fraction=0.0,
        pan_fraction=0.5,
    )
    streets: StreetConfig = STREET_PRESETS["street_train"]
    streets_per_step: int = Field(default=6, ge=1)
    forecast_share: float = Field(default=0.8, gt=0, le=1)
    num_tracked_frames: int | None = Field(default=None, ge=2)
    tracked_clips_per_step: int | None = Field(default=None, ge=1)
    drawn_share: float = Field(default=0.0, ge=0, le=1)

    @model_validator(mode="after")
    def _check(self) -> Self:
        tracked = self.num_tracked_frames or self.num_frames
        last = min(self.refer_clips.num_frames - self.num_frames, self.track_clips.num_frames - tracked)
        if not self.starts[0] <= self.starts[1] <= last:
            raise ValueError(f"starts {self.starts}: expected lowest and highest, {last} at most.")
        return self


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
    loop: LoopConfig = stage_loop(
        num_steps=150,
        batch_size=6,
        learning_rate=1e-3,
        warmup_steps=10,
        ema_decay=0.98,
        seed=3,
        checkpoint_every=50,
        log_every=10,
    )
