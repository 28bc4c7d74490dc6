"""Memories drawn at random: what is always among them, what differs, and how they are coded."""

import torch

from pipeline.models.memory import MemoryBank, MemoryEntry, MemorySelection
from pipeline.models.sam2_variants import SAM2_VARIANTS
from pipeline.training.drawn_memories import DrawnFrames

POLICY = DrawnFrames(num_recent=3, max_pointers=5, seed=11, accepted_share=0.5)


def bank_of(num_frames: int) -> MemoryBank:
    """A prompted frame 0 and the frames after it."""
    bank = MemoryBank()
    for index in range(num_frames):
        bank.add(
            MemoryEntry(
                frame_index=index,
                pointer_D=torch.zeros(8),
                features_Chw=torch.zeros(2, 4, 4),
                object_score=1.0,
                predicted_iou=0.9,
                is_conditioning=index == 0,
            )
        )
    return bank


def read(selection: MemorySelection) -> list[tuple[int, int | None]]:
    return [(part.entry.frame_index, part.temporal_position) for part in selection.frames]


def test_the_prompted_frame_and_the_one_just_passed_are_always_read_and_ranks_are_codes() -> None:
    for frame in range(2, 20):
        selection = POLICY.select(bank_of(frame), frame)
        frames = read(selection)
        assert frames[0] == (0, 3)
        assert frames[-1] == (frame - 1, 0)
        assert [code for _, code in frames[1:]] == list(range(len(frames) - 2, -1, -1))
        assert [index for index, _ in frames] == sorted(index for index, _ in frames)
        assert len(frames) <= 4
        tracked = [part for part in selection.pointers if part.entry.frame_index != 0]
        assert [part.time_difference for part in tracked] == list(range(1, len(tracked) + 1))
        assert len(tracked) <= 4
    assert read(POLICY.select(bank_of(1), 1)) == [(0, 3)]


def test_the_same_seed_reads_the_same_and_over_seeds_every_frame_is_read() -> None:
    bank = bank_of(12)
    assert read(POLICY.select(bank, 12)) == read(POLICY.select(bank, 12))
    others = [POLICY.model_copy(update={"seed": seed}).select(bank, 12) for seed in range(60)]
    assert {index for selection in others for index, _ in read(selection)} == set(range(12))


def test_all_accepted_means_as_many_as_the_model_has_places() -> None:
    policy = DrawnFrames.of(SAM2_VARIANTS["sam2.1-hiera-tiny"], seed=3, accepted_share=1.0)
    selection = policy.select(bank_of(24), 24)
    assert len(selection.frames) == 7
    assert len(selection.pointers) == 16
    assert policy.horizon.features >= 23
