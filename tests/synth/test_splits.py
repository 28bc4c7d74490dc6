"""Who is cast: held-out combinations, look-alikes, lives."""

import itertools

import pytest

from pipeline.synth.casting import Cast, sample_cast
from pipeline.synth.config import ClipConfig
from pipeline.synth.draws import Draws
from pipeline.synth.presets import PRESETS, SUITES, TRAIN
from pipeline.synth.world import COLOURS, MOTIONS, SHAPES, Split, is_held_out, played_motion

WITH_KIN = TRAIN.derive(kin_fraction=0.8, num_frames=12, max_objects=6)


def casts(config: ClipConfig, split: Split, count: int = 150) -> list[Cast]:
    return [sample_cast(config, split=split, draws=Draws(3, index)) for index in range(count)]


def held_out(cast: Cast, *, backwards: bool = False) -> list[bool]:
    return [
        is_held_out(item.colour, item.shape, played_motion(item.motion, backwards=backwards)) for item in cast.objects
    ]


def test_one_combination_in_ten_is_held_out_and_none_of_the_single_traits() -> None:
    combinations = list(itertools.product(COLOURS, SHAPES, MOTIONS))
    kept = [combination for combination in combinations if is_held_out(*combination)]
    assert 0.08 < len(kept) / len(combinations) < 0.12
    for axis, values in enumerate((COLOURS, SHAPES, MOTIONS)):
        assert {combination[axis] for combination in combinations if not is_held_out(*combination)} == set(values)


@pytest.mark.parametrize(
    "config", [TRAIN, WITH_KIN, PRESETS["demo"], SUITES["plural"]], ids=["train", "kin", "demo", "plural"]
)
@pytest.mark.parametrize("split", ["train", "valid"])
def test_held_out_combinations_are_never_trained_on(config: ClipConfig, split: Split) -> None:
    assert not any(itertools.chain.from_iterable(held_out(cast) for cast in casts(config, split)))


def test_a_reversed_clip_is_judged_by_what_it_shows() -> None:
    for cast in casts(SUITES["reversed"], "train"):
        assert not any(held_out(cast, backwards=True))


def test_the_first_object_of_the_heldout_split_is_held_out() -> None:
    assert all(held_out(cast)[0] for cast in casts(TRAIN, "heldout"))


def test_the_test_split_takes_them_as_they_come() -> None:
    shares = list(itertools.chain.from_iterable(held_out(cast) for cast in casts(WITH_KIN, "test", 300)))
    assert 0.05 < sum(shares) / len(shares) < 0.16


def test_a_config_without_an_allowed_combination_says_so() -> None:
    colour, shape, motion = next(c for c in itertools.product(COLOURS, SHAPES, MOTIONS) if is_held_out(*c))
    only = ClipConfig(colours=(colour,), shapes=(shape,), motions=(motion,), num_frames=12, expressions=("attribute",))
    with pytest.raises(ValueError, match="Split 'train' allows no combination"):
        sample_cast(only, split="train", draws=Draws(0))


@pytest.mark.parametrize("name", ["train", "tracking_bias", "reversed", "demo"])
def test_twins_differ_in_exactly_one_trait(name: str) -> None:
    num_twins = 0
    for cast in casts(PRESETS[name], "train"):
        if cast.twins is None:
            continue
        one, other = (cast.objects[object_id - 1] for object_id in cast.twins)
        traits = ("colour", "shape", "texture", "size", "motion")
        assert sum(getattr(one, trait) != getattr(other, trait) for trait in traits) == 1
        assert one.depth_dm != other.depth_dm
        num_twins += 1
    assert num_twins / 150 == pytest.approx(PRESETS[name].twin_fraction, abs=0.12)


def test_sizes_never_overlap() -> None:
    radii = {
        size: [item.radius for cast in casts(TRAIN, "train") for item in cast.objects if item.size == size]
        for size in ("small", "large")
    }
    assert max(radii["small"]) * 1.5 < min(radii["large"])
    assert min(radii["small"]) / 256 == pytest.approx(0.0846 * 128, abs=0.1)


def test_lives_follow_their_shares_and_leave_time_to_be_seen() -> None:
    config = TRAIN.derive(num_frames=20, late_fraction=0.3, leave_fraction=0.3, blink_fraction=0.3)
    things = [item for cast in casts(config, "train") for item in cast.objects]
    for life in ("late", "leaves", "blinks"):
        members = [item for item in things if item.life == life]
        assert len(members) / len(things) == pytest.approx(0.3, abs=0.07)
        for item in members:
            assert 0 <= item.life_start < item.life_stop <= 20
            assert 20 - (item.life_stop - item.life_start) >= 8, "seen for 40 % of the clip"
    assert {item.life_stop / 20 for item in things if item.life == "late"} <= {0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6}
    assert all(2 <= item.life_stop - item.life_start <= 8 for item in things if item.life == "blinks")


def test_lives_of_the_referent_only_leave_the_others_whole() -> None:
    for cast in casts(SUITES["tracking_bias"], "train", 40):
        assert [item.life for item in cast.objects] == ["late", *["whole"] * (len(cast.objects) - 1)]


def test_short_clips_have_no_events() -> None:
    config = TRAIN.derive(num_frames=7, late_fraction=1.0, blink_fraction=0.0)
    assert {item.life for cast in casts(config, "train", 20) for item in cast.objects} == {"whole"}
