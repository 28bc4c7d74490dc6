"""Class regions against a softmax written out in numpy; fusion; what a gated modality does."""

import numpy as np
import pytest
import torch

from pipeline.models.mask_decoding import ABSENT_LOGIT
from pipeline.models.memorysam_architecture import STREET_CLASSES as NAMES_OF_THE_MODEL
from pipeline.models.semantic_heads import (
    DELIVER_CLASSES,
    MCUBES_CLASSES,
    class_regions,
    contributions,
    enlarge_logits,
    fuse_modalities,
)
from pipeline.synth.street_world import STREET_CLASSES


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_regions_are_the_argmax_with_the_mean_softmax_of_their_pixels() -> None:
    logits = noise(5, 7, 11) * 3
    logits[3] = -50.0  # a class that wins nowhere
    exponentials = np.exp(logits.double().numpy())
    probabilities = exponentials / exponentials.sum(axis=0)
    labels = probabilities.argmax(axis=0)
    regions = class_regions(logits)
    assert [region.class_id for region in regions] == [0, 1, 2, 4]
    for region in regions:
        np.testing.assert_array_equal(region.mask, labels == region.class_id)
        assert region.confidence == pytest.approx(probabilities[region.class_id][region.mask].mean(), abs=1e-6)


def test_regions_cover_every_pixel_once() -> None:
    masks = np.stack([region.mask for region in class_regions(noise(6, 9, 4, seed=1))])
    np.testing.assert_array_equal(masks.sum(axis=0), np.ones((9, 4)))


def test_a_frame_gated_off_throughout_is_the_first_class_at_chance() -> None:
    (region,) = class_regions(torch.full((4, 3, 5), ABSENT_LOGIT))
    assert (region.class_id, region.confidence) == (0, pytest.approx(0.25))
    assert region.mask.all()


def test_fusing_before_enlarging_is_fusing_after_it() -> None:
    logits = noise(3, 2, 4, 5, 7)
    early = enlarge_logits(fuse_modalities(logits), (20, 28))
    late = torch.stack([enlarge_logits(modality, (20, 28)) for modality in logits]).mean(dim=0)
    assert early.shape == (2, 4, 20, 28)
    assert torch.allclose(early, late, atol=1e-5)


def test_a_gated_modality_leaves_the_labels_to_the_others() -> None:
    logits = noise(3, 1, 4, 5, 7)
    logits[1] = ABSENT_LOGIT
    labels = fuse_modalities(logits)[0].argmax(dim=0)
    assert torch.equal(labels, (logits[0] + logits[2])[0].argmax(dim=0))
    shares = contributions(logits[:, 0])
    assert shares[1] == 0.0
    changed = [(logits[2 - place, 0].argmax(dim=0) != labels).float().mean().item() for place in (0, 2)]
    assert [shares[0], shares[2]] == pytest.approx(changed)
    assert contributions(logits[:1, 0]) == [1.0]


def test_class_lists_are_whole() -> None:
    assert (len(DELIVER_CLASSES), len(MCUBES_CLASSES)) == (25, 20)
    assert (len(set(DELIVER_CLASSES)), len(set(MCUBES_CLASSES))) == (25, 20)
    assert tuple(STREET_CLASSES) == NAMES_OF_THE_MODEL
