"""Motion programs: what each class of motion means, as integer offsets, scales and angles per frame."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.synth.draws import Draws
from pipeline.synth.world import MOTIONS, SUBPIXELS, TURN, Motion, MotionProgram

Ints = NDArray[np.int64]

UNIT = 256
"""Length of a unit heading."""
FULL_SCALE = 4096
"""Scale of an object that neither grows nor shrinks."""

_DIAGONAL = 181  # UNIT / sqrt(2)

STRAIGHT_HEADINGS: dict[Motion, tuple[int, int]] = {
    "left": (-UNIT, 0),
    "right": (UNIT, 0),
    "up": (0, -UNIT),
    "down": (0, UNIT),
    "up_left": (-_DIAGONAL, -_DIAGONAL),
    "up_right": (_DIAGONAL, -_DIAGONAL),
    "down_left": (-_DIAGONAL, _DIAGONAL),
    "down_right": (_DIAGONAL, _DIAGONAL),
}
"""Heading of every motion along a straight line at a constant speed."""

CHANGING_MOTIONS: tuple[Motion, ...] = ("starts", "stops", "turns_back")
"""Motions with two parts, before and after a change."""

MIN_FRAMES: dict[Motion, int] = {
    **dict.fromkeys(MOTIONS, 2),
    **dict.fromkeys(("grow", "shrink"), 3),
    **dict.fromkeys(("circle_clockwise", "circle_counterclockwise"), 4),
    **dict.fromkeys(CHANGING_MOTIONS, 6),
    **dict.fromkeys(("zigzag", "bounce"), 8),
}
"""The fewest frames in which a motion can be told from the others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """A program played: offsets int64 (T, 2) in sub-pixels, scales and angles int64 (T,)."""

    offsets: Ints
    scales: Ints
    angles: Ints


def sample_program(motion: Motion, *, speed: int, num_frames: int, short_side_px: int, draws: Draws) -> MotionProgram:
    """A program of class `motion`.

    Args:
        speed: sub-pixels per frame while it moves.
        num_frames: of the clip, at least `MIN_FRAMES[motion]`.
        short_side_px: of the canvas; bounds the radius of circles.
    """
    headings = STRAIGHT_HEADINGS.values() if motion in STRAIGHT_HEADINGS else list(STRAIGHT_HEADINGS.values())[:4]
    turn_step = draws.between(80, 160) * draws.pick((-1, 1))
    if motion in ("circle_clockwise", "circle_counterclockwise"):
        turn_step = _circle_step(speed, num_frames, short_side_px, draws)
        turn_step = -turn_step if motion == "circle_counterclockwise" else turn_step
    return MotionProgram(
        motion=motion,
        speed=0 if motion in ("still", "spin", "grow", "shrink") else speed,
        heading=STRAIGHT_HEADINGS.get(motion, draws.pick(list(headings))),
        change_frame=draws.between((num_frames + 2) // 3, 2 * num_frames // 3),
        period_frames=2 * draws.between(3, 5) if motion == "bounce" else 2 * draws.between(2, 4),
        phase=draws.below(TURN),
        turn_step=turn_step,
        growth_permille=draws.between(300, 600),
    )


def trace(program: MotionProgram, num_frames: int) -> Trace:
    """What the program does in frames 0 .. num_frames - 1, from an arbitrary origin."""
    frames = np.arange(num_frames, dtype=np.int64)
    offsets = _OFFSETS.get(program.motion, _straight)(program, frames)
    spins = program.motion == "spin"
    scales = np.full(num_frames, FULL_SCALE, dtype=np.int64)
    if program.motion in ("grow", "shrink"):
        growth = _growth(program.growth_permille, frames)
        scales += growth if program.motion == "grow" else -growth
    return Trace(offsets=offsets, scales=scales, angles=frames * program.turn_step if spins else frames * 0)


def sine(angle: int) -> int:
    """Sine of an angle in steps of 1/4096 turn, in 1/65536, the same integer everywhere."""
    return _SINE[angle % TURN]


def cosine(angle: int) -> int:
    """Cosine of an angle in steps of 1/4096 turn, in 1/65536."""
    return _SINE[(angle + TURN // 4) % TURN]


_SINE = tuple(round(math.sin(2 * math.pi * step / TURN) * 65536) for step in range(TURN))


def _circle_step(speed: int, num_frames: int, short_side_px: int, draws: Draws) -> int:
    """Angle steps per frame that give the wanted arc, unless the circle would be too small or too large for it."""
    wanted_arc = draws.between(TURN // 3, TURN // 2) if num_frames < 8 else draws.between(TURN // 2, 3 * TURN // 2)
    radius = _circle_radius(speed, max(wanted_arc // (num_frames - 1), 1))
    side = short_side_px * SUBPIXELS
    radius = min(max(radius, side // 24), side // 5)
    return max(speed * TURN * 1000 // (6283 * radius), 1)


def _circle_radius(speed: int, turn_step: int) -> int:
    return speed * TURN * 1000 // (6283 * abs(turn_step))


def _along(heading: tuple[int, int], distance: Ints) -> Ints:
    """Offsets of (T,) distances along a heading, rounded to sub-pixels."""
    return (distance[:, None] * np.array(heading, dtype=np.int64) + UNIT // 2) // UNIT


def _straight(program: MotionProgram, frames: Ints) -> Ints:
    return _along(program.heading, frames * program.speed)


def _circle(program: MotionProgram, frames: Ints) -> Ints:
    radius = _circle_radius(program.speed, program.turn_step)
    angles = [program.phase + program.turn_step * int(frame) for frame in frames]
    points = [(radius * cosine(angle), radius * sine(angle)) for angle in angles]
    return (np.array(points, dtype=np.int64) + 32768) >> 16


def _zigzag(program: MotionProgram, frames: Ints) -> Ints:
    """45 degrees to either side of the heading, in turns of half a period."""
    half = program.period_frames // 2
    phase = (frames + program.phase * half // TURN) % program.period_frames
    sideways = (half // 2 - np.abs(phase - half)) * program.speed
    ahead = _along(program.heading, frames * program.speed)
    across = _along((-program.heading[1], program.heading[0]), sideways)
    return ((ahead + across) * _DIAGONAL + UNIT // 2) // UNIT


def _bounce(program: MotionProgram, frames: Ints) -> Ints:
    """Hops on the spot: a parabola per period, as high as the mean speed demands."""
    period = program.period_frames
    phase = (frames + program.phase * period // TURN) % period
    height = program.speed * period // 2
    rise = height * 4 * phase * (period - phase) // (period * period)
    return np.stack([rise * 0, -rise], axis=1)


def _starts(program: MotionProgram, frames: Ints) -> Ints:
    return _along(program.heading, np.maximum(frames - program.change_frame, 0) * program.speed)


def _stops(program: MotionProgram, frames: Ints) -> Ints:
    return _along(program.heading, np.minimum(frames, program.change_frame) * program.speed)


def _turns_back(program: MotionProgram, frames: Ints) -> Ints:
    turn = program.change_frame
    return _along(program.heading, (turn - np.abs(frames - turn)) * program.speed)


def _growth(growth_permille: int, frames: Ints) -> Ints:
    """Change of scale around the middle of the clip, so that no single frame tells growing from shrinking."""
    last = max(int(frames[-1]), 1)
    return growth_permille * FULL_SCALE * (2 * frames - last) // (2000 * last)


_OFFSETS: dict[Motion, Callable[[MotionProgram, Ints], Ints]] = {
    "circle_clockwise": _circle,
    "circle_counterclockwise": _circle,
    "zigzag": _zigzag,
    "bounce": _bounce,
    "starts": _starts,
    "stops": _stops,
    "turns_back": _turns_back,
}
