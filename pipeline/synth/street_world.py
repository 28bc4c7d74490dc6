"""What a generated street consists of: classes, materials, strips of walls, upright things, and the camera.

World coordinates are integer millimetres: x to the right, y up from the ground, z forward. Time is counted in ticks.
On the screen x grows to the right and y downwards, in sub-pixels.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from pipeline.synth.world import SUBPIXELS

StreetClass = Literal["sky", "building", "vegetation", "road", "ground", "pole", "sign", "vehicle", "person", "other"]
Weather = Literal["cloud", "fog", "night", "rain", "sun"]
Failure = Literal["none", "motionblur", "overexposure", "underexposure", "lidarjitter", "eventlowres"]
Modality = Literal["depth", "hha", "event", "lidar"]

STREET_CLASSES: tuple[StreetClass, ...] = get_args(StreetClass)
WEATHERS: tuple[Weather, ...] = get_args(Weather)
FAILURES: tuple[Failure, ...] = get_args(Failure)
MODALITIES: tuple[Modality, ...] = get_args(Modality)
"""What there is beside rgb, which is always there."""

STREET_PALETTE: NDArray[np.uint8] = np.array(
    [
        (110, 170, 230),
        (150, 90, 80),
        (60, 150, 50),
        (128, 64, 128),
        (230, 170, 210),
        (170, 170, 170),
        (250, 210, 40),
        (40, 60, 200),
        (220, 30, 60),
        (90, 90, 20),
    ],
    dtype=np.uint8,
)
"""Colours for pictures of label maps, by class id."""

CLASS_ID: dict[StreetClass, int] = {name: class_id for class_id, name in enumerate(STREET_CLASSES)}

SKY_DEPTH_M = 1000.0
SKY_DEPTH_MM = 1_000_000
TICKS_PER_FRAME = 24
"""Time steps between two frames: sub-frames for events and motion blur lie on them."""
TILE = 64
"""Side of a texture in texels."""
EVEN_TONE = 128
"""The tone that shows a material in its own colour."""
NEAR_MM = 1_000
"""Nothing closer to the camera than this is drawn, but for the ground."""

Codes = NDArray[np.uint32]
"""What is painted: material << 8 | tone; 0 is nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Materials:
    """Everything a code can name, by material; material 0 is nothing.

    Attributes:
        rgb: uint16 (M, 3), 0..255, in the light of this street.
        class_ids: uint8 (M,).
        instance_ids: uint16 (M,); 0 for sky, road and ground.
    """

    rgb: NDArray[np.uint16]
    class_ids: NDArray[np.uint8]
    instance_ids: NDArray[np.uint16]


@dataclass(frozen=True, slots=True, kw_only=True)
class Strip:
    """Upright walls, hedges and houses in one plane, side by side.

    Attributes:
        faces: "side" for a plane x = `position_mm` along the street, "front" for z = `position_mm` across it.
        edges_mm: int64 (S + 1,), where segments begin and end along the plane, increasing.
        heights_mm: int64 (S,); 0 is a gap to see through.
        materials: int64 (S,).
        tiles: int64 (S,), number of the texture.
        texel_shifts: int64 (S,); a texel is 2^shift mm wide and high.
    """

    faces: Literal["side", "front"]
    position_mm: int
    edges_mm: NDArray[np.int64]
    heights_mm: NDArray[np.int64]
    materials: NDArray[np.int64]
    tiles: NDArray[np.int64]
    texel_shifts: NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Upright:
    """One thing that always faces the camera, like a sheet of cardboard.

    Attributes:
        x_mm, y_mm, z_mm: of the middle of its lower edge, at tick 0.
        step_um: (x, z) displacement per tick in micrometres.
        sprite: codes (h, w), row 0 on top, 0 where one sees through.
    """

    instance_id: int
    class_id: int
    kind: str
    x_mm: int
    y_mm: int
    z_mm: int
    step_um: tuple[int, int]
    width_mm: int
    height_mm: int
    sprite: Codes

    def place_mm(self, tick: int) -> tuple[int, int]:
        """Where it is at a tick, (x, z)."""
        return self.x_mm + self.step_um[0] * tick // 1000, self.z_mm + self.step_um[1] * tick // 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Sway:
    """A smooth integer oscillation: two parabolas a period."""

    amplitude: int
    period_ticks: int
    phase: int

    def at(self, tick: int) -> int:
        turn = (tick * 4096 // self.period_ticks + self.phase) & 4095
        half = turn & 2047
        height = self.amplitude * (half * (2048 - half)) >> 20
        return height if turn < 2048 else -height


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """The camera at one tick: a pinhole that looks along z.

    Attributes:
        centre_x, centre_y: of the image in sub-pixels: the vanishing point of the street.
        focal_px: focal length in pixels.
    """

    x_mm: int
    y_mm: int
    z_mm: int
    centre_x: int
    centre_y: int
    focal_px: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Camera:
    """A camera that drives along the street, sways, and turns a little.

    Attributes:
        step_um: forward, per tick, in micrometres.
        drift, bob: sideways and up, in mm.
        pan, pitch: of the image's centre, in sub-pixels.
        shake: quick trembling of the image's centre, in sub-pixels.
    """

    x_mm: int
    y_mm: int
    step_um: int
    centre_x: int
    centre_y: int
    focal_px: int
    drift: Sway
    bob: Sway
    pan: Sway
    pitch: Sway
    shake: Sway

    def at(self, tick: int) -> View:
        shake = self.shake.at(tick)
        return View(
            x_mm=self.x_mm + self.drift.at(tick),
            y_mm=self.y_mm + self.bob.at(tick),
            z_mm=self.step_um * tick // 1000,
            centre_x=self.centre_x + self.pan.at(tick) + shake,
            centre_y=self.centre_y + self.pitch.at(tick) + shake // 2,
            focal_px=self.focal_px,
        )

    @property
    def reach_px(self) -> tuple[int, int]:
        """How far the image's centre may move from its middle, (x, y) in whole pixels."""
        across = self.pan.amplitude + self.shake.amplitude
        down = self.pitch.amplitude + self.shake.amplitude
        return across // SUBPIXELS + 2, down // SUBPIXELS + 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Pavement:
    """The ground plane y = 0: a road around x = 0, ground beside it, and lines on the road.

    Attributes:
        road_half_mm: half of the road's width.
        road, ground: materials.
        road_tile, ground_tile: numbers of textures.
        dash_mm: length of a dash of the middle line and of the gap after it; 0 for no lines.
    """

    road_half_mm: int
    road: int
    ground: int
    road_tile: int
    ground_tile: int
    dash_mm: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StreetScene:
    """All that the frames of one street are drawn from.

    Attributes:
        name: (seed, split number, index) of its random streams.
        strips: in the order of painting: the end of the street first, then inwards from the outermost.
        uprights: all of them; those farther from the middle than a strip are painted before it.
        tiles: uint8 (K, TILE, TILE), tones.
        sky: codes, larger than a frame by the camera's reach on each side.
    """

    height: int
    width: int
    num_frames: int
    frames_per_second: int
    name: tuple[int, int, int]
    weather: Weather
    failure: Failure
    camera: Camera
    materials: Materials
    pavement: Pavement
    strips: tuple[Strip, ...]
    uprights: tuple[Upright, ...]
    tiles: NDArray[np.uint8]
    sky: Codes

    @property
    def end_mm(self) -> int:
        """z of the wall that ends the street."""
        return self.strips[0].position_mm
