"""The plays of the tracking suites: who moves where, what hides it, what the camera does.

Lengths are in units of 1/64 of the shorter side, so that a suite is equally hard at every size: at 256 x 320 a unit
is 4 px. Axes: T frames; places are (x, y) in the world.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Self, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from pipeline.synth.draws import Draws
from pipeline.synth.motion import cosine, sine
from pipeline.synth.paint import COLOUR_RGB
from pipeline.synth.track_stage import Ints, Post, Sprite, Tone
from pipeline.synth.world import SUBPIXELS, TURN, Colour, Texture

TrackSuite = Literal[
    "occlusion", "disappearance", "camera_jerk", "fast_straight", "fast_turning", "crossing", "flash", "static"
]

TRACK_SUITES: tuple[TrackSuite, ...] = get_args(TrackSuite)

UNITS = 64
"""Units in the shorter side."""
SCROLL = 0.25
"""How fast the texture scrolls where nothing else is said, in units per frame."""
POST_WIDTH = 12.0
"""Of the occluder, in units; more than the target's diameter."""
JERK = 4.5
"""Speed of the jerking camera, in units per frame."""
NUM_EMPTY = 12
"""Frames on which the disappearing target is away."""
NUM_FLASHES = 26
"""Frames on which half of the target's pixels are glare."""
FASTEST = 10.25
"""Speed of the fast straight target, in units per frame: 16 % of the height."""
LANE = 3.0
"""Between the lanes of the fast straight target and its look-alike, in units: less than their radius, for places to be
no help."""
TURNING = 4.7
"""Speed of the fast turning target, in units per frame."""

_CALM_FRAMES = 17  # a motion filter trusts itself after 15 frames; the scroll comes to whole units by then
_TEXTURES: tuple[Texture, ...] = ("striped", "dotted", "checkered")
_LOOKS: tuple[tuple[tuple[Colour, Colour], ...], ...] = (
    (("red", "orange"), ("purple", "red"), ("blue", "purple")),
    (("green", "yellow"), ("cyan", "green"), ("blue", "cyan")),
    (("blue", "cyan"), ("purple", "blue"), ("red", "purple")),
)
"""Two tones, and what they fade into, if they do, in two steps: always neighbouring hues, so that neither a fine
texture nor a change of look passes through the greys of the background."""

_POST_GREY: Tone = (112, 112, 118)

Units = NDArray[np.float64]


class TrackSuiteConfig(BaseModel):
    """One suite at one size.

    Attributes:
        height, width: in pixels. The height is the shorter side and a multiple of 128, so that the camera's steps
            are whole pixels.
        grain: grey levels that the camera's noise spans.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    suite: TrackSuite
    height: int = Field(default=256, multiple_of=128, ge=128)
    width: int = Field(default=320, multiple_of=2)
    num_frames: int = Field(default=64, ge=64, le=128)
    frames_per_second: int = Field(default=12, ge=1)
    grain: int = Field(default=16, ge=0, le=64)

    @property
    def unit(self) -> int:
        """Sub-pixels in a unit."""
        return self.height * SUBPIXELS // UNITS

    @property
    def across(self) -> float:
        """Units in the width."""
        return UNITS * self.width / self.height

    @model_validator(mode="after")
    def _check(self) -> Self:
        if 4 * self.width < 5 * self.height:
            raise ValueError(
                f"{self.height} x {self.width}: the paths of the suites need a width of at least 5/4 of the height; "
                f"use {5 * self.height // 4} or more."
            )
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class Play:
    """What happens in one clip.

    Attributes:
        sprites: the farthest first; the first one is the target.
        camera_px: int64 (T, 2), whole pixels.
        tracked_ids: labels of the sprites to track.
    """

    sprites: tuple[Sprite, ...]
    posts: tuple[Post, ...] = ()
    camera_px: Ints
    tracked_ids: tuple[int, ...] = (1,)
    has_distractors: bool = False


def sample_play(config: TrackSuiteConfig, draws: Draws) -> Play:
    """A play of the suite; draws choose colours, textures, places and directions."""
    return _PLAYS[config.suite](_Rehearsal(config, draws))


class _Rehearsal:
    """The size, the draws and the measures that every play is made with."""

    def __init__(self, config: TrackSuiteConfig, draws: Draws) -> None:
        self.config = config
        self.draws = draws
        self.times: Units = np.arange(config.num_frames, dtype=np.float64)
        self.texture = draws.pick(_TEXTURES)
        self.looks = draws.shuffled(_LOOKS)

    def varied(self, low: float, high: float) -> float:
        """A number between the two, in steps of a tenth."""
        return self.draws.between(round(10 * low), round(10 * high)) / 10

    def camera(self, x: Units, y: Units) -> Ints:
        """Its path in whole pixels, from units."""
        return np.rint(np.stack([x, y], axis=1) * (self.config.height / UNITS)).astype(np.int64)

    def scroll(self) -> Ints:
        """A steady drift to the right."""
        return self.camera(self.times * SCROLL, self.times * 0)

    def sprite(
        self,
        x: Units,
        y: Units,
        *,
        radius: float,
        look: int = 0,
        fading_frames: int = 0,
        present: NDArray[np.bool_] | None = None,
        flashes: NDArray[np.bool_] | None = None,
    ) -> Sprite:
        """A disc on a path in units, in the first tones of a look, or fading through all of them in so many frames."""
        num_frames = len(self.times)
        return Sprite(
            shape="disc",
            texture=self.texture,
            radius=round(radius * self.config.unit),
            centres=np.rint(np.stack([x, y], axis=1) * self.config.unit).astype(np.int64),
            tones=_faded(self.looks[look], num_frames, fading_frames),
            present=np.ones(num_frames, dtype=np.bool_) if present is None else present,
            flashes=np.zeros(num_frames, dtype=np.bool_) if flashes is None else flashes,
        )


def _faded(look: tuple[tuple[Colour, Colour], ...], num_frames: int, fading_frames: int) -> NDArray[np.uint8]:
    """Tones at each frame, (T, 2, 3), in equal steps from one pair to the next."""
    stops = np.array([[COLOUR_RGB[tone] for tone in pair] for pair in look], dtype=np.int64)
    steps = max(fading_frames, 1)
    done = np.minimum(np.arange(num_frames), steps) * (len(look) - 1) * (fading_frames > 0)
    at = np.minimum(done // steps, len(look) - 2)
    share = (done - at * steps)[:, None, None]
    tones: NDArray[np.uint8] = (stops[at] + (stops[at + 1] - stops[at]) * share // steps).astype(np.uint8)
    return tones


def _mixed(tones_23: NDArray[np.uint8], grey: Tone) -> tuple[Tone, Tone]:
    """Both tones, three eighths of the way to a grey."""
    first, second = ((5 * tones_23.astype(np.int64) + 3 * np.array(grey)) // 8).tolist()
    return (first[0], first[1], first[2]), (second[0], second[1], second[2])


def _between(times: Units, start: int, count: int) -> NDArray[np.bool_]:
    inside: NDArray[np.bool_] = (times >= start) & (times < start + count)
    return inside


def _occlusion(at: _Rehearsal) -> Play:
    """The target, whose look has changed since frame 0, passes behind a post partly like it, above and below."""
    speed, radius, meeting = 0.7, 3.5, 0.44 * len(at.times)
    x = 0.27 * at.config.across + speed * at.times
    y = at.varied(22, 42) + 0 * at.times
    target = at.sprite(x, y, radius=radius, fading_frames=len(at.times) // 6)
    first, second = _mixed(target.tones[-1], _POST_GREY)
    post = Post(
        centre_x=round((0.27 * at.config.across + speed * meeting) * at.config.unit),
        half_width=round(POST_WIDTH / 2 * at.config.unit),
        band=8 * at.config.unit,
        offset=round(float(y[0]) * at.config.unit) - 4 * at.config.unit,
        plain=_POST_GREY,
        striped=(first, second),
    )
    return Play(sprites=(target,), posts=(post,), camera_px=at.scroll())


def _disappearance(at: _Rehearsal) -> Play:
    """The target changes its look, is away, and comes back some way off, looking as it did when it left."""
    away = _between(at.times, round(0.45 * len(at.times)), NUM_EMPTY)
    back = at.times >= round(0.45 * len(at.times)) + NUM_EMPTY
    x = 0.35 * at.config.across + 0.35 * at.times
    y = at.varied(22, 30) + 0.1 * at.times + np.where(back, 6.0, 0.0)
    return Play(
        sprites=(at.sprite(x, y, radius=4.5, fading_frames=len(at.times) // 3, present=~away),),
        camera_px=at.scroll(),
    )


def _camera_jerk(at: _Rehearsal) -> Play:
    """Target and look-alike stand side by side; after a calm start the camera is thrown to and fro."""
    steps = np.full(len(at.times), SCROLL)
    frame, direction = _CALM_FRAMES, 1
    while frame < len(steps):
        run = at.draws.between(4, 5)
        steps[frame : frame + run] = direction * JERK
        frame, direction = frame + run, -direction
    camera_x = np.cumsum(steps) - steps[0]
    middle = (camera_x.min() + camera_x.max()) / 2
    x = middle + at.config.across / 2 - 4 + 0 * at.times
    y = at.varied(24, 40) + 0 * at.times
    alike = at.sprite(x + 8, y, radius=3.0)
    return Play(sprites=(at.sprite(x, y, radius=3.0), alike), camera_px=at.camera(camera_x, 0 * at.times))


def _fast_straight(at: _Rehearsal) -> Play:
    """Straight at constant speed from side to side, with a gentle start, past a look-alike that runs the other way.

    So fast a target leaves the picture after some frames, so it slows down before each side and turns back. Alone it
    could be told by its looks at any speed; where both pass each other, only motion tells them apart. The start is so
    gentle that they first meet when a motion filter trusts itself.
    """
    radius, pull = 4.0, FASTEST / 3
    room = at.config.across - 2 * (radius + 1)
    x, places, speed, direction = radius + 1.0, [], 0.0, 1
    for frame in range(len(at.times)):
        places.append(x)
        ahead = (room + radius + 1 - x) if direction > 0 else (x - radius - 1)
        ramp = 0.15 if frame < _CALM_FRAMES else pull
        speed = min(speed + ramp, FASTEST, (2 * pull * max(ahead, 0.0)) ** 0.5)
        if ahead < pull:
            direction, speed = -direction, pull
        x = min(max(x + direction * speed, radius + 1.0), room + radius + 1)
    y = at.varied(20, 36) + 0 * at.times
    there = np.array(places)
    target = at.sprite(there + SCROLL * at.times, y, radius=radius)
    alike = at.sprite(at.config.across - there + SCROLL * at.times, y + LANE, radius=radius)
    return Play(sprites=(target, alike), camera_px=at.scroll())


def _fast_turning(at: _Rehearsal) -> Play:
    """The target runs in a circle, its look-alike on the other side of it."""
    radius = 8.0
    turn_step = round(TURNING / radius * TURN / 6.283185307)
    start = at.draws.below(TURN)
    sprites = []
    for half in (0, TURN // 2):
        angles = [start + half + turn_step * frame for frame in range(len(at.times))]
        x = at.config.across / 2 + radius * np.array([cosine(angle) for angle in angles]) / 65536
        y = UNITS / 2 + radius * np.array([sine(angle) for angle in angles]) / 65536
        sprites.append(at.sprite(x + SCROLL * at.times, y, radius=3.0))
    return Play(sprites=tuple(sprites), camera_px=at.scroll())


def _crossing(at: _Rehearsal) -> Play:
    """Two look-alikes in opposite directions meet half-way, their centres less than a radius apart."""
    radius, speed, middle = 4.5, 0.8, (len(at.times) - 1) / 2
    y = at.varied(26, 38)
    sprites = [
        at.sprite(
            at.config.across / 2 + side * speed * 64 / len(at.times) * (at.times - middle) + SCROLL * at.times,
            y + side * radius / 3 + 0 * at.times,
            radius=radius,
        )
        for side in (1, -1)
    ]
    return Play(sprites=tuple(sprites), camera_px=at.scroll(), tracked_ids=(1, 2))


def _flash(at: _Rehearsal) -> Play:
    """Half of the moving target's pixels are glare for a while."""
    x = 0.3 * at.config.across + (SCROLL + 0.3) * at.times
    y = at.varied(20, 44) + 0 * at.times
    flashes = _between(at.times, round(0.35 * len(at.times)), NUM_FLASHES)
    return Play(sprites=(at.sprite(x, y, radius=5.0, flashes=flashes),), camera_px=at.scroll())


def _static(at: _Rehearsal) -> Play:
    """Two different objects, and nothing moves."""
    still = 0 * at.times
    sprites = (
        at.sprite(0.3 * at.config.across + still, at.varied(22, 42) + still, radius=5.0),
        at.sprite(0.7 * at.config.across + still, at.varied(22, 42) + still, radius=5.0, look=1),
    )
    return Play(sprites=sprites, camera_px=at.camera(still, still), tracked_ids=(1, 2))


_PLAYS: dict[TrackSuite, Callable[[_Rehearsal], Play]] = {
    "occlusion": _occlusion,
    "disappearance": _disappearance,
    "camera_jerk": _camera_jerk,
    "fast_straight": _fast_straight,
    "fast_turning": _fast_turning,
    "crossing": _crossing,
    "flash": _flash,
    "static": _static,
}
