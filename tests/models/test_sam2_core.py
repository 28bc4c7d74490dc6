"""The core's calls against upstream's own functions, and against each other."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor

from pipeline.models.image_encoding import ImageFeatures
from pipeline.models.mask_decoding import ABSENT_LOGIT, DecoderPrompts, MaskOutput, stability
from pipeline.models.sam2_core import Sam2Core
from tests.parity.random_sam2 import SAM_2_0, random_images, random_sam2, random_selection, tiny_config


@pytest.fixture(scope="module")
def core() -> Sam2Core:
    return random_sam2(tiny_config(), seed=3)


@pytest.fixture(scope="module")
def features(core: Sam2Core) -> ImageFeatures:
    with torch.inference_mode():
        return core.encode_image(random_images(core, 6))


def rows_of(output: MaskOutput, row: int) -> MaskOutput:
    return output.rows(slice(row, row + 1))


def assert_same(one: MaskOutput, two: MaskOutput, *, exact: bool = False) -> None:
    for name in MaskOutput.__slots__:
        mine, yours = getattr(one, name), getattr(two, name)
        torch.testing.assert_close(mine, yours, rtol=0.0, atol=0.0 if exact else 2e-4)


# Image encoder


@torch.inference_mode()
def test_image_features_equal_upstreams_forward_image(core: Sam2Core) -> None:
    batch = random_images(core, 2)
    ours, theirs = core.encode_image(batch), core.model.forward_image(batch)
    for mine, yours in zip((*ours.high_res, ours.map_BDhw), theirs["backbone_fpn"], strict=True):
        torch.testing.assert_close(mine, yours, rtol=0.0, atol=0.0)
    assert torch.equal(ours.pos_BDhw, theirs["vision_pos_enc"][-1])


@torch.inference_mode()
@pytest.mark.parametrize("num_stages", [1, 2])
def test_a_shared_prefix_and_its_continuation_equal_the_whole(core: Sam2Core, num_stages: int) -> None:
    batch = random_images(core, 2)
    state = core.begin_stages(batch, num_stages).rows([1, 0, 1])
    ours = core.to_features(core.continue_stages(state))
    whole = core.encode_image(batch).rows([1, 0, 1])
    torch.testing.assert_close(ours.map_BDhw, whole.map_BDhw, rtol=0.0, atol=1e-5)
    torch.testing.assert_close(ours.high_res, whole.high_res, rtol=0.0, atol=1e-5)


@torch.inference_mode()
def test_between_stages_steps_in_after_stages_2_3_and_4_and_is_heard_by_the_next(core: Sam2Core) -> None:
    batch, seen = random_images(core, 1), []

    def add_one(stage: int, map_BChw: Tensor) -> Tensor:
        seen.append((stage, tuple(map_BChw.shape[1:])))
        return map_BChw + 1.0

    plain = core.continue_stages(core.begin_stages(batch))
    stepped = core.continue_stages(core.begin_stages(batch), add_one)
    assert seen == [(2, (48, 16, 16)), (3, (96, 8, 8)), (4, (192, 4, 4))]
    torch.testing.assert_close(stepped[0], plain[0], rtol=0.0, atol=0.0)
    torch.testing.assert_close(stepped[1], plain[1] + 1.0, rtol=0.0, atol=0.0)
    blocks = core.model.image_encoder.trunk.blocks
    expected = (plain[1] + 1.0).permute(0, 2, 3, 1)
    for block in blocks[3:6]:
        expected = block(expected)
    torch.testing.assert_close(stepped[2], expected.permute(0, 3, 1, 2) + 1.0, rtol=0.0, atol=0.0)


def test_images_of_another_size_are_refused(core: Sam2Core) -> None:
    with pytest.raises(ValueError, match=r"\(1, 3, 96, 160\); expected \(batch, 3, 128, 128\)"):
        core.encode_image(torch.zeros(1, 3, 96, 160))
    with pytest.raises(ValueError, match="expected 1 or 2"):
        core.begin_stages(random_images(core, 1), 3)


def test_rows_of_one_image_are_views_and_join_undoes_taking_apart(features: ImageFeatures) -> None:
    one = features.rows([2])
    assert one.rows([0, 0, 0]).map_BDhw.data_ptr() == one.map_BDhw.data_ptr()
    whole = ImageFeatures.join([features.rows([0]), features.rows([1, 2]), features.rows([3, 4, 5])])
    assert torch.equal(whole.map_BDhw, features.map_BDhw)
    assert torch.equal(whole.pos_BDhw, features.pos_BDhw)
    assert all(torch.equal(a, b) for a, b in zip(whole.high_res, features.high_res, strict=True))


# Decoder


@torch.inference_mode()
@pytest.mark.parametrize("multimask", [True, False])
@pytest.mark.parametrize("dynamic", [True, False])
def test_masks_pointers_and_scores_equal_upstreams_head(multimask: bool, dynamic: bool) -> None:
    config = tiny_config(dynamic_multimask_via_stability=dynamic, dynamic_multimask_stability_thresh=0.985)
    core = random_sam2(config, seed=1, object_score=0.0)
    features = core.encode_image(random_images(core, 6))
    points = 128 * torch.rand(6, 2, 2, generator=torch.Generator().manual_seed(2))
    labels = torch.tensor([[1, 0]] * 6, dtype=torch.int32)
    prompts = core.encode_prompts(6, points_RP2=points, labels_RP=labels)
    ours = core.decode(features.map_BDhw, features.high_res, prompts, multimask=multimask)
    _, _, ious, low_res, high_res, pointer, score = core.model._forward_sam_heads(
        backbone_features=features.map_BDhw,
        point_inputs={"point_coords": points, "point_labels": labels},
        high_res_features=list(features.high_res),
        multimask_output=multimask,
    )
    assert 0 < int((score > 0).sum()) < 6
    torch.testing.assert_close(ours.low_res_logits_R1hw, low_res, rtol=0.0, atol=1e-4)
    torch.testing.assert_close(core.enlarge(ours.low_res_logits_R1hw), high_res, rtol=0.0, atol=1e-4)
    torch.testing.assert_close(ours.predicted_iou_R, ious.amax(dim=1), rtol=0.0, atol=1e-5)
    torch.testing.assert_close(ours.object_pointer_RD, pointer, rtol=0.0, atol=1e-4)
    torch.testing.assert_close(ours.object_score_R1, score, rtol=0.0, atol=1e-4)


@torch.inference_mode()
def test_the_stability_fallback_takes_both_ways() -> None:
    core = random_sam2(tiny_config(), seed=1, object_score=20.0)
    features = core.encode_image(random_images(core, 6))
    args = features.map_BDhw, features.high_res, core.encode_prompts(6)
    single = core.decode_candidates(*args, multimask=False)
    best = core.decode(*args, multimask=True)
    scores = stability(single.logits_RKhw[:, 0], 0.05)
    threshold = float(scores.median()) + 1e-6
    core.config = core.config.model_copy(
        update={"dynamic_multimask_via_stability": True, "dynamic_multimask_stability_thresh": threshold}
    )
    chosen = core.decode(*args, multimask=False)
    stable = scores >= threshold
    assert 0 < int(stable.sum()) < 6
    expected = torch.where(stable[:, None, None, None], single.logits_RKhw, best.low_res_logits_R1hw)
    torch.testing.assert_close(chosen.low_res_logits_R1hw, expected, rtol=0.0, atol=1e-4)


def test_stability_is_the_iou_of_the_mask_cut_higher_and_lower() -> None:
    logits = torch.tensor([[[-1.0, -0.04, 0.04], [0.2, 3.0, -9.0]], [[-1.0] * 3] * 2])
    assert stability(logits, 0.05).tolist() == [2 / 4, 1.0]


@torch.inference_mode()
def test_the_early_token_is_mask_token_0_after_the_first_layer_also_from_many_threads(
    core: Sam2Core, features: ImageFeatures
) -> None:
    prompts = core.encode_prompts(6)
    caught: list[Tensor] = []
    handle = core.model.sam_mask_decoder.transformer.layers[0].register_forward_hook(
        lambda module, args, output: caught.append(output[0][:, 2])
    )
    expected = core.decode(features.map_BDhw, features.high_res, prompts, multimask=False)
    handle.remove()
    assert torch.equal(expected.early_token_RD, caught[0])

    def run(row: int) -> Tensor:
        one = features.rows([row])
        with torch.inference_mode():
            output = core.decode(one.map_BDhw, one.high_res, core.encode_prompts(1), multimask=False)
        return output.early_token_RD

    with ThreadPoolExecutor(4) as pool:
        apart = list(pool.map(run, [row % 6 for row in range(24)]))
    for row, early in enumerate(apart):
        torch.testing.assert_close(early[0], expected.early_token_RD[row % 6], rtol=0.0, atol=1e-4)


@torch.inference_mode()
def test_without_an_object_score_head_the_early_token_is_one_place_earlier() -> None:
    core = random_sam2(tiny_config(pred_obj_scores=False, fixed_no_obj_ptr=False), seed=1)
    features = core.encode_image(random_images(core, 2))
    caught: list[Tensor] = []
    core.model.sam_mask_decoder.transformer.layers[0].register_forward_hook(
        lambda module, args, output: caught.append(output[0][:, 1])
    )
    output = core.decode(features.map_BDhw, features.high_res, core.encode_prompts(2), multimask=True)
    assert torch.equal(output.early_token_RD, caught[0])
    assert output.object_score_R1.tolist() == [[10.0], [10.0]]


@torch.inference_mode()
def test_absent_objects_lose_their_mask_unless_the_caller_keeps_it() -> None:
    core = random_sam2(tiny_config(), seed=1, object_score=-40.0)
    features = core.encode_image(random_images(core, 2))
    prompts = core.encode_prompts(2)
    gated = core.decode(features.map_BDhw, features.high_res, prompts, multimask=True)
    assert torch.all(gated.low_res_logits_R1hw == ABSENT_LOGIT)
    torch.testing.assert_close(gated.object_pointer_RD, core.model.no_obj_ptr.expand(2, -1), rtol=0.0, atol=0.0)
    kept = core.decode(features.map_BDhw, features.high_res, prompts, multimask=True, gate_absent=False)
    assert kept.low_res_logits_R1hw.std() > 1.0


@torch.inference_mode()
def test_choosing_another_candidate_gives_its_mask_and_its_own_pointer(core: Sam2Core, features: ImageFeatures) -> None:
    prompts = core.encode_prompts(6)
    candidates = core.decode_candidates(features.map_BDhw, features.high_res, prompts, multimask=True)
    index = torch.tensor([0, 1, 2, 2, 1, 0])
    chosen = core.choose(candidates, index)
    for row, place in enumerate(index.tolist()):
        assert torch.equal(chosen.low_res_logits_R1hw[row, 0], candidates.logits_RKhw[row, place])
        assert chosen.predicted_iou_R[row] == candidates.predicted_iou_RK[row, place]
    other = core.choose(candidates, (index + 1) % 3)
    assert not torch.allclose(chosen.object_pointer_RD, other.object_pointer_RD)


# Prompts


def upstream_prompt(
    core: Sam2Core, coords: Tensor, labels: Tensor, masks: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    return core.model.sam_prompt_encoder(points=(coords, labels), boxes=None, masks=masks)


@torch.inference_mode()
def test_prompts_become_box_corners_then_points_then_padding_then_further_tokens(core: Sam2Core) -> None:
    points = torch.tensor([[[10.0, 20.0], [30.0, 5.0]], [[1.0, 2.0], [3.0, 4.0]]])
    labels = torch.tensor([[1, 0], [0, -1]])
    boxes = torch.tensor([[4.0, 5.0, 60.0, 70.0], [0.0, 1.0, 20.0, 30.0]])
    text = torch.randn(2, 1, 64)
    ours = core.encode_prompts(2, points_RP2=points, labels_RP=labels, boxes_R4=boxes, extra_RTD=text)
    coords = torch.cat([boxes.view(2, 2, 2), points], dim=1)
    sparse, dense = upstream_prompt(core, coords, torch.cat([torch.tensor([[2, 3]] * 2), labels], dim=1))
    assert torch.equal(ours.sparse_RTD, torch.cat([sparse, text], dim=1))
    assert ours.sparse_RTD.shape == (2, 6, 64)
    assert torch.equal(ours.dense_RDhw, dense)


@torch.inference_mode()
def test_no_prompt_is_two_tokens_that_are_no_point(core: Sam2Core) -> None:
    ours = core.encode_prompts(3)
    learned = core.model.sam_prompt_encoder.not_a_point_embed.weight
    assert torch.equal(ours.sparse_RTD, learned.expand(3, 2, -1))
    none = core.model.sam_prompt_encoder.no_mask_embed.weight.view(1, -1, 1, 1)
    assert torch.equal(ours.dense_RDhw, none.expand(3, -1, 8, 8))


@torch.inference_mode()
@pytest.mark.parametrize("size", [(32, 32), (72, 120)])
def test_a_mask_prompt_is_brought_to_stride_4(core: Sam2Core, size: tuple[int, int]) -> None:
    mask = torch.randn(2, 1, *size)
    ours: DecoderPrompts = core.encode_prompts(2, mask_logits_R1hw=mask)
    small = mask
    if size != (32, 32):
        small = torch.nn.functional.interpolate(mask, (32, 32), mode="bilinear", antialias=True)
    coords, labels = torch.zeros(2, 1, 2), -torch.ones(2, 1)
    assert torch.equal(ours.dense_RDhw, upstream_prompt(core, coords, labels, small)[1])


def test_points_without_labels_are_refused(core: Sam2Core) -> None:
    with pytest.raises(ValueError, match="belong together"):
        core.encode_prompts(1, points_RP2=torch.zeros(1, 1, 2))


@torch.inference_mode()
def test_a_mask_taken_as_output_equals_upstreams(core: Sam2Core, features: ImageFeatures) -> None:
    mask = torch.zeros(3, 1, 128, 128)
    mask[0, :, 20:60, 30:110] = 1
    mask[1, :, 64:, 64:] = 1
    rows = features.rows([0, 1, 2])
    ours = core.take_mask(rows, mask)
    theirs = core.model._use_mask_as_output(rows.map_BDhw, list(rows.high_res), mask)
    torch.testing.assert_close(ours.low_res_logits_R1hw, theirs[3], rtol=0.0, atol=0.0)
    torch.testing.assert_close(ours.object_pointer_RD, theirs[5], rtol=0.0, atol=1e-5)
    assert ours.object_score_R1.tolist() == theirs[6].tolist() == [[10.0], [10.0], [-10.0]]
    assert ours.predicted_iou_R.tolist() == [1.0] * 3


# Memory encoder


@torch.inference_mode()
@pytest.mark.parametrize("changes", [{}, SAM_2_0])
@pytest.mark.parametrize(("binarise", "prompted"), [(False, True), (True, True), (True, False)])
def test_memory_features_equal_upstreams(changes: dict[str, bool], binarise: bool, prompted: bool) -> None:
    core = random_sam2(tiny_config(binarize_mask_from_pts_for_mem_enc=binarise, **changes), seed=2)
    features = core.encode_image(random_images(core, 3))
    draw = torch.Generator().manual_seed(1)
    logits = 5 * torch.randn(3, 1, 128, 128, generator=draw)
    score = torch.tensor([[3.0], [-2.0], [0.0]])
    ours = core.encode_memory(features, logits, score, is_mask_from_points=prompted)
    flat = [features.map_BDhw.flatten(2).permute(2, 0, 1)]
    theirs, _ = core.model._encode_new_memory(flat, [(8, 8)], logits, score, prompted)
    torch.testing.assert_close(ours, theirs, rtol=0.0, atol=1e-5)


@torch.inference_mode()
def test_memory_is_stored_in_the_dtype_asked_for(core: Sam2Core, features: ImageFeatures) -> None:
    args = features, torch.randn(6, 1, 128, 128), torch.ones(6, 1)
    full = core.encode_memory(*args, is_mask_from_points=False)
    half_core = random_sam2(tiny_config(memory_dtype="bfloat16"), seed=3)
    half = half_core.encode_memory(*args, is_mask_from_points=False)
    assert (full.dtype, half.dtype) == (torch.float32, torch.bfloat16)
    assert torch.equal(half, full.to(torch.bfloat16))


# Training


def test_gradients_flow_through_all_calls_also_after_inference_mode() -> None:
    core = random_sam2(tiny_config(), seed=0, object_score=8.0)
    with torch.inference_mode():
        core.attend(core.encode_image(random_images(core, 1)), [random_selection(core, 2, 2)])
    batch = random_images(core, 2).requires_grad_()
    features = core.encode_image(batch)
    pix = core.attend(features, [random_selection(core, 2, 2)] * 2)
    output = core.decode(pix, features.high_res, core.encode_prompts(2), multimask=True, gate_absent=False)
    mask = core.enlarge(output.low_res_logits_R1hw)
    memory = core.encode_memory(features, mask, output.object_score_R1, is_mask_from_points=False)
    (memory.sum() + output.object_pointer_RD.sum()).backward()
    assert batch.grad is not None
    assert float(batch.grad.abs().sum()) > 0
    assert float(core.model.memory_attention.layers[0].cross_attn_image.k_proj.weight.grad.abs().sum()) > 0


def test_dropout_of_memory_attention_acts_in_training_only(core: Sam2Core, features: ImageFeatures) -> None:
    core = random_sam2(tiny_config(), seed=3)
    one = [random_selection(core, 2, 1)]
    row = ImageFeatures(
        high_res=tuple(x[:1].clone() for x in features.high_res),
        map_BDhw=features.map_BDhw[:1].clone(),
        pos_BDhw=features.pos_BDhw[:1].clone(),
    )
    with torch.no_grad():
        assert torch.equal(core.attend(row, one), core.attend(row, one))
        core.train()
        assert not torch.equal(core.attend(row, one), core.attend(row, one))
