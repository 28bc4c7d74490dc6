"""Feature vectors of masklets against sums written out, and a schema that no other vectors share."""

import numpy as np
import torch

from pipeline.models.masklet_features import RING_TOKENS, FeatureSchema, geometry, masklet_features, weights_digest
from tests.models.texture_world import texture_core

D, SIDE_H, SIDE_W = 6, 5, 8


def test_blocks_are_weighted_sums_over_the_masklet_and_its_ring() -> None:
    torch.manual_seed(3)
    map_Dhw = torch.randn(D, SIDE_H, SIDE_W)
    logits = torch.full((1, 4 * SIDE_H, 4 * SIDE_W), -9.0)
    logits[0, 4:14, 9:21] = 3.0
    pointer, iou = torch.randn(1, 4), torch.tensor([0.8])
    (found,) = masklet_features(map_Dhw, logits, pointer, iou).numpy()

    weights = np.zeros((SIDE_H, SIDE_W))
    inside = 1 / (1 + np.exp(-logits[0].numpy().astype(np.float64)))
    for y in range(SIDE_H):
        for x in range(SIDE_W):
            weights[y, x] = inside[4 * y : 4 * y + 4, 4 * x : 4 * x + 4].mean()
    ring = np.zeros_like(weights)
    for y in range(SIDE_H):
        for x in range(SIDE_W):
            near = weights[max(0, y - RING_TOKENS) : y + RING_TOKENS + 1, max(0, x - RING_TOKENS) : x + RING_TOKENS + 1]
            ring[y, x] = near.max() - weights[y, x]
    values = map_Dhw.numpy().astype(np.float64)
    mean = (values * weights).sum((1, 2)) / weights.sum()
    std = np.sqrt((((values - mean[:, None, None]) ** 2) * weights).sum((1, 2)) / weights.sum())
    around = (values * ring).sum((1, 2)) / ring.sum()
    area, box = 10 * 12, (12, 10)
    shape = [
        *(area / (16 * SIDE_H * SIDE_W), (9 + 6) / (4 * SIDE_W), (4 + 5) / (4 * SIDE_H), box[0] / sum(box)),
        *(0, 0, 0, 0, 1, 0.8),
    ]
    expected = [block / np.linalg.norm(block) for block in (mean, std, pointer[0].numpy(), around, np.array(shape))]
    np.testing.assert_allclose(found, np.concatenate(expected), atol=1e-5)


def test_geometry_tells_each_border_and_survives_an_empty_mask() -> None:
    masks = torch.zeros(5, 8, 12, dtype=torch.bool)
    masks[0, 3, 0], masks[1, 0, 5], masks[2, 3, 11], masks[3, 7, 5] = True, True, True, True
    found = geometry(masks, torch.full((5,), 0.5))
    assert found[:4, 4:8].tolist() == torch.eye(4).tolist()
    assert found[4].tolist() == [0.0] * 9 + [0.5]
    empty = masklet_features(torch.randn(D, 2, 3), torch.full((1, 8, 12), -99.0), torch.zeros(1, D), torch.zeros(1))
    assert torch.isfinite(empty).all()


def test_the_schema_has_the_published_size_and_another_sam2_another_hash() -> None:
    schema = FeatureSchema(embedding=256, pointer=256, image_size=1024, sam2="a")
    assert schema.size == 1034
    others = [schema.model_copy(update=change) for change in ({"sam2": "b"}, {"image_size": 512}, {"version": 2})]
    assert len({schema.sha256, *(other.sha256 for other in others)}) == 4
    core = texture_core()
    before = weights_digest(core)
    assert weights_digest(texture_core()) == before
    with torch.no_grad():
        next(iter(core.parameters())).view(-1)[0] += 1e-3
    assert weights_digest(core) != before
