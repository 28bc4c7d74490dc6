"""The memory bank's bounds and state, and what a selection refuses."""

import io

import pytest
import torch

from pipeline.models.memory import (
    KEEP_BLOCK,
    Horizon,
    MemoryBank,
    MemoryEntry,
    MemoryRead,
    MemorySelection,
    PointerRead,
    padded_tokens,
)

CHANNELS, MEM, HEIGHT, WIDTH = 8, 4, 3, 5


def entry(frame_index: int, *, is_conditioning: bool = False, logits: bool = False) -> MemoryEntry:
    return MemoryEntry(
        frame_index=frame_index,
        pointer_D=torch.full((CHANNELS,), float(frame_index)),
        features_Chw=torch.full((MEM, HEIGHT, WIDTH), float(frame_index)),
        logits_hw=torch.zeros(4 * HEIGHT, 4 * WIDTH) if logits else None,
        object_score=0.25 * frame_index,
        predicted_iou=0.5,
        is_conditioning=is_conditioning,
    )


def filled(frames: range, *, prompted: tuple[int, ...] = ()) -> MemoryBank:
    bank = MemoryBank()
    for index in frames:
        bank.add(entry(index, is_conditioning=index in prompted, logits=True))
    return bank


def test_an_entry_counts_the_bytes_of_its_tensors() -> None:
    assert entry(0).num_bytes() == 4 * (CHANNELS + MEM * HEIGHT * WIDTH)
    assert entry(0, logits=True).num_bytes() == 4 * (CHANNELS + (MEM + 16) * HEIGHT * WIDTH)


def test_forgetting_drops_features_first_and_pointers_later_but_no_prompted_frame() -> None:
    bank = filled(range(20), prompted=(0, 3))
    bank.forget(Horizon(features=4, pointers=9))
    assert sorted(bank.conditioning) == [0, 3]
    assert sorted(bank.recent) == list(range(11, 20))
    with_features = [index for index, e in bank.recent.items() if e.features_Chw is not None]
    assert with_features == [16, 17, 18, 19]
    assert all(e.logits_hw is None for index, e in bank.recent.items() if index < 16)
    assert all(e.features_Chw is not None for e in bank.conditioning.values())


def test_pointers_that_reach_less_far_than_features_leave_the_features() -> None:
    bank = filled(range(10))
    bank.forget(Horizon(features=5, pointers=2))
    assert sorted(bank.recent) == [5, 6, 7, 8, 9]


def test_the_horizon_counts_from_the_frame_written_last_in_either_direction() -> None:
    bank = MemoryBank()
    for index in range(20, 9, -1):
        bank.add(entry(index))
    bank.forget(Horizon(features=3, pointers=3))
    assert sorted(bank.recent) == [10, 11, 12]


def test_a_pool_of_entries_is_bounded_by_count_however_old_they_are() -> None:
    bank = MemoryBank()
    for index in (2, 5, 40, 41, 97):
        bank.add(entry(index))
    bank.forget(Horizon(features=3, pointers=4, unit="entries"))
    assert list(bank.recent) == [5, 40, 41, 97]
    assert bank.recent[5].features_Chw is None


def test_bytes_stay_bounded_however_long_the_video() -> None:
    bank, sizes = MemoryBank(), []
    bank.add(entry(0, is_conditioning=True))
    for index in range(1, 200):
        bank.add(entry(index))
        bank.forget(Horizon(features=6, pointers=15))
        sizes.append(bank.num_bytes())
    assert max(sizes) == sizes[-1] == sizes[20] == 7 * entry(0).num_bytes() + 9 * 4 * CHANNELS


def test_a_frame_written_again_is_replaced_and_counts_as_new() -> None:
    bank = filled(range(5))
    bank.add(entry(1))
    assert list(bank.recent) == [0, 2, 3, 4, 1]
    assert bank.recent[1].logits_hw is None


def test_conditioning_entries_are_found_first_and_removed_apart() -> None:
    bank = MemoryBank()
    bank.add(entry(7))
    bank.add(entry(7, is_conditioning=True))
    assert len(bank) == 2
    assert bank.get(7) is bank.conditioning[7]
    assert bank.remove(7, conditioning=True) is not None
    assert bank.get(7) is bank.recent[7]
    assert bank.remove(7, conditioning=True) is None
    assert bank.get(8) is None


def test_the_state_round_trips_through_torch_save_order_included() -> None:
    bank = filled(range(12), prompted=(4, 0))
    bank.add(entry(6))
    bank.forget(Horizon(features=2, pointers=5))
    buffer = io.BytesIO()
    torch.save(bank.state_dict(), buffer)
    buffer.seek(0)
    again = MemoryBank.from_state(torch.load(buffer, weights_only=True))
    assert list(again.recent) == list(bank.recent)
    assert list(again.conditioning) == list(bank.conditioning)
    for one, two in zip(bank, again, strict=True):
        assert (one.frame_index, one.object_score, one.is_conditioning) == (
            two.frame_index,
            two.object_score,
            two.is_conditioning,
        )
        assert torch.equal(one.pointer_D, two.pointer_D)
        assert (one.features_Chw is None) == (two.features_Chw is None)
    assert again.num_bytes() == bank.num_bytes()


def read(index: int, keep: torch.Tensor | None = None) -> MemoryRead:
    return MemoryRead(entry=entry(index), temporal_position=0, keep=keep)


def test_rows_group_by_numbers_of_frames_pointers_and_blocks_of_kept_tokens() -> None:
    pointers = tuple(PointerRead(entry=entry(i), time_difference=i) for i in range(3))
    keep = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
    keep[1, 2] = True
    assert MemorySelection().shape == (0, 0, None)
    assert MemorySelection(frames=(read(1), read(2)), pointers=pointers).shape == (2, 3, None)
    one = MemorySelection(frames=(read(1), read(2, keep)), pointers=pointers)
    assert one.num_kept == HEIGHT * WIDTH + 1
    assert one.shape == MemorySelection(frames=(read(1, keep), read(2, keep)), pointers=pointers).shape == (2, 3, 256)


@pytest.mark.parametrize(
    ("num_kept", "padded"), [(0, 1), (1, 1), (KEEP_BLOCK, 1), (KEEP_BLOCK + 1, 2), (7 * KEEP_BLOCK, 7)]
)
def test_kept_tokens_are_padded_to_whole_blocks(num_kept: int, padded: int) -> None:
    assert padded_tokens(num_kept) == padded * KEEP_BLOCK


def test_selections_that_cannot_be_read_are_refused() -> None:
    bank = filled(range(8))
    bank.forget(Horizon(features=2, pointers=8))
    with pytest.raises(ValueError, match=r"frame 3: only its pointer is left"):
        MemoryRead(entry=bank.recent[3], temporal_position=0)
    with pytest.raises(ValueError, match=r"expected torch.bool \(3, 5\)"):
        read(1, torch.ones(WIDTH, HEIGHT, dtype=torch.bool))
    with pytest.raises(ValueError, match="1 pointers without a memory frame"):
        MemorySelection(pointers=(PointerRead(entry=entry(1), time_difference=1),))
    nothing = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
    with pytest.raises(ValueError, match="drop every memory token"):
        MemorySelection(frames=(read(1, nothing), read(2, nothing)))
