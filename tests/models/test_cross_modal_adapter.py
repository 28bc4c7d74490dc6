"""The adapter beside a slow version of itself, written in loops, and its published sizes."""

import pytest
import torch
from torch import Tensor, nn

from pipeline.models.attention import multihead_attention, sine_time_code
from pipeline.models.cross_modal_adapter import CrossModalAdapter


def adapter(*, hsa: bool = True, side: int = 2) -> CrossModalAdapter:
    built = CrossModalAdapter(vision_width=12, text_width=10, width=16, block_side=side, hsa=hsa, num_heads=4).eval()
    for norm in (built.proj_vis_down[1], built.proj_vis_up[1]):
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 1.5)
    return built


def test_attention_is_torchs_own() -> None:
    weights = nn.MultiheadAttention(16, 4, batch_first=True).eval()
    weights.in_proj_bias.data.normal_()
    query, memory = torch.randn(3, 5, 16), torch.randn(3, 7, 16)
    keep = torch.rand(3, 7) > 0.4
    keep[:, 0] = True
    wanted, _ = weights(query, memory, memory, key_padding_mask=~keep)
    torch.testing.assert_close(multihead_attention(weights, query, memory, keep_BM=keep), wanted, rtol=0, atol=1e-6)


def test_the_time_code_by_hand() -> None:
    code = sine_time_code(3, 6)
    for frame in range(3):
        for channel in range(6):
            angle = torch.tensor((frame + 1) / 3.000001 * 2 * torch.pi / 10000 ** (2 * (channel // 2) / 6))
            wanted = angle.cos() if channel % 2 else angle.sin()
            assert abs(float(code[frame, channel] - wanted)) < 1e-5


@pytest.mark.parametrize(("height", "width", "side", "num_frames"), [(4, 6, 2, 3), (8, 4, 4, 1), (3, 6, 3, 2)])
def test_blocks_attend_over_themselves_in_all_frames_and_nowhere_else(
    height: int, width: int, side: int, num_frames: int
) -> None:
    built = adapter(side=side)
    vision = torch.randn(2 * num_frames, 16, height, width)
    wanted = vision.clone()
    time = sine_time_code(num_frames, 16)
    for video in range(2):
        frames = slice(video * num_frames, (video + 1) * num_frames)
        for top in range(0, height, side):
            for left in range(0, width, side):
                block = vision[frames, :, top : top + side, left : left + side]
                tokens = block.permute(0, 2, 3, 1).reshape(num_frames, side * side, 16)
                placed = tokens + time[:, None] + built.spatial_pos_embed[0, 0]
                related = built.hsa(built.norm_pre_HSA(placed.reshape(1, -1, 16)))
                delta = related.reshape(num_frames, side, side, 16).permute(0, 3, 1, 2)
                wanted[frames, :, top : top + side, left : left + side] += delta
    torch.testing.assert_close(built.relate_frames(vision, num_frames=num_frames), wanted, rtol=0, atol=1e-5)


def test_without_hsa_frames_of_a_clip_do_not_change_each_others_vision() -> None:
    built, text = adapter(hsa=False), torch.randn(1, 5, 10)
    vision = torch.randn(3, 12, 5, 3)
    changed = vision.clone()
    changed[2] += 1
    before, after = (built(maps, text, num_frames=3)[0] for maps in (vision, changed))
    torch.testing.assert_close(before[:2], after[:2], rtol=0, atol=1e-6)


def test_with_hsa_they_do() -> None:
    built, text = adapter(), torch.randn(1, 5, 10)
    vision = torch.randn(3, 12, 4, 6)
    changed = vision.clone()
    changed[2] += 1
    before, after = (built(maps, text, num_frames=3)[0] for maps in (vision, changed))
    assert not torch.allclose(before[:2], after[:2], atol=1e-4)


def test_two_expressions_in_a_batch_are_what_each_is_alone() -> None:
    built, text, vision = adapter(), torch.randn(2, 5, 10), torch.randn(6, 12, 4, 6)
    both = built(vision, text, num_frames=3)
    for video in range(2):
        alone = built(vision[video * 3 : video * 3 + 3], text[video : video + 1], num_frames=3)
        torch.testing.assert_close(both[0][video * 3 : video * 3 + 3], alone[0], rtol=0, atol=1e-5)
        torch.testing.assert_close(both[1][video : video + 1], alone[1], rtol=0, atol=1e-5)


def test_masked_padding_changes_nothing_and_unmasked_padding_does() -> None:
    built, text, vision = adapter(), torch.randn(1, 4, 10), torch.randn(2, 12, 4, 6)
    padded = torch.cat([text, torch.randn(1, 3, 10)], dim=1)
    keep = torch.tensor([[True] * 4 + [False] * 3])
    wanted, _ = built(vision, text, num_frames=2)
    masked, _ = built(vision, padded, num_frames=2, keep_BL=keep)
    read, _ = built(vision, padded, num_frames=2)
    torch.testing.assert_close(masked, wanted, rtol=0, atol=1e-5)
    assert not torch.allclose(read, wanted, atol=1e-4)


def test_the_visual_delta_is_never_negative() -> None:
    vision_delta, text_delta = adapter()(torch.randn(2, 12, 4, 6), torch.randn(1, 5, 10), num_frames=2)
    assert vision_delta.min().item() >= 0
    assert text_delta.min().item() < 0


@pytest.mark.parametrize(("height", "width"), [(10, 8), (8, 10), (3, 4)])
def test_a_map_that_blocks_do_not_divide_is_refused(height: int, width: int) -> None:
    with pytest.raises(ValueError, match="multiples of 4"):
        adapter(side=4)(torch.randn(1, 12, height, width), torch.randn(1, 5, 10), num_frames=1)


def test_maps_that_are_no_whole_clips_are_refused() -> None:
    with pytest.raises(ValueError, match="expected expressions"):
        adapter()(torch.randn(5, 12, 4, 6), torch.randn(2, 5, 10), num_frames=3)


@pytest.mark.parametrize(
    ("channels", "side", "parameters"), [(224, 8, 1_381_056), (448, 4, 1_483_904), (896, 2, 1_711_104)]
)
def test_the_official_sizes_have_the_published_numbers_of_parameters(channels: int, side: int, parameters: int) -> None:
    built = CrossModalAdapter(vision_width=channels, text_width=768, block_side=side)
    assert sum(p.numel() for p in built.parameters()) == parameters


def test_gradients_reach_every_parameter() -> None:
    built = adapter().train()
    outputs: tuple[Tensor, Tensor] = built(torch.randn(4, 12, 4, 6), torch.randn(2, 5, 10), num_frames=2)
    (outputs[0].square().sum() + outputs[1].square().sum()).backward()
    assert [name for name, p in built.named_parameters() if p.grad is None] == []
