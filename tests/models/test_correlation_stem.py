"""The motion stem against brute force: products, their gradients, and motion that it must see."""

import numpy as np
import torch

from pipeline.models.correlation_stem import RADIUS, SHIFTS, MotionStem, correlate, seen_from_target


def by_hand(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Dot products place by place, nothing outside the map."""
    frames, _, height, width = one.shape
    found = torch.zeros(frames, len(SHIFTS), height, width, dtype=one.dtype)
    for f in range(frames):
        for s, (dy, dx) in enumerate(SHIFTS):
            for y in range(height):
                for x in range(width):
                    if 0 <= y + dy < height and 0 <= x + dx < width:
                        found[f, s, y, x] = one[f, :, y, x] @ other[f, :, y + dy, x + dx]
    return found


def maps(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shape = (2, 3, 5, 7)
    return tuple(torch.randn(shape, dtype=torch.float64, generator=generator) for _ in range(2))  # type: ignore[return-value]


def test_products_equal_those_by_hand() -> None:
    one, other = maps(0)
    torch.testing.assert_close(correlate(one, other), by_hand(one, other))


def test_gradients_are_those_of_the_products() -> None:
    one, other = (x[:1, :2, :3, :4].clone().requires_grad_() for x in maps(1))
    assert torch.autograd.gradcheck(correlate, (one, other))


def test_the_volume_seen_from_the_later_frame_needs_no_second_product() -> None:
    one, other = maps(2)
    torch.testing.assert_close(seen_from_target(correlate(one, other)[:, None])[:, 0], by_hand(other, one))


def test_a_shifted_picture_matches_best_at_its_shift_whatever_its_brightness() -> None:
    torch.manual_seed(0)
    stem = MotionStem(4)
    rows, columns = 1, -2
    picture = np.random.default_rng(0).normal(size=(3, 80, 96)).astype(np.float32)
    later = np.roll(picture, (4 * rows, 4 * columns), axis=(1, 2)) + 0.7
    with torch.inference_mode():
        described = stem.describe(torch.from_numpy(np.stack([picture, later])))
        volume = correlate(described[:1], described[1:])[0]
    inner = volume[:, RADIUS + 1 : -RADIUS - 1, RADIUS + 1 : -RADIUS - 1].flatten(1)
    best = inner.argmax(dim=0)
    assert (best == SHIFTS.index((rows, columns))).float().mean() > 0.95


def test_a_frame_alone_and_the_ends_of_a_clip_match_nothing() -> None:
    torch.manual_seed(0)
    stem = MotionStem(4).double()
    described = stem.describe(torch.randn(3, 3, 32, 48, dtype=torch.float64))
    alone = stem(described[:1], num_frames=1)
    torch.testing.assert_close(alone, stem.read(torch.zeros(1, 2 * len(SHIFTS), 8, 12, dtype=torch.float64)))
    clip = stem(described, num_frames=3)
    others = stem(torch.stack([described[0], described[1], described[0]]), num_frames=3)
    torch.testing.assert_close(clip[0], others[0])
    assert not torch.allclose(clip[1], others[1])
