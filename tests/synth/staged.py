"""Scenes put together by hand for tests: every place, depth and time is the test's own."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.synth.draws import Draws
from pipeline.synth.expressions import Expression, judge
from pipeline.synth.grammar import word_query
from pipeline.synth.referents import Condition, Number, Query, Role
from pipeline.synth.render import DrawnFrame, draw_frames, observe
from pipeline.synth.witness import Witness, testify
from pipeline.synth.world import (
    SUBPIXELS,
    Colour,
    Motion,
    MotionProgram,
    Occluder,
    Scene,
    SceneObject,
    Shape,
    Size,
    Texture,
)


def thing(
    object_id: int,
    colour: Colour = "red",
    shape: Shape = "disc",
    *,
    texture: Texture = "plain",
    size: Size = "small",
    motion: Motion = "still",
    depth_dm: int = 100,
    radius_px: float = 7.0,
    angle: int = 0,
) -> SceneObject:
    program = MotionProgram(
        motion=motion,
        speed=0,
        heading=(256, 0),
        change_frame=0,
        period_frames=4,
        phase=0,
        turn_step=1,
        growth_permille=0,
    )
    return SceneObject(
        object_id=object_id,
        colour=colour,
        shape=shape,
        texture=texture,
        size=size,
        program=program,
        depth_dm=depth_dm,
        radius=round(radius_px * SUBPIXELS),
        angle=angle,
        colour_shift=(0, 0, 0),
        life="whole",
        life_start=0,
        life_stop=0,
        slides=False,
    )


def walk(start: tuple[float, float], step: tuple[float, float] = (0.0, 0.0), *, num_frames: int) -> NDArray[np.float64]:
    """A path (T, 2) in pixels."""
    return np.array(start) + np.arange(num_frames)[:, None] * np.array(step)


def stage(
    things: Sequence[SceneObject],
    paths: Sequence[NDArray[np.float64]],
    *,
    height: int = 60,
    width: int = 84,
    absent: dict[int, range] | None = None,
    camera_px: NDArray[np.int64] | None = None,
    occluders: Sequence[tuple[tuple[float, float], tuple[float, float]]] = (),
    has_shadows: bool = False,
) -> Scene:
    """A scene of objects on paths.

    Args:
        paths: world centres (T, 2) in pixels, one for each object.
        absent: object id -> frames in which it is not there.
        occluders: ((x, y), (half width, half height)) in pixels.
    """
    num_frames = len(paths[0])
    present = np.ones((num_frames, len(things)), dtype=np.bool_)
    for object_id, frames in (absent or {}).items():
        present[list(frames), object_id - 1] = False
    centres = np.stack([np.round(path * SUBPIXELS).astype(np.int64) for path in paths], axis=1)
    return Scene(
        height=height,
        width=width,
        objects=tuple(things),
        twins=None,
        occluders=tuple(
            Occluder(
                centre=(round(x * SUBPIXELS), round(y * SUBPIXELS)),
                half_size=(round(half_x * SUBPIXELS), round(half_y * SUBPIXELS)),
            )
            for (x, y), (half_x, half_y) in occluders
        ),
        centres=centres,
        radii=np.tile(np.array([item.radius for item in things], dtype=np.int64), (num_frames, 1)),
        angles=np.tile(np.array([item.angle for item in things], dtype=np.int64), (num_frames, 1)),
        present=present,
        camera_px=np.zeros((num_frames, 2), dtype=np.int64) if camera_px is None else camera_px,
        background_name=(1, 2, 3),
        has_distractor_background=False,
        has_shadows=has_shadows,
    )


def drawn(scene: Scene) -> list[DrawnFrame]:
    return list(draw_frames(scene))


def witness_of(scene: Scene) -> Witness:
    return testify(observe(scene, drawn(scene)))


def query(number: Number = "one", anchor: Sequence[tuple[Role, str]] = (), **conditions: str) -> Query:
    """A query from role=value pairs; `anchor` belongs to a relation."""
    anchors = tuple(Condition(role=role, value=value) for role, value in anchor)
    parts = (
        Condition(role=role, value=value, anchor=anchors if role == "relation" else ())  # type: ignore[arg-type]
        for role, value in conditions.items()
    )
    return Query(conditions=tuple(parts), number=number)


def expression_of(asked: Query, witness: Witness) -> Expression | None:
    return judge(asked, word_query(asked, Draws(7)), "0", witness)
