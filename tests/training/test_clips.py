"""Samples and batches: pure functions of (seed, position), re-draws, sizes, padding, reading ahead."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from pipeline.errors import DecodeError
from pipeline.training.clips import (
    Mixed,
    SampleReader,
    TrainingSample,
    collate,
    draw_sample,
    item_at,
    resize_sample,
    training_size,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Numbered:
    """Item i is a frame of grey i; odd items show nothing."""

    num_items: int | None = 10
    empty: tuple[int, ...] = ()

    def draw(self, item: int, generator: np.random.Generator) -> TrainingSample:
        return sample(item, shown=item not in self.empty, text=f"number {generator.integers(1000)}")


def sample(
    grey: int, *, size: tuple[int, int] = (6, 8), num_frames: int = 2, shown: bool = True, text: str = "a thing"
) -> TrainingSample:
    frames = np.full((num_frames, *size, 3), grey, dtype=np.uint8)
    return TrainingSample(
        sample_id=f"item {grey}", frames=frames, masks=np.full((num_frames, *size), shown), expression=text
    )


def test_every_epoch_is_another_permutation_of_the_items() -> None:
    epochs = [[item_at(epoch * 50 + place, num_items=50, seed=3) for place in range(50)] for epoch in range(2)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(50))
    assert epochs[0] != epochs[1]
    assert epochs[0] != [item_at(place, num_items=50, seed=4) for place in range(50)]
    assert item_at(123_456, num_items=None, seed=3) == 123_456


def test_a_sample_depends_on_seed_and_position_alone() -> None:
    def texts(seed: int) -> list[str]:
        return [draw_sample(Numbered(), place, seed=seed, long_side_px=8).expression for place in range(8)]

    assert texts(0) == texts(0)
    assert texts(0) != texts(1)
    assert len(set(texts(0))) == 8


def test_an_item_that_shows_nothing_is_replaced_by_one_that_does() -> None:
    source = Numbered(empty=(0, 1, 2, 3, 4, 6, 7, 8, 9))
    for position in range(10):
        assert draw_sample(source, position, seed=0, long_side_px=8).sample_id == "item 5"


def test_a_source_that_never_shows_anything_is_an_error() -> None:
    with pytest.raises(DecodeError, match="no frame shows"):
        draw_sample(Numbered(empty=tuple(range(10))), 0, seed=0, long_side_px=8)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((480, 854), (576, 1024)),
        ((720, 1280), (576, 1024)),
        ((854, 480), (1024, 576)),
        ((64, 64), (1024, 1024)),
        ((1, 4000), (1, 1024)),
    ],
)
def test_the_long_side_is_1024_and_the_short_one_rounded(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert training_size(*size, long_side_px=1024) == expected


def test_resizing_keeps_frames_and_masks_together() -> None:
    small = sample(7, size=(6, 8))
    small.masks[:, :, :4] = False
    large = resize_sample(small, long_side_px=16)
    assert large.frames.shape == (2, 12, 16, 3)
    assert large.masks[:, :, 8:].all()
    assert not large.masks[:, :, :8].any()
    assert (large.frames == 7).all()


def test_a_batch_is_padded_with_the_mean_colour_and_empty_masks() -> None:
    batch = collate([sample(124, size=(6, 8)), sample(9, size=(8, 5))], [[0, 5, 2], [0, 2]], pad_id=1)
    assert batch.images_FCHW.shape == (4, 3, 8, 8)
    assert batch.targets_BTHW.shape == (2, 2, 8, 8)
    assert batch.targets_BTHW.sum().item() == 2 * (6 * 8 + 8 * 5)
    # ImageNet's mean red is 0.485 of 255, 123.675.
    assert batch.images_FCHW[0, 0, 0, 0].item() == pytest.approx((124 - 123.675) / 255 / 0.229, abs=1e-6)
    assert not batch.images_FCHW[0, :, 6:].any()
    assert not batch.images_FCHW[3, :, :, 5:].any()
    assert batch.token_ids_BL.tolist() == [[0, 5, 2], [0, 2, 1]]
    assert batch.keep_BL.tolist() == [[True] * 3, [True, True, False]]


def test_clips_of_different_lengths_cannot_share_a_batch() -> None:
    with pytest.raises(ValueError, match=r"clips of \[1, 2\] frames"):
        collate([sample(0, num_frames=1), sample(0, num_frames=2)], [[0], [0]], pad_id=1)


def test_mixed_sources_count_on_through_each_other() -> None:
    mixed = Mixed(sources=(Numbered(num_items=3), Numbered(num_items=2)))
    names = [mixed.draw(item, np.random.default_rng(0)).sample_id for item in range(mixed.num_items)]
    assert names == ["item 0", "item 1", "item 2", "item 0", "item 1"]


@pytest.mark.parametrize("num_threads", [0, 2])
def test_reading_ahead_changes_nothing(num_threads: int) -> None:
    reader = SampleReader(Numbered(), seed=5, long_side_px=8, num_threads=num_threads)
    reader.look_ahead(range(4, 8))
    found = [*reader.read(range(4)), *reader.read(range(4, 8))]
    reader.close()
    expected = [draw_sample(Numbered(), position, seed=5, long_side_px=8) for position in range(8)]
    assert [each.expression for each in found] == [each.expression for each in expected]


def test_an_error_while_reading_ahead_is_told_where_the_sample_is_used() -> None:
    reader = SampleReader(Numbered(empty=tuple(range(10))), seed=5, long_side_px=8, num_threads=1)
    reader.look_ahead([0])
    with pytest.raises(DecodeError, match="no frame shows"):
        reader.read([0])
    reader.close()


def test_frames_and_masks_of_different_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="sizes differ"):
        TrainingSample(
            sample_id="odd",
            frames=np.zeros((1, 4, 4, 3), dtype=np.uint8),
            masks=np.zeros((1, 4, 5), dtype=np.bool_),
            expression="x",
        )


def test_batches_move_to_a_device_whole() -> None:
    batch = collate([sample(1)], [[0, 2]], pad_id=1).to(torch.device("cpu"))
    assert batch.num_frames == 2
    assert batch.sample_ids == ("item 1",)
