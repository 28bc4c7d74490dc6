"""MemorySAM's training: which parts move, that a cut run goes on bit for bit, and that it learns."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipeline.errors import ConfigError
from pipeline.io.storage import open_store
from pipeline.models.memorysam_architecture import named_architecture
from pipeline.models.memorysam_init import random_memorysam
from pipeline.models.memorysam_network import MemorySamNetwork
from pipeline.training.checkpoints import load_latest
from pipeline.training.loop import LoopConfig, train
from pipeline.training.memorysam import MemorySamLearner, trained_parameters
from pipeline.training.memorysam_augment import Augmentation
from pipeline.training.memorysam_recipes import MemorySamTraining, deliver, streets
from tests.training.small_memorysam import Quarters, mini, small_training
from tests.training.test_loop import assert_same


def learner_of(training: MemorySamTraining, *, seed: int = 0) -> MemorySamLearner:
    return MemorySamLearner(random_memorysam(mini(), seed=seed), Quarters(), training)


def count(parameters: dict[str, nn.Parameter]) -> int:
    return sum(parameter.numel() for parameter in parameters.values())


@pytest.mark.slow
def test_the_published_sizes_have_the_published_keys_and_trained_parameters() -> None:
    network = MemorySamNetwork(named_architecture("memorysam-base"))
    state = network.state_dict()
    assert len(state) == 840
    assert sum(p.numel() for p in network.parameters()) == 84_080_216
    assert (
        sum(p.numel() for name, p in network.named_parameters() if ".linear_" in name and ".attn." in name) == 159_488
    )
    assert count(trained_parameters(network, "lora")) == 14_499_697
    assert count(trained_parameters(network, "lora", train_memory=False)) == 7_192_785


def test_what_lora_trains_is_adapters_decoder_memory_and_embeddings() -> None:
    names = set(trained_parameters(random_memorysam(mini(), seed=0), "lora"))
    assert any(".linear_b_v." in name for name in names)
    assert not any(part in name for part in ("iou_prediction_head", "pred_obj_score_head") for name in names)
    parts = {name.removeprefix("core.model.").split(".")[0] for name in names}
    assert parts == {
        *("image_encoder", "memory_attention", "memory_encoder", "sam_mask_decoder", "mask_downsample"),
        *("maskmem_tpos_enc", "no_mem_embed", "no_mem_pos_enc", "no_obj_ptr"),
    }
    assert not any("image_encoder" in name and ".linear_" not in name for name in names)


def gradients_of(learner: MemorySamLearner, positions: list[int]) -> dict[str, Tensor]:
    losses = learner.losses(positions)
    torch.autograd.backward(torch.stack(list(losses.means.values())).sum())
    return {name: p.grad for name, p in learner.network.named_parameters() if p.grad is not None and p.grad.any()}


@pytest.mark.parametrize("spmm", ["reference", "masked", "off"])
def test_every_trained_parameter_that_is_used_gets_a_gradient_and_no_frozen_one(spmm: str) -> None:
    learner = learner_of(small_training(trained="lora", spmm=spmm))
    with torch.no_grad():
        # Adapters begin at zero, behind which A would get no gradient.
        for name, parameter in learner.network.named_parameters():
            if ".linear_b_" in name:
                parameter.normal_(std=0.02, generator=torch.Generator().manual_seed(0))
    learner.losses([0, 1])  # the first step of "masked" has no loss
    gradients = gradients_of(learner, [2, 3])
    silent = {name.removeprefix("core.model.") for name in set(learner.trained()) - set(gradients)}
    # Mask token 0 and its head are no class; nothing is gated, and no mask is given.
    first_head = {name for name in silent if name.startswith("sam_mask_decoder.output_hypernetworks_mlps.0.")}
    assert silent - first_head == {"no_mem_pos_enc", "no_obj_ptr", "mask_downsample.weight", "mask_downsample.bias"}
    assert first_head
    assert set(gradients) <= set(learner.trained())


def test_prototypes_reach_the_encoder_but_not_the_memory() -> None:
    learner = learner_of(small_training(spmm_weight=1.0))
    learner.losses([0, 1])
    loss = learner.losses([2, 3]).means["prototypes"]
    torch.autograd.backward(loss)
    moved = {
        n.removeprefix("core.model.")
        for n, p in learner.network.named_parameters()
        if p.grad is not None and p.grad.any()
    }
    assert any(name.startswith("image_encoder.trunk") for name in moved)
    assert {name for name in moved if name.startswith("sam_mask_decoder")} == {
        "sam_mask_decoder.conv_s0.weight",
        "sam_mask_decoder.conv_s0.bias",
    }
    assert not any(name.startswith("memory") for name in moved)


def test_a_resumed_training_continues_bit_for_bit_prototypes_included(tmp_path: Path) -> None:
    training = small_training(spmm="masked", dropout=True, modality_drop=0.3, augmentation=Augmentation())
    whole, cut = open_store(tmp_path / "whole"), open_store(tmp_path / "cut")
    expected = train(learner_of(training), training.loop, store=whole)
    first = train(learner_of(training), training.loop, store=cut, stop_after=2)
    second = train(learner_of(training), training.loop, store=cut, resume=True)
    assert {**first.scalars, **second.scalars} == expected.scalars
    ended: Any = load_latest(whole)
    assert_same(load_latest(cut), ended)
    assert ended["training"]["buffers"]["prototypes.global_KP"].any()
    assert not any("prototypes" in name for name in ended["model"])


def test_lora_leaves_every_other_weight_as_it_was_and_another_base_is_not_resumed(tmp_path: Path) -> None:
    training = small_training(trained="lora")
    learner, store = learner_of(training), open_store(tmp_path)
    before = {name: tensor.clone() for name, tensor in learner.network.state_dict().items()}
    train(learner, training.loop, store=store, stop_after=1)
    after = learner.network.state_dict()
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    assert changed
    assert changed <= set(learner.trained())
    with pytest.raises(ConfigError, match="frozen_weights"):
        train(learner_of(training, seed=1), training.loop, store=store, resume=True)


def test_weight_decay_leaves_norms_and_biases_alone() -> None:
    rates = {"learning_rate": 1e-3, "weight_decay": 100.0, "num_steps": 1, "batch_size": 1}
    scales: dict[bool, float] = {}
    fresh: Any = random_memorysam(mini(), seed=0)
    before = fresh.core.model.memory_attention.layers[0].linear1.weight.detach().norm()
    for decays in (True, False):
        training = small_training(loop=LoopConfig(decay_vectors=decays, **rates))  # type: ignore[arg-type]
        learner = learner_of(training)
        train(learner, training.loop)
        trained = learner.trained()
        scales[decays] = float(trained["core.model.memory_attention.norm.weight"].detach().mean())
        # One step takes a tenth off all that decays, besides what Adam moves by 1e-3.
        matrix = trained["core.model.memory_attention.layers.0.linear1.weight"].detach().norm()
        assert float(matrix) == pytest.approx(0.9 * float(before), rel=0.02)
    assert scales[True] == pytest.approx(0.9, abs=2e-3)
    assert scales[False] == pytest.approx(1.0, abs=2e-3)


def test_recipes_are_the_released_one_and_that_of_the_streets() -> None:
    released = deliver().for_items(3983)
    assert (released.loop.num_steps, released.loop.schedule.warmup_steps) == (200 * 248, 2480)
    assert released.loop.schedule.horizon_steps == 201 * 248
    assert (released.loop.weight_decay, released.loop.decay_vectors, released.loop.seed) == (0.01, False, 3407)
    assert (released.trained, released.train_memory, released.prototype_weight) == ("lora", True, 65536.0)
    assert (streets().trained, streets().prototype_weight) == ("all", 1.0)
    with pytest.raises(ConfigError, match="without end"):
        deliver().for_items(None)
    with pytest.raises(ConfigError, match="fewer than one batch"):
        deliver().for_items(3)


def test_the_loss_falls_and_the_labels_become_right() -> None:
    """Twenty steps on four quarters, seconds on one core: from chance to nearly all pixels."""
    loop = LoopConfig(num_steps=20, batch_size=4, learning_rate=2e-3)
    learner = learner_of(small_training(loop=loop))
    scalars = train(learner, loop).scalars
    assert scalars[0]["pixel_accuracy"] < 0.5
    assert min(scalars[step]["ohem"] for step in range(15, 20)) < 0.6 * scalars[0]["ohem"]
    assert sum(scalars[step]["pixel_accuracy"] for step in range(15, 20)) / 5 > 0.75
