"""Frames into the square beside torchvision's own transforms, and logits back out."""

import numpy as np
import pytest
import torch
from PIL import Image as PilImage
from torchvision import transforms

from pipeline.models.letterbox import MEAN, STD, from_square, letterbox_size, resize_frame, to_square

SIZES = [(720, 1280), (480, 854), (240, 320), (500, 500), (900, 1000), (333, 334), (1280, 720), (101, 1007), (3, 5)]


@pytest.mark.parametrize(
    ("size", "wanted"),
    [((720, 1280), (576, 1024)), ((480, 854), (575, 1024)), ((240, 320), (768, 1024)), ((500, 500), (1020, 1020))],
)
def test_published_examples_of_the_size_rule(size: tuple[int, int], wanted: tuple[int, int]) -> None:
    assert letterbox_size(*size, short_side_px=1020, image_size=1024) == wanted


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_resizing_is_torchvisions_to_the_byte(height: int, width: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    wanted = np.asarray(transforms.Resize(120, max_size=128)(PilImage.fromarray(image)))
    size = letterbox_size(height, width, short_side_px=120, image_size=128)
    np.testing.assert_array_equal(resize_frame(image, size), wanted)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 4000), (4000, 1)])
def test_extreme_frames_keep_at_least_a_pixel(height: int, width: int) -> None:
    size = letterbox_size(height, width, short_side_px=60, image_size=64)
    assert min(size) >= 1
    assert max(size) <= 64
    assert resize_frame(np.zeros((height, width, 3), np.uint8), size).shape == (*size, 3)


def test_the_square_holds_normalised_frames_at_the_top_left_and_zero_elsewhere() -> None:
    generator = np.random.default_rng(0)
    images = [generator.integers(0, 256, (h, w, 3), dtype=np.uint8) for h, w in ((20, 32), (32, 9))]
    square = to_square(images, num_rows=3, image_size=32, device=torch.device("cpu"))
    normalise = transforms.Compose([transforms.ToTensor(), transforms.Normalize(MEAN, STD)])
    for row, image in zip(square, images, strict=False):
        height, width = image.shape[:2]
        torch.testing.assert_close(row[:, :height, :width], normalise(PilImage.fromarray(image)), rtol=0, atol=1e-6)
        assert not row[:, height:].any()
        assert not row[:, :, width:].any()
    assert not square[2].any()


def test_a_resized_frame_is_a_copy_that_may_be_written() -> None:
    image = np.zeros((8, 12, 3), np.uint8)
    resized = resize_frame(image, (8, 12))
    resized[:] = 1
    assert not image.any()


def test_logits_come_back_to_the_place_of_the_frame() -> None:
    frame = torch.randn(1, 1, 6, 10)
    square = torch.full((1, 1, 64, 64), 99.0)
    square[..., :36, :60] = torch.nn.functional.interpolate(frame, scale_factor=6, mode="nearest")
    back = from_square(square, (36, 60), (6, 10))
    assert back.shape == (1, 1, 6, 10)
    torch.testing.assert_close(back, frame, rtol=0, atol=1e-5)
