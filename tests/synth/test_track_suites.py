"""Tracking suites: equal everywhere, masks that the pixels confirm, and each suite as hard as it says."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import ValidationError

from pipeline.synth.draws import Draws
from pipeline.synth.track_plays import TRACK_SUITES, TrackSuite, TrackSuiteConfig, sample_play
from pipeline.synth.track_stage import Stage, draw_stage
from pipeline.synth.track_suites import TrackClip, sample_track_clip, track_clip_digest, track_suite_config

# Written down once, at 128 x 160 (fast_straight: 128 x 192): a change means that seeds no longer name the same clips.
GOLDEN: dict[TrackSuite, str] = {
    "occlusion": "fad6c5a5117d34af",
    "disappearance": "260d5338a3cc4b16",
    "camera_jerk": "ef64286e2e193745",
    "fast_straight": "ba1787ced122419d",
    "fast_turning": "3aa921178431fc94",
    "crossing": "37ebb551d0dd59a2",
    "flash": "7636e35d193eb679",
    "static": "1625e9f23e68f4f3",
}
UNIT_PX = 2
"""At a height of 128."""


def clip_of(suite: TrackSuite, seed: int = 7, **changes: int) -> TrackClip:
    config = track_suite_config(suite, height=128)
    return sample_track_clip(TrackSuiteConfig(**{**config.model_dump(), **changes}), seed)


def centroids(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """(T, 2), x and y of the middle of each mask; NaN where it is empty."""
    places = [np.nonzero(frame) for frame in mask]
    return np.array([(x.mean() + 0.5, y.mean() + 0.5) if x.size else (np.nan, np.nan) for y, x in places])


def steps(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    return np.diff(centroids(mask), axis=0)


def mean_colour(clip: TrackClip, frame: int, object_id: int = 1) -> NDArray[np.float64]:
    return clip.frames[frame][clip.labels[frame] == object_id].mean(axis=0)


@pytest.mark.parametrize("suite", TRACK_SUITES)
def test_clips_are_the_ones_that_were_written_down(suite: TrackSuite) -> None:
    assert track_clip_digest(clip_of(suite, seed=2026))[:16] == GOLDEN[suite]


@pytest.mark.parametrize("suite", TRACK_SUITES)
def test_visible_masks_are_discs_where_the_truth_says_less_what_stands_before_them(suite: TrackSuite) -> None:
    clip = clip_of(suite)
    assert clip.frames.shape == (*clip.labels.shape, 3)
    y, x = np.mgrid[: clip.labels.shape[1], : clip.labels.shape[2]] + 0.5
    for frame in range(0, clip.num_frames, 3):
        owner = np.zeros(clip.labels.shape[1:], dtype=np.uint8)
        for object_id in clip.object_ids:
            centre_x, centre_y = clip.centres_px[frame, object_id - 1].astype(np.float64)
            disc = (x - centre_x) ** 2 + (y - centre_y) ** 2 <= clip.radius_px**2
            full = clip.full_px[frame, object_id - 1]
            assert full in (0, disc.sum())
            owner[disc & (full > 0)] = object_id
        shown = clip.labels[frame]
        if suite == "occlusion":
            assert np.array_equal(shown, owner * (shown > 0)), "a post can only take pixels away"
        else:
            assert np.array_equal(shown, owner)


def test_a_mask_holds_the_pixels_that_show_at_least_half_of_the_object_and_no_post() -> None:
    """Alpha is read off the pixels: the same stage is drawn with and without the sprite, and without the post."""
    config = track_suite_config("occlusion", height=128)
    play = sample_play(config, Draws(3))
    white = np.full((config.num_frames, 2, 3), 255, dtype=np.uint8)
    stage = Stage(
        height=config.height,
        width=config.width,
        sprites=(replace(play.sprites[0], tones=white),),
        posts=play.posts,
        camera_px=play.camera_px,
        name=(3, 1),
        grain=0,
        has_distractors=False,
    )
    drawn = draw_stage(stage)
    empty, no_post = draw_stage(replace(stage, sprites=())), draw_stage(replace(stage, sprites=(), posts=()))
    ground = empty.frames.astype(np.float64)
    alpha = ((drawn.frames - ground) / np.maximum(255 - ground, 1)).mean(axis=3)
    behind_post = (empty.frames != no_post.frames).any(axis=3)
    certain = (np.abs(alpha - 0.5) > 0.02) & ~behind_post
    assert np.array_equal((alpha > 0.5)[certain], (drawn.labels == 1)[certain])
    assert certain.mean() > 0.8
    inner_post = behind_post & np.roll(behind_post, 2, axis=2) & np.roll(behind_post, -2, axis=2)
    assert not drawn.labels[inner_post].any()
    assert np.array_equal(drawn.frames[inner_post], empty.frames[inner_post])


def test_the_occluder_hides_the_target_that_goes_on_behind_it() -> None:
    clip = clip_of("occlusion")
    hidden = clip.hidden_frames
    assert 6 <= len(hidden) <= 9
    assert np.array_equal(hidden, np.arange(hidden[0], hidden[-1] + 1))
    assert clip.full_px[hidden, 0].min() > 0.95 * clip.full_px[0, 0], "it is within the picture all the time"
    before, after = centroids(clip.object_mask(1))[[0, -1], 0] + clip.camera_px[[0, -1], 0]
    assert abs(after - before) == pytest.approx(0.7 * UNIT_PX * 63, abs=1)
    assert clip.reappears_at is not None
    assert clip.reappears_at <= clip.num_frames // 2 + 2
    assert clip.object_mask(1)[-15:].sum(axis=(1, 2)).min() > 0.95 * clip.full_px[0, 0]


def test_the_occluder_is_twelve_units_wide_and_half_of_it_is_partly_like_the_target() -> None:
    clip = clip_of("occlusion", grain=0)
    row = int(clip.centres_px[0, 0, 1])
    frame = clip.hidden_frames[3]
    greyness = np.ptp(clip.frames[frame].astype(np.int64), axis=2)
    column = greyness[:, round(float(clip.centres_px[frame, 0, 0]))]
    assert column[row] < 10, "grey where the target passes"
    assert (column > 30).mean() == pytest.approx(0.5, abs=0.1)
    is_post = np.abs(clip.frames[frame][row].astype(np.int64) - [112, 112, 118]).max(axis=1) <= 1
    assert is_post.sum() == pytest.approx(12 * UNIT_PX, abs=2)
    seen = mean_colour(clip, int(clip.hidden_frames[0]) - 8)
    band = clip.frames[frame][:, round(float(clip.centres_px[frame, 0, 0]))][column > 30].mean(axis=0)
    assert np.abs(band - (seen + np.array([112, 112, 118])) / 2).max() < 20, "half-way between the target and grey"
    began = mean_colour(clip, 0)
    assert np.abs(seen - began).max() > 80


def test_the_target_is_away_for_twelve_frames_and_comes_back_as_it_went_not_as_it_began() -> None:
    clip = clip_of("disappearance")
    hidden = clip.hidden_frames
    assert np.array_equal(hidden, np.arange(hidden[0], hidden[0] + 12))
    assert clip.reappears_at == hidden[-1] + 1
    began, went, came = (mean_colour(clip, frame) for frame in (0, hidden[0] - 1, hidden[-1] + 1))
    assert np.abs(came - went).max() < 12
    assert np.abs(went - began).max() > 80


def test_the_camera_is_thrown_to_and_fro_and_the_world_moves_with_it() -> None:
    clip = clip_of("camera_jerk", grain=0)
    moved = np.diff(clip.camera_px[:, 0])
    assert set(np.abs(moved[16:])) == {4.5 * UNIT_PX}
    assert len({int(np.sign(step)) for step in moved[16:]}) == 2
    assert clip.second_half.start > 17
    for frame in range(20, 40):
        step = int(moved[frame])
        here, there = clip.frames[frame], clip.frames[frame + 1]
        seen_before, seen_now = (here[:, step:], there[:, :-step]) if step > 0 else (here[:, :step], there[:, -step:])
        assert np.array_equal(seen_before, seen_now)
    apart = centroids(clip.object_mask(2)) - centroids(clip.object_mask(1))
    assert np.allclose(np.abs(apart), [8 * UNIT_PX, 0], atol=0.3)
    assert np.abs(mean_colour(clip, 0, 1) - mean_colour(clip, 0, 2)).max() < 8


def test_the_fast_target_moves_straight_by_more_than_15_percent_of_the_height_per_frame() -> None:
    clip = clip_of("fast_straight")
    mask = clip.object_mask(1)
    whole = mask.sum(axis=(1, 2)) == clip.full_px[:, 0]
    moved = steps(mask)[32:][(whole[1:] & whole[:-1])[32:]]
    is_fast = np.abs(moved[:, 0]) > 0.15 * 128
    assert is_fast.mean() > 0.5
    assert np.abs(moved[:, 1]).max() < 0.2
    steady = [
        a[0] * b[0] > 0 for (a, fast_a), (b, fast_b) in pairwise(zip(moved, is_fast, strict=True)) if fast_a & fast_b
    ]
    assert all(steady)
    assert len(steady) >= 10


def test_the_fast_target_passes_a_look_alike_that_runs_the_other_way() -> None:
    clip = clip_of("fast_straight")
    ours, alike = (steps(clip.object_mask(i)) + np.diff(clip.camera_px, axis=0) for i in (1, 2))
    assert np.corrcoef(ours[:, 0], alike[:, 0])[0, 1] < -0.99
    apart = clip.centres_px[:, 1] - clip.centres_px[:, 0]
    assert np.abs(apart[:, 1]).max() < clip.radius_px
    touching = np.linalg.norm(apart, axis=1) < 2 * clip.radius_px
    assert touching.mean() < 0.1, "they meet for a frame at a time"
    assert (np.diff(np.sign(apart[32:, 0])) != 0).sum() >= 2, "they pass each other after the start too"
    assert np.abs(mean_colour(clip, 0, 1) - mean_colour(clip, 0, 2)).max() < 8


def test_the_turning_target_keeps_its_speed_and_its_look_alike_is_opposite() -> None:
    clip = clip_of("fast_turning")
    scroll = np.diff(clip.camera_px, axis=0)
    moved = steps(clip.object_mask(1)) + scroll
    world = np.linalg.norm(moved - [0.25 * UNIT_PX * np.sign(scroll[:, 0].sum()), 0], axis=1)
    # A chord is shorter than its arc.
    assert np.allclose(world, 2 * 8 * UNIT_PX * np.sin(4.7 / 8 / 2), atol=0.8)
    apart = np.linalg.norm(centroids(clip.object_mask(2)) - centroids(clip.object_mask(1)), axis=1)
    assert np.allclose(apart, 16 * UNIT_PX, atol=0.5)


def test_look_alikes_cross_in_opposite_directions_closer_than_a_radius() -> None:
    clip = clip_of("crossing")
    apart = np.linalg.norm(clip.centres_px[:, 0] - clip.centres_px[:, 1], axis=1)
    assert apart.min() < clip.radius_px
    assert 28 <= apart.argmin() <= 35
    assert min(apart[0], apart[-1]) > 4 * clip.radius_px
    along = np.diff(clip.centres_px[:, :, 0], axis=0).sum(axis=0)
    assert along[0] * along[1] < 0
    assert clip.tracked_ids == (1, 2)


def test_half_of_the_targets_pixels_are_glare_for_26_frames() -> None:
    clip = clip_of("flash", grain=0)
    is_glare = (clip.frames.min(axis=3) >= 238) & clip.object_mask(1)
    share = is_glare.sum(axis=(1, 2)) / clip.full_px[:, 0]
    assert clip.flashes.sum() == 26
    assert np.abs(share[clip.flashes] - 0.5).max() < 0.12
    hit = np.flatnonzero(clip.flashes)
    assert (is_glare[hit[0]] ^ is_glare[hit[1]]).sum() > 0.3 * clip.full_px[0, 0], "other pixels on each frame"
    assert not clip.hidden_frames.size


def test_nothing_moves_in_the_static_control() -> None:
    clip = clip_of("static", grain=0)
    assert (clip.frames == clip.frames[0]).all()
    assert (clip.labels == clip.labels[0]).all()
    assert np.abs(mean_colour(clip, 0, 1) - mean_colour(clip, 0, 2)).max() > 60


@pytest.mark.parametrize("suite", TRACK_SUITES)
def test_prompts_mark_each_tracked_object_on_frame_0(suite: TrackSuite) -> None:
    clip = clip_of(suite)
    for kind in ("mask", "box", "point"):
        assert [prompt.object_id for prompt in clip.prompts(kind)] == list(clip.tracked_ids)
    for by_mask, by_box, by_point in zip(*(clip.prompts(kind) for kind in ("mask", "box", "point")), strict=True):
        mask = clip.object_mask(by_mask.object_id)[0]
        assert by_mask.mask is not None
        assert by_box.box is not None
        assert np.array_equal(by_mask.mask, mask)
        x0, y0, x1, y1 = map(int, by_box.box)
        assert mask[y0:y1, x0:x1].sum() == mask.sum() == by_mask.mask.sum()
        assert all(side.any() for side in (mask[y0], mask[y1 - 1], mask[:, x0], mask[:, x1 - 1]))
        (click,) = by_point.points
        assert mask[int(click.y), int(click.x)]


def test_seeds_and_indices_name_other_clips_and_sizes_scale_them() -> None:
    one, same, other = (clip_of("static", seed) for seed in (1, 1, 2))
    assert track_clip_digest(one) == track_clip_digest(same) != track_clip_digest(other)
    config = track_suite_config("crossing", height=128)
    assert track_clip_digest(sample_track_clip(config, 1, 0)) != track_clip_digest(sample_track_clip(config, 1, 1))
    large = sample_track_clip(track_suite_config("crossing"), 1)
    assert np.allclose(large.centres_px, 2 * sample_track_clip(config, 1).centres_px, atol=1.1)


def test_what_a_suite_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="Unknown tracking suite 'jerk'"):
        track_suite_config("jerk")
    with pytest.raises(ValidationError, match="at least 5/4"):
        TrackSuiteConfig(suite="static", height=256, width=256)
    with pytest.raises(ValidationError, match="multiple of 128"):
        TrackSuiteConfig(suite="static", height=200, width=320)
    with pytest.raises(ValueError, match="seed -1"):
        sample_track_clip(track_suite_config("static", height=128), -1)
    with pytest.raises(ValueError, match="no object 3"):
        clip_of("static").object_mask(3)
