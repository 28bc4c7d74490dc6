"""The network: order, batches, and what memory does and does not change."""

import pytest
import torch

from pipeline.models.mask_decoding import ABSENT_LOGIT
from pipeline.models.memorysam_architecture import named_architecture
from pipeline.models.memorysam_init import random_memorysam
from pipeline.models.memorysam_network import MemorySamNetwork

SIDE = 64


@pytest.fixture(scope="module")
def network() -> MemorySamNetwork:
    return random_memorysam(named_architecture("mini"), seed=1)


def scenes(num_modalities: int, num_scenes: int, *, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num_modalities, num_scenes, 3, SIDE, SIDE, generator=generator)


def test_an_untrained_network_sees_several_classes(network: MemorySamNetwork) -> None:
    with torch.inference_mode():
        labels = network(scenes(2, 2)).logits_BKhw.argmax(dim=1)
    assert labels.shape == (2, 16, 16)
    assert len(labels.unique()) >= 3


def test_without_memory_the_mean_of_the_modalities_alone_is_all(network: MemorySamNetwork) -> None:
    images = scenes(3, 2)
    with torch.inference_mode():
        together = network(images, use_memory=False)
        alone = torch.stack([network(images[place : place + 1]).logits_BKhw for place in range(3)])
        with_memory = network(images)
    assert torch.allclose(together.logits_BKhw, alone.mean(dim=0), atol=1e-4)
    assert not torch.allclose(with_memory.logits_BKhw, together.logits_BKhw, atol=1e-2)
    assert torch.allclose(with_memory.features_BPhw, together.features_BPhw, atol=1e-5)


def test_the_first_modality_hears_of_no_other_and_the_second_of_the_first(network: MemorySamNetwork) -> None:
    images = scenes(3, 1)
    other = images.clone()
    other[2] = scenes(1, 1, seed=9)[0]
    with torch.inference_mode():
        first, second = network(images).modalities, network(other).modalities
        swapped = network(images[[1, 0, 2]]).modalities
    assert torch.allclose(first[0].logits_RKhw, second[0].logits_RKhw, atol=1e-5)
    assert torch.allclose(first[1].logits_RKhw, second[1].logits_RKhw, atol=1e-5)
    assert not torch.allclose(first[1].logits_RKhw, swapped[0].logits_RKhw, atol=1e-2)


def test_scenes_of_a_batch_do_not_see_each_other(network: MemorySamNetwork) -> None:
    images = scenes(3, 3)
    with torch.inference_mode():
        together = network(images).logits_BKhw
        alone = torch.cat([network(images[:, scene : scene + 1]).logits_BKhw for scene in range(3)])
    assert torch.allclose(together, alone, atol=1e-4)


def test_memories_are_a_set_whose_order_does_not_matter(network: MemorySamNetwork) -> None:
    from pipeline.models.memorysam_network import memory_entries

    with torch.inference_mode():
        features = network.encode(scenes(3, 1).flatten(0, 1))
        entries = []
        for place in range(2):
            own = features.rows([place])
            output = network.segment(own, [()])
            entries += memory_entries(output, network.remember(own, output), place=place)
        last = features.rows([2])
        forward, backward = (network.segment(last, [order]).logits_RKhw for order in (entries, entries[::-1]))
        one = network.segment(last, [entries[:1]]).logits_RKhw
    assert torch.allclose(forward, backward, atol=1e-5)
    assert not torch.allclose(forward, one, atol=1e-3)


def test_a_score_that_is_not_positive_gates_every_class_and_swaps_the_pointer() -> None:
    network = random_memorysam(named_architecture("mini"), seed=1)
    with torch.no_grad():
        network.core.model.sam_mask_decoder.pred_obj_score_head.layers[-1].bias -= 50.0
    with torch.inference_mode():
        output = network(scenes(2, 1))
    assert (output.logits_BKhw == ABSENT_LOGIT).all()
    assert torch.equal(output.modalities[1].pointer_RD, network.core.model.no_obj_ptr)


def test_the_decoder_stays_in_float32_under_autocast(network: MemorySamNetwork) -> None:
    images = scenes(2, 1)
    with torch.inference_mode():
        exact = network(images)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rounded = network(images)
    assert rounded.logits_BKhw.dtype == torch.float32
    # Values between those that bfloat16 has.
    assert not torch.equal(rounded.logits_BKhw, rounded.logits_BKhw.bfloat16().float())
    agreement = (rounded.logits_BKhw.argmax(dim=1) == exact.logits_BKhw.argmax(dim=1)).float().mean()
    assert agreement > 0.9
