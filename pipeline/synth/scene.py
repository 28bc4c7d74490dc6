"""Puts a cast on stage: the camera's path, where every object is at every frame, and what stands in the way."""

import numpy as np
from numpy.typing import NDArray

from pipeline.synth.casting import Cast, sample_cast
from pipeline.synth.config import ClipConfig
from pipeline.synth.draws import Draws
from pipeline.synth.motion import FULL_SCALE, STRAIGHT_HEADINGS, UNIT, Trace, trace
from pipeline.synth.shapes import REACH
from pipeline.synth.world import REFERENCE_PX, SUBPIXELS, Occluder, Scene, SceneObject, Split

Ints = NDArray[np.int64]

_PLACING_TRIES = 12
_PAN_TRAVEL_SHARE = 0.35  # the camera turns back after so much of the shorter side
_MIN_FRAMES_TO_CROSS = 12  # in shorter clips look-alikes that meet would hide each other throughout
_MIN_FRAMES_TO_HIDE = 8


def sample_scene(config: ClipConfig, *, split: Split, draws: Draws, background_name: tuple[int, ...]) -> Scene:
    """One scene of the configured distribution.

    Args:
        background_name: names the stream of draws for the background.

    Raises:
        ValueError: the split allows nothing that the config asks for.
    """
    cast = sample_cast(config, split=split, draws=draws)
    camera_px = _sample_camera(config, draws)
    traces = [trace(thing.program, config.num_frames) for thing in cast.objects]
    present = np.stack([_presence(thing, config.num_frames) for thing in cast.objects], axis=1)
    centres = _place_all(cast, traces, present, camera_px, config, draws)
    radii = np.stack(
        [thing.radius * played.scales // FULL_SCALE for thing, played in zip(cast.objects, traces, strict=True)], 1
    )
    return Scene(
        height=config.height,
        width=config.width,
        objects=cast.objects,
        twins=cast.twins,
        occluders=_sample_occluders(cast.objects[0], centres[:, 0], present[:, 0], config, draws),
        centres=centres,
        radii=radii,
        angles=np.stack([thing.angle + played.angles for thing, played in zip(cast.objects, traces, strict=True)], 1),
        present=present,
        camera_px=camera_px,
        background_name=background_name,
        has_distractor_background=draws.chance(config.distractor_fraction),
        has_shadows=draws.chance(config.shadow_fraction),
    )


def _sample_camera(config: ClipConfig, draws: Draws) -> Ints:
    """Whole pixels (T, 2): a pan that swings back in long clips, with a jitter of one pixel; zeros without a pan."""
    frames = np.arange(config.num_frames, dtype=np.int64)
    if not draws.chance(config.pan_fraction):
        return np.zeros((config.num_frames, 2), dtype=np.int64)
    fastest = round(config.pan_px * SUBPIXELS) * config.short_side_px // REFERENCE_PX
    speed = draws.between(fastest // 4, fastest)
    heading = np.array(draws.pick(list(STRAIGHT_HEADINGS.values())), dtype=np.int64)
    travel = round(_PAN_TRAVEL_SHARE * config.short_side_px * SUBPIXELS)
    distance = travel - np.abs(frames * speed % (2 * travel) - travel)
    jitter = np.array([(draws.between(-1, 1), draws.between(-1, 1)) for _ in frames], dtype=np.int64)
    panned: Ints = (distance[:, None] * heading + UNIT * SUBPIXELS // 2) // (UNIT * SUBPIXELS)
    return panned + jitter


def _presence(thing: SceneObject, num_frames: int) -> NDArray[np.bool_]:
    present = np.ones(num_frames, dtype=np.bool_)
    present[thing.life_start : thing.life_stop] = False
    return present


def _place_all(
    cast: Cast, traces: list[Trace], present: NDArray[np.bool_], camera_px: Ints, config: ClipConfig, draws: Draws
) -> Ints:
    """World centres, int64 (T, N, 2)."""
    centres = np.zeros((config.num_frames, len(cast.objects), 2), dtype=np.int64)
    for slot, (thing, played) in enumerate(zip(cast.objects, traces, strict=True)):
        path = played.offsets - camera_px * SUBPIXELS
        ranges = _origin_ranges(thing, path[present[:, slot]], config)
        if slot == 1 and _is_crossing(cast, config, draws):
            meeting = centres[config.num_frames // 2, 0] - played.offsets[config.num_frames // 2]
            origin = meeting + np.array([draws.between(-2, 2), draws.between(-2, 2)]) * thing.radius // 8
        else:
            origin = _free_origin(thing, played, ranges, centres[:, :slot], cast.objects[:slot], draws)
        centres[:, slot] = played.offsets + origin
    return centres


def _origin_ranges(thing: SceneObject, path: Ints, config: ClipConfig) -> list[tuple[int, int]]:
    """For x and y, where the path's origin may be so that the object stays in the picture while present.

    Args:
        path: int64 (frames present, 2), on the screen, from the origin.
    """
    ranges = []
    for axis, length_px in enumerate((config.width, config.height)):
        margin, length = round(thing.radius * REACH[thing.shape]), length_px * SUBPIXELS
        low, high = margin - int(path[:, axis].min()), length - margin - int(path[:, axis].max())
        if low > high:
            low = high = (low + high) // 2
        ranges.append((low, high))
    if thing.slides:
        axis = 0 if thing.program.heading[0] else 1
        ranges[axis] = _sliding_range(thing, path, axis, (config.width, config.height)[axis] * SUBPIXELS)
    return ranges


def _sliding_range(thing: SceneObject, path: Ints, axis: int, length: int) -> tuple[int, int]:
    """The one place from which an object comes in at its first frame, or goes out at its last, over the edge."""
    ahead = thing.program.heading[axis] > 0
    is_late = thing.life == "late"
    edge = 0 if ahead == is_late else length
    outwards = thing.radius // 3 if edge else -thing.radius // 3
    origin = edge + outwards - int(path[0 if is_late else -1, axis])
    return origin, origin


def _is_crossing(cast: Cast, config: ClipConfig, draws: Draws) -> bool:
    wanted = cast.twins is not None and draws.chance(config.crossing_fraction)
    one, other = cast.objects[:2]
    both_move = one.program.speed > 0 and other.program.speed > 0 and one.program != other.program
    both_stay = one.life == other.life == "whole"
    return wanted and both_move and both_stay and config.num_frames >= _MIN_FRAMES_TO_CROSS


def _free_origin(
    thing: SceneObject,
    played: Trace,
    ranges: list[tuple[int, int]],
    others: Ints,
    other_things: tuple[SceneObject, ...],
    draws: Draws,
) -> Ints:
    """An origin within the ranges, as far from the objects placed before as a few tries find.

    Args:
        others: int64 (T, objects placed before, 2), their world centres.
    """
    frames = [0, len(others) // 2, -1]
    reaches = np.array([thing.radius + other.radius for other in other_things], dtype=np.int64)
    best, best_room = np.zeros(2, dtype=np.int64), -1
    for _ in range(_PLACING_TRIES):
        origin = np.array([draws.between(*axis_range) for axis_range in ranges], dtype=np.int64)
        if not other_things:
            return origin
        gaps = others[frames] - (played.offsets[frames] + origin)[:, None, :]
        room = int(((gaps * gaps).sum(axis=2) * 1000 // (reaches * reaches)).min())
        if room > best_room:
            best, best_room = origin, room
        if room > 1400:
            break
    return best


def _sample_occluders(
    thing: SceneObject, path: Ints, present: NDArray[np.bool_], config: ClipConfig, draws: Draws
) -> tuple[Occluder, ...]:
    """At times, a bar across the way of one object; in short clips it hides only a part of it.

    Args:
        path: int64 (T, 2), world centres of the object.
    """
    if not draws.chance(config.occluder_fraction):
        return ()
    frames = np.flatnonzero(present)
    frame = int(frames[draws.between(len(frames) // 3, 2 * len(frames) // 3)])
    x, y = path[frame].tolist()
    before, after = path[max(frame - 1, 0)], path[min(frame + 1, len(path) - 1)]
    moves_sideways = abs(int(after[0] - before[0])) >= abs(int(after[1] - before[1]))
    reach = round(thing.radius * REACH[thing.shape])
    short_side = config.short_side_px * SUBPIXELS
    thick = min(reach + thing.program.speed * draws.between(1, 4) // 2, short_side // 7)
    long = min(reach * draws.between(16, 24) // 10, short_side // 4)
    if config.num_frames < _MIN_FRAMES_TO_HIDE or thing.program.speed == 0:
        aside = (thick + reach // 4) * draws.pick((-1, 1))
        x, y = (x + aside, y) if moves_sideways else (x, y + aside)
    half_size = (thick, long) if moves_sideways else (long, thick)
    return (Occluder(centre=(x, y), half_size=half_size),)
