"""What a generated street is sampled from: StreetConfig, its shares and ranges, and the named presets."""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, model_validator

from pipeline.synth.street_world import FAILURES, WEATHERS, Failure, Modality, Weather

Fraction = Annotated[float, Field(ge=0, le=1)]
Range = tuple[NonNegativeFloat, NonNegativeFloat]

_SHORT_SIDE_MIN_PX = 32


class StreetConfig(BaseModel):
    """The distribution of one family of streets.

    Attributes:
        name: first part of the names of its streets.
        weathers, failures: weights; a street has one of each, "none" for no failure.
        modalities: what is drawn beside rgb.
        camera_speed_mps: range of the camera's speed in metres per second.
        sway: how much the camera drifts, pans and pitches; 0 drives straight, 1 moves the picture by up to 6 % of
            its shorter side.
        vehicles, persons, others: how many there are in each 10 m of street, as a range that a street draws from.
        trees, poles: how far apart they stand on each side in metres, likewise.
        sign_fraction: share of poles with a sign.
        event_subframes: between two frames; events are counted at these.
        lidar_lines: range of the number of scan lines.
        lidar_density: share of pixels that the scanner aims at; dropped returns take a fifth or more of them away.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(default="street", pattern="^[a-z0-9_]+$")
    height: int = Field(default=128, ge=_SHORT_SIDE_MIN_PX)
    width: int = Field(default=192, ge=_SHORT_SIDE_MIN_PX)
    num_frames: int = Field(default=8, ge=1)
    frames_per_second: int = Field(default=12, ge=1)
    weathers: dict[Weather, NonNegativeFloat] = Field(default={"sun": 0.5, "cloud": 0.5})
    failures: dict[Failure, NonNegativeFloat] = Field(default={"none": 1.0})
    modalities: tuple[Modality, ...] = ()
    camera_speed_mps: Range = (1.5, 9.0)
    sway: Fraction = 0.5
    vehicles: Range = (0.6, 2.0)
    persons: Range = (0.5, 2.0)
    others: Range = (0.4, 1.2)
    trees: Range = (6.0, 14.0)
    poles: Range = (8.0, 16.0)
    sign_fraction: Fraction = 0.7
    event_subframes: Literal[4, 6, 8] = 4
    lidar_lines: tuple[int, int] = (16, 32)
    lidar_density: float = Field(default=0.11, gt=0, le=0.5)

    @property
    def short_side_px(self) -> int:
        return min(self.height, self.width)

    def derive(self, **changes: object) -> "StreetConfig":
        """A copy with changes, checked like a new one (`model_copy` checks nothing)."""
        return StreetConfig.model_validate({**self.model_dump(), **changes})

    @model_validator(mode="after")
    def _check(self) -> Self:
        for field in ("camera_speed_mps", "vehicles", "persons", "others", "trees", "poles", "lidar_lines"):
            low, high = getattr(self, field)
            if low > high:
                raise ValueError(f"{field} {(low, high)}: expected (lowest, highest).")
        if min(self.trees[0], self.poles[0]) < 1:
            raise ValueError(f"trees {self.trees}, poles {self.poles}: they stand 1 m apart at least.")
        if self.lidar_lines[0] < 1:
            raise ValueError(f"lidar_lines {self.lidar_lines}: a scanner has 1 line at least.")
        for field in ("weathers", "failures"):
            if not any(getattr(self, field).values()):
                raise ValueError(f"{field} {getattr(self, field)}: one weight at least must be above 0.")
        if len(set(self.modalities)) != len(self.modalities):
            raise ValueError(f"modalities {self.modalities}: one is named twice.")
        return self


_ALL_WEATHERS: dict[Weather, float] = dict.fromkeys(WEATHERS, 1.0)
_ALL_FAILURES: dict[Failure, float] = {"none": 5.0, **{name: 1.0 for name in FAILURES if name != "none"}}

STREET_PRESETS: dict[str, StreetConfig] = {
    "street_train": StreetConfig(name="street_train", num_frames=4),
    "street_eval": StreetConfig(name="street_eval", num_frames=24),
    "street_modal": StreetConfig(
        name="street_modal",
        height=128,
        width=128,
        num_frames=4,
        weathers=_ALL_WEATHERS,
        failures=_ALL_FAILURES,
        modalities=("depth", "hha", "event", "lidar"),
    ),
}
"""By name: short day-time streets, long ones for scores over time, and every weather and failure in all modalities."""


def street_config(name: str) -> StreetConfig:
    """The preset of that name.

    Raises:
        ValueError: there is none.
    """
    if name not in STREET_PRESETS:
        raise ValueError(f"Unknown preset of streets {name!r}; expected one of {', '.join(STREET_PRESETS)}.")
    return STREET_PRESETS[name]
