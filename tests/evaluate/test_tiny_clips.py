"""The evaluation's sets of clips: frozen ones stand still, backward ones are turned, none was trained on."""

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.evaluate.tiny_clips import (
    CALIBRATION_SEEDS,
    HELD_OUT_SEEDS,
    NUM_SEEDS,
    SETS,
    ClipCase,
    ClipSet,
    held_out_seed,
    iter_cases,
    tracking_prompts,
)
from pipeline.synth.clip import clip_digest, sample_clip
from pipeline.synth.presets import SUITES, TRAIN
from pipeline.synth.world import is_held_out
from pipeline.training.datasets import ShapesRefSource, open_source
from pipeline.training.loop import LoopConfig

SEED = held_out_seed(5)


def cases(name: str, count: int = 6) -> list[ClipCase]:
    return list(iter_cases(SETS[name], SEED, count))


def shift(masks: NDArray[np.bool_]) -> NDArray[np.float64]:
    """How far the middle of a mask travels from the first to the last frame, (y, x)."""
    first, last = (np.argwhere(mask).mean(axis=0) for mask in (masks[0], masks[-1]))
    return np.asarray(last - first)


def test_seeds_of_evaluation_calibration_and_training_are_apart() -> None:
    last = NUM_SEEDS - 1
    assert LoopConfig.model_fields["seed"].default < HELD_OUT_SEEDS
    assert held_out_seed(0) == HELD_OUT_SEEDS
    assert held_out_seed(last) < held_out_seed(0, base=CALIBRATION_SEEDS)
    assert held_out_seed(last, base=CALIBRATION_SEEDS) < 1 << 32
    for seed in (-1, NUM_SEEDS):
        with pytest.raises(ValueError, match=r"expected 0 \.\."):
            held_out_seed(seed)


def test_no_clip_comes_from_a_split_that_training_draws_from() -> None:
    source = open_source("shapesref", num_frames=4, seed=SEED, image_size=128)
    assert isinstance(source, ShapesRefSource)
    assert source.split == "train"
    assert all(clip_set.split in ("test", "heldout") for clip_set in SETS.values())
    # Even a training that took the very seed would not see them.
    config = SETS["twins"].config
    trained_on = {clip_digest(sample_clip(config, SEED, "train", index)) for index in range(6)}
    assert not trained_on & {clip_digest(case.clip) for case in cases("twins")}


def test_names_of_the_clips_of_all_sets_differ() -> None:
    """Clips are resampled by name; only `tracks` and `guided` show those of `streaming24` again."""
    names = [case.clip.video_id for name in SETS if name not in ("tracks", "guided") for case in cases(name, 2)]
    assert len(set(names)) == len(names)


def test_other_seeds_other_clips_and_the_same_seed_the_same() -> None:
    def digests(seed: int) -> list[str]:
        return [clip_digest(case.clip) for case in iter_cases(SETS["still"], held_out_seed(seed), 3)]

    assert digests(1) == digests(1)
    assert not set(digests(1)) & set(digests(2))


def test_frozen_clips_repeat_one_frame() -> None:
    for case in cases("frozen"):
        assert (case.clip.frames == case.clip.frames[0]).all()
        assert case.prompts


def test_backward_clips_are_forward_ones_turned_and_the_other_twin_does_what_is_said() -> None:
    config = SETS["backwards"].config
    forward = {clip.video_id: clip for clip in (sample_clip(config, SEED, "test", index) for index in range(40))}
    for case in cases("backwards", 10):
        clip, before = case.clip, forward[case.clip.video_id]
        assert np.array_equal(clip.frames, before.frames[::-1])
        assert np.array_equal(clip.labels, before.labels[::-1])
        said_before = {said.text: said.target_ids for said in before.expressions}
        for said in clip.expressions:
            assert said.target_ids == said_before[said.text], "the targets are still those of the forward clip"
            (target,) = said.target_ids
            (other,) = set(clip.twins or ()) - {target}
            wanted = shift(before.object_mask(target))
            assert shift(clip.object_mask(target)) @ wanted < 0
            assert shift(clip.object_mask(other)) @ wanted > 0


def test_sentences_without_referent_are_of_their_sets_kind() -> None:
    for name, is_motion in (("still", False), ("still_pan", False), ("twins", True), ("twins_pan", True)):
        said = [said for case in cases(name, 20) for said in case.clip.expressions if said.kind == "none"]
        assert said
        assert all(bool(item.motion_words) == is_motion for item in said), name


def test_cameras_pan_where_the_set_says_so() -> None:
    for name, pans in (("still", False), ("still_pan", True), ("twins", False), ("twins_pan", True)):
        moves = [np.ptp(case.clip.truth.camera_px, axis=0).any() for case in cases(name)]
        assert all(moves) if pans else not any(moves)


def test_object_1_of_the_heldout_set_is_a_combination_that_training_never_shows() -> None:
    for case in cases("heldout"):
        thing = case.clip.truth.objects[0]
        assert is_held_out(thing.colour, thing.shape, thing.motion)
        assert {said.target_ids for said in case.clip.expressions} == {(1,)}


def test_tracking_prompts_lie_on_their_objects_on_the_first_frame() -> None:
    clip = sample_clip(SUITES["streaming24"].derive(height=96, width=128), SEED, "test", 0)
    prompts = tracking_prompts(clip)
    assert [prompt.object_id for prompt in prompts] == list(range(1, len(prompts) + 1))
    assert [prompt.query_id for prompt in prompts] == [
        f"{kind}:{object_id}" for kind, object_id in itertools.product(("mask", "point", "box"), (1, 2))
    ]
    for prompt in prompts:
        mask = clip.object_mask(int(str(prompt.query_id)[-1]))[0]
        rows, columns = np.nonzero(mask)
        assert prompt.frame_index == 0
        assert sum(bool(given) for given in (prompt.mask is not None, prompt.points, prompt.box)) == 1
        if prompt.mask is not None:
            assert np.array_equal(prompt.mask, mask)
        for point in prompt.points:
            assert mask[int(point.y), int(point.x)]
        if prompt.box is not None:
            assert prompt.box == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)


def test_a_set_that_asks_nothing_is_told() -> None:
    # No twins: nothing is left of a clip that is played backwards.
    alone = TRAIN.derive(twin_fraction=0.0, expressions=("attribute",), motions=("still",))
    silent = ClipSet(told="nothing", config=alone, is_backwards=True)
    with pytest.raises(ValueError, match="0 clips of 50 ask anything"):
        list(iter_cases(silent, SEED, 1))
