"""Whole clips: equal everywhere, consistent with themselves, and each suite what its name says."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pipeline.synth.clip import Clip, clip_digest, iter_frames, sample_clip
from pipeline.synth.config import ClipConfig
from pipeline.synth.presets import LONG, PRESETS, SUITES, TRAIN, clip_config
from pipeline.synth.vocabulary import VOCABULARY
from pipeline.synth.world import SPLITS, Split

ROOT = Path(__file__).resolve().parents[2]
WIDE = TRAIN.derive(height=96, width=160, num_frames=6)

# Written down once: a change means that published seeds no longer name the same clips. The same values came out with
# numpy 2.0.2 and 2.4.6, OpenCV 4.11 and 5.0, with and without AVX.
GOLDEN: dict[tuple[str, Split], str] = {
    ("train", "train"): "329f5a206258556a",
    ("train", "heldout"): "4da6c1a6659c0619",
    ("demo", "valid"): "e2349b2e80862ec7",
    ("streaming24", "test"): "db96d10793e9d1fb",
    ("tracking_bias", "test"): "91039f7c7f60c9da",
    ("occlusion", "test"): "380ca9828bac03ed",
    ("plural", "valid"): "6fb8a41754eefc29",
    ("reversed", "test"): "297d80d9684b53f1",
}


def clips_of(config: ClipConfig, count: int, split: Split = "valid", seed: int = 11) -> list[Clip]:
    return [sample_clip(config, seed, split, index) for index in range(count)]


def first_shown(clip: Clip, object_id: int) -> int:
    return int(np.flatnonzero(clip.object_mask(object_id).any(axis=(1, 2)))[0])


@pytest.mark.parametrize(("name", "split"), GOLDEN)
def test_clips_are_the_ones_that_were_written_down(name: str, split: Split) -> None:
    assert clip_digest(sample_clip(clip_config(name), 2026, split, 7))[:16] == GOLDEN[name, split]


def test_another_process_draws_the_same_clip() -> None:
    code = (
        "from pipeline.synth.clip import *; from pipeline.synth.presets import *;"
        "print(*(clip_digest(sample_clip(DEMO, 5, 'valid', i)) for i in range(2)))"
    )
    results = [
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()
        for hash_seed in ("1", "2")
    ]
    here = [clip_digest(sample_clip(PRESETS["demo"], 5, "valid", index)) for index in range(2)]
    assert results == [here, here]


def test_seed_split_and_index_each_name_another_clip() -> None:
    names: list[tuple[int, Split, int]] = [
        (0, "train", 0),
        (1, "train", 0),
        (0, "train", 1),
        *((0, split, 0) for split in SPLITS[1:]),
    ]
    assert len({sample_clip(TRAIN, *name).frames.tobytes() for name in names}) == len(names)


@pytest.mark.parametrize(
    ("seed", "split", "index"), [(-1, "train", 0), (1 << 32, "train", 0), (0, "train", -1), (0, "dev", 0)]
)
def test_bad_names_are_refused(seed: int, split: Split, index: int) -> None:
    with pytest.raises(ValueError, match="expected"):
        sample_clip(TRAIN, seed, split, index)


@pytest.mark.parametrize("config", [WIDE, PRESETS["demo"]], ids=["wide", "demo"])
def test_a_clip_is_consistent_with_itself(config: ClipConfig) -> None:
    for clip in clips_of(config, 6):
        shape = (config.num_frames, config.height, config.width)
        assert clip.labels.shape == shape
        assert clip.frames.shape == (*shape, 3)
        assert (clip.frames.dtype, clip.labels.dtype) == (np.uint8, np.uint8)
        assert clip.truth.velocities_px.shape == (config.num_frames, clip.num_objects, 2)
        assert len(clip.expressions) == len(config.expressions)
        assert config.min_objects <= clip.num_objects <= config.max_objects
        masks = np.stack([clip.object_mask(object_id) for object_id in range(1, clip.num_objects + 1)])
        assert masks.sum(axis=0).max() == 1, "visible masks are disjoint"
        assert np.array_equal(masks.sum(axis=(2, 3)).T, clip.truth.visible_px)
        assert (clip.truth.visible_px <= clip.truth.full_px).all()
        for expression in clip.expressions:
            union = masks[[target - 1 for target in expression.target_ids]].any(axis=0)
            assert np.array_equal(clip.expression_mask(expression), union)
            assert set(expression.words) <= set(VOCABULARY)
            assert len(expression.word_truth) == len(expression.words)
        assert len({expression.text for expression in clip.expressions}) == len(clip.expressions)


def test_a_mask_lies_where_the_truth_says() -> None:
    for clip in clips_of(WIDE, 6):
        whole = (clip.truth.visible_px == clip.truth.full_px) & (clip.truth.visible_px > 0)
        inside = np.abs(clip.truth.centres_px - np.array([80, 48])) < np.array([50, 18])
        for frame, slot in zip(*np.nonzero(whole & inside.all(axis=2)), strict=True):
            rows, columns = np.nonzero(clip.labels[frame] == slot + 1)
            middle = np.array([columns.mean() + 0.5, rows.mean() + 0.5])
            assert np.abs(middle - clip.truth.centres_px[frame, slot]).max() < 1.0


def test_boxes_enclose_the_masks_exactly() -> None:
    for clip in clips_of(SUITES["late"], 3):
        boxes = clip.boxes()
        for frame, slot in np.ndindex(boxes.shape[:2]):
            rows, columns = np.nonzero(clip.labels[frame] == slot + 1)
            wanted = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1] if len(rows) else [-1] * 4
            assert boxes[frame, slot].tolist() == wanted


def test_an_unknown_object_has_no_mask() -> None:
    clip = sample_clip(TRAIN, 0, "train", 0)
    with pytest.raises(ValueError, match=r"no object 9; expected 1 \.\."):
        clip.object_mask(9)


def test_tracking_bias_shows_a_look_alike_from_the_start_and_the_referent_later() -> None:
    for clip in clips_of(SUITES["tracking_bias"], 12):
        (expression,) = clip.expressions
        assert expression.target_ids == (1,)
        assert clip.twins == (1, 2)
        assert first_shown(clip, 2) == 0
        assert 0.3 * 24 <= first_shown(clip, 1) <= 0.7 * 24
        assert expression.flags.late


@pytest.mark.parametrize(
    ("name", "flag"), [("late", "late"), ("reappears", "reappears"), ("fast", "fast"), ("plural", "plural")]
)
def test_a_suite_raises_its_flag(name: str, flag: str) -> None:
    expressions = [clip.expressions[0] for clip in clips_of(SUITES[name], 12)]
    assert all(getattr(expression.flags, flag) for expression in expressions)


def test_fast_objects_move_five_to_eight_pixels_a_frame() -> None:
    for clip in clips_of(SUITES["fast"], 8):
        speeds = np.linalg.norm(clip.truth.velocities_px, axis=2)
        assert speeds.min() > 4.4, "a chord of a circle is a little shorter than its arc"
        assert speeds.max() < 8.1


def test_occlusion_hides_most_referents_for_a_while() -> None:
    clips = clips_of(SUITES["occlusion"], 12)
    shares = [(clip.truth.visible_px[:, 0] / np.maximum(clip.truth.full_px[:, 0], 1)).min() for clip in clips]
    assert sum(share < 0.2 for share in shares) >= 9


def test_a_frozen_clip_is_one_frame_repeated_with_opposed_twins() -> None:
    for clip in clips_of(SUITES["frozen"], 6):
        assert (clip.frames == clip.frames[0]).all()
        assert (clip.labels == clip.labels[0]).all()
        assert not clip.truth.velocities_px.any()
        assert [expression.target_ids for expression in clip.expressions] == [(1,), (2,)]
        assert all(expression.flags.needs_motion for expression in clip.expressions)


def test_a_reversed_clip_is_the_forward_one_backwards_and_its_words_fit_what_is_seen() -> None:
    forward = SUITES["reversed"].derive(playback="forward")
    for index in range(6):
        there, back = sample_clip(forward, 4, "test", index), sample_clip(SUITES["reversed"], 4, "test", index)
        assert np.array_equal(there.frames[::-1], back.frames)
        assert np.array_equal(there.labels[::-1], back.labels)
        assert np.array_equal(np.diff(back.truth.centres_px, axis=0), back.truth.velocities_px[1:])
        assert all(
            one.motion != other.motion for one, other in zip(there.truth.objects, back.truth.objects, strict=True)
        )


def test_streaming_lasts_24_frames_and_train_asks_for_two_referents_and_one_more() -> None:
    assert all(len(clip.frames) == 24 for clip in clips_of(SUITES["streaming24"], 2))
    clips = clips_of(TRAIN, 60, "train")
    assert all([said.target_ids for said in clip.expressions[:2]] == [(1,), (2,)] for clip in clips)
    assert 0.5 < np.mean([clip.expressions[2].kind == "none" for clip in clips]) < 0.8
    assert 0.55 < np.mean([clip.twins is not None for clip in clips]) < 0.85
    assert 0.15 < np.mean([np.ptp(clip.truth.camera_px, axis=0).any() for clip in clips]) < 0.45


def test_objects_stay_in_the_picture_while_the_camera_pans() -> None:
    inside = []
    for clip in clips_of(SUITES["streaming24"].derive(pan_fraction=1.0), 15):
        assert np.ptp(clip.truth.camera_px, axis=0).max() > 5
        x, y = clip.truth.centres_px[..., 0], clip.truth.centres_px[..., 1]
        inside.append(((x > 0) & (x < 128) & (y > 0) & (y < 128)).mean())
    assert np.mean(inside) > 0.97


def test_two_frames_are_enough_for_training() -> None:
    for clip in clips_of(TRAIN.derive(num_frames=2), 10, "train"):
        assert len(clip.frames) == 2
        assert all(expression.target_ids for expression in clip.expressions[:2])


def test_streamed_frames_are_those_of_the_clip() -> None:
    config = LONG.derive(num_frames=5)
    clip, streamed = sample_clip(config, 1, "test", 2), list(iter_frames(config, 1, "test", 2))
    assert np.array_equal(np.stack([frame.image for frame in streamed]), clip.frames)
    assert np.array_equal(np.stack([frame.labels for frame in streamed]), clip.labels)


def test_a_long_stream_keeps_its_objects_in_the_picture() -> None:
    frames = iter_frames(LONG.derive(num_frames=2000), 1, "test", 0)
    areas = [frame.visible_px for index, frame in enumerate(frames) if index % 50 == 0]
    assert len(areas) == 40
    assert np.median(areas, axis=0).min() > 100


def test_streams_play_forward_only() -> None:
    with pytest.raises(ValueError, match="forward only"):
        iter_frames(SUITES["frozen"], 0, "test", 0)


def test_a_config_that_asks_for_what_its_scenes_never_show_says_so() -> None:
    lonely = ClipConfig(min_objects=1, max_objects=1, num_frames=4, height=32, width=40, expressions=("relation",))
    with pytest.raises(ValueError, match=r"No scene in \d+ bears the expressions"):
        sample_clip(lonely, 0, "train", 0)
