"""What a ShapesRef world consists of: attributes, objects, scenes, and the truth that a rendered clip leaves."""

import hashlib
from dataclasses import dataclass
from functools import cache
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

Colour = Literal["red", "orange", "yellow", "green", "cyan", "blue", "purple", "white"]
Shape = Literal["disc", "square", "triangle", "star", "ring", "cross", "bar"]
Texture = Literal["plain", "striped", "dotted", "checkered"]
Size = Literal["small", "large"]
Motion = Literal[
    "still",
    "left",
    "right",
    "up",
    "down",
    "up_left",
    "up_right",
    "down_left",
    "down_right",
    "circle_clockwise",
    "circle_counterclockwise",
    "zigzag",
    "bounce",
    "spin",
    "grow",
    "shrink",
    "starts",
    "stops",
    "turns_back",
]
Life = Literal["whole", "late", "leaves", "blinks"]
Split = Literal["train", "valid", "test", "heldout"]

COLOURS: tuple[Colour, ...] = get_args(Colour)
SHAPES: tuple[Shape, ...] = get_args(Shape)
TEXTURES: tuple[Texture, ...] = get_args(Texture)
SIZES: tuple[Size, ...] = get_args(Size)
MOTIONS: tuple[Motion, ...] = get_args(Motion)
SPLITS: tuple[Split, ...] = get_args(Split)

SUBPIXELS = 256
"""Sub-pixels in a pixel: every place, speed and radius of a scene is an integer number of them."""
TURN = 4096
"""Angle steps in a full turn; angles grow clockwise on the screen."""
REFERENCE_PX = 128
"""Speeds are configured in pixels per frame on a canvas whose shorter side has this many pixels."""

OPPOSITE_MOTION: dict[Motion, Motion] = {
    "left": "right",
    "right": "left",
    "up": "down",
    "down": "up",
    "up_left": "down_right",
    "down_right": "up_left",
    "up_right": "down_left",
    "down_left": "up_right",
    "circle_clockwise": "circle_counterclockwise",
    "circle_counterclockwise": "circle_clockwise",
    "grow": "shrink",
    "shrink": "grow",
    "starts": "stops",
    "stops": "starts",
}
"""The motion that a motion becomes when the clip is played backwards; motions not named here stay themselves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MotionProgram:
    """How one object moves, relative to the background.

    Attributes:
        motion: its class.
        speed: sub-pixels per frame along the path while it moves.
        heading: unit direction of travel, x right and y down, in 1/256.
        change_frame: where "starts", "stops" and "turns_back" change.
        period_frames: one zig and one zag, or one hop.
        phase: where on the circle, the period or the growth it begins, in angle steps.
        turn_step: angle steps per frame of a circle or a spin, signed.
        growth_permille: total change of the radius over the clip, in thousandths of it.
    """

    motion: Motion
    speed: int
    heading: tuple[int, int]
    change_frame: int
    period_frames: int
    phase: int
    turn_step: int
    growth_permille: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SceneObject:
    """One object as the generator decided it.

    Attributes:
        object_id: 1..N; the value of its pixels in a label map.
        depth_dm: distance from the camera in decimetres (20..400); the nearer object is painted over the farther.
        radius: sub-pixels; that of a disc, other shapes are sized to weigh about as much.
        angle: at the first frame, in angle steps.
        colour_shift: added to each channel of the colour's RGB value.
        life, life_start, life_stop: the object is absent in [0, stop) if "late", from `life_start` on if it
            "leaves", in [start, stop) if it "blinks".
        slides: it enters or leaves over the edge of the picture instead of at its place.
    """

    object_id: int
    colour: Colour
    shape: Shape
    texture: Texture
    size: Size
    program: MotionProgram
    depth_dm: int
    radius: int
    angle: int
    colour_shift: tuple[int, int, int]
    life: Life
    life_start: int
    life_stop: int
    slides: bool

    @property
    def motion(self) -> Motion:
        return self.program.motion


@dataclass(frozen=True, slots=True, kw_only=True)
class Occluder:
    """A grey bar that stands in the world, nearer than every object and never referred to.

    Attributes:
        centre: (x, y) in the world, sub-pixels.
        half_size: (half width, half height), sub-pixels.
    """

    centre: tuple[int, int]
    half_size: tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """Everything that is drawn, as integers: equal scenes give equal pixels.

    Attributes:
        twins: ids of two look-alikes that differ in exactly one attribute or motion, or None.
        centres: int64 (T, N, 2), x and y in the world, sub-pixels; the canvas is [0, width] x [0, height], and pixel
            (row, column) has its centre at (column + 1/2, row + 1/2) pixels.
        radii, angles: int64 (T, N), sub-pixels and angle steps.
        present: bool (T, N): drawn at all at that frame.
        camera_px: int64 (T, 2): how far the picture has moved over the world; screen = world - camera.
        background_name: names the stream that the background is drawn from.
        has_shadows: objects cast a soft shadow on what lies behind them.
    """

    height: int
    width: int
    objects: tuple[SceneObject, ...]
    twins: tuple[int, int] | None
    occluders: tuple[Occluder, ...]
    centres: NDArray[np.int64]
    radii: NDArray[np.int64]
    angles: NDArray[np.int64]
    present: NDArray[np.bool_]
    camera_px: NDArray[np.int64]
    background_name: tuple[int, ...]
    has_distractor_background: bool
    has_shadows: bool

    @property
    def num_frames(self) -> int:
        return int(self.centres.shape[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectTruth:
    """What is true of one object over the whole clip, as played; the meaning of `size` is that at the first frame."""

    object_id: int
    colour: Colour
    shape: Shape
    texture: Texture
    size: Size
    motion: Motion
    depth_dm: int
    life: Life


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """What is true of a rendered clip, T frames and N objects; object `object_id` has slot `object_id - 1`.

    Attributes:
        centres_px: float32 (T, N, 2), x and y on the screen; may lie outside of it.
        velocities_px: float32 (T, N, 2), relative to the background: from the frame before to this one; the first
            frame repeats the second.
        radii_px: float32 (T, N).
        present: bool (T, N): the object is drawn; it may still be hidden or outside the picture.
        visible_px: int32 (T, N), area of its visible mask.
        full_px: int32 (T, N), area within the picture as if nothing stood in front of it.
        hidden_px: int32 (T, N, N): [t, i, j] pixels of object i covered by the nearer object j.
        camera_px: int64 (T, 2).
    """

    height: int
    width: int
    objects: tuple[ObjectTruth, ...]
    centres_px: NDArray[np.float32]
    velocities_px: NDArray[np.float32]
    radii_px: NDArray[np.float32]
    present: NDArray[np.bool_]
    visible_px: NDArray[np.int32]
    full_px: NDArray[np.int32]
    hidden_px: NDArray[np.int32]
    camera_px: NDArray[np.int64]

    @property
    def num_frames(self) -> int:
        return int(self.centres_px.shape[0])


@cache
def is_held_out(colour: Colour, shape: Shape, motion: Motion) -> bool:
    """Whether this combination, one in ten, is kept from training so that composition can be tested."""
    digest = hashlib.sha256(f"{colour}/{shape}/{motion}".encode()).digest()
    return digest[0] * 256 + digest[1] < 6554


def played_motion(motion: Motion, *, backwards: bool) -> Motion:
    """The class of `motion` as a viewer sees it."""
    return OPPOSITE_MOTION.get(motion, motion) if backwards else motion
