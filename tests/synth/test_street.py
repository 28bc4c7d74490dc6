"""Streets: labels, depth and motion as a ray caster finds them, equal everywhere, not to be told by colour alone."""

import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from pipeline.synth.street import Street, StreetFrame, iter_street_frames, sample_street, street_digest, street_scene
from pipeline.synth.street_config import STREET_PRESETS, StreetConfig, street_config
from pipeline.synth.street_render import labels_of, paint_view
from pipeline.synth.street_world import (
    CLASS_ID,
    MODALITIES,
    SKY_DEPTH_M,
    STREET_CLASSES,
    STREET_PALETTE,
    TICKS_PER_FRAME,
    WEATHERS,
    Failure,
    Weather,
)
from pipeline.synth.world import Split
from tests.synth.ray_caster import cast_rays

ROOT = Path(__file__).resolve().parents[2]
SMALL = StreetConfig(height=72, width=104, num_frames=3)
ALL = SMALL.derive(modalities=MODALITIES)
UNCOUNTED = {CLASS_ID["sky"], CLASS_ID["road"], CLASS_ID["ground"]}

# Written down once: a change means that published seeds no longer name the same streets. The same values came out
# with numpy 2.0.2 and 2.4.6, with and without AVX.
GOLDEN: dict[tuple[Weather, Failure], str] = {
    ("night", "none"): "e79ccb1fb6eabe9a",
    ("rain", "motionblur"): "db36fd78c696f17d",
    ("fog", "eventlowres"): "220ba62d1e3928b1",
    ("sun", "overexposure"): "b6d14293b76584a2",
}
GOLDEN_PRESETS: dict[tuple[str, Split], str] = {
    ("street_train", "train"): "4a137c2ab6584e9d",
    ("street_modal", "heldout"): "b905188156bcc0f0",
}


def edges(ids: np.ndarray) -> np.ndarray:
    """Pixels with a neighbour of another id."""
    window = np.ones((3, 3), dtype=np.uint8)
    ids = ids.astype(np.uint16)
    found: np.ndarray = cv2.dilate(ids, window) != cv2.erode(ids, window)
    return found


@pytest.mark.parametrize(("height", "width"), [(72, 104), (104, 60), (33, 160)])
def test_each_pixel_belongs_to_the_nearest_surface_that_its_ray_meets(height: int, width: int) -> None:
    for index in range(4):
        scene = street_scene(SMALL.derive(height=height, width=width, num_frames=24), 7, "test", index)
        for tick in (0, 13 * TICKS_PER_FRAME + 5, 23 * TICKS_PER_FRAME):
            painted = paint_view(scene, tick)
            labels, instances = labels_of(painted, scene.materials)
            cast_labels, cast_instances, cast_mm = cast_rays(scene, tick)
            differs = (labels != cast_labels) | (instances != cast_instances)
            # Places are rounded to millimetres, so a border may lie one pixel aside.
            at_border = edges(cast_instances) | edges(instances) | edges(labels) | edges(cast_labels)
            assert not (differs & ~at_border).any()
            assert differs.mean() < 0.01
            same = ~differs & (labels != CLASS_ID["sky"])
            assert np.abs(painted.depth_mm[same] / cast_mm[same] - 1).max() < 0.002
            assert (painted.depth_mm[labels == CLASS_ID["sky"]] == SKY_DEPTH_M * 1000).all()


def test_every_class_is_shown_and_instances_have_one_class_each() -> None:
    pixels = np.zeros(len(STREET_CLASSES), dtype=np.int64)
    for index in range(10):
        street = sample_street(SMALL.derive(num_frames=1), 1, "train", index)
        labels, instances = street.labels(), street.instances()
        pixels += np.bincount(labels.ravel(), minlength=len(STREET_CLASSES))
        pairs = {(int(i), int(c)) for i, c in zip(instances.ravel(), labels.ravel(), strict=True)}
        assert {c for i, c in pairs if i == 0} <= UNCOUNTED
        counted = [(i, c) for i, c in pairs if i > 0]
        assert len({i for i, _ in counted}) == len(counted)
        assert not {c for _, c in counted} & UNCOUNTED
        named = {thing.instance_id: thing.class_id for thing in street.things}
        assert all(named.get(i, c) == c for i, c in counted)
    assert (pixels / pixels.sum() > 0.0015).all(), dict(zip(STREET_CLASSES, pixels, strict=True))
    assert len(STREET_PALETTE) == len(STREET_CLASSES) == len(np.unique(STREET_PALETTE, axis=0))


def rays(street: Street, frame: StreetFrame, scene_view: tuple[float, float, float]) -> tuple[np.ndarray, np.ndarray]:
    """World x and z, in metres, of what each pixel shows."""
    centre_x, focal_px, _ = scene_view
    right = (np.arange(frame.labels.shape[1]) + 0.5 - centre_x) / focal_px
    camera = street.camera_m[frame.frame_index]
    return camera[0] + right[None, :] * frame.depth_m, camera[2] + frame.depth_m


def test_things_move_over_the_ground_by_their_velocity() -> None:
    """The world place of a thing's pixels, found from depth and camera alone, moves as its velocity says."""
    checked = {"moving": 0, "standing": 0}
    for index in range(6):
        config = StreetConfig(num_frames=9, frames_per_second=8)
        street, scene = sample_street(config, 2, "valid", index), street_scene(config, 2, "valid", index)
        for thing in street.things:
            places = []
            for frame in (street.frames[0], street.frames[8]):
                view = scene.camera.at(frame.frame_index * TICKS_PER_FRAME)
                x, z = rays(street, frame, (view.centre_x / 256, view.focal_px, 0))
                mask = frame.instances == thing.instance_id
                columns = np.flatnonzero(mask.any(axis=0))
                is_whole = len(columns) > 4 and columns[0] > 0 and columns[-1] < config.width - 1
                if is_whole and not edges_hidden(frame, mask):
                    places.append((x[mask].min() + x[mask].max(), 2 * z[mask].mean()))
            if len(places) == 2:
                moved = (np.array(places[1]) - places[0]) / 2
                pixel_m = 2 * np.abs(frame.depth_m[mask]).max() / view.focal_px
                assert moved[1] == pytest.approx(thing.velocity_mps[2], abs=0.01)
                assert moved[0] == pytest.approx(thing.velocity_mps[0], abs=float(pixel_m))
                checked["moving" if any(thing.velocity_mps) else "standing"] += 1
    assert min(checked.values()) >= 5, checked


def edges_hidden(frame: StreetFrame, mask: np.ndarray) -> bool:
    """Whether something nearer touches the mask, so that part of the thing may be hidden."""
    around = cv2.dilate(mask.astype(np.uint8), np.ones((3, 3), dtype=np.uint8)).astype(bool) & ~mask
    nearer = frame.depth_m[around] < frame.depth_m[mask].min() - 0.1
    return bool((nearer & ~np.isin(frame.labels[around], list(UNCOUNTED))).any())


def test_the_camera_moves_and_standing_walls_keep_their_ids() -> None:
    """Walls of one frame, warped to a later one by depth and camera, land on pixels of the same id."""
    config = StreetConfig(num_frames=4, camera_speed_mps=(6, 9))
    for index in range(3):
        street, scene = sample_street(config, 4, "test", index), street_scene(config, 4, "test", index)
        assert street.camera_m[3, 2] - street.camera_m[0, 2] >= 6 * 3 / 12 - 0.01
        views = [scene.camera.at(frame * TICKS_PER_FRAME) for frame in (0, 3)]
        first, last = street.frames[0], street.frames[3]
        x, z = rays(street, first, (views[0].centre_x / 256, views[0].focal_px, 0))
        down = (np.arange(config.height) + 0.5 - views[0].centre_y / 256)[:, None] / views[0].focal_px
        y = street.camera_m[0, 1] - down * first.depth_m
        away = np.maximum(z - street.camera_m[3, 2], 0.1)
        column = np.floor((x - street.camera_m[3, 0]) / away * views[1].focal_px + views[1].centre_x / 256).astype(int)
        row = np.floor((street.camera_m[3, 1] - y) / away * views[1].focal_px + views[1].centre_y / 256).astype(int)
        walls = np.isin(first.labels, [CLASS_ID["building"]]) & (row >= 0) & (row < config.height)
        walls &= (column >= 0) & (column < config.width)
        kept = last.instances[row[walls], column[walls]] == first.instances[walls]
        still = last.instances[walls] == first.instances[walls]
        assert kept.mean() > 0.9
        assert kept.mean() > still.mean()


@pytest.mark.parametrize("weather", WEATHERS)
def test_weather_changes_the_picture_only(weather: str) -> None:
    clear = sample_street(SMALL.derive(weathers={"cloud": 1.0}), 5, "valid", 3)
    other = sample_street(SMALL.derive(weathers={weather: 1.0}), 5, "valid", 3)
    assert other.weather == weather
    assert np.array_equal(clear.labels(), other.labels())
    assert np.array_equal(clear.instances(), other.instances())
    assert weather == "cloud" or np.abs(clear.rgb().astype(int) - other.rgb()).mean() > 5


@pytest.mark.parametrize(("weather", "failure"), GOLDEN)
def test_streets_are_the_ones_that_were_written_down(weather: Weather, failure: Failure) -> None:
    modal = street_config("street_modal").derive(height=72, width=104, num_frames=2)
    config = modal.derive(weathers={weather: 1.0}, failures={failure: 1.0})
    assert street_digest(sample_street(config, 2026, "test", 7))[:16] == GOLDEN[weather, failure]


@pytest.mark.parametrize(("name", "split"), GOLDEN_PRESETS)
def test_presets_are_the_ones_that_were_written_down(name: str, split: Split) -> None:
    assert street_digest(sample_street(street_config(name), 2026, split, 7))[:16] == GOLDEN_PRESETS[name, split]


def test_another_process_draws_the_same_street() -> None:
    code = (
        "from pipeline.synth.street import *; from pipeline.synth.street_config import *;"
        "print(street_digest(sample_street(street_config('street_modal').derive(num_frames=1), 5, 'valid', 1)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONHASHSEED": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    config = street_config("street_modal").derive(num_frames=1)
    assert result.stdout.strip() == street_digest(sample_street(config, 5, "valid", 1))


def test_frames_one_by_one_are_the_frames_of_the_street() -> None:
    street = sample_street(ALL, 9, "train", 0)
    for whole, single in zip(street.frames, iter_street_frames(ALL, 9, "train", 0), strict=True):
        assert np.array_equal(whole.rgb, single.rgb)
        assert np.array_equal(whole.modalities["event"], single.modalities["event"])


def test_a_sensor_sees_the_same_whichever_others_are_there() -> None:
    everything = sample_street(ALL, 9, "train", 0)
    for names in ((), ("lidar",), ("event", "depth")):
        few = sample_street(ALL.derive(modalities=names), 9, "train", 0)
        for frame, wanted in zip(few.frames, everything.frames, strict=True):
            assert set(frame.modalities) == set(names)
            assert np.array_equal(frame.rgb, wanted.rgb)
            for name in names:
                assert np.array_equal(frame.modalities[name], wanted.modalities[name])


def test_seeds_splits_and_indices_name_different_streets() -> None:
    config = SMALL.derive(num_frames=1)
    named = [(0, "train", 0), (1, "train", 0), (0, "train", 1), (0, "valid", 0), (0, "test", 0), (0, "heldout", 0)]
    digests = {street_digest(sample_street(config, seed, split, index)) for seed, split, index in named}  # type: ignore[arg-type]
    assert len(digests) == len(named)


def colour_bins(frame: StreetFrame) -> np.ndarray:
    return (frame.rgb >> 5).astype(np.int64) @ np.array([64, 8, 1])


def hha_bins(frame: StreetFrame) -> np.ndarray:
    disparity, height, angle = np.moveaxis(frame.modalities["hha"].astype(np.int64), 2, 0)
    return ((disparity >> 3) * 16 + (height >> 4)) * 2 + (angle > 0)


def place_and_grain_bins(frame: StreetFrame) -> np.ndarray:
    height, width = frame.labels.shape
    grey = frame.rgb.astype(np.int64).mean(axis=2)
    change = np.abs(np.diff(grey, axis=1, prepend=grey[:, :1]))
    grain = np.minimum(cv2.blur(change, (5, 5)) / 3, 7).astype(np.int64)
    row = (np.arange(height) * 8 // height)[:, None]
    column = (np.abs(np.arange(width) - width // 2) * 4 // width)[None, :]
    return ((row * 4 + column) * 8 + grain) * 64 + (frame.rgb >> 6).astype(np.int64) @ np.array([16, 4, 1])


def accuracy_of_table(weather: str, bins: object, num_train: int = 16, num_test: int = 6) -> float:
    """Pixel accuracy on unseen streets of the likeliest class for each bin."""
    config = SMALL.derive(num_frames=1, weathers={weather: 1.0}, modalities=("hha",))
    counts = np.ones((8 * 4 * 8 * 64, len(STREET_CLASSES)))
    for index in range(num_train):
        frame = sample_street(config, 1, "train", index).frames[0]
        np.add.at(counts, (bins(frame).ravel(), frame.labels.ravel()), 1)  # type: ignore[operator]
    frames = [sample_street(config, 1, "test", index).frames[0] for index in range(num_test)]
    return float(np.mean([counts[bins(frame)].argmax(axis=2) == frame.labels for frame in frames]))  # type: ignore[operator]


def test_colour_alone_tells_little_by_day_and_less_at_night_while_distance_stays() -> None:
    by_day, at_night = accuracy_of_table("sun", colour_bins), accuracy_of_table("night", colour_bins)
    assert by_day < 0.68
    assert at_night < by_day - 0.1
    assert accuracy_of_table("sun", place_and_grain_bins) > by_day + 0.08, "there is something to learn in the picture"
    assert accuracy_of_table("night", hha_bins) > at_night + 0.25, "another sensor helps at night"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vehicles": (2.0, 1.0)}, "lowest, highest"),
        ({"weathers": {"sun": 0.0}}, "above 0"),
        ({"weathers": {"snow": 1.0}}, "snow"),
        ({"modalities": ("depth", "depth")}, "twice"),
        ({"trees": (0.0, 4.0)}, "1 m apart"),
        ({"height": 16}, "greater than or equal to 32"),
        ({"lidar_lines": (0, 4)}, "1 line"),
    ],
)
def test_a_config_that_cannot_be_drawn_says_so(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SMALL.derive(**changes)


def test_wrong_names_say_what_there_is() -> None:
    with pytest.raises(ValueError, match="street_train, street_eval, street_modal"):
        street_config("demo")
    with pytest.raises(ValueError, match="Unknown split 'val'"):
        sample_street(SMALL, 0, "val", 0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="index -1"):
        sample_street(SMALL, 0, "train", -1)
    assert {config.name for config in STREET_PRESETS.values()} == set(STREET_PRESETS)
