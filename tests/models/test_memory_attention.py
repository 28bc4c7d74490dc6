"""Memory attention: batching, buckets of fixed size, and dropped tokens, against brute force."""

import pytest
import torch
from sam2.modeling.position_encoding import apply_rotary_enc, compute_axial_cis
from torch import Tensor

from pipeline.models.image_encoding import ImageFeatures
from pipeline.models.mask_decoding import MaskOutput
from pipeline.models.memory import KEEP_BLOCK, MemoryRead, MemorySelection, padded_tokens
from pipeline.models.memory_attention import Rotation, rotate, rotation_table, time_code
from pipeline.models.sam2_core import Sam2Core
from tests.parity.random_sam2 import SAM_2_0, random_entry, random_images, random_sam2, random_selection, tiny_config


@pytest.fixture(scope="module")
def core() -> Sam2Core:
    return random_sam2(tiny_config(), seed=3)


@pytest.fixture(scope="module")
def features(core: Sam2Core) -> ImageFeatures:
    with torch.inference_mode():
        return core.encode_image(random_images(core, 6))


@torch.inference_mode()
def test_rows_batched_in_one_call_equal_each_row_alone(core: Sam2Core, features: ImageFeatures) -> None:
    selections = [
        random_selection(core, 3, 2, seed=1),
        MemorySelection(),
        random_selection(core, 1, 0, seed=2),
        random_selection(core, 3, 2, seed=3),
        random_selection(core, 3, 5, seed=4),
        MemorySelection(),
    ]
    together = core.attend(features, selections)
    alone = torch.cat([core.attend(features.rows([row]), [selections[row]]) for row in range(6)])
    torch.testing.assert_close(together, alone, rtol=0.0, atol=2e-5)


@torch.inference_mode()
def test_in_a_bucket_of_fixed_size_neighbours_and_places_change_nothing(
    core: Sam2Core, features: ImageFeatures
) -> None:
    def run(bucket: list[int]) -> tuple[Tensor, MaskOutput, Tensor]:
        rows = features.rows(bucket)
        pix = core.attend(rows, [random_selection(core, 3, 2, seed=row) for row in bucket])
        output = core.decode(pix, rows.high_res, core.encode_prompts(len(bucket)), multimask=True)
        mask = core.enlarge(output.low_res_logits_R1hw)
        return pix, output, core.encode_memory(rows, mask, output.object_score_R1, is_mask_from_points=False)

    first, second = run([0, 1, 2, 3]), run([4, 5, 1, 1])
    for mine, yours in zip(first, second, strict=True):
        if isinstance(mine, MaskOutput):
            assert all(torch.equal(getattr(mine, name)[1], getattr(yours, name)[2]) for name in MaskOutput.__slots__)
        else:
            assert torch.equal(mine[1], yours[2])


def brute_force(core: Sam2Core, features: ImageFeatures, one: MemorySelection) -> Tensor:
    """One row of memory attention by complex rotations, explicit softmax and deleted keys."""
    model, config = core.model, core.config
    cells = config.grid**2
    keep = torch.cat([torch.ones(cells).bool() if r.keep is None else r.keep.flatten() for r in one.frames])
    table = model.maskmem_tpos_enc[:, 0, 0]
    sine = model.memory_encoder.position_encoding(torch.zeros(1, 1, config.grid, config.grid))[0].flatten(1).t()
    memory = torch.cat([r.entry.features_Chw.flatten(1).t() for r in one.frames])
    position = torch.cat([sine + table[r.temporal_position] for r in one.frames])
    turns = compute_axial_cis(config.d_model, config.grid, config.grid)

    def attention(module: torch.nn.Module, q: Tensor, k: Tensor, v: Tensor, rotated: int, kept: Tensor) -> Tensor:
        q, k, v = module.q_proj(q)[None, None], module.k_proj(k)[None, None], module.v_proj(v)
        q, spatial = apply_rotary_enc(q, k[:, :, :rotated], turns, repeat_freqs_k=True)
        k = torch.cat([spatial, k[:, :, rotated:]], dim=2)[0, 0][kept]
        weights = (q[0, 0].double() @ k.double().t() / config.d_model**0.5).softmax(dim=-1)
        return module.out_proj((weights @ v[kept].double()).float())

    pointers = torch.cat([r.entry.pointer_D.view(-1, config.mem_dim) for r in one.pointers])
    memory = torch.cat([memory, pointers])
    position = torch.cat([position, torch.zeros_like(pointers)])
    kept = torch.cat([keep, torch.ones(len(pointers)).bool()])
    x = features.map_BDhw[0].flatten(1).t() + 0.1 * features.pos_BDhw[0].flatten(1).t()
    for layer in model.memory_attention.layers:
        y = layer.norm1(x)
        x = x + attention(layer.self_attn, y, y, y, cells, torch.ones(cells).bool())
        y, keys = layer.norm2(x), memory + position
        x = x + attention(layer.cross_attn_image, y, keys, memory, len(keep), kept)
        x = x + layer.linear2(layer.linear1(layer.norm3(x)).relu())
    return model.memory_attention.norm(x).t().view(1, config.d_model, config.grid, config.grid)


def with_keep(one: MemorySelection, keeps: list[Tensor | None]) -> MemorySelection:
    return MemorySelection(
        frames=tuple(
            MemoryRead(entry=r.entry, temporal_position=r.temporal_position, keep=keep)
            for r, keep in zip(one.frames, keeps, strict=True)
        ),
        pointers=one.pointers,
    )


@torch.inference_mode()
def test_dropped_tokens_get_no_weight_and_the_others_keep_their_place() -> None:
    core = random_sam2(tiny_config(**SAM_2_0), seed=5)
    features = core.encode_image(random_images(core, 2))
    draw = torch.Generator().manual_seed(0)
    grid = (core.config.grid, core.config.grid)
    full = random_selection(core, 3, 2)
    for keeps in (
        [None, torch.rand(grid, generator=draw) > 0.5, torch.rand(grid, generator=draw) > 0.9],
        [torch.zeros(grid).bool(), None, torch.rand(grid, generator=draw) > 0.3],
        [torch.zeros(grid).bool()] * 3,
        [None, None, None],
    ):
        chosen = with_keep(full, keeps)
        ours = core.attend(features.rows([0]), [chosen])
        torch.testing.assert_close(ours, brute_force(core, features, chosen), rtol=0.0, atol=2e-5)


@torch.inference_mode()
def test_keeping_every_token_equals_having_no_mask(core: Sam2Core, features: ImageFeatures) -> None:
    full, row = random_selection(core, 3, 2), features.rows([0])
    everything = torch.ones(core.config.grid, core.config.grid).bool()
    kept = core.attend(row, [with_keep(full, [everything, None, everything])])
    torch.testing.assert_close(kept, core.attend(row, [full]), rtol=0.0, atol=1e-5)


@torch.inference_mode()
def test_rows_that_keep_unlike_counts_share_a_batch_without_seeing_each_other() -> None:
    core = random_sam2(tiny_config(image_size=256), seed=5)
    features = core.encode_image(random_images(core, 2))
    draw = torch.Generator().manual_seed(0)
    grid = (core.config.grid, core.config.grid)
    rows = [
        with_keep(
            random_selection(core, 2, 1, seed=seed), [torch.rand(grid, generator=draw) > drop for drop in (0.6, last)]
        )
        for seed, last in ((1, 0.7), (2, 0.8))
    ]
    counts = [row.num_kept for row in rows]
    assert counts[0] != counts[1]
    assert rows[0].shape == rows[1].shape == (2, 1, padded_tokens(max(counts)))
    assert max(counts) % KEEP_BLOCK != 0
    together = core.attend(features, rows)
    alone = torch.cat([core.attend(features.rows([i]), [rows[i]]) for i in range(2)])
    torch.testing.assert_close(together, alone, rtol=0.0, atol=2e-5)


def test_a_policy_made_for_another_model_is_told_so(core: Sam2Core, features: ImageFeatures) -> None:
    read = MemoryRead(entry=random_entry(core, 0), temporal_position=4)
    with pytest.raises(ValueError, match=r"temporal positions \[4\]; expected 0..3"):
        core.attend(features.rows([0]), [MemorySelection(frames=(read,))])
    with pytest.raises(ValueError, match="6 rows of features but 1 selections"):
        core.attend(features, [MemorySelection()])


def test_real_rotations_equal_the_complex_ones_on_a_grid_that_is_not_square() -> None:
    tokens = torch.randn(2, 3 * 5, 32, generator=torch.Generator().manual_seed(0))
    table = rotation_table(32, 3, 5, torch.device("cpu"))
    turns = compute_axial_cis(32, 5, 3)
    expected, _ = apply_rotary_enc(tokens[:, None], tokens[:, None], turns)
    torch.testing.assert_close(rotate(tokens, table), expected[:, 0], rtol=0.0, atol=1e-6)
    quarter = Rotation(torch.zeros(1, 16), torch.ones(1, 16))
    assert rotate(torch.tensor([[1.0, 0.0] * 16]), quarter).tolist() == [[0.0, 1.0] * 16]


def test_the_time_code_is_sines_then_cosines_of_shared_wavelengths() -> None:
    code = time_code(torch.tensor([0.0, 0.5]), 8)
    assert code[0].tolist() == [0.0] * 4 + [1.0] * 4
    angles = torch.tensor([0.5, 0.5, 0.005, 0.005])
    torch.testing.assert_close(code[1], torch.cat([angles.sin(), angles.cos()]))
