"""The official checkpoint layout: every key finds its place, strictly, and comes back under its own name."""

import argparse
import csv
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from torch import Tensor
from transformers import CLIPTextModel, RobertaModel

from pipeline.errors import WeightsError
from pipeline.models.samwise_architecture import SamwiseArchitecture, infer_architecture, read_architecture
from pipeline.models.samwise_checkpoint import (
    CHECKPOINT_GLOBALS,
    checkpoint_tensors,
    load_samwise,
    samwise_tensors_from_checkpoint,
)
from pipeline.models.samwise_init import random_samwise
from pipeline.models.samwise_network import SamwiseNetwork
from pipeline.models.samwise_variants import ARCHITECTURES, CLIP_TEXT

MINI = read_architecture(ARCHITECTURES["mini"], name="mini")
HSA_KEYS = ("hsa", "norm_pre_HSA", "spatial_pos_embed")


@pytest.fixture(scope="module")
def tensors() -> dict[str, Tensor]:
    """A full checkpoint of the mini model, motion prompt included."""
    return checkpoint_tensors(random_samwise(MINI.model_copy(update={"motion_prompt": True}), seed=3))


def shapes_of(architecture: SamwiseArchitecture) -> dict[str, torch.Size]:
    """Official key to shape of a network that is never filled with numbers."""
    # FakeTensorMode would do, but upstream reads numbers off tensors while it is built; so real ones, not initialised.
    with patch.object(RobertaModel, "post_init"), patch.object(CLIPTextModel, "post_init"):
        return {key: tensor.shape for key, tensor in checkpoint_tensors(SamwiseNetwork(architecture)).items()}


def official_keys(golden_dir: Path) -> dict[str, Tensor]:
    """The published file's keys with tensors that have a shape and nothing else."""
    with (golden_dir / "samwise" / "keys_official.tsv").open() as file:
        rows = [row for row in csv.reader(file, delimiter="\t") if row and row[1].startswith("(")]
    shapes = {row[0]: tuple(int(n) for n in row[1].strip("()").split(",") if n.strip()) for row in rows}
    return {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}


def test_the_official_keys_are_those_of_our_network_and_nothing_else(golden_dir: Path) -> None:
    keys = official_keys(golden_dir)
    assert len(keys) == 932
    kept = samwise_tensors_from_checkpoint({"model": keys})
    architecture = infer_architecture(kept)
    assert architecture == read_architecture(ARCHITECTURES["samwise-base"], name="samwise-base")
    assert shapes_of(architecture) == {key: tensor.shape for key, tensor in kept.items()}
    dropped = set(keys) - set(kept)
    assert {key.split(".")[1] if "lm_head" not in key else "lm_head" for key in dropped} == {
        "_float_tensor",
        "model",
        "lm_head",
    }


def test_the_official_sizes_have_the_published_numbers_of_parameters(golden_dir: Path) -> None:
    kept = samwise_tensors_from_checkpoint({"model": official_keys(golden_dir)})
    buffers = ("running_mean", "running_var", "num_batches_tracked", "gaussian_matrix")
    parameters = {key: t.numel() for key, t in kept.items() if not key.endswith(buffers)}
    adapters = sum(n for key, n in parameters.items() if key.startswith("cmt_adapters"))
    prompt = sum(n for key, n in parameters.items() if ".project_text." in key)
    cme = sum(n for key, n in parameters.items() if key.startswith("conditional_memory_encoder"))
    assert (adapters, prompt, cme) == (4_576_064, 328_448, 331_394)


def test_the_pre_trained_layout_tells_what_it_lacks(golden_dir: Path) -> None:
    keys = official_keys(golden_dir)
    objectness = ("sam.no_obj_ptr", "sam.sam_mask_decoder.obj_score_token", "sam.sam_mask_decoder.pred_obj_score_head")
    kept = {
        key: tensor
        for key, tensor in keys.items()
        if not key.startswith(objectness) and not any(f".{part}" in key for part in HSA_KEYS)
    }
    assert len(kept) == 897
    architecture = infer_architecture(samwise_tensors_from_checkpoint(kept))
    assert (architecture.hsa, architecture.cme, architecture.sam2.pred_obj_scores) == (False, True, False)
    assert set(shapes_of(architecture)) == set(samwise_tensors_from_checkpoint(kept))


def test_a_legacy_file_with_training_arguments_in_it_loads_strictly(tensors: dict[str, Tensor], tmp_path: Path) -> None:
    extra = {
        "text_encoder._float_tensor": torch.zeros(1),
        "text_encoder.model.encoder.sentence_encoder.version": torch.full((1,), 3.0),
        "text_encoder.model.encoder.lm_head.weight": torch.zeros(99, 32),
        "sam.image_encoder.total_ops": torch.zeros(1),
        "sam.image_encoder.total_params": torch.zeros(1),
    }
    content = {
        "model": {f"module.{key}": value for key, value in {**tensors, **extra}.items()},
        "args": argparse.Namespace(lr=1e-5, HSA=True, fusion_stages=[1, 2, 3]),
        "optimizer": {"state": {}, "param_groups": [{"lr": 1e-5}]},
        "epoch": 3,
    }
    torch.save(content, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    with torch.serialization.safe_globals(list(CHECKPOINT_GLOBALS)):
        loaded = torch.load(tmp_path / "old.pth", weights_only=True)
    named = samwise_tensors_from_checkpoint(loaded)
    assert set(named) == set(tensors)
    network = load_samwise(named, MINI.model_copy(update={"motion_prompt": True}))
    back = checkpoint_tensors(network)
    assert all(torch.equal(back[key], tensors[key]) for key in tensors)


def test_half_precision_tensors_are_loaded_as_float32(tensors: dict[str, Tensor]) -> None:
    halved = {key: value.half() if value.is_floating_point() else value for key, value in tensors.items()}
    network = load_samwise(halved, MINI.model_copy(update={"motion_prompt": True}))
    assert {p.dtype for p in network.parameters()} == {torch.float32}


@pytest.mark.parametrize("part", ["hsa", "cme", "motion_prompt"])
def test_a_part_that_is_switched_off_may_be_left_in_the_file(tensors: dict[str, Tensor], part: str) -> None:
    architecture = MINI.model_copy(update={"motion_prompt": True, part: False})
    assert load_samwise(tensors, architecture).architecture == architecture


def test_a_missing_a_left_over_and_a_misshapen_tensor_are_named(tensors: dict[str, Tensor]) -> None:
    architecture = MINI.model_copy(update={"motion_prompt": True})
    without = {key: value for key, value in tensors.items() if key != "sam.no_mem_embed"}
    with pytest.raises(WeightsError, match=r"1 tensors missing \(sam\.no_mem_embed\)"):
        load_samwise(without, architecture)
    with pytest.raises(WeightsError, match=r"1 left over \(sam\.surprise\)"):
        load_samwise({**tensors, "sam.surprise": torch.zeros(1)}, architecture)
    with pytest.raises(WeightsError, match=r"sam\.no_mem_embed is \(3,\), expected \(1, 1, 32\)"):
        load_samwise({**tensors, "sam.no_mem_embed": torch.zeros(3)}, architecture)


@pytest.mark.parametrize("checkpoint", [{}, {"model": {}}, {"epoch": 3}])
def test_a_file_without_tensors_is_refused(checkpoint: dict[str, object]) -> None:
    with pytest.raises(WeightsError, match="not a checkpoint"):
        samwise_tensors_from_checkpoint(checkpoint)


def test_the_architecture_of_a_plain_sam2_is_refused(tensors: dict[str, Tensor]) -> None:
    with pytest.raises(WeightsError, match=r"."):
        infer_architecture({key: value for key, value in tensors.items() if key.startswith("sam.")})


def test_a_clip_text_encoder_is_read_off_its_tensors(golden_dir: Path) -> None:
    keys = {
        k: t for k, t in official_keys(golden_dir).items() if not k.startswith(("text_encoder.", "cmt", "sam.sam_p"))
    }
    architecture = read_architecture(ARCHITECTURES["samwise-base-clip"], name="clip")
    clip = {key: torch.empty(shape, device="meta") for key, shape in shapes_of(architecture).items()}
    found = infer_architecture({**keys, **clip})
    assert found.text == CLIP_TEXT
    assert found == architecture


def test_every_named_architecture_is_one() -> None:
    for name, values in ARCHITECTURES.items():
        assert read_architecture(values, name=name).model_dump(mode="json") == values


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"text_fusion_layers": (2, 1, 2)}, "text_fusion_layers"),
        ({"text_fusion_layers": (1, 2, 3)}, "text_fusion_layers"),
        ({"block_sides": (3, 4, 2)}, "block_sides"),
        ({"adapter_width": 30}, "adapter_heads"),
        ({"vocabulary": ()}, "vocabulary"),
        ({"short_side_px": 65}, "short_side_px"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_numbers_that_do_not_fit_each_other_are_refused(changes: dict[str, object], said: str) -> None:
    with pytest.raises(WeightsError, match=said):
        read_architecture({**ARCHITECTURES["mini"], **changes}, name="odd")


def test_random_weights_depend_on_the_seed_alone_and_leave_torchs_generator_as_it_was() -> None:
    before = torch.get_rng_state()
    one = random_samwise(MINI, seed=1).state_dict()
    torch.rand(7)
    two, other = random_samwise(MINI, seed=1).state_dict(), random_samwise(MINI, seed=2).state_dict()
    torch.set_rng_state(before)
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert any(not torch.equal(one[key], other[key]) for key in one)
    random_samwise(MINI, seed=1)
    assert torch.equal(torch.get_rng_state(), before)


def test_random_weights_can_be_trained() -> None:
    network = random_samwise(SamwiseArchitecture.model_validate(MINI.model_dump()), seed=0)
    prefix = network.encode_prefix(torch.randn(2, 3, 64, 64))
    fused = network.fuse(prefix, torch.tensor([[0, 5, 2]]), num_frames=2)
    (fused.prompt_BSE.sum() + fused.features.map_BDhw.sum()).backward()
    assert network.project_text.layers[0].weight.grad is not None


def test_a_file_without_sam2_is_called_what_it_is() -> None:
    tensors = {"text_encoder.model.encoder.sentence_encoder.embed_tokens.weight": torch.zeros(8, 4)}
    with pytest.raises(WeightsError, match=r"no tensor 'sam\.\*' among 1"):
        infer_architecture(tensors)
