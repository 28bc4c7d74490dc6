"""Drawn frames: who owns a pixel, who hides whom, and what a moving camera does."""

import numpy as np
import pytest

from pipeline.synth.paint import COLOUR_RGB
from pipeline.synth.render import draw_frames, observe
from pipeline.synth.world import COLOURS, Colour
from tests.synth.staged import drawn, stage, thing, walk


def disc_coverage(centre: tuple[float, float], radius_px: float, height: int, width: int) -> np.ndarray:
    """Share of each pixel inside a disc, by 16 x 16 samples a pixel."""
    places = (np.arange(16) + 0.5) / 16
    y = (np.arange(height)[:, None] + places).ravel()[:, None]
    x = (np.arange(width)[:, None] + places).ravel()[None, :]
    inside = (x - centre[0]) ** 2 + (y - centre[1]) ** 2 <= radius_px**2
    return inside.reshape(height, 16, width, 16).mean(axis=(1, 3))


def test_a_pixel_is_labelled_where_at_least_half_of_it_is_covered() -> None:
    centre = (31.37, 22.61)
    frame = drawn(stage([thing(1, radius_px=9.3)], [walk(centre, num_frames=1)], height=50, width=70))[0]
    coverage = disc_coverage(centre, 9.3, 50, 70)
    clear = np.abs(coverage - 0.5) > 0.02
    assert frame.labels.shape == (50, 70)
    assert ((frame.labels == 1) == (coverage >= 0.5))[clear].all()
    assert int(frame.visible_px[0]) == int((frame.labels == 1).sum()) == pytest.approx(np.pi * 9.3**2, rel=0.02)


@pytest.mark.parametrize("near_id", [1, 2])
def test_the_nearer_object_is_painted_over_the_farther_whatever_their_ids(near_id: int) -> None:
    depths = {near_id: 40, 3 - near_id: 300}
    things = [
        thing(1, "red", depth_dm=depths[1], radius_px=10),
        thing(2, "blue", "square", depth_dm=depths[2], radius_px=10),
    ]
    frame = drawn(stage(things, [walk((30, 30), num_frames=1), walk((38, 30), num_frames=1)]))[0]
    alone = [drawn(stage([thing(1, radius_px=10)], [walk((30, 30), num_frames=1)]))[0].labels == 1]
    alone.append(
        drawn(stage([thing(1, "blue", "square", radius_px=10)], [walk((38, 30), num_frames=1)]))[0].labels == 1
    )
    overlap, near, far = alone[0] & alone[1], near_id - 1, 2 - near_id
    assert overlap.sum() > 50
    assert (frame.labels[overlap] == near_id).all()
    assert ((frame.labels == 3 - near_id) == (alone[far] & ~overlap)).all()
    assert frame.full_px.tolist() == [int(mask.sum()) for mask in alone]
    assert frame.hidden_px[far, near] == overlap.sum()
    assert frame.hidden_px[near, far] == 0
    assert frame.visible_px.tolist() == [int((frame.labels == object_id).sum()) for object_id in (1, 2)]


def test_an_occluder_takes_pixels_and_is_no_object() -> None:
    scene = stage([thing(1, radius_px=8)], [walk((30, 30), num_frames=1)], occluders=[((30.0, 38.0), (12.0, 8.0))])
    frame = drawn(scene)[0]
    assert not frame.labels[30:46, 18:42].any(), "rows 30 to 45 are behind the bar"
    assert (frame.labels == 1).sum() == frame.visible_px[0] == pytest.approx(np.pi * 32, rel=0.06)
    assert frame.full_px[0] == pytest.approx(np.pi * 64, rel=0.05)
    greys = frame.image[32:44, 22:38].astype(int)
    assert np.ptp(greys, axis=2).max() <= 6, "the bar is grey"


def test_a_moving_camera_shifts_everything_and_changes_nothing_else() -> None:
    camera = np.array([[0, 0], [4, -3]])
    paths = [walk((40, 30), num_frames=2), walk((25, 34), num_frames=2)]
    scene = stage([thing(1), thing(2, "green", "star")], paths, camera_px=camera, has_shadows=True)
    first, second = drawn(scene)
    assert np.array_equal(first.image[:-3, 4:], second.image[3:, :-4])
    assert np.array_equal(first.labels[:-3, 4:], second.labels[3:, :-4])
    assert observe(scene, [first, second]).velocities_px.tolist() == np.zeros((2, 2, 2)).tolist(), (
        "relative to the world"
    )


def test_an_absent_object_leaves_the_bare_background() -> None:
    scene = stage([thing(1)], [walk((40, 30), num_frames=2)], absent={1: range(1, 2)}, has_shadows=True)
    bare = stage([thing(1)], [walk((400, 300), num_frames=2)])
    shown, gone = drawn(scene)
    assert shown.visible_px[0] > 0
    assert np.array_equal(gone.image, drawn(bare)[0].image)
    assert not gone.labels.any()


@pytest.mark.parametrize("place", [(-30.0, 20.0), (2.0, 1.0), (83.5, 59.0), (84.0, 30.0), (40.0, 90.0)])
def test_objects_may_hang_over_the_edge_or_lie_outside(place: tuple[float, float]) -> None:
    frame = drawn(stage([thing(1, radius_px=9)], [walk(place, num_frames=1)], has_shadows=True))[0]
    wanted = disc_coverage(place, 9.0, 60, 84) >= 0.5
    assert abs(int(frame.full_px[0]) - int(wanted.sum())) <= 2
    assert frame.image.shape == (60, 84, 3)


@pytest.mark.parametrize("colour", COLOURS)
def test_a_plain_object_has_its_colour(colour: Colour) -> None:
    frame = drawn(stage([thing(1, colour, radius_px=12)], [walk((40, 30), num_frames=1)]))[0]
    middle = frame.image[26:34, 36:44].reshape(-1, 3).mean(axis=0)
    nearest = min(COLOUR_RGB, key=lambda name: float(np.abs(middle - np.array(COLOUR_RGB[name])).sum()))
    assert nearest == colour


def test_a_label_map_does_not_depend_on_shadows() -> None:
    paths = [walk((40, 30), num_frames=1), walk((45, 36), num_frames=1)]
    things = [thing(1), thing(2, "blue", depth_dm=200)]
    plain, shaded = (drawn(stage(things, paths, has_shadows=shadow))[0] for shadow in (False, True))
    assert np.array_equal(plain.labels, shaded.labels)
    assert (shaded.image.astype(int) <= plain.image.astype(int)).all()
    assert (shaded.image < plain.image).any()


def test_frames_are_drawn_when_asked_for() -> None:
    frames = draw_frames(stage([thing(1)], [walk((40, 30), num_frames=100_000)]))
    assert [next(frames).frame_index for _ in range(3)] == [0, 1, 2]
