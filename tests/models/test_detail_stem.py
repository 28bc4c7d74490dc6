"""Detail stem: its strides, that it begins as nothing, and that it sees what the encoder's first layer cannot."""

import torch

from pipeline.models.detail_stem import DetailStem
from pipeline.models.samwise_checkpoint import checkpoint_tensors, load_samwise
from pipeline.models.samwise_network import SamwiseNetwork
from tests.training.small_tiny import small_architecture, small_network


def test_strides_and_widths() -> None:
    stem = DetailStem(fine_width=6, width=10)
    fine, middle = stem(torch.rand(2, 3, 32, 48))
    assert fine.shape == (2, 6, 8, 12)
    assert middle.shape == (2, 10, 4, 6)


def test_a_network_that_is_given_one_is_the_network_it_was() -> None:
    architecture = small_architecture()
    torch.manual_seed(4)
    network = SamwiseNetwork(architecture).eval()
    torch.manual_seed(4)
    plain = SamwiseNetwork(architecture.model_copy(update={"detail_stem": False})).eval()
    images = torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        maps, plain_maps = (x.relate(x.encode_prefix(images), num_frames=2).maps for x in (network, plain))
    assert all(torch.equal(one, other) for one, other in zip(maps, plain_maps, strict=True))


def test_once_trained_it_changes_every_map_that_the_fusion_reads() -> None:
    network = small_network()
    images = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        before = network.relate(network.encode_prefix(images), num_frames=1).maps
        assert network.detail is not None
        for last in (network.detail.to_fine, network.detail.to_middle):
            torch.nn.init.normal_(last.weight, generator=torch.Generator().manual_seed(0))
        after = network.relate(network.encode_prefix(images), num_frames=1).maps
    assert not any(torch.allclose(one, other, atol=1e-3) for one, other in zip(before, after, strict=True))


def test_weights_with_one_load_into_an_architecture_without() -> None:
    network = small_network()
    plain = network.architecture.model_copy(update={"detail_stem": False})
    assert load_samwise(checkpoint_tensors(network), plain).detail is None


def test_phase_is_seen_through_where_a_linear_layer_averages_it_away() -> None:
    """Stripes two pixels wide at every phase: a linear filter's mean over phases says nothing of them."""
    torch.manual_seed(0)
    columns = torch.arange(64)
    striped = torch.stack([((columns + phase) // 2 % 2).float().expand(3, 32, 64) for phase in range(4)]) - 0.5
    plain = torch.zeros_like(striped)
    stem = DetailStem(fine_width=6, width=10)
    inside = (slice(None), slice(None), slice(2, 6), slice(2, 14))
    linear = stem.look[0]
    apart = [(f(striped)[inside] - f(plain)[inside]).mean(dim=(0, 2, 3)).abs().max() for f in (linear, stem.look)]
    assert apart[0] < 1e-5 < 1e-3 < apart[1]
