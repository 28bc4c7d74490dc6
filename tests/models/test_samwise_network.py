"""The network's two halves, fuse and segment, and what a memory switch changes."""

import pytest
import torch
from torch import Tensor

from pipeline.models.conditional_memory import CmeFusion
from pipeline.models.image_encoding import ImageFeatures
from pipeline.models.memory import MemorySelection
from pipeline.models.samwise_architecture import SamwiseArchitecture, read_architecture
from pipeline.models.samwise_init import random_samwise
from pipeline.models.samwise_network import SamwiseNetwork
from pipeline.models.samwise_rows import RowBatch, segment_rows
from pipeline.models.samwise_variants import ARCHITECTURES

MINI = read_architecture(ARCHITECTURES["mini"], name="mini")
TOKENS = torch.tensor([[0, 14, 22, 50, 2], [0, 16, 24, 51, 2]])


@pytest.fixture(scope="module")
def network() -> SamwiseNetwork:
    return random_samwise(MINI.model_copy(update={"motion_prompt": True}), seed=1)


@pytest.fixture
def images() -> Tensor:
    return torch.randn(3, 3, 64, 64)


@torch.no_grad()
def test_text_layers_and_adapters_alternate_as_configured(network: SamwiseNetwork, images: Tensor) -> None:
    """The same fusion written out: layers 1, 2, none, an adapter after each."""
    fused = network.fuse(network.encode_prefix(images), TOKENS[:1], num_frames=3)
    encoder, trunk = network.text_encoder, network.core
    text = encoder.run_layers(encoder.embed(TOKENS[:1]), start=0, stop=1)  # type: ignore[operator]
    maps = list(trunk.begin_stages(images).maps)
    for level in range(3):
        if level == 1:
            text = encoder.run_layers(text, start=1, stop=2)  # type: ignore[operator]
        delta, text_delta = network.adapters[level](maps[-1], text, num_frames=3)
        maps[-1], text = maps[-1] + delta, text + text_delta
        if level < 2:
            ends = MINI.sam2.stage_ends
            x = maps[-1].permute(0, 2, 3, 1)
            for block in trunk.model.image_encoder.trunk.blocks[ends[level + 1] + 1 : ends[level + 2] + 1]:
                x = block(x)
            maps.append(x.permute(0, 3, 1, 2))
    wanted = trunk.to_features(maps)
    torch.testing.assert_close(fused.features.map_BDhw, wanted.map_BDhw, rtol=0, atol=1e-5)
    torch.testing.assert_close(fused.prompt_BSE[:, 0], network.project_text(text[:, 0]), rtol=0, atol=1e-5)


@torch.no_grad()
def test_two_expressions_fused_at_once_are_what_each_is_alone(network: SamwiseNetwork, images: Tensor) -> None:
    prefix = network.encode_prefix(images)
    both = network.fuse(prefix.rows([0, 1, 2, 0, 1, 2]), TOKENS, num_frames=3)
    for row in range(2):
        alone = network.fuse(prefix, TOKENS[row : row + 1], num_frames=3)
        mine = both.features.rows(range(row * 3, row * 3 + 3))
        torch.testing.assert_close(mine.map_BDhw, alone.features.map_BDhw, rtol=0, atol=1e-5)
        torch.testing.assert_close(both.prompt_BSE[row : row + 1], alone.prompt_BSE, rtol=0, atol=1e-5)


@torch.no_grad()
def test_masked_padding_gives_what_the_short_text_gives(network: SamwiseNetwork, images: Tensor) -> None:
    prefix = network.encode_prefix(images)
    padded = torch.cat([TOKENS[:1], torch.ones(1, 3, dtype=torch.long)], dim=1)
    wanted = network.fuse(prefix, TOKENS[:1], num_frames=3)
    masked = network.fuse(prefix, padded, num_frames=3, keep_BL=padded != 1)
    read = network.fuse(prefix, padded, num_frames=3, keep_BL=padded != 1, mask_text_padding=False)
    torch.testing.assert_close(masked.prompt_BSE, wanted.prompt_BSE, rtol=0, atol=1e-5)
    torch.testing.assert_close(masked.features.map_BDhw, wanted.features.map_BDhw, rtol=0, atol=1e-5)
    assert not torch.allclose(read.features.map_BDhw, wanted.features.map_BDhw, atol=1e-5)


@torch.no_grad()
def test_the_motion_prompt_is_a_second_token_of_the_marked_words(network: SamwiseNetwork, images: Tensor) -> None:
    prefix = network.encode_prefix(images)
    plain = network.fuse(prefix, TOKENS[:1], num_frames=3)
    one_hot = torch.tensor([[0.0, 0, 0, 1, 0]])
    first = network.fuse(prefix, TOKENS[:1], num_frames=3, motion_BL=one_hot)
    pooled = network.fuse(prefix, TOKENS[:1], num_frames=3, motion_BL=torch.tensor([[0, 0.5, 0, 0.5, 0]]))
    assert plain.prompt_BSE.shape[1] == 1
    assert first.prompt_BSE.shape[1] == 2
    assert torch.equal(first.prompt_BSE[:, 0], plain.prompt_BSE[:, 0])
    assert not torch.allclose(first.prompt_BSE[:, 1], pooled.prompt_BSE[:, 1])


def test_a_motion_prompt_without_its_projection_is_refused(images: Tensor) -> None:
    network = random_samwise(MINI, seed=1)
    with pytest.raises(ValueError, match="motion_prompt"):
        network.fuse(network.encode_prefix(images), TOKENS[:1], num_frames=3, motion_BL=torch.ones(1, 5) / 5)


def test_the_memory_policy_follows_from_sam2s_tables(network: SamwiseNetwork) -> None:
    assert (network.memory_policy.num_recent, network.memory_policy.num_pointers) == (4, 4)
    base = SamwiseArchitecture.model_validate(ARCHITECTURES["samwise-base"]).sam2
    assert (base.num_maskmem - 1, base.max_obj_ptrs_in_encoder - 1) == (6, 15)


def rows_of(network: SamwiseNetwork, images: Tensor, due: list[bool]) -> RowBatch:
    fused = network.fuse(network.encode_prefix(images), TOKENS[:1], num_frames=3)
    return RowBatch(
        features=fused.features,
        selections=[MemorySelection()] * 3,
        prompt_RSE=fused.prompt_BSE.expand(3, -1, -1),
        cme_due=due,
    )


def decide(network: SamwiseNetwork, *, switch: bool) -> None:
    """Bias the decision so that it is certain."""
    assert network.cme is not None
    network.cme.decision_class_head.bias.data = torch.tensor([-500.0, 500.0] if switch else [500.0, -500.0])


@pytest.mark.parametrize("fusion", ["reweight", "all_mask", "avg"])
@torch.no_grad()
def test_a_switch_changes_what_is_remembered_and_never_what_is_given_out(images: Tensor, fusion: CmeFusion) -> None:
    network = random_samwise(MINI, seed=1)
    batch = rows_of(network, images, [False, True, True])
    # Without memory both decodes would be alike: let the one with memory be told something else.
    batch = RowBatch(
        features=batch.features, selections=batch.selections, prompt_RSE=batch.prompt_RSE + 3, cme_due=batch.cme_due
    )
    decide(network, switch=False)
    kept = segment_rows(network, batch, fusion=fusion)
    decide(network, switch=True)
    original = network.segment_without_memory
    network.segment_without_memory = lambda features, prompt: original(features, prompt - 3)  # type: ignore[method-assign]
    switched = segment_rows(network, batch, fusion=fusion)
    assert kept.switched_R.tolist() == [False, False, False]
    assert switched.switched_R.tolist() == [False, True, True]
    assert torch.equal(kept.logits_R1HW, switched.logits_R1HW)
    assert torch.equal(kept.output.object_pointer_RD, switched.output.object_pointer_RD)
    changed = [not torch.allclose(kept.memory_RChw[r], switched.memory_RChw[r], atol=1e-4) for r in range(3)]
    assert changed == [False, True, True]


@torch.no_grad()
def test_a_tie_keeps(images: Tensor) -> None:
    network = random_samwise(MINI, seed=1)
    assert network.cme is not None
    network.cme.decision_class_head.weight.zero_()
    network.cme.decision_class_head.bias.zero_()
    results = segment_rows(network, rows_of(network, images, [True] * 3), fusion="reweight")
    assert results.switched_R.tolist() == [False, False, False]


@torch.no_grad()
def test_the_memory_less_decode_never_hears_the_motion_prompt(network: SamwiseNetwork, images: Tensor) -> None:
    batch = rows_of(network, images, [True] * 3)
    longer = torch.cat([batch.prompt_RSE, torch.randn(3, 1, 32)], dim=1)
    with_motion = network.segment_without_memory(batch.features, longer)
    without = network.segment_without_memory(batch.features, batch.prompt_RSE)
    assert torch.equal(with_motion.low_res_logits_R1hw, without.low_res_logits_R1hw)


@torch.no_grad()
def test_absent_objects_are_painted_out_at_inference_and_left_in_training(images: Tensor) -> None:
    network = random_samwise(MINI, seed=1)
    network.core.model.sam_mask_decoder.pred_obj_score_head.layers[-1].bias.fill_(-50.0)
    batch = rows_of(network, images, [False] * 3)
    gated = network.segment(batch.features, batch.selections, batch.prompt_RSE)
    free = network.segment(batch.features, batch.selections, batch.prompt_RSE, gate_absent=False)
    assert bool((gated.low_res_logits_R1hw == -1024).all())
    assert not bool((free.low_res_logits_R1hw == -1024).any())
    absent = network.core.model.no_obj_ptr.expand(3, -1)
    torch.testing.assert_close(gated.object_pointer_RD, absent)


def test_features_of_other_rows_do_not_change_a_row(network: SamwiseNetwork, images: Tensor) -> None:
    with torch.no_grad():
        batch = rows_of(network, images, [False] * 3)
        one = network.segment(batch.features, batch.selections, batch.prompt_RSE)
        shuffled: ImageFeatures = batch.features.rows([0, 2, 2])
        other = network.segment(shuffled, batch.selections, batch.prompt_RSE)
    torch.testing.assert_close(one.low_res_logits_R1hw[0], other.low_res_logits_R1hw[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("num_rows", [2, 5, 7])
@torch.no_grad()
def test_a_rows_place_in_the_batch_changes_no_bit_of_it(network: SamwiseNetwork, num_rows: int) -> None:
    fused = network.fuse(network.encode_prefix(torch.randn(num_rows, 3, 64, 64)), TOKENS[:1], num_frames=num_rows)
    prompt = torch.randn(num_rows, 1, 32)
    nothing = [MemorySelection()] * num_rows
    wanted = network.segment(fused.features, nothing, prompt)
    for shift in range(1, num_rows):
        order = [(row + shift) % num_rows for row in range(num_rows)]
        moved = network.segment(_channels_last(fused.features.rows(order)), nothing, prompt[order])
        for name in (
            "low_res_logits_R1hw",
            "predicted_iou_R",
            "object_score_R1",
            "object_pointer_RD",
            "early_token_RD",
        ):
            assert torch.equal(getattr(moved, name), getattr(wanted, name)[order]), name


def _channels_last(features: ImageFeatures) -> ImageFeatures:
    fine, middle, coarse = (
        x.contiguous(memory_format=torch.channels_last) for x in (*features.high_res, features.map_BDhw)
    )
    return ImageFeatures(high_res=(fine, middle), map_BDhw=coarse, pos_BDhw=features.pos_BDhw)
