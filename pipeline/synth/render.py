"""Draws scenes: pictures, label maps, and how much of each object is seen and by whom it is hidden."""

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.synth.background import paint_background
from pipeline.synth.draws import Draws
from pipeline.synth.paint import Planar, paint_object, paint_occluder
from pipeline.synth.world import SUBPIXELS, ObjectTruth, Scene, Truth

NO_OBJECT = 0
"""Label of the background and of occluders."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawnFrame:
    """One drawn frame of N objects.

    Attributes:
        image: uint8 (H, W, 3), RGB.
        labels: uint8 (H, W): the `object_id` of the nearest object that covers at least half of the pixel, or
            `NO_OBJECT`. Visible masks of different objects never overlap.
        visible_px: int32 (N,), pixels of each object's label.
        full_px: int32 (N,), pixels covered by each object, hidden ones included.
        hidden_px: int32 (N, N): [i, j] pixels that were object i's until the nearer object j was painted.
    """

    frame_index: int
    image: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    visible_px: NDArray[np.int32]
    full_px: NDArray[np.int32]
    hidden_px: NDArray[np.int32]


def draw_frames(scene: Scene) -> Iterator[DrawnFrame]:
    """All frames of a scene in order, each drawn when asked for; memory does not grow with their number."""
    corner, background = _background(scene)
    for frame_index in range(scene.num_frames):
        x, y = (scene.camera_px[frame_index] - corner).tolist()
        canvas = background[:, y : y + scene.height, x : x + scene.width].copy()
        yield _draw_objects(scene, frame_index, canvas)


def observe(scene: Scene, drawn: list[DrawnFrame]) -> Truth:
    """The truth of a scene of which all frames were drawn."""
    on_screen = scene.centres - scene.camera_px[:, None, :] * SUBPIXELS
    steps = np.diff(scene.centres, axis=0)
    return Truth(
        height=scene.height,
        width=scene.width,
        objects=tuple(_object_truth(scene, slot) for slot in range(len(scene.objects))),
        centres_px=_pixels(on_screen),
        velocities_px=_pixels(np.concatenate([steps[:1], steps])),
        radii_px=_pixels(scene.radii),
        present=scene.present,
        visible_px=np.stack([frame.visible_px for frame in drawn]),
        full_px=np.stack([frame.full_px for frame in drawn]),
        hidden_px=np.stack([frame.hidden_px for frame in drawn]),
        camera_px=scene.camera_px,
    )


def _pixels(subpixels: NDArray[np.int64]) -> NDArray[np.float32]:
    return (subpixels / SUBPIXELS).astype(np.float32)


def _object_truth(scene: Scene, slot: int) -> ObjectTruth:
    thing = scene.objects[slot]
    return ObjectTruth(
        object_id=thing.object_id,
        colour=thing.colour,
        shape=thing.shape,
        texture=thing.texture,
        size=thing.size,
        motion=thing.motion,
        depth_dm=thing.depth_dm,
        life=thing.life,
    )


def _background(scene: Scene) -> tuple[NDArray[np.int64], Planar]:
    """World position of the background's corner, (x, y) in pixels, and the background."""
    corner, far = scene.camera_px.min(axis=0), scene.camera_px.max(axis=0)
    travel_x, travel_y = (far - corner).tolist()
    picture = paint_background(
        scene.height + travel_y,
        scene.width + travel_x,
        short_side_px=min(scene.height, scene.width),
        has_distractors=scene.has_distractor_background,
        draws=Draws(*scene.background_name),
    )
    return corner, picture


def _draw_objects(scene: Scene, frame_index: int, canvas: Planar) -> DrawnFrame:
    num_objects = len(scene.objects)
    labels = np.zeros(canvas.shape[1:], dtype=np.uint8)
    full = np.zeros(num_objects, dtype=np.int32)
    hidden = np.zeros((num_objects, num_objects), dtype=np.int32)
    camera_x, camera_y = (scene.camera_px[frame_index] * SUBPIXELS).tolist()
    for thing in sorted(scene.objects, key=lambda thing: -thing.depth_dm):
        slot = thing.object_id - 1
        if not scene.present[frame_index, slot]:
            continue
        x, y = scene.centres[frame_index, slot].tolist()
        painted = paint_object(
            canvas,
            thing,
            centre=(x - camera_x, y - camera_y),
            radius=int(scene.radii[frame_index, slot]),
            angle=int(scene.angles[frame_index, slot]),
            has_shadow=scene.has_shadows,
        )
        if painted is not None:
            full[slot] = np.count_nonzero(painted[1])
            hidden[:, slot] = _take_over(labels, painted, thing.object_id, num_objects)
    visible = full - hidden.sum(axis=1, dtype=np.int32)
    for occluder in scene.occluders:
        x, y = occluder.centre
        painted = paint_occluder(canvas, occluder, centre=(x - camera_x, y - camera_y))
        if painted is not None:
            visible -= _take_over(labels, painted, NO_OBJECT, num_objects)
    return DrawnFrame(
        frame_index=frame_index,
        image=cv2.merge(list(canvas)),
        labels=labels,
        visible_px=visible,
        full_px=full,
        hidden_px=hidden,
    )


def _take_over(
    labels: NDArray[np.uint8],
    painted: tuple[tuple[slice, slice], NDArray[np.bool_]],
    label: int,
    num_objects: int,
) -> NDArray[np.int32]:
    """Give the covered pixels a new label; returns (N,) how many each object lost."""
    place, cover = painted
    owners = labels[place]
    lost = np.bincount(owners[cover], minlength=num_objects + 1)[1:].astype(np.int32)
    owners[cover] = label
    return lost
