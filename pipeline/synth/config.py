"""What a ShapesRef clip is sampled from: ClipConfig, every share and range of it."""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, PositiveFloat, model_validator

from pipeline.synth.motion import MIN_FRAMES
from pipeline.synth.shapes import ROUND_SHAPES
from pipeline.synth.world import (
    COLOURS,
    MOTIONS,
    REFERENCE_PX,
    SHAPES,
    SIZES,
    TEXTURES,
    Colour,
    Life,
    Motion,
    Shape,
    Size,
    Texture,
)

Fraction = Annotated[float, Field(ge=0, le=1)]
Kind = Literal["attribute", "motion", "relation", "temporal", "plural", "none"]
ExpressionPlan = Literal["any", "referent", "twin", "attribute", "motion", "relation", "temporal", "plural", "none"]
Playback = Literal["forward", "reversed", "frozen"]
Trait = Literal["colour", "shape", "texture", "size", "motion"]

STANDARD_MIX: dict[Kind, float] = {
    "attribute": 0.30,
    "motion": 0.35,
    "relation": 0.10,
    "temporal": 0.10,
    "plural": 0.08,
    "none": 0.07,
}
"""Shares of the kinds of expressions."""

MIN_FRAMES_FOR_EVENTS = 8
"""Clips shorter than this have no late entries, exits or absences."""

MAX_TRAVEL_SHARE = 0.85
"""A straight path is at most this long, in shorter sides of the canvas: speeds are cut to it."""

_SHORT_SIDE_MIN_PX = 32
_STAYING: tuple[Motion, ...] = (
    "still",
    "circle_clockwise",
    "circle_counterclockwise",
    "bounce",
    "spin",
    "grow",
    "shrink",
)


class ClipConfig(BaseModel):
    """The distribution of one family of clips.

    Attributes:
        name: first part of the names of its clips; says nothing about their content.
        speed_px: range of speeds in pixels per frame, on a canvas whose shorter side has 128 pixels.
        twin_fraction: share of scenes in which object 2 is a look-alike of object 1, equal but for one trait.
        twin_differs: weights of the traits in which twins differ.
        kin_fraction: probability that a further object copies colour and shape of an earlier one, and half of the
            time its motion.
        crossing_fraction: share of twins whose paths meet in the middle of the clip, where both move.
        late_fraction, leave_fraction, blink_fraction: probabilities that an object enters at 30-60 % of the clip, is
            gone from 40-70 % on, or is away for 2-8 frames.
        lives_of: which objects these three apply to: "all", or object 1 only.
        occluder_fraction: share of scenes with a grey bar in the way of object 1.
        pan_fraction, pan_px: share of scenes with a moving, jittering camera; its greatest speed in pixels per
            frame at 128.
        distractor_fraction: share of backgrounds that carry the colours of objects.
        shadow_fraction: share of scenes with shadows.
        expressions: what each expression of a clip is to be: a kind, "any" of them by `kind_weights`, or one with
            the "referent" (object 1) or its "twin" (object 2) as its only target.
        kind_weights: of the kinds for the entries "any", "referent" and "twin".
        speed_share: of the expressions that name a motion and could name its speed, too, those that do.
        playback: "frozen" repeats the middle frame; "reversed" plays backwards, with the truth turned around.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(default="shapesref", pattern="^[a-z0-9_]+$")
    height: int = Field(default=128, ge=_SHORT_SIDE_MIN_PX)
    width: int = Field(default=128, ge=_SHORT_SIDE_MIN_PX)
    num_frames: int = Field(default=8, ge=2)
    frames_per_second: int = Field(default=12, ge=1)
    min_objects: int = Field(default=2, ge=1, le=8)
    max_objects: int = Field(default=4, ge=1, le=8)
    colours: tuple[Colour, ...] = Field(default=COLOURS, min_length=1)
    shapes: tuple[Shape, ...] = Field(default=SHAPES, min_length=1)
    textures: tuple[Texture, ...] = Field(default=TEXTURES, min_length=1)
    sizes: tuple[Size, ...] = Field(default=SIZES, min_length=1)
    motions: tuple[Motion, ...] = Field(default=MOTIONS, min_length=1)
    speed_px: tuple[PositiveFloat, PositiveFloat] = (2.0, 5.0)
    twin_fraction: Fraction = 0.0
    twin_differs: dict[Trait, NonNegativeFloat] = Field(
        default={"motion": 0.6, "colour": 0.1, "shape": 0.1, "texture": 0.1, "size": 0.1}
    )
    kin_fraction: Fraction = 0.0
    crossing_fraction: Fraction = 0.0
    late_fraction: Fraction = 0.0
    leave_fraction: Fraction = 0.0
    blink_fraction: Fraction = 0.0
    lives_of: Literal["all", "referent"] = "all"
    occluder_fraction: Fraction = 0.0
    pan_fraction: Fraction = 0.0
    pan_px: PositiveFloat = 2.5
    distractor_fraction: Fraction = 0.0
    shadow_fraction: Fraction = 0.0
    expressions: tuple[ExpressionPlan, ...] = ("any", "any", "any")
    kind_weights: dict[Kind, NonNegativeFloat] = Field(default=STANDARD_MIX)
    speed_share: Fraction = 0.2
    playback: Playback = "forward"

    @property
    def short_side_px(self) -> int:
        return min(self.height, self.width)

    @property
    def life_weights(self) -> dict[Life, float]:
        """Weights of the lives an object may lead; too short clips have room for whole ones only."""
        if self.num_frames < MIN_FRAMES_FOR_EVENTS:
            return {"whole": 1.0}
        events: dict[Life, float] = {
            "late": self.late_fraction,
            "leaves": self.leave_fraction,
            "blinks": self.blink_fraction,
        }
        return {"whole": 1.0 - sum(events.values()), **events}

    def motions_for(self, shape: Shape) -> tuple[Motion, ...]:
        """The configured motions that can be told apart in so many frames and on this shape."""
        return tuple(
            motion
            for motion in self.motions
            if MIN_FRAMES[motion] <= self.num_frames and not (motion == "spin" and shape in ROUND_SHAPES)
        )

    def derive(self, **changes: object) -> "ClipConfig":
        """A copy with changes, checked like a new one (`model_copy` checks nothing)."""
        return ClipConfig.model_validate({**self.model_dump(), **changes})

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.min_objects > self.max_objects:
            raise ValueError(f"min_objects {self.min_objects} is above max_objects {self.max_objects}; swap them.")
        if self.speed_px[0] > self.speed_px[1]:
            raise ValueError(f"speed_px {self.speed_px}: expected (slowest, fastest).")
        if self.late_fraction + self.leave_fraction + self.blink_fraction > 1:
            raise ValueError("late_fraction + leave_fraction + blink_fraction is above 1; an object has one life.")
        if self.twin_fraction > 0 and self.max_objects < 2:
            raise ValueError("A twin needs max_objects >= 2.")
        if "twin" in self.expressions and self.min_objects < 2:
            raise ValueError('The expression "twin" is about object 2 and needs min_objects >= 2.')
        travel_px, room_px = self.speed_px[0] * (self.num_frames - 1), MAX_TRAVEL_SHARE * REFERENCE_PX
        if travel_px > room_px and not set(self.motions) <= set(_STAYING):
            raise ValueError(
                f"At {self.speed_px[0]} px per frame an object travels {travel_px} px in {self.num_frames} frames, of "
                f"{room_px} px that there are at 128; lower speed_px or keep to motions {_STAYING}."
            )
        blind = [shape for shape in self.shapes if not self.motions_for(shape)]
        if blind:
            raise ValueError(
                f"No motion of {self.motions} can be seen on shapes {blind} in {self.num_frames} frames; "
                f"allow another motion or more frames (needed: {MIN_FRAMES})."
            )
        return self
