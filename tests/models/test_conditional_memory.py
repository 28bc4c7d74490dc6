"""When the memory is questioned, how it decides, and what it sees after a switch."""

import pytest
import torch

from pipeline.models.conditional_memory import (
    CmeFusion,
    ConditionalMemoryEncoder,
    fuse_mask_logits,
    is_evaluation_due,
)


@pytest.mark.parametrize(
    ("window", "switches", "questioned"),
    [
        (4, [], [5, 6, 7, 8, 9, 10, 11]),
        (4, [5], [5, 8, 9, 10, 11]),
        (4, [5, 8], [5, 8, 11]),
        (1, [], [2, 3, 4, 5, 6, 7, 8, 9, 10, 11]),
        (1, [2, 3], [2, 3, 4, 5, 6, 7, 8, 9, 10, 11]),
        (6, [7], [7]),
    ],
)
def test_the_window_decides_which_frames_are_questioned(
    window: int, switches: list[int], questioned: list[int]
) -> None:
    last, asked = 0, []
    for frame in range(12):
        if is_evaluation_due(frame, last, window=window):
            asked.append(frame)
            last = frame if frame in switches else last
    assert asked == questioned


@pytest.mark.parametrize(
    ("fusion", "wanted"),
    [
        ("reweight", [[-3.0, 20.0], [5.0, 10.0]]),
        ("all_mask", [[-1.0, 2.0], [-4.0, 1.0]]),
        ("avg", [[-2.0, 0.0], [0.5, 4.0]]),
    ],
)
def test_fusion_by_hand(fusion: CmeFusion, wanted: list[list[float]]) -> None:
    with_memory = torch.tensor([[-3.0, -2.0], [5.0, 7.0]])
    memory_less = torch.tensor([[-1.0, 2.0], [-4.0, 1.0]])
    assert fuse_mask_logits(with_memory, memory_less, fusion=fusion).tolist() == wanted


def test_an_absent_memory_less_mask_reweighs_nothing() -> None:
    with_memory = torch.randn(1, 1, 5, 7)
    assert torch.equal(fuse_mask_logits(with_memory, torch.full((1, 1, 5, 7), -1024.0), fusion="reweight"), with_memory)


def test_the_decision_block_is_torchs_post_norm_layer_under_other_names() -> None:
    cme = ConditionalMemoryEncoder(32, feedforward_width=24, num_heads=4).eval()
    block = cme.transformerBlock
    reference = torch.nn.TransformerEncoderLayer(32, 4, 24, dropout=0.1, batch_first=True).eval()
    for name in ("self_attn", "linear1", "linear2", "norm1"):
        getattr(reference, name).load_state_dict(getattr(block, name).state_dict())
    reference.norm2.load_state_dict(block.norm3.state_dict())
    pointer, early = torch.randn(3, 32), torch.randn(3, 32)
    tokens = torch.stack([cme.decision_token.weight.expand(3, -1), pointer, early], dim=1)
    wanted = cme.decision_class_head(reference(tokens)[:, 0])
    torch.testing.assert_close(cme(pointer, early), wanted, rtol=0, atol=1e-5)


def test_the_decision_teaches_itself_only_and_not_the_decoder() -> None:
    cme = ConditionalMemoryEncoder(16, feedforward_width=8, num_heads=2)
    pointer, early = torch.randn(2, 16, requires_grad=True), torch.randn(2, 16, requires_grad=True)
    cme(pointer, early).sum().backward()
    assert pointer.grad is None
    assert early.grad is None
    assert cme.decision_class_head.weight.grad is not None


def test_the_official_size_has_the_published_number_of_parameters() -> None:
    assert sum(p.numel() for p in ConditionalMemoryEncoder().parameters()) == 331_394
