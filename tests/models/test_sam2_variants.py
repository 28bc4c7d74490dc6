"""Our architecture numbers against the wheel's YAML files, and what a wrong config or checkpoint is told."""

from collections.abc import Sequence
from importlib.resources import files
from typing import Any

import pytest
import torch
import yaml
from hydra import compose
from hydra.utils import instantiate
from pydantic import ValidationError
from torch import nn

from pipeline.errors import WeightsError
from pipeline.models.sam2_core import build_sam2, load_sam2
from pipeline.models.sam2_variants import SAM2_VARIANTS, Sam2Config, infer_variant, predictor_config
from tests.parity.random_sam2 import SAM_2_0, tiny_config

LETTERS = {"tiny": "t", "small": "s", "base-plus": "b+", "large": "l"}
HIERA_DEFAULTS = {"window_spec": [8, 4, 14, 7], "window_pos_embed_bkg_spatial_size": [14, 14]}
SIZES = [
    pytest.param(name, marks=pytest.mark.slow) if name.endswith("large") else name for name in sorted(SAM2_VARIANTS)
]


def yaml_name(variant: str) -> str:
    family, _, size = variant.split("-", 2)
    return f"configs/{family}/{family}_hiera_{LETTERS[size]}.yaml"


def wheel_yaml(variant: str) -> dict[str, Any]:
    return yaml.safe_load((files("sam2") / yaml_name(variant)).read_text())["model"]


def plain_attributes(model: nn.Module) -> dict[str, Any]:
    """Every number, flag and tuple of every submodule."""
    return {
        f"{name}.{key}": list(value) if isinstance(value, Sequence) else value
        for name, module in model.named_modules()
        for key, value in vars(module).items()
        if isinstance(value, (bool, int, float, Sequence))
    }


@pytest.mark.parametrize("variant", sorted(SAM2_VARIANTS))
def test_numbers_are_those_of_the_wheels_yaml(variant: str) -> None:
    ours, model = SAM2_VARIANTS[variant].model_dump(mode="json"), wheel_yaml(variant)
    trunk, attention = model["image_encoder"]["trunk"], model["memory_attention"]
    expected = {
        **HIERA_DEFAULTS,
        **{key: value for key, value in trunk.items() if key != "_target_"},
        **{key: value for key, value in model.items() if key in Sam2Config.model_fields},
        "d_model": model["image_encoder"]["neck"]["d_model"],
        "mem_dim": model["memory_encoder"]["out_dim"],
        "num_memory_layers": attention["num_layers"],
        "memory_feedforward_dim": attention["layer"]["dim_feedforward"],
    }
    assert {key: ours[key] for key in expected} == expected
    channels = list(reversed(SAM2_VARIANTS[variant].channels))
    assert channels == model["image_encoder"]["neck"]["backbone_channel_list"]


@pytest.mark.parametrize("variant", SIZES)
def test_weights_have_the_keys_and_shapes_of_the_model_hydra_builds(variant: str) -> None:
    core = build_sam2(SAM2_VARIANTS[variant])
    theirs = instantiate(compose(config_name=yaml_name(variant)).model, _recursive_=True)
    ours = {key: value.shape for key, value in core.model.state_dict().items()}
    assert ours == {key: value.shape for key, value in theirs.state_dict().items()}
    assert infer_variant(theirs.state_dict()) == variant
    assert plain_attributes(core.model) == plain_attributes(theirs.eval())


def test_predictor_config_is_what_upstream_builds_for_its_predictor() -> None:
    overrides = {
        "dynamic_multimask_via_stability": True,
        "binarize_mask_from_pts_for_mem_enc": True,
        "memory_dtype": "bfloat16",
    }
    config = SAM2_VARIANTS["sam2.1-hiera-small"]
    changed = predictor_config(config)
    assert {name: getattr(changed, name) for name in overrides} == overrides
    assert changed.model_copy(update={name: getattr(config, name) for name in overrides}) == config


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"image_size": 144}, "multiple of 32"),
        ({"window_spec": (12, 4, 4, 2)}, "multiple of 48"),
        ({"num_heads": 5}, "multiple of num_heads"),
        ({"d_model": 40, "mem_dim": 8}, "multiple of 16"),
        ({"mem_dim": 6}, "multiple of 4"),
        ({"mem_dim": 12}, "multiple of mem_dim"),
        ({"num_maskmem": 1}, "at least 2"),
        ({"global_att_blocks": (7,)}, "lie in 0..6"),
        ({"window_spec": (8, 4, 7, 7)}, "must be even"),
        ({"max_cond_frames_in_attn": 1}, "-1 (all) or at least 2"),
        ({"add_tpos_enc_to_obj_ptrs": False}, "proj_tpos_enc_in_obj_ptrs needs"),
        ({"pred_obj_scores": False}, "fixed_no_obj_ptr needs"),
        ({"image_sise": 128}, "image_sise"),
    ],
)
def test_impossible_numbers_are_refused_with_the_rule_they_break(change: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError) as error:
        tiny_config(**change)
    assert told in str(error.value)


@pytest.mark.parametrize("image_size", [64, 96, 320])
def test_every_size_that_the_rules_allow_runs_through_all_calls(image_size: int) -> None:
    config = SAM2_VARIANTS["sam2-hiera-tiny"].model_copy(update={"image_size": image_size})
    core = build_sam2(config, seed=0)
    with torch.inference_mode():
        features = core.encode_image(torch.zeros(1, 3, image_size, image_size))
        output = core.decode(features.map_BDhw, features.high_res, core.encode_prompts(1), multimask=True)
        mask = core.enlarge(output.low_res_logits_R1hw)
        memory = core.encode_memory(features, mask, output.object_score_R1, is_mask_from_points=False)
    assert output.low_res_logits_R1hw.shape == (1, 1, image_size // 4, image_size // 4)
    assert memory.shape == (1, 64, image_size // 16, image_size // 16)


def test_a_config_changed_by_copying_is_checked_before_anything_is_built() -> None:
    with pytest.raises(ValidationError, match="multiple of 32"):
        build_sam2(SAM2_VARIANTS["sam2-hiera-tiny"].model_copy(update={"image_size": 1000}))


def test_inference_of_the_variant_refuses_what_is_no_published_sam2() -> None:
    with pytest.raises(WeightsError, match="not a SAM2 checkpoint"):
        infer_variant({"weight": torch.zeros(1)})
    with pytest.raises(WeightsError, match="width 24 with 7 blocks"):
        infer_variant(build_sam2(tiny_config()).model.state_dict())


def test_a_checkpoint_is_loaded_with_or_without_its_outer_key() -> None:
    source = build_sam2(tiny_config(), seed=1)
    for tensors in (source.model.state_dict(), {"model": source.model.state_dict()}):
        core = build_sam2(tiny_config(), seed=2)
        load_sam2(core, tensors)
        loaded = core.model.state_dict()
        assert all(torch.equal(loaded[key], value) for key, value in source.model.state_dict().items())


def test_a_checkpoint_that_does_not_fit_is_refused_by_name_and_nothing_is_loaded() -> None:
    core = build_sam2(tiny_config(), seed=0)
    before = core.model.no_mem_embed.clone()
    tensors = build_sam2(tiny_config(), seed=1).model.state_dict()
    del tensors["no_mem_pos_enc"]
    tensors["extra"] = torch.zeros(1)
    tensors["no_obj_ptr"] = torch.zeros(1, 3)
    with pytest.raises(WeightsError) as error:
        load_sam2(core, tensors)
    assert "1 missing (no_mem_pos_enc)" in str(error.value)
    assert "1 unexpected (extra)" in str(error.value)
    assert "no_obj_ptr (1, 3), expected (1, 64)" in str(error.value)
    assert torch.equal(core.model.no_mem_embed, before)


def test_a_checkpoint_of_the_other_family_names_ten_keys_and_counts_the_rest() -> None:
    core = build_sam2(tiny_config(), seed=0)
    with pytest.raises(WeightsError, match=r"3 missing .*no_obj_embed_spatial"):
        load_sam2(core, build_sam2(tiny_config(**SAM_2_0)).model.state_dict())
    with pytest.raises(WeightsError, match=r"and [0-9]+ more"):
        load_sam2(core, {})


def test_a_seed_gives_the_same_weights_and_leaves_torchs_own_state_alone() -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    one, two = (build_sam2(tiny_config(), seed=3).model.state_dict() for _ in range(2))
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(one[key], two[key]) for key in one)
