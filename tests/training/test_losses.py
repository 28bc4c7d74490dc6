"""Losses and labels by hand, by torch's own, and by the published code's values."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from pipeline.training.losses import IGNORED, cme_labels, cme_loss, dice_loss, focal_loss, match_sizes


def test_focal_loss_without_focus_is_half_the_cross_entropy() -> None:
    logits, targets = torch.randn(2, 3, 5, 7), (torch.rand(2, 3, 5, 7) > 0.5).float()
    wanted = F.binary_cross_entropy_with_logits(logits, targets) / 2
    torch.testing.assert_close(focal_loss(logits, targets, alpha=0.5, gamma=0.0), wanted)


def test_focal_loss_of_one_pixel_by_hand() -> None:
    logit = torch.tensor(0.7).view(1, 1, 1, 1)
    inside = 1 / (1 + np.exp(-0.7))
    wanted = 0.25 * (1 - inside) ** 2 * -np.log(inside)
    assert focal_loss(logit, torch.ones(1, 1, 1, 1)).item() == pytest.approx(wanted, rel=1e-5)


def test_dice_loss_by_hand() -> None:
    sure = torch.tensor([[30.0, 30.0], [-30.0, -30.0]]).view(1, 1, 2, 2)
    targets = torch.tensor([[1.0, 0.0], [1.0, 0.0]]).view(1, 1, 2, 2)
    assert dice_loss(sure, targets).item() == pytest.approx(1 - (2 + 1) / (2 + 2 + 1))
    assert dice_loss(sure, (sure > 0).float()).item() == pytest.approx(0, abs=1e-6)


def test_dice_is_of_whole_clips_and_averages_over_clips() -> None:
    logits, targets = torch.randn(2, 3, 5, 7), (torch.rand(2, 3, 5, 7) > 0.5).float()
    each = [dice_loss(logits[i : i + 1], targets[i : i + 1]) for i in range(2)]
    torch.testing.assert_close(dice_loss(logits, targets), torch.stack(each).mean())


def test_sizes_are_matched_on_padded_multiples_of_32() -> None:
    logits, targets = torch.randn(1, 2, 8, 9), torch.ones(1, 2, 33, 64)
    stretched, padded = match_sizes(logits, targets)
    assert stretched.shape == padded.shape == (1, 2, 64, 64)
    assert padded.sum() == 2 * 33 * 64


def test_the_memory_loss_ignores_rows_and_weighs_a_switch_twice() -> None:
    logits, labels = torch.randn(4, 2), torch.tensor([0, 1, IGNORED, 1])
    each = F.cross_entropy(logits[[0, 1, 3]], labels[[0, 1, 3]], reduction="none")
    wanted = (each[0] + 2 * each[1] + 2 * each[2]) / 5
    torch.testing.assert_close(cme_loss(logits, labels), wanted)


def test_the_memory_loss_of_nothing_is_zero_and_still_has_a_gradient() -> None:
    logits = torch.randn(3, 2, requires_grad=True)
    loss = cme_loss(logits, torch.full((3,), IGNORED))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None


def box(top: int, bottom: int, left: int, right: int) -> torch.Tensor:
    mask = torch.full((1, 30, 40), -1.0)
    mask[:, top:bottom, left:right] = 1.0
    return mask


@pytest.mark.parametrize(
    ("tracked", "found", "score", "label"),
    [
        (box(0, 10, 0, 10), box(0, 10, 0, 10), 2.0, 0),
        (box(0, 10, 0, 10), box(0, 10, 20, 30), 2.0, 1),
        (box(0, 10, 0, 10), box(0, 10, 9, 19), 2.0, 0),
        (box(0, 10, 0, 11), box(0, 10, 10, 21), 2.0, 1),
        (box(0, 10, 0, 10), box(0, 10, 20, 30), -0.1, IGNORED),
        (box(0, 10, 0, 10), box(0, 10, 20, 30), 0.0, 1),
        (box(0, 5, 0, 10), box(0, 5, 20, 30), 2.0, IGNORED),
        (box(0, 3, 0, 17), box(0, 5, 20, 30), 2.0, 1),
        (box(0, 10, 0, 10), box(0, 0, 0, 0), 2.0, 0),
        (box(0, 0, 0, 0), box(0, 0, 0, 0), 2.0, IGNORED),
    ],
)
def test_labels_by_hand(tracked: torch.Tensor, found: torch.Tensor, score: float, label: int) -> None:
    assert cme_labels(tracked, found, torch.tensor([score])).tolist() == [label]


def test_losses_and_labels_are_the_published_codes(golden_dir: Path) -> None:
    from tests.parity.samwise_modules import check_module_case

    modules = golden_dir / "samwise" / "open" / "modules"
    checks = [c for name in ("f_losses", "g_cme_labels") for c in check_module_case(modules / f"{name}.npz")]
    assert len(checks) == 6
    assert [str(check) for check in checks if not check.ok] == []
