"""Chooses who plays in a scene: traits, look-alikes, motion programs and lives of its objects."""

from dataclasses import dataclass, replace

from pipeline.synth.config import MAX_TRAVEL_SHARE, ClipConfig, Trait
from pipeline.synth.draws import Draws
from pipeline.synth.meanings import are_distinct
from pipeline.synth.motion import STRAIGHT_HEADINGS, sample_program
from pipeline.synth.shapes import ROUND_SHAPES
from pipeline.synth.world import (
    OPPOSITE_MOTION,
    REFERENCE_PX,
    SUBPIXELS,
    TURN,
    Colour,
    Life,
    Motion,
    SceneObject,
    Shape,
    Size,
    Split,
    Texture,
    is_held_out,
    played_motion,
)

_RADIUS_SHARE: dict[Size, float] = {"small": 0.09, "large": 0.16}
_KIN_MOTION_SHARE = 0.5
_MAX_TRIES = 1000
_NEAREST_DM, _FARTHEST_DM = 20, 400


@dataclass(frozen=True, slots=True, kw_only=True)
class Cast:
    """The objects of a scene in the order of their ids, and the ids of two look-alikes among them, if any."""

    objects: tuple[SceneObject, ...]
    twins: tuple[int, int] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Traits:
    colour: Colour
    shape: Shape
    texture: Texture
    size: Size
    motion: Motion


def sample_cast(config: ClipConfig, *, split: Split, draws: Draws) -> Cast:
    """The objects of one scene.

    Raises:
        ValueError: the config leaves no combination of colour, shape and motion that the split allows.
    """
    roles = [_sample_traits(config, split, draws, is_first=True)]
    has_twin = config.max_objects > 1 and draws.chance(config.twin_fraction)
    twin = _sample_twin(roles[0], config, split, draws) if has_twin else None
    roles += [twin] if twin is not None else []
    num_objects = max(draws.between(config.min_objects, config.max_objects), len(roles))
    while len(roles) < num_objects:
        roles.append(_sample_other(roles, config, split, draws))
    depths = _distinct_depths(num_objects, draws)
    objects = [_embody(role, slot, depths[slot], config, draws) for slot, role in enumerate(roles)]
    if twin is not None:
        objects[1] = _like_twin(objects[1], objects[0])
    return Cast(objects=tuple(objects), twins=(1, 2) if twin is not None else None)


def _allows(split: Split, role: _Traits, config: ClipConfig, *, is_first: bool) -> bool:
    held_out = is_held_out(role.colour, role.shape, played_motion(role.motion, backwards=config.playback == "reversed"))
    if split == "heldout":
        return held_out or not is_first
    return split == "test" or not held_out


def _sample_traits(config: ClipConfig, split: Split, draws: Draws, *, is_first: bool = False) -> _Traits:
    for _ in range(_MAX_TRIES):
        shape = draws.pick(config.shapes)
        role = _Traits(
            colour=draws.pick(config.colours),
            shape=shape,
            texture=draws.pick(config.textures),
            size=draws.pick(config.sizes),
            motion=draws.pick(config.motions_for(shape)),
        )
        if _allows(split, role, config, is_first=is_first):
            return role
    raise ValueError(
        f"Split {split!r} allows no combination of colours {config.colours}, shapes {config.shapes} and motions "
        f"{config.motions}: one in ten is kept for 'heldout', the rest is for the others. Allow more of them."
    )


def _sample_other(roles: list[_Traits], config: ClipConfig, split: Split, draws: Draws) -> _Traits:
    """A further object; at times kin of an earlier one, half of them moving alike, so that plurals have members."""
    role = _sample_traits(config, split, draws)
    if not draws.chance(config.kin_fraction):
        return role
    parent = draws.pick(roles)
    motion = parent.motion if draws.chance(_KIN_MOTION_SHARE) else role.motion
    kin = replace(role, colour=parent.colour, shape=parent.shape, motion=motion)
    can_move_so = kin.motion in config.motions_for(kin.shape)
    return kin if can_move_so and _allows(split, kin, config, is_first=False) else role


def _sample_twin(role: _Traits, config: ClipConfig, split: Split, draws: Draws) -> _Traits | None:
    """A look-alike that differs in exactly one trait; None where the config has no second value for any."""
    for trait in draws.by_weight(config.twin_differs):
        for candidate in _variants(role, trait, config, draws):
            if _allows(split, candidate, config, is_first=False):
                return candidate
    return None


def _variants(role: _Traits, trait: Trait, config: ClipConfig, draws: Draws) -> list[_Traits]:
    """All versions of `role` with another value of one trait, in random order, an opposite motion mostly first."""
    if trait == "motion":
        others = [motion for motion in config.motions_for(role.shape) if are_distinct(motion, role.motion)]
        order = draws.shuffled(others)
        opposite = OPPOSITE_MOTION.get(role.motion)
        if opposite in order and draws.chance(0.7):
            order.sort(key=lambda motion: motion != opposite)
        return [replace(role, motion=motion) for motion in order]
    if trait == "shape":
        shapes = [shape for shape in config.shapes if role.motion != "spin" or shape not in ROUND_SHAPES]
        return [replace(role, shape=shape) for shape in draws.shuffled(shapes) if shape != role.shape]
    if trait == "colour":
        return [replace(role, colour=colour) for colour in draws.shuffled(config.colours) if colour != role.colour]
    if trait == "texture":
        return [replace(role, texture=value) for value in draws.shuffled(config.textures) if value != role.texture]
    return [replace(role, size=size) for size in draws.shuffled(config.sizes) if size != role.size]


def _distinct_depths(num_objects: int, draws: Draws) -> list[int]:
    depths: list[int] = []
    while len(depths) < num_objects:
        depth = draws.between(_NEAREST_DM, _FARTHEST_DM)
        if depth not in depths:
            depths.append(depth)
    return depths


def _embody(role: _Traits, slot: int, depth_dm: int, config: ClipConfig, draws: Draws) -> SceneObject:
    """An object with these traits: everything about it but its place."""
    life, start, stop = _sample_life(slot, config, draws)
    program = sample_program(
        role.motion,
        speed=_sample_speed(config, draws),
        num_frames=config.num_frames,
        short_side_px=config.short_side_px,
        draws=draws,
    )
    return SceneObject(
        object_id=slot + 1,
        colour=role.colour,
        shape=role.shape,
        texture=role.texture,
        size=role.size,
        program=program,
        depth_dm=depth_dm,
        radius=_radius(role.size, depth_dm, config),
        angle=draws.below(TURN) if role.shape == "bar" else draws.between(-TURN // 24, TURN // 24),
        colour_shift=(draws.between(-9, 9), draws.between(-9, 9), draws.between(-9, 9)),
        life=life,
        life_start=start,
        life_stop=stop,
        slides=life in ("late", "leaves") and role.motion in STRAIGHT_HEADINGS,
    )


def _like_twin(twin: SceneObject, model: SceneObject) -> SceneObject:
    """The twin with all of its model that no trait names: tilt and tint, and the program if both move alike."""
    program = twin.program
    if twin.motion == model.motion:
        program = model.program
    return replace(twin, program=program, angle=model.angle, colour_shift=model.colour_shift)


def _radius(size: Size, depth_dm: int, config: ClipConfig) -> int:
    """Sub-pixels: set by the size, a little larger near the camera than far away."""
    nearness_permille = 1060 - 120 * (depth_dm - _NEAREST_DM) // (_FARTHEST_DM - _NEAREST_DM)
    return round(_RADIUS_SHARE[size] * 1000) * config.short_side_px * SUBPIXELS * nearness_permille // 1_000_000


def _sample_speed(config: ClipConfig, draws: Draws) -> int:
    """Sub-pixels per frame."""
    slow, fast = (round(speed * SUBPIXELS) for speed in config.speed_px)
    speed = draws.between(slow, fast) * config.short_side_px // REFERENCE_PX
    longest = round(MAX_TRAVEL_SHARE * config.short_side_px * SUBPIXELS)
    return min(speed, longest // (config.num_frames - 1))


def _sample_life(slot: int, config: ClipConfig, draws: Draws) -> tuple[Life, int, int]:
    """The life of the object in this slot: its kind, and the frames [start, stop) of its absence."""
    frames = config.num_frames
    may_change = config.lives_of == "all" or slot == 0
    life = draws.weighted(config.life_weights) if may_change else "whole"
    if life == "late":
        return life, 0, draws.between(-(-3 * frames // 10), 6 * frames // 10)
    if life == "leaves":
        return life, draws.between(4 * frames // 10, 7 * frames // 10), frames
    if life == "blinks":
        length = draws.between(2, min(8, frames // 3))
        start = draws.between(frames // 4, 3 * frames // 4 - length)
        return life, start, start + length
    return "whole", 0, 0
