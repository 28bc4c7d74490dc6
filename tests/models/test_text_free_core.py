"""Tracking's view of a model with grounded fusion: what adapters cannot give, frame by frame."""

import pytest
import torch

from pipeline.models.mosam_model import load_tracking_core
from pipeline.models.samwise_checkpoint import checkpoint_tensors
from pipeline.models.samwise_init import random_samwise
from pipeline.models.samwise_variants import ARCHITECTURES
from pipeline.models.text_free_core import TextFreeCore
from pipeline.segmenter import ModelSpec
from tests.training.small_samwise import mini
from tests.training.small_tiny import small_network


def test_features_hold_the_grounding_map_and_each_frame_its_own() -> None:
    network = small_network()
    core = TextFreeCore(network)
    images = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        seen, bare = core.encode_image(images), network.core.encode_image(images)
        alone = core.encode_image(images[1:2])
        assert network.grounding is not None
        network.grounding.ground_to_middle.weight.zero_()
        network.grounding.ground_to_middle.bias.zero_()
        network.grounding.motion_to_fine.weight.zero_()
        network.grounding.motion_to_fine.bias.zero_()
        silent = core.encode_image(images)
    assert not torch.allclose(seen.map_BDhw, bare.map_BDhw)
    torch.testing.assert_close(seen.map_BDhw[1:2], alone.map_BDhw)
    torch.testing.assert_close(silent.map_BDhw, bare.map_BDhw)


def test_a_grounded_checkpoint_is_tracked_with_by_it_and_one_with_adapters_by_its_sam2() -> None:
    network = small_network()
    architecture = network.architecture.model_dump(mode="json")
    model = ModelSpec(name="small", architecture=architecture, tensors=checkpoint_tensors(network))
    core = load_tracking_core(model)
    assert isinstance(core, TextFreeCore)
    images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = TextFreeCore(network).encode_image(images).map_BDhw
        torch.testing.assert_close(core.encode_image(images).map_BDhw, expected)
    adapted = ModelSpec(name="mini", architecture=ARCHITECTURES["mini"], tensors=None)
    assert not isinstance(load_tracking_core(adapted), TextFreeCore)


def test_adapters_see_nothing_without_a_text() -> None:
    with pytest.raises(ValueError, match="without a text"):
        TextFreeCore(random_samwise(mini(), seed=0))
