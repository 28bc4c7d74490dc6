"""Modality images on their way into the square: sizes, padding, normalisation."""

import numpy as np
import pytest
import torch

from pipeline.models.letterbox import MEAN, STD
from pipeline.models.memorysam_input import (
    fitted_size,
    reference_validation_images,
    reference_validation_labels,
    reference_validation_sizes,
    resize_image,
    to_square,
)
from pipeline.ticks import RGB

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("frame", "letterboxed"),
    [((1042, 1042), (64, 64)), ((40, 80), (32, 64)), ((90, 30), (64, 21)), ((1, 500), (1, 64))],
)
def test_a_frame_keeps_its_shape_unless_stretched(frame: tuple[int, int], letterboxed: tuple[int, int]) -> None:
    assert fitted_size(*frame, image_size=64, fit="letterbox") == letterboxed
    assert fitted_size(*frame, image_size=64, fit="stretch") == (64, 64)


def test_rgb_alone_is_centred_and_padding_is_black_before_it() -> None:
    image = np.full((3, 5, 3), 51, dtype=np.uint8)
    rgb, depth, spare = to_square([image, image], [RGB, "depth"], num_rows=3, image_size=8, device=CPU)
    for channel in range(3):
        assert rgb[channel, 2, 4] == pytest.approx((0.2 - MEAN[channel]) / STD[channel], abs=1e-6)
        assert rgb[channel, 3, 4] == pytest.approx(-MEAN[channel] / STD[channel], abs=1e-6)
    assert depth[0, 2, 4] == pytest.approx(0.2)
    assert not depth[:, 3:].any()
    assert not spare.any()


def test_float_images_are_taken_as_they_are() -> None:
    image = np.full((8, 8, 3), -0.75, dtype=np.float32)
    (square,) = to_square([image], ["aolp"], num_rows=1, image_size=8, device=CPU)
    assert (square == -0.75).all()
    resized = resize_image(image, (4, 6))
    assert (resized.dtype, resized.shape) == (np.float32, (4, 6, 3))
    np.testing.assert_allclose(resized, -0.75, rtol=1e-6)


def test_uint8_is_rounded_and_antialiasing_averages_what_it_shrinks() -> None:
    stripes = np.zeros((8, 16, 3), dtype=np.uint8)
    stripes[:, ::2] = 255
    with_aa, without = (resize_image(stripes, (2, 4), antialias=antialias) for antialias in (True, False))
    assert with_aa.dtype == np.uint8
    assert np.abs(with_aa[:, 1:3].astype(int) - 127).max() <= 2
    assert (with_aa != without).any() or np.abs(without.astype(int) - 127).max() <= 2
    assert resize_image(stripes, (8, 16)) is stripes


def test_the_references_transform_stretches_to_multiples_of_32_after_the_short_side() -> None:
    assert reference_validation_sizes(130, 130, short_side_px=128) == ((128, 128), (128, 128))
    assert reference_validation_sizes(130, 150, short_side_px=128) == ((128, 148), (128, 160))
    ramp = torch.arange(130 * 150).view(1, 130, 150).remainder(256).to(torch.uint8).expand(3, -1, -1)
    assert reference_validation_images(ramp, "depth", short_side_px=128).shape == (3, 128, 160)
    labels = torch.zeros(130, 150, dtype=torch.uint8)
    labels[:, 75:] = 7
    resized = reference_validation_labels(labels, short_side_px=128)
    assert resized.shape == (128, 160)
    assert torch.equal(resized, torch.where(torch.arange(160) < 80, 0, 7).to(torch.uint8).expand(128, -1))
