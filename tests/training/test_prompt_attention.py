"""The decoder's start for prompts: the tied heads find the cell that was clicked, the others are as they were."""

import torch

from pipeline.models.sam2_core import build_sam2
from pipeline.models.sam2_variants import Sam2Config
from pipeline.training.prompt_attention import SHARE_OF_HEADS, compare_places
from tests.training.small_tiny import small_architecture

CLICKS = ((8.0, 40.0), (56.0, 8.0), (40.0, 40.0), (24.0, 56.0))
"""Centres of cells."""


def attended_cells(config: Sam2Config, *, is_tied: bool) -> list[bool]:
    """Of each click, layer and direction: whether the tied heads' highest logit is at the clicked cell."""
    core = build_sam2(config, seed=1)
    if is_tied:
        compare_places(core, seed=2)
    encoder, side, cell = core.model.sam_prompt_encoder, config.grid, config.image_size // config.grid
    places_NE = encoder.get_dense_pe()[0].flatten(1).T
    points = torch.tensor(CLICKS)
    clicks_PE = encoder.pe_layer.forward_with_coords(points[None], (config.image_size,) * 2)[0]
    wanted = [int(y // cell) * side + int(x // cell) for x, y in CLICKS]
    found = []
    for layer in core.model.sam_mask_decoder.transformer.layers:
        for attention in (layer.cross_attn_token_to_image, layer.cross_attn_image_to_token):
            rows = round(attention.q_proj.out_features * SHARE_OF_HEADS)
            queries, keys = attention.q_proj(clicks_PE)[:, :rows], attention.k_proj(places_NE)[:, :rows]
            found += [int(place) == cell for place, cell in zip((queries @ keys.T).argmax(1), wanted, strict=True)]
    return found


@torch.no_grad()
def test_tied_heads_look_where_the_click_was() -> None:
    config = small_architecture().sam2.model_copy(update={"d_model": 64})
    tied, free = (attended_cells(config, is_tied=is_tied) for is_tied in (True, False))
    assert sum(tied) > 0.8 * len(tied)
    assert sum(free) < 0.3 * len(free)


def test_other_heads_and_seeds() -> None:
    config = small_architecture().sam2
    before, after, again = (build_sam2(config, seed=1) for _ in range(3))
    for core in (after, again):
        compare_places(core, seed=2)
    old, new, same = (dict(core.named_parameters()) for core in (before, after, again))
    assert all(torch.equal(new[name], same[name]) for name in new)
    changed = {name for name in new if not torch.equal(old[name], new[name])}
    assert {name.split(".")[-3] for name in changed} == {"cross_attn_token_to_image", "cross_attn_image_to_token"}
    for name in changed:
        half = len(new[name]) // 2
        assert torch.equal(old[name][half:], new[name][half:])
