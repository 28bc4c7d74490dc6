"""First weights: published parts, pre-trained weights without the parts that fine-tuning adds, and what is refused."""

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from pipeline.errors import WeightsError
from pipeline.models.samwise_checkpoint import checkpoint_tensors
from pipeline.models.samwise_network import SamwiseNetwork
from pipeline.training.initial_weights import initial_network, named_architecture
from pipeline.training.samwise_recipes import pretrain, trained_architecture
from tests.training.small_samwise import mini, mini_clip


@pytest.fixture(scope="module")
def whole() -> SamwiseNetwork:
    torch.manual_seed(5)
    return SamwiseNetwork(mini())


@pytest.fixture(scope="module")
def pre_trained() -> SamwiseNetwork:
    torch.manual_seed(6)
    return SamwiseNetwork(trained_architecture(mini(), pretrain()))


def part(network: SamwiseNetwork, prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in network.state_dict().items() if k.startswith(prefix)}


def assert_part_is(network: SamwiseNetwork, prefix: str, expected: Mapping[str, Tensor]) -> None:
    own = part(network, prefix)
    assert own.keys() == expected.keys()
    assert all(torch.equal(own[name], expected[name]) for name in own)


def test_sam2_and_text_encoder_fill_the_frozen_parts(whole: SamwiseNetwork) -> None:
    sam2 = part(whole, "core.model.")
    # As transformers saves RobertaForMaskedLM.
    text = {f"roberta.{name}": value for name, value in part(whole, "text_encoder.roberta.").items()}
    text |= {"lm_head.bias": torch.zeros(3), "roberta.embeddings.position_ids": torch.arange(4)}
    network = initial_network(mini(), seed=0, sam2=sam2, text=text)
    assert_part_is(network, "core.", part(whole, "core."))
    assert_part_is(network, "text_encoder.", part(whole, "text_encoder."))


def test_clip_text_towers_fit_too() -> None:
    torch.manual_seed(7)
    other = SamwiseNetwork(mini_clip())
    text = {f"text_model.{name}": value for name, value in part(other, "text_encoder.clip.").items()}
    network = initial_network(mini_clip(), seed=0, sam2=part(other, "core.model."), text=text)
    assert_part_is(network, "text_encoder.", part(other, "text_encoder."))


def test_fine_tuning_adds_what_pre_training_went_without(whole: SamwiseNetwork, pre_trained: SamwiseNetwork) -> None:
    earlier = checkpoint_tensors(pre_trained)
    network = initial_network(mini(), seed=0, sam2=part(whole, "core.model."), samwise={"model": earlier})
    assert torch.equal(network.project_text.layers[0].weight, pre_trained.project_text.layers[0].weight)  # type: ignore[arg-type]
    state = network.state_dict()
    # What the earlier training has wins; its missing object score comes from SAM2; HSA begins random.
    assert torch.equal(state["core.model.maskmem_tpos_enc"], pre_trained.state_dict()["core.model.maskmem_tpos_enc"])
    assert torch.equal(state["core.model.no_obj_ptr"], whole.state_dict()["core.model.no_obj_ptr"])
    assert any("adapters.0.hsa." in name for name in state)


def test_pre_training_leaves_out_what_it_does_not_use(whole: SamwiseNetwork) -> None:
    architecture = trained_architecture(mini(), pretrain())
    network = initial_network(architecture, seed=0, samwise=checkpoint_tensors(whole))
    assert torch.equal(network.project_text.layers[0].weight, whole.project_text.layers[0].weight)  # type: ignore[arg-type]
    assert not any("hsa" in name or "obj_score" in name for name in network.state_dict())


def test_a_frozen_part_that_would_stay_random_is_refused(pre_trained: SamwiseNetwork, whole: SamwiseNetwork) -> None:
    with pytest.raises(WeightsError, match="frozen parameters would stay random"):
        initial_network(mini(), seed=0, samwise=checkpoint_tensors(pre_trained))
    with pytest.raises(WeightsError, match="frozen parameters would stay random"):
        initial_network(mini(), seed=0, sam2=part(whole, "core.model."))
    initial_network(mini(), seed=0, trained="all", samwise=checkpoint_tensors(pre_trained))


def test_weights_that_do_not_fit_are_refused(whole: SamwiseNetwork) -> None:
    tensors = checkpoint_tensors(whole)
    short = {name: value for name, value in tensors.items() if "project_text" not in name}
    with pytest.raises(WeightsError, match=r"6 tensors missing .*project_text"):
        initial_network(mini(), seed=0, samwise=short)
    with pytest.raises(WeightsError, match=r"1 left over \(\['sam.stranger'\]\)"):
        initial_network(mini(), seed=0, samwise={**tensors, "sam.stranger": torch.zeros(1)})
    name = "conditional_memory_encoder.decision_token.weight"
    with pytest.raises(WeightsError, match=r"1 of another shape .*decision_token.weight is \(2, 32\)"):
        initial_network(mini(), seed=0, samwise={**tensors, name: torch.zeros(2, 32)})


def test_what_nothing_fills_depends_on_the_seed_alone(whole: SamwiseNetwork) -> None:
    sam2, text = part(whole, "core.model."), part(whole, "text_encoder.roberta.")
    first, again, other = (initial_network(mini(), seed=seed, sam2=sam2, text=text) for seed in (0, 0, 1))
    assert_part_is(again, "adapters.", part(first, "adapters."))
    name = "adapters.0.proj_text_up.0.weight"
    assert not torch.equal(first.state_dict()[name], other.state_dict()[name])


def test_an_unknown_architecture_is_told_with_the_known_ones() -> None:
    with pytest.raises(WeightsError, match="expected one of tiny, mini"):
        named_architecture("huge")
