"""Draws a tracking clip: textured sprites, posts that hide them and flashes over a scrolling texture, masks exact.

Axes: T frames, N sprites, H W pixels. Places are integer sub-pixels of the world; screen = world - camera.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.synth.background import paint_background
from pipeline.synth.draws import Draws
from pipeline.synth.paint import COVERED_FROM, window
from pipeline.synth.shapes import REACH, Plane, covered, local_axes, second_tone, signed_distance
from pipeline.synth.world import SUBPIXELS, Shape, Texture

Ints = NDArray[np.int64]
Planar = NDArray[np.uint8]
Tone = tuple[int, int, int]

NOTHING = 0
"""Label of the background and of posts."""

_BACKGROUND_STREAM, _GRAIN_STREAM, _FLASH_STREAM = range(3)
_FLASH_RGB = (np.float32(255), np.float32(252), np.float32(240))


@dataclass(frozen=True, slots=True, kw_only=True)
class Sprite:
    """One textured object and all that it does.

    Attributes:
        centres: int64 (T, 2), x and y.
        radius: sub-pixels.
        tones: uint8 (T, 2, 3): RGB of its first and second tone at each frame.
        present, flashes: bool (T,): drawn at all; half of its pixels show glare instead of its texture.
    """

    shape: Shape
    texture: Texture
    radius: int
    centres: Ints
    tones: NDArray[np.uint8]
    present: NDArray[np.bool_]
    flashes: NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Post:
    """An upright bar that stands in the world, nearer than every sprite, in horizontal bands of two patterns.

    Attributes:
        centre_x, half_width: sub-pixels; it is as high as the picture.
        band: height of one band, sub-pixels; `offset` moves the borders between bands.
        plain: RGB of every second band.
        striped: the two tones of the others.
    """

    centre_x: int
    half_width: int
    band: int
    offset: int
    plain: Tone
    striped: tuple[Tone, Tone]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """Everything that is drawn; equal stages give equal pixels.

    Attributes:
        sprites: the farthest first; sprite n has label n + 1.
        camera_px: int64 (T, 2), whole pixels.
        name: of the streams for background, grain and glare.
        grain: how many grey levels the camera's noise spans; 0 for none.
        has_distractors: the background carries blotches of the colours that objects have.
    """

    height: int
    width: int
    sprites: tuple[Sprite, ...]
    posts: tuple[Post, ...]
    camera_px: Ints
    name: tuple[int, ...]
    grain: int
    has_distractors: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawnStage:
    """What was drawn.

    Attributes:
        frames: uint8 (T, H, W, 3), RGB.
        labels: uint8 (T, H, W): the label of the nearest sprite that covers at least half of the pixel.
        full_px: int32 (T, N): pixels within the picture that the sprite would show if nothing stood before it.
    """

    frames: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    full_px: NDArray[np.int32]


def draw_stage(stage: Stage) -> DrawnStage:
    """All frames of a stage."""
    corner = stage.camera_px.min(axis=0)
    travel_x, travel_y = (stage.camera_px.max(axis=0) - corner).tolist()
    background = paint_background(
        stage.height + travel_y,
        stage.width + travel_x,
        short_side_px=min(stage.height, stage.width),
        has_distractors=stage.has_distractors,
        draws=Draws(*stage.name, _BACKGROUND_STREAM),
    )
    num_frames = len(stage.camera_px)
    frames = np.empty((num_frames, stage.height, stage.width, 3), dtype=np.uint8)
    labels = np.zeros((num_frames, stage.height, stage.width), dtype=np.uint8)
    full = np.zeros((num_frames, len(stage.sprites)), dtype=np.int32)
    for frame in range(num_frames):
        x, y = (stage.camera_px[frame] - corner).tolist()
        canvas = background[:, y : y + stage.height, x : x + stage.width].copy()
        full[frame] = _draw_sprites(stage, frame, canvas, labels[frame])
        for post in stage.posts:
            _draw_post(stage, post, frame, canvas, labels[frame])
        frames[frame] = _grained(cv2.merge(list(canvas)), stage, frame)
    return DrawnStage(frames=frames, labels=labels, full_px=full)


def _draw_sprites(stage: Stage, frame: int, canvas: Planar, labels: NDArray[np.uint8]) -> list[int]:
    full = []
    for slot, sprite in enumerate(stage.sprites):
        x, y = (sprite.centres[frame] - stage.camera_px[frame] * SUBPIXELS).tolist()
        radius_px = sprite.radius / SUBPIXELS
        reach = int(radius_px * REACH[sprite.shape]) + 2
        place = window((x, y), (reach, reach), stage.height, stage.width) if sprite.present[frame] else None
        if place is None:
            full.append(0)
            continue
        u, v = local_axes(*place, centre=(x, y), angle=0)
        distance = signed_distance(sprite.shape, u, v, radius_px)
        colours = _sprite_colours(sprite, frame, u, v)
        if sprite.flashes[frame]:
            colours = _glare(colours, Draws(*stage.name, _FLASH_STREAM, slot, frame))
        _blend(canvas, place, colours, covered(distance))
        labels[place][distance >= COVERED_FROM] = slot + 1
        full.append(int(np.count_nonzero(distance >= COVERED_FROM)))
    return full


def _sprite_colours(sprite: Sprite, frame: int, u: Plane, v: Plane) -> tuple[Plane, ...]:
    second = second_tone(sprite.texture, u, v, sprite.radius / SUBPIXELS)
    share = np.zeros_like(u + v) if second is None else second + np.zeros_like(u + v)
    first, other = sprite.tones[frame].astype(np.float32)
    return tuple(first[channel] + (other[channel] - first[channel]) * share for channel in range(3))


def _glare(colours: tuple[Plane, ...], draws: Draws) -> tuple[Plane, ...]:
    """Glare on every pixel whose draw falls in the upper half: half of them, others on each frame."""
    height, width = colours[0].shape
    is_hit = draws.lattice(height, width) >= 128
    return tuple(np.where(is_hit, glare, colour) for glare, colour in zip(_FLASH_RGB, colours, strict=True))


def _draw_post(stage: Stage, post: Post, frame: int, canvas: Planar, labels: NDArray[np.uint8]) -> None:
    camera_x, camera_y = (stage.camera_px[frame] * SUBPIXELS).tolist()
    centre = (post.centre_x - camera_x, stage.height * SUBPIXELS // 2)
    half_px = post.half_width / SUBPIXELS
    place = window(centre, (int(half_px) + 2, stage.height), stage.height, stage.width)
    if place is None:
        return
    u, _ = local_axes(*place, centre=centre, angle=0)
    rows = np.arange(place[0].start, place[0].stop) * SUBPIXELS + SUBPIXELS // 2 + camera_y - post.offset
    is_striped = (rows // post.band % 2 == 1)[:, None]
    is_first = np.broadcast_to(rows * 4 // post.band % 2 == 0, (1, len(rows))).T
    from_edge = np.float32(half_px) - np.abs(u) + np.zeros((len(rows), 1), dtype=np.float32)
    first, second = post.striped
    colours = tuple(
        np.where(is_striped, np.where(is_first, first[c], second[c]), post.plain[c]).astype(np.float32)
        + np.zeros_like(from_edge)
        for c in range(3)
    )
    _blend(canvas, place, colours, covered(from_edge))
    labels[place][from_edge >= COVERED_FROM] = NOTHING


def _blend(canvas: Planar, place: tuple[slice, slice], colours: tuple[Plane, ...], coverage: Plane) -> None:
    for plane, colour in zip(canvas, colours, strict=True):
        under = plane[place].astype(np.float32)
        plane[place] = (under + (colour - under) * coverage + np.float32(0.5)).astype(np.uint8)


def _grained(image: NDArray[np.uint8], stage: Stage, frame: int) -> NDArray[np.uint8]:
    if not stage.grain:
        return image
    noise = Draws(*stage.name, _GRAIN_STREAM, frame).lattice(stage.height, stage.width)
    shift = (noise * stage.grain >> 8) - stage.grain // 2
    grained: NDArray[np.uint8] = np.clip(image + shift[:, :, None], 0, 255).astype(np.uint8)
    return grained
