"""What MoSAM, SAMURAI and DAM4SAM read and keep, against rules worked out by hand; pixel selection against masking."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.models.distractors import alternative_iou
from pipeline.models.frame_selection import SelectedFrames, mask_certainty, quality
from pipeline.models.image_encoding import ImageFeatures
from pipeline.models.memory import MemoryBank, MemoryEntry, MemoryRead, MemorySelection
from pipeline.models.memory_policies import RecentFrames
from pipeline.models.memory_policies_field import DistractorAwareMemory, MotionAwareMemory
from pipeline.models.memory_policies_tracking import MAX_PROMPTED_FRAMES, Fifo, TrackingPolicy
from pipeline.models.pixel_selection import PixelSelection, token_confidence
from pipeline.models.sam2_core import Sam2Core
from tests.parity.random_sam2 import random_entry, random_images, random_sam2, tiny_config

GRID = 4


def entry(frame_index: int, iou: float = 0.9, score: float = 3.0, **fields: Any) -> MemoryEntry:
    values: dict[str, Any] = {"num_inside": 100, "certainty": 1.0, **fields}
    return MemoryEntry(
        frame_index=frame_index,
        pointer_D=torch.zeros(8),
        features_Chw=torch.zeros(2, GRID, GRID),
        object_score=score,
        predicted_iou=iou,
        **values,
    )


def told(policy: TrackingPolicy, entries: list[MemoryEntry]) -> MemoryBank:
    """The bank after a prompted frame 0 and these."""
    bank = policy.remember(MemoryBank(), entry(0, is_conditioning=True))
    for each in entries:
        bank = policy.remember(bank, each)
    return bank


def read(selection: MemorySelection) -> list[tuple[int, int | None]]:
    return [(r.entry.frame_index, r.temporal_position) for r in selection.frames]


def test_quality_is_presence_times_iou_times_certainty() -> None:
    assert quality(entry(1, iou=0.8, score=0.0, certainty=0.5)) == pytest.approx(0.5 * 0.8 * 0.5)
    logits_12hw = torch.tensor([[[3.0, -0.5], [-2.0, 0.5]], [[-9.0, -9.0], [-9.0, -9.0]]])
    mean, inside = mask_certainty(logits_12hw)
    by_hand = np.mean([abs(2 / (1 + np.exp(-x)) - 1) for x in (3.0, -0.5, 0.5)])
    np.testing.assert_allclose(mean.numpy(), [by_hand, 0.0], rtol=1e-6)
    assert inside.tolist() == [2, 0]


def test_the_best_are_read_by_rank_and_a_tie_goes_to_the_newer() -> None:
    policy = SelectedFrames(num_recent=3, pool_frames=10, recency=0.0)
    bank = told(policy, [entry(i, iou) for i, iou in enumerate((0.9, 0.5, 0.801, 0.8, 0.8, 0.4), start=1)])
    # Frame 6 is the one before; 1 is best; 3, 4 and 5 tie, and 5 is the newest of them.
    assert read(policy.select(bank, 7)) == [(0, 3), (1, 2), (5, 1), (6, 0)]


def test_age_takes_off_quality_so_that_the_pool_does_not_stagnate() -> None:
    ious = [0.90, *[0.88] * 8]
    fresh, stale = (SelectedFrames(num_recent=2, pool_frames=10, recency=r) for r in (0.2, 0.0))
    assert [i for i, _ in read(stale.select(told(stale, [entry(i, q) for i, q in enumerate(ious, 1)]), 10))] == [
        0,
        1,
        9,
    ]
    assert [i for i, _ in read(fresh.select(told(fresh, [entry(i, q) for i, q in enumerate(ious, 1)]), 10))] == [
        0,
        8,
        9,
    ]


def test_absent_small_and_doubtful_frames_never_enter_the_pool_whose_oldest_goes_first() -> None:
    policy = SelectedFrames(num_recent=6, pool_frames=3)
    bad = [entry(2, score=-1.0), entry(3, iou=0.2), entry(4, num_inside=49)]
    bank = told(policy, [entry(1), *bad, entry(5)])
    assert list(bank.recent) == [1, 5]
    bank = told(policy, [entry(i) for i in range(1, 9)])
    assert list(bank.recent) == [6, 7, 8]
    assert list(bank.conditioning) == [0]


@pytest.mark.parametrize(("shown", "least"), [(1000, 64), (128, 64), (100, 50), (20, 10)])
def test_a_small_object_is_remembered_small_and_a_large_one_by_four_tokens(shown: int, least: int) -> None:
    policy = SelectedFrames(num_recent=6)
    bank = policy.remember(MemoryBank(), entry(0, is_conditioning=True, num_inside=shown))
    for index, num_inside in enumerate((least - 1, least), start=1):
        bank = policy.remember(bank, entry(index, num_inside=num_inside))
    assert list(bank.recent) == [2]


def test_a_stride_keeps_its_raster_and_the_frame_just_passed() -> None:
    policy = SelectedFrames(num_recent=6, stride=4)
    bank = told(policy, [entry(i) for i in range(1, 11)])
    assert list(bank.recent) == [4, 8, 10]


@pytest.mark.parametrize(
    "policy",
    [
        SelectedFrames(num_recent=3, pool_frames=6),
        MotionAwareMemory(num_recent=3),
        DistractorAwareMemory(num_recent=3),
        Fifo(recent=RecentFrames(num_recent=3)),
    ],
    ids=lambda policy: type(policy).__name__,
)
def test_no_policy_changes_its_arguments_or_grows_without_end(policy: TrackingPolicy) -> None:
    rng, bank = np.random.default_rng(0), told(policy, [])
    for i in range(1, 120):
        fields = {"alternative_iou": float(rng.uniform(0.4, 1)), "kalman_iou": float(rng.uniform(-0.2, 1))}
        fresh = entry(i, float(rng.uniform(0.2, 1)), float(rng.normal(2, 2)), is_conditioning=i % 30 == 0, **fields)
        before = list(bank)
        selection = policy.select(bank, i)
        following = policy.remember(bank, fresh)
        assert list(bank) == before
        assert selection == policy.select(bank, i)
        assert len(following.conditioning) <= MAX_PROMPTED_FRAMES
        assert sum(e.features_Chw is not None for e in following.recent.values()) <= 19
        bank = following
    assert len(bank) <= 40
    assert 0 in bank.conditioning, "the first prompted frame stays"


def test_samurai_reads_the_newest_trusted_frames_and_the_one_before() -> None:
    policy = MotionAwareMemory(num_recent=3, max_pointers=6)
    frames = [
        entry(1),  # before frame 2: never read once it is past
        entry(2),
        entry(3, iou=0.5),  # not above 0.5
        entry(4, kalman_iou=0.0),  # not above 0
        entry(5, kalman_iou=0.4),
        entry(6, score=0.0),  # not above 0
        entry(7, iou=0.1),  # the one before
    ]
    selection = policy.select(told(policy, frames), 8)
    assert read(selection) == [(0, 3), (2, 2), (5, 1), (7, 0)]
    assert [(p.entry.frame_index, p.time_difference) for p in selection.pointers] == [
        (0, 8), (7, 1), (6, 2), (5, 3), (4, 4), (3, 5),
    ]  # fmt: skip
    assert 1 not in [i for i, _ in read(policy.select(told(policy, frames[:2]), 3))]


def test_dam4sam_anchors_a_good_frame_that_saw_a_distractor_and_reads_it_without_time() -> None:
    policy = DistractorAwareMemory(num_recent=6)
    frames = [entry(i, alternative_iou=1.0) for i in range(1, 12)]
    frames[7] = entry(8, alternative_iou=0.6)
    selection = policy.select(told(policy, frames), 12)
    assert read(selection) == [(0, None), (8, None), (5, 2), (10, 1), (11, 0)]
    for spoilt in ({"alternative_iou": 0.71}, {"iou": 0.79}, {"num_inside": 130}, {"alternative_iou": None}):
        frames[7] = entry(8, **{"alternative_iou": 0.6, **spoilt})
        assert 8 not in [i for i, _ in read(policy.select(told(policy, frames), 12))], spoilt
    # Too near to the prompted frame.
    near = [entry(i, alternative_iou=0.6 if i == 5 else 1.0) for i in range(1, 8)]
    assert read(policy.select(told(policy, near), 8)) == [(0, None), (5, 1), (7, 0)]


def test_an_alternative_that_reaches_beyond_the_object_is_measured_by_boxes() -> None:
    chosen = np.zeros((20, 30), np.bool_)
    chosen[5:10, 5:10] = True
    beside, speck = chosen.copy(), chosen.copy()
    beside[5:10, 20:30] = True
    speck[0, 29] = True
    beside[19, 0] = True  # a smaller part, which does not count
    assert alternative_iou(chosen, np.stack([chosen, beside])) == pytest.approx(25 / (5 * 25))
    assert alternative_iou(chosen, np.stack([speck])) == pytest.approx(25 / (10 * 25))
    assert alternative_iou(chosen, np.stack([chosen])) == 1.0
    assert alternative_iou(np.zeros_like(chosen), np.stack([beside])) is None


@pytest.fixture(scope="module")
def core() -> Sam2Core:
    return random_sam2(tiny_config(image_size=64))


@pytest.fixture(scope="module")
def features(core: Sam2Core) -> ImageFeatures:
    with torch.inference_mode():
        return core.encode_image(random_images(core, 1))


def bank_with_doubt(core: Sam2Core) -> MemoryBank:
    """A prompted frame 0 and a tracked frame 1 whose mask is unsure at token (2, 3)."""
    logits_hw = torch.full((16, 16), 6.0)
    logits_hw[:, :8] = -6.0
    logits_hw[8:12, 12:16] = 0.2
    bank = MemoryBank()
    bank.add(replace(random_entry(core, 0), is_conditioning=True))
    bank.add(replace(random_entry(core, 1), logits_hw=logits_hw.to(torch.bfloat16), object_score=9.0))
    return bank


def poisoned(bank: MemoryBank) -> MemoryBank:
    """The same, with a huge memory where the mask was unsure."""
    first, second = bank
    assert second.features_Chw is not None
    features_Chw = second.features_Chw.clone()
    features_Chw[:, 2, 3] = 50.0
    other = MemoryBank()
    other.add(first)
    other.add(replace(second, features_Chw=features_Chw))
    return other


def test_tokens_in_doubt_are_really_dropped(core: Sam2Core, features: ImageFeatures) -> None:
    """A poisoned token changes everything, unless it was dropped: then it changes no bit."""
    recent = Fifo(recent=RecentFrames(num_recent=3))
    dropped, clean = PixelSelection(policy=recent), bank_with_doubt(core)
    with torch.inference_mode():
        said = {
            (name, state): core.attend(features, [policy.select(bank, 2)])
            for name, policy in (("off", recent), ("drop", dropped))
            for state, bank in (("clean", clean), ("poisoned", poisoned(clean)))
        }
    assert torch.equal(said["drop", "clean"], said["drop", "poisoned"])
    assert not torch.allclose(said["off", "clean"], said["off", "poisoned"], atol=1e-3)
    selection = dropped.select(clean, 2)
    keep = selection.frames[1].keep
    assert keep is not None
    assert (~keep).nonzero().tolist() == [[2, 3]]
    assert selection.frames[0].keep is None, "prompted frames are never filtered"


def test_dropping_equals_a_weight_of_nothing_and_not_a_memory_of_zeros(core: Sam2Core, features: ImageFeatures) -> None:
    bank = bank_with_doubt(core)
    dropped = PixelSelection(policy=Fifo(recent=RecentFrames(num_recent=3))).select(bank, 2)
    first, second = dropped.frames
    assert second.keep is not None
    assert second.entry.features_Chw is not None
    weighted = replace(dropped, frames=(first, replace(second, keep=None, weight=second.keep.float())))
    zeroed_entry = replace(second.entry, features_Chw=second.entry.features_Chw * second.keep)
    zeroed = replace(dropped, frames=(first, replace(second, keep=None, entry=zeroed_entry)))
    with torch.inference_mode():
        ours, masked, zeros = (core.attend(features, [s]) for s in (dropped, weighted, zeroed))
    torch.testing.assert_close(ours, masked, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(ours, zeros, atol=1e-4)


def test_frames_of_doubt_alone_or_without_sure_object_are_left_out_whole(core: Sam2Core) -> None:
    policy = PixelSelection(policy=Fifo(recent=RecentFrames(num_recent=3)))
    for logits_hw in (torch.full((16, 16), 0.1), torch.full((16, 16), -9.0)):
        bank = bank_with_doubt(core)
        bank.add(replace(bank.recent[1], logits_hw=logits_hw))
        assert [i for i, _ in read(policy.select(bank, 2))] == [0]


def test_confidence_is_certainty_averaged_over_a_token_times_presence(core: Sam2Core) -> None:
    logits_hw = torch.randn(16, 16, generator=torch.Generator().manual_seed(1)) * 3
    tracked = replace(random_entry(core, 1), logits_hw=logits_hw, object_score=0.5)
    (ours,) = token_confidence([tracked])
    sure = np.abs(2 / (1 + np.exp(-logits_hw.numpy())) - 1).reshape(4, 4, 4, 4).mean(axis=(1, 3))
    np.testing.assert_allclose(ours.numpy(), sure / (1 + np.exp(-0.5)), rtol=1e-5)


def test_a_memory_without_temporal_code_is_one_whose_code_is_zero(core: Sam2Core, features: ImageFeatures) -> None:
    def attended(position: int | None) -> torch.Tensor:
        selection = MemorySelection(frames=(MemoryRead(entry=random_entry(core, 0), temporal_position=position),))
        return core.attend(features, [selection])

    with torch.inference_mode():
        ours, coded, table = attended(None), attended(1), core.model.maskmem_tpos_enc
        row = table[1].clone()
        table[1] = 0
        blank = attended(1)
        table[1] = row
    torch.testing.assert_close(ours, blank)
    assert not torch.allclose(ours, coded, atol=1e-4)
