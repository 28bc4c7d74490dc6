"""The prototype memory against closed forms, and its sums over workers against one worker with everything."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from pipeline.training.prototypes import ClassSums, class_sums, masked_step, reference_step

NUM_CLASSES, CHANNELS = 5, 3


def batch(seed: int = 0, *, scenes: int = 2) -> tuple[Tensor, Tensor]:
    """Features at a quarter of the labels' size; class 4 is absent, and so are some pixels' labels."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(scenes, CHANNELS, 6, 8, generator=generator)
    labels = torch.randint(0, 4, (scenes, 24, 32), generator=generator)
    labels[:, :8] = 255
    return features, labels


def test_sums_are_those_of_a_loop_over_cells() -> None:
    features, labels = batch()
    sums = class_sums(features, labels, num_classes=NUM_CLASSES)
    expected, counts = torch.zeros(NUM_CLASSES, CHANNELS), torch.zeros(NUM_CLASSES)
    for scene in range(2):
        for y in range(6):
            for x in range(8):
                label = int(labels[scene, 4 * y, 4 * x])
                if label != 255:
                    expected[label] += features[scene, :, y, x]
                    counts[label] += 1
    assert torch.allclose(sums.sums_KP, expected, atol=1e-5)
    assert torch.equal(sums.counts_K, counts)
    assert counts[4] == 0


def test_the_references_gradient_is_the_closed_form() -> None:
    features, labels = batch()
    features.requires_grad_(True)
    before = torch.randn(NUM_CLASSES, CHANNELS, generator=torch.Generator().manual_seed(1))
    sums = class_sums(features, labels, num_classes=NUM_CLASSES)
    step = reference_step(sums, before, torch.zeros(NUM_CLASSES, dtype=torch.bool))
    mean_KP = sums.sums_KP.detach() / sums.counts_K.clamp(min=1)[:, None]
    batch_KP = mean_KP / sums.counts_K.clamp(min=1)[:, None]
    assert torch.allclose(step.global_KP, 0.8 * before + 0.2 * batch_KP, atol=1e-6)
    assert torch.allclose(step.global_KP[4], 0.8 * before[4])  # an absent class decays
    assert step.loss.item() == pytest.approx(float((batch_KP - step.global_KP).square().mean()), rel=1e-5)
    (gradient,) = torch.autograd.grad(step.loss, features)
    label = int(labels[1, 12, 20])
    count = float(sums.counts_K[label])
    expected = 2 * (batch_KP - step.global_KP)[label] / (NUM_CLASSES * CHANNELS) / count**2
    assert torch.allclose(gradient[1, :, 3, 5], expected, rtol=1e-4)
    assert not gradient[:, :, :2].any()  # rows without labels


def test_masked_prototypes_begin_with_what_is_seen_first_and_leave_absent_classes() -> None:
    start, unseen = torch.zeros(NUM_CLASSES, CHANNELS), torch.zeros(NUM_CLASSES, dtype=torch.bool)
    first = masked_step(class_sums(*batch(), num_classes=NUM_CLASSES), start, unseen)
    sums = class_sums(*batch(), num_classes=NUM_CLASSES)
    mean_KP = sums.sums_KP / sums.counts_K.clamp(min=1)[:, None]
    assert torch.allclose(first.global_KP[:4], mean_KP[:4], atol=1e-6)
    assert not first.global_KP[4].any()
    assert first.loss == 0.0
    assert first.seen_K.tolist() == [True] * 4 + [False]
    features, labels = batch(seed=2)
    labels[labels == 1] = 255
    second = masked_step(class_sums(features, labels, num_classes=NUM_CLASSES), first.global_KP, first.seen_K)
    assert torch.equal(second.global_KP[1], first.global_KP[1])
    assert torch.allclose(second.global_KP[0], 0.8 * first.global_KP[0] + 0.2 * second.batch_KP[0], atol=1e-6)
    distance = (second.batch_KP - second.global_KP).square().mean(dim=1)
    assert second.loss.item() == pytest.approx(float(distance[[0, 2, 3]].mean()), rel=1e-5)


def test_workers_together_give_the_loss_and_gradient_of_one_with_everything() -> None:
    features, labels = batch(seed=3, scenes=4)
    labels[:2][labels[:2] == 2] = 255  # a class that only the second worker sees
    before = torch.randn(NUM_CLASSES, CHANNELS, generator=torch.Generator().manual_seed(1))
    seen = torch.ones(NUM_CLASSES, dtype=torch.bool)
    whole = features.clone().requires_grad_(True)
    expected = masked_step(class_sums(whole, labels, num_classes=NUM_CLASSES), before, seen)
    (expected_gradient,) = torch.autograd.grad(expected.loss, whole)
    parts = [features[:2].clone().requires_grad_(True), features[2:].clone().requires_grad_(True)]
    sums = [class_sums(f, y, num_classes=NUM_CLASSES) for f, y in zip(parts, (labels[:2], labels[2:]), strict=True)]
    for worker in (0, 1):
        step = masked_step(sums[worker], before, seen, num_workers=2, sum_over_workers=_adding(sums[1 - worker]))
        (gradient,) = torch.autograd.grad(step.loss, parts[worker])
        assert torch.allclose(step.loss, expected.loss, rtol=1e-5)
        assert torch.allclose(step.global_KP, expected.global_KP, atol=1e-6)
        # The loop takes the mean over workers: half of each one's.
        assert torch.allclose(gradient / 2, expected_gradient[2 * worker : 2 * worker + 2], rtol=1e-4, atol=1e-7)


def _adding(other: ClassSums):  # type: ignore[no-untyped-def]  # noqa: ANN202
    def add(tensors: Sequence[Tensor]) -> None:
        for tensor, theirs in zip(tensors, (other.sums_KP.detach(), other.counts_K), strict=True):
            tensor.add_(theirs)

    return add


def test_a_batch_without_labels_changes_nothing() -> None:
    features, labels = batch()
    features.requires_grad_(True)
    before = torch.ones(NUM_CLASSES, CHANNELS)
    sums = class_sums(features, torch.full_like(labels, 255), num_classes=NUM_CLASSES)
    step = masked_step(sums, before, torch.ones(NUM_CLASSES, dtype=torch.bool))
    (gradient,) = torch.autograd.grad(step.loss, features)
    assert step.loss == 0.0
    assert not gradient.any()
    assert torch.equal(step.global_KP, before)


def test_labels_that_are_no_class_are_refused() -> None:
    features, labels = batch()
    with pytest.raises(ValueError, match=r"expected 0 \.\. 2"):
        class_sums(features, labels, num_classes=3)
