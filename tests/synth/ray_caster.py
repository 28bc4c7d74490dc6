"""A second way to draw a street: one ray per pixel, in floating point, and the nearest of all surfaces it meets."""

import numpy as np

from pipeline.synth.street_world import SKY_DEPTH_MM, StreetScene, Strip, Upright, View


def cast_rays(scene: StreetScene, tick: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Class ids, instance ids and distances in mm, (H, W) each, of what every pixel's ray meets first."""
    view = scene.camera.at(tick)
    right = (np.arange(scene.width) + 0.5 - view.centre_x / 256)[None, :] / view.focal_px
    up = -(np.arange(scene.height) + 0.5 - view.centre_y / 256)[:, None] / view.focal_px
    right, up = np.broadcast_arrays(right, up)
    nearest = np.full(right.shape, float(SKY_DEPTH_MM))
    material = np.full(right.shape, int(scene.sky[0, 0] >> 8), dtype=np.int64)
    hits = [_ground(scene, view, right, up)]
    hits += [_strip(strip, view, right, up) for strip in scene.strips]
    hits += [_upright(thing, view, right, up, tick) for thing in scene.uprights if _is_drawn(thing, scene, view, tick)]
    for away, what in hits:
        is_nearer = (what > 0) & (away < nearest)
        nearest = np.where(is_nearer, away, nearest)
        material = np.where(is_nearer, what, material)
    return scene.materials.class_ids[material], scene.materials.instance_ids[material], nearest


def _is_drawn(thing: Upright, scene: StreetScene, view: View, tick: int) -> bool:
    away = thing.z_mm + thing.step_um[1] * tick / 1000 - view.z_mm
    return 1000 <= away <= scene.end_mm - view.z_mm - 100


def _ground(scene: StreetScene, view: View, right: np.ndarray, up: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    is_down = up < 0
    away = np.where(is_down, -view.y_mm / np.where(is_down, up, -1), np.inf)
    is_road = np.abs(view.x_mm + right * np.where(is_down, away, 0)) <= scene.pavement.road_half_mm
    return away, np.where(is_down, np.where(is_road, scene.pavement.road, scene.pavement.ground), 0)


def _strip(strip: Strip, view: View, right: np.ndarray, up: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if strip.faces == "front":
        away = np.full(right.shape, float(strip.position_mm - view.z_mm))
        along = view.x_mm + right * away
    else:
        meets = (strip.position_mm - view.x_mm) * right > 0
        away = np.where(meets, (strip.position_mm - view.x_mm) / np.where(meets, right, 1), np.inf)
        along = view.z_mm + away
    what = np.zeros(right.shape, dtype=np.int64)
    height = view.y_mm + up * np.where(np.isfinite(away), away, 0)
    for start, stop, tall, material in zip(
        strip.edges_mm[:-1], strip.edges_mm[1:], strip.heights_mm, strip.materials, strict=True
    ):
        what[(along >= start) & (along < stop) & (height >= 0) & (height < tall)] = material
    return away, what


def _upright(thing: Upright, view: View, right: np.ndarray, up: np.ndarray, tick: int) -> tuple[np.ndarray, np.ndarray]:
    away = thing.z_mm + thing.step_um[1] * tick / 1000 - view.z_mm
    x = view.x_mm + right * away - (thing.x_mm + thing.step_um[0] * tick / 1000 - thing.width_mm / 2)
    y = thing.y_mm + thing.height_mm - (view.y_mm + up * away)
    rows, columns = thing.sprite.shape
    row, column = np.floor(y / thing.height_mm * rows), np.floor(x / thing.width_mm * columns)
    is_on = (row >= 0) & (row < rows) & (column >= 0) & (column < columns)
    texel = thing.sprite[np.where(is_on, row, 0).astype(int), np.where(is_on, column, 0).astype(int)] >> 8
    return np.full(right.shape, away), np.where(is_on, texel, 0).astype(np.int64)
