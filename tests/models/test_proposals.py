"""Proposals: the grid, stability in closed form, thresholds that only take away, duplicates, and a real decoder."""

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.models.image_encoding import ImageFeatures
from pipeline.models.proposals import (
    ProposalConfig,
    Proposals,
    believable,
    best_of,
    box_iou,
    boxes_of,
    click,
    grid_points,
    mask_iou,
    stability_at,
    without_duplicates,
)
from tests.parity.random_sam2 import random_sam2, tiny_config

LOOSE = ProposalConfig(min_predicted_iou=0.0, min_stability=0.0, min_area=0.0, max_area=1.0)


def rectangles(*boxes: tuple[int, int, int, int], height: int = 20, width: int = 30) -> Tensor:
    """Logits 5 inside y0:y1, x0:x1, -5 outside."""
    logits = torch.full((len(boxes), height, width), -5.0)
    for one, (y0, y1, x0, x1) in zip(logits, boxes, strict=True):
        one[y0:y1, x0:x1] = 5.0
    return logits


def random_proposals(seed: int, count: int = 60) -> Proposals:
    """Cones of many sizes and slopes: stability and areas of every kind."""
    chance = np.random.default_rng(seed)
    y, x = np.mgrid[:24, :36]
    logits = [
        chance.uniform(0.2, 3)
        * (chance.uniform(1, 14) - np.hypot(y - chance.uniform(0, 24), x - chance.uniform(0, 36)))
        for _ in range(count)
    ]
    return Proposals(
        logits_Mhw=torch.from_numpy(np.stack(logits)).float(),
        predicted_iou_M=torch.from_numpy(chance.uniform(0, 1, count)).float(),
    )


def test_a_grid_of_16_has_256_points_at_the_centres_of_its_cells() -> None:
    points = grid_points(16)
    assert len(points) == len(set(points)) == 256
    assert points[0] == (1 / 32, 1 / 32)
    assert points[1] == (3 / 32, 1 / 32)
    assert points[-1] == (31 / 32, 31 / 32)


def test_stability_of_a_ramp_is_the_ratio_of_its_two_cuts() -> None:
    ramp = torch.linspace(-9.5, 9.5, 20).expand(3, 20)[None]
    assert stability_at(ramp, 2.0).item() == pytest.approx(8 / 12)
    assert stability_at(torch.full((1, 3, 20), -9.0), 2.0).item() == 0.0
    assert stability_at(rectangles((2, 9, 3, 20)), 2.0).item() == 1.0


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("min_predicted_iou", [0.0, 0.3, 0.6, 0.9]),
        ("min_stability", [0.0, 0.2, 0.5, 0.7]),
        ("stability_offset", [0.1, 0.9, 3.0, 6.0]),
        ("min_area", [0.0, 0.05, 0.1, 0.3]),
    ],
)
def test_raising_a_threshold_never_adds_a_mask(name: str, values: list[float]) -> None:
    proposals, left = random_proposals(1), []
    for value in values:
        config = LOOSE.model_copy(update={"min_stability": 0.1, name: value})
        left.append({float(iou) for iou in believable(proposals, config).predicted_iou_M})
    assert left[0] >= left[1] >= left[2] >= left[3]
    assert len(left[0]) > len(left[3]) > 0


def test_raising_the_predicted_iou_never_adds_a_mask_after_duplicates_are_gone_either() -> None:
    proposals, before = random_proposals(2), None
    for value in (0.0, 0.3, 0.6, 0.8):
        kept = without_duplicates(believable(proposals, LOOSE.model_copy(update={"min_predicted_iou": value})), LOOSE)
        left = {float(iou) for iou in kept.predicted_iou_M}
        assert before is None or left < before
        before = left


def test_thresholds_are_exclusive_and_areas_are_shares_of_the_frame() -> None:
    proposals = Proposals(
        logits_Mhw=rectangles((0, 20, 0, 30), (0, 10, 0, 30), (0, 1, 0, 1), (4, 4, 0, 0)),
        predicted_iou_M=torch.tensor([0.5, 0.6, 0.7, 0.8]),
    )
    config = LOOSE.model_copy(update={"min_predicted_iou": 0.5, "min_area": 1 / 600, "max_area": 0.95})
    assert believable(proposals, config).predicted_iou_M.tolist() == pytest.approx([0.6, 0.7])


def test_of_alike_boxes_and_of_alike_masks_the_better_one_stays() -> None:
    proposals = Proposals(
        logits_Mhw=rectangles((2, 12, 2, 12), (2, 12, 2, 13), (2, 12, 2, 8), (14, 19, 20, 29)),
        predicted_iou_M=torch.tensor([0.7, 0.9, 0.95, 0.6]),
    )
    # The two wide boxes overlap by 100/110; the narrow one covers 60/110 of the wider.
    assert without_duplicates(proposals, LOOSE).predicted_iou_M.tolist() == pytest.approx([0.95, 0.9, 0.6])
    strict = LOOSE.model_copy(update={"max_box_iou": 0.5})
    assert without_duplicates(proposals, strict).predicted_iou_M.tolist() == pytest.approx([0.95, 0.6])
    loose = LOOSE.model_copy(update={"max_box_iou": 1.0, "max_mask_iou": 0.9})
    assert without_duplicates(proposals, loose).predicted_iou_M.tolist() == pytest.approx([0.95, 0.9, 0.6])
    assert len(without_duplicates(proposals, loose.model_copy(update={"max_mask_iou": 0.92}))) == 4


def test_a_part_with_its_wholes_box_is_no_duplicate() -> None:
    whole = rectangles((2, 12, 2, 12))
    frame = whole.clone()
    frame[0, 4:10, 4:10] = -5.0
    proposals = Proposals(logits_Mhw=torch.cat([whole, frame]), predicted_iou_M=torch.tensor([0.9, 0.8]))
    assert len(without_duplicates(proposals, LOOSE.model_copy(update={"max_box_iou": 1.0}))) == 2
    assert len(without_duplicates(proposals, LOOSE)) == 1


def test_boxes_and_ious_equal_the_brute_force() -> None:
    masks = random_proposals(3).logits_Mhw > 0
    masks[5] = False
    boxes, ious = boxes_of(masks), box_iou(boxes_of(masks))
    for number, one in enumerate(masks.numpy()):
        y, x = np.nonzero(one)
        wanted = [x.min(), y.min(), x.max() + 1, y.max() + 1] if len(x) else [0, 0, 0, 0]
        assert boxes[number].tolist() == wanted
    filled = torch.zeros_like(masks)
    for one, (x0, y0, x1, y1) in zip(filled, boxes.tolist(), strict=True):
        one[y0:y1, x0:x1] = True
    shared = (filled[:, None] & filled[None]).flatten(2).sum(2)
    union = (filled[:, None] | filled[None]).flatten(2).sum(2)
    torch.testing.assert_close(ious, shared / union.clamp(min=1))
    torch.testing.assert_close(mask_iou(filled, filled), ious)


def test_the_most_important_masks_stay_in_their_order() -> None:
    proposals = Proposals(
        logits_Mhw=rectangles((0, 2, 0, 2), (0, 10, 0, 10), (0, 4, 0, 4)), predicted_iou_M=torch.tensor([0.9, 0.5, 0.8])
    )
    # 0.9 * 2, 0.5 * 10, 0.8 * 4
    assert best_of(proposals, 2).predicted_iou_M.tolist() == pytest.approx([0.5, 0.8])
    assert len(best_of(proposals, 3)) == 3


@torch.inference_mode()
def test_clicks_in_a_batch_give_what_each_click_gives_alone_and_three_masks_each() -> None:
    core = random_sam2(tiny_config(), seed=3, object_score=-8.0)
    images = torch.randn(1, 3, 128, 128, generator=torch.Generator().manual_seed(1))
    features = core.encode_image(images)
    points = torch.tensor(grid_points(2))
    rows: ImageFeatures = features.rows([0] * 4)
    together = click(core, rows, points)
    assert together.logits_Mhw.shape == (12, 32, 32)
    # The object score says "not there", and on one picture it is not asked.
    assert together.logits_Mhw.abs().max() < 100
    for place in range(4):
        alone = click(core, features, points[place : place + 1])
        torch.testing.assert_close(together.logits_Mhw[3 * place : 3 * place + 3], alone.logits_Mhw, rtol=0, atol=1e-4)
    assert not torch.equal(together.logits_Mhw[:3], together.logits_Mhw[3:6])


def test_a_model_of_one_mask_per_click_is_asked_for_that_one() -> None:
    single = tiny_config().model_copy(update={"multimask_output_in_sam": False})
    three, one = random_sam2(tiny_config(), seed=3), random_sam2(single, seed=3)
    features = one.encode_image(torch.randn(1, 3, 128, 128, generator=torch.Generator().manual_seed(1)))
    point = torch.tensor(grid_points(1))
    found, others = click(one, features, point), click(three, features, point)
    assert (len(found), len(others)) == (1, 3)
    assert not any(torch.equal(found.logits_Mhw[0], other) for other in others.logits_Mhw)
