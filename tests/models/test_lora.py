"""Low-rank adapters: what they change, what they do not, and that folding changes nothing."""

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.errors import WeightsError
from pipeline.models.lora import LoraQkv, add_lora, fold_lora
from pipeline.models.sam2_core import build_sam2
from pipeline.models.samwise_variants import small_sam2

WIDTH = 6


def adapted(*, widens: bool, seed: int = 0) -> LoraQkv:
    """A projection whose adapters do something; `widens` as where a stage ends."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = LoraQkv(nn.Linear(WIDTH, 3 * WIDTH * (2 if widens else 1)), rank=2)
        for up in (module.linear_b_q, module.linear_b_v):
            nn.init.normal_(up.weight)
    return module


def windows(seed: int = 0) -> torch.Tensor:
    return torch.randn(2, 3, 5, WIDTH, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("widens", [False, True])
def test_only_the_first_and_the_last_input_width_of_the_output_change(widens: bool) -> None:
    module, x = adapted(widens=widens), windows()
    update = (module(x) - module.qkv(x)).detach().numpy()
    assert update.shape == (2, 3, 5, module.qkv.out_features)
    query = x.numpy() @ (module.linear_b_q.weight @ module.linear_a_q.weight).detach().numpy().T
    value = x.numpy() @ (module.linear_b_v.weight @ module.linear_a_v.weight).detach().numpy().T
    np.testing.assert_allclose(update[..., :WIDTH], query, atol=1e-5)
    np.testing.assert_allclose(update[..., -WIDTH:], value, atol=1e-5)
    assert not update[..., WIDTH:-WIDTH].any()


def test_fresh_adapters_change_nothing() -> None:
    module, x = LoraQkv(nn.Linear(WIDTH, 3 * WIDTH), rank=2), windows()
    assert torch.equal(module(x), module.qkv(x))
    assert module.linear_a_q.weight.any()


@pytest.mark.parametrize("widens", [False, True])
def test_a_folded_projection_gives_the_same(widens: bool) -> None:
    module, x = adapted(widens=widens), windows(seed=1)
    assert torch.allclose(module.folded()(x), module(x), atol=1e-5)


def test_folding_an_encoder_leaves_its_features_and_no_adapter() -> None:
    core = build_sam2(small_sam2(embed_dim=8, stages=(1, 1, 2, 1), d_model=32, image_size=64), seed=0)
    plain_keys = set(core.model.state_dict())
    trunk = core.model.image_encoder.trunk
    add_lora(trunk, rank=2)
    with torch.no_grad():
        for name, parameter in trunk.named_parameters():
            if ".linear_b_" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)) / 4)
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        before = core.encode_image(images)
    worst = fold_lora(trunk)
    with torch.inference_mode():
        after = core.encode_image(images)
    assert 0 < worst < 1e-5
    assert torch.allclose(before.map_BDhw, after.map_BDhw, atol=1e-4)
    assert set(core.model.state_dict()) == plain_keys
    assert fold_lora(trunk) == 0.0


def test_adapters_that_are_not_finite_are_refused_and_nothing_is_folded() -> None:
    core = build_sam2(small_sam2(embed_dim=8, stages=(1, 1, 2, 1), d_model=32, image_size=64), seed=0)
    trunk = core.model.image_encoder.trunk
    add_lora(trunk, rank=2)
    with torch.no_grad():
        trunk.blocks[3].attn.qkv.linear_b_v.weight[0, 0] = torch.nan
    with pytest.raises(WeightsError, match="block 3"):
        fold_lora(trunk)
    assert all(isinstance(block.attn.qkv, LoraQkv) for block in trunk.blocks)
