"""Cross-entropy over the hardest pixels, against a sorted list."""

import math

import pytest
import torch
from torch import Tensor

from pipeline.training.memorysam_losses import ohem_cross_entropy, pixel_accuracy


def pixels(scale: float, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Logits that favour the true class by `scale`, and labels with some unknown."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 3, (2, 8, 12), generator=generator)
    logits = torch.randn(2, 3, 8, 12, generator=generator)
    logits.scatter_add_(1, labels[:, None], torch.full((2, 1, 8, 12), scale))
    labels[:, :2] = 255
    return logits, labels


def losses_of(logits: Tensor, labels: Tensor) -> list[float]:
    """Of each valid pixel, the largest first."""
    probabilities = logits.double().softmax(dim=1)
    found = [
        -math.log(probabilities[scene, labels[scene, y, x], y, x])
        for scene in range(2)
        for y in range(8)
        for x in range(12)
        if labels[scene, y, x] != 255
    ]
    return sorted(found, reverse=True)


def test_pixels_below_the_probability_are_averaged() -> None:
    logits, labels = pixels(scale=0.5)
    hard = [loss for loss in losses_of(logits, labels) if loss > -math.log(0.7)]
    assert len(hard) > 9
    assert ohem_cross_entropy(logits, labels).item() == pytest.approx(sum(hard) / len(hard), rel=1e-5)


def test_a_sixteenth_is_kept_where_nearly_all_are_easy() -> None:
    logits, labels = pixels(scale=7.0)
    hardest = losses_of(logits, labels)[: 144 // 16]
    assert ohem_cross_entropy(logits, labels).item() == pytest.approx(sum(hardest) / len(hardest), rel=1e-4)


def test_no_valid_pixel_is_no_loss_and_few_easy_ones_are_no_nan() -> None:
    logits, labels = pixels(scale=7.0)
    logits.requires_grad_(True)
    loss = ohem_cross_entropy(logits, torch.full_like(labels, 255))
    loss.backward()
    assert loss == 0.0
    assert logits.grad is not None
    assert not logits.grad.any()
    few = torch.full_like(labels, 255)
    few[0, 5, 5] = labels[0, 5, 5]
    expected = losses_of(logits.detach(), few)
    assert ohem_cross_entropy(logits, few).item() == pytest.approx(expected[0], rel=1e-4)
    assert pixel_accuracy(logits, torch.full_like(labels, 255)) == 1.0
    assert pixel_accuracy(logits, labels) == 1.0
