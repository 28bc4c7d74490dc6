"""A second reading of clips and texts that shares no code with the solver: tracks to motions, words to demands."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.synth.clip import Clip

COLOURS = {"red", "orange", "yellow", "green", "cyan", "blue", "purple", "white"}
SHAPES = {"disc", "square", "triangle", "star", "ring", "cross", "bar"}
TEXTURES = {"plain", "striped", "dotted", "checkered"}
DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1), "rising": (0, -1), "falling": (0, 1)}
RELATIONS = (" to the left of ", " to the right of ", " left of ", " right of ", " above ", " below ", " under ")
DEPTH_RELATIONS = (" behind ", " in front of ")


@dataclass
class Demand:
    """What a text says, found by its words alone."""

    attributes: dict[str, str]
    motion: str | None
    speed: str | None
    event: str | None
    relation: str | None
    anchor: "Demand | None"
    count: int | None


def decode_rle(rle: dict[str, Any] | None, height: int, width: int) -> NDArray[np.bool_]:
    """COCO's compressed counts by their definition (cocoapi, maskApi.c, rleFrString); None is an empty mask."""
    if rle is None:
        return np.zeros((height, width), dtype=np.bool_)
    assert rle["size"] == [height, width]
    counts: list[int] = []
    digits = [ord(character) - 48 for character in rle["counts"]]
    while digits:
        value, shift = 0, 0
        while True:
            digit = digits.pop(0)
            value |= (digit & 31) << shift
            shift += 5
            if not digit & 32:
                break
        value -= (1 << shift) if digit & 16 else 0
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
    pixels = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
    return pixels.reshape(width, height).T


def read_text(text: str) -> Demand:
    for phrase in (*RELATIONS, *DEPTH_RELATIONS):
        if phrase in f" {text} ":
            head, _, tail = f" {text} ".partition(phrase)
            demand = read_text(head)
            demand.relation = phrase.strip().removeprefix("to the ").removesuffix(" of")
            demand.anchor = read_text(tail)
            return demand
    words = text.split()
    return Demand(
        attributes=_attributes(words),
        motion=_motion(set(words)),
        speed={"slowly": "slow", "fast": "fast"}.get((set(words) & {"slowly", "fast"} or {""}).pop()),
        event=_event(set(words)),
        relation=None,
        anchor=None,
        count=2 if {"two", "both"} & set(words) else 3 if "three" in words else None,
    )


def _attributes(words: list[str]) -> dict[str, str]:
    found = {}
    for word in words:
        singular = "cross" if word in ("cross", "crosses") else word.removesuffix("s")
        if word in COLOURS:
            found["colour"] = word
        elif word in TEXTURES:
            found["texture"] = word
        elif singular in SHAPES:
            found["shape"] = singular
        elif word in ("small", "large", "big"):
            found["size"] = "small" if word == "small" else "large"
    return found


def _motion(words: set[str]) -> str | None:
    for keys, motion in (
        ({"starts", "begins"}, "starts"),
        ({"stops"}, "stops"),
        ({"turns"}, "turns_back"),
        ({"counterclockwise"}, "circle_counterclockwise"),
        ({"clockwise"}, "circle_clockwise"),
        ({"circling", "circle"}, "circle"),
        ({"zigzag", "zigzagging"}, "zigzag"),
        ({"bouncing", "hopping"}, "bounce"),
        ({"spinning", "rotating"}, "spin"),
        ({"growing", "larger"}, "grow"),
        ({"shrinking", "smaller"}, "shrink"),
        ({"still", "resting"}, "still"),
    ):
        if keys & words:
            return motion
    heading = np.array([DIRECTIONS[word] for word in words & set(DIRECTIONS)]).reshape(-1, 2).sum(axis=0)
    if heading.any():
        return "_".join(
            name
            for axis, names in ((1, ("up", "down")), (0, ("left", "right")))
            for name in [names[int(heading[axis] > 0)]]
            if heading[axis]
        )
    return "moving" if words & {"moving", "moves", "move"} else None


def _event(words: set[str]) -> str | None:
    if words & {"reappears", "returns", "comes"}:
        return "reappears"
    if words & {"leaves", "disappears"}:
        return "leaves"
    return ("enters_last" if "last" in words else "enters") if words & {"enters", "appears"} else None


def track_class(clip: Clip, slot: int) -> str:
    """The class of motion, from positions and radii alone; "in_place" for what turns or rests where it is."""
    steps = clip.truth.velocities_px[1:, slot].astype(np.float64)
    growth = np.diff(clip.truth.radii_px[:, slot])
    if not np.abs(steps).max() > 0:
        return "grow" if (growth > 0).all() else "shrink" if (growth < 0).all() else "in_place"
    moves = np.linalg.norm(steps, axis=1) > 0.2
    turns = steps[:-1, 0] * steps[1:, 1] - steps[:-1, 1] * steps[1:, 0]
    if not moves.all() and np.abs(np.diff(moves.astype(int))).sum() == 1 and _is_one_heading(steps[moves]):
        return "stops" if moves[0] else "starts"
    if _is_one_heading(steps):
        return _compass(steps[0])
    if np.abs(turns).max() < 1e-3 and np.sign(steps).any(axis=0).sum() == 1 and _num_headings(steps) == 2:
        flips = (np.diff(np.sign(steps.sum(axis=1))) != 0).sum()
        if flips == 1 and np.ptp(np.linalg.norm(steps, axis=1)) < 0.02:
            return "turns_back"
    if np.abs(steps[:, 0]).max() == 0:
        return "bounce"
    if (turns > 0).all():
        return "circle_clockwise"
    return "circle_counterclockwise" if (turns < 0).all() else "zigzag"


def _is_one_heading(steps: NDArray[np.float64]) -> bool:
    return bool(np.ptp(steps, axis=0).max() < 0.02)


def _num_headings(steps: NDArray[np.float64]) -> int:
    return len(np.unique(np.sign(steps), axis=0))


def _compass(step: NDArray[np.float64]) -> str:
    horizontal = "" if abs(step[0]) < 0.02 else "left" if step[0] < 0 else "right"
    vertical = "" if abs(step[1]) < 0.02 else "up" if step[1] < 0 else "down"
    return "_".join(part for part in (vertical, horizontal) if part)


def does(clip: Clip, slot: int, motion: str, *, loosely: bool) -> bool:
    """Whether an object does what is asked; loosely, whether anybody might say so."""
    kind = track_class(clip, slot)
    kind = clip.truth.objects[slot].motion if kind == "in_place" else kind
    if motion == "circle":
        return kind.startswith("circle")
    if motion == "moving":
        steady = kind not in ("still", "spin", "grow", "shrink", "starts", "stops", "turns_back")
        return kind != "still" if loosely else steady
    if motion == kind or not loosely:
        return motion == kind
    steps = clip.truth.velocities_px[1:, slot]
    if (motion, kind) == ("stops", "starts"):
        return False  # its rest comes first: a look-alike that stops is told from it by just that
    if motion in ("still", "stops"):
        return bool((np.abs(steps).max(axis=1) == 0).sum() >= 2) and kind in (
            "starts",
            "stops",
            "spin",
            "grow",
            "shrink",
        )
    asked = sum(np.array(DIRECTIONS[part]) for part in motion.split("_") if part in DIRECTIONS)
    if not np.any(asked):
        return False
    lengths = np.linalg.norm(steps, axis=1)
    return bool((steps @ (asked / np.linalg.norm(asked)) > 0.8 * lengths)[lengths > 0.2].any())
