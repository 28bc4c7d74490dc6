"""Reference-style files: what is read off them, what is refused, and the published sizes."""

import pytest
import torch
from torch import Tensor

from pipeline.errors import WeightsError
from pipeline.models.memorysam_architecture import (
    ARCHITECTURES,
    MemorySamArchitecture,
    infer_architecture,
    named_architecture,
    read_architecture,
)
from pipeline.models.memorysam_checkpoint import (
    checkpoint_tensors,
    load_memorysam,
    memorysam_tensors_from_checkpoint,
)
from pipeline.models.memorysam_init import memorysam_from_sam2, random_memorysam
from pipeline.models.memorysam_network import MemorySamNetwork
from pipeline.models.sam2_core import build_sam2

MINI = named_architecture("mini")


@pytest.fixture(scope="module")
def network() -> MemorySamNetwork:
    return random_memorysam(MINI, seed=0)


@pytest.fixture
def tensors(network: MemorySamNetwork) -> dict[str, Tensor]:
    return dict(checkpoint_tensors(network))


def test_names_are_the_references(tensors: dict[str, Tensor]) -> None:
    block = "sam.image_encoder.trunk.blocks.1.attn.qkv"
    assert {f"{block}.qkv.weight", f"{block}.qkv.bias", f"{block}.linear_a_q.weight"} <= set(tensors)
    assert tensors[f"{block}.linear_b_v.weight"].shape == (8, 2)  # a transition: 8 channels in, 16 out
    assert tensors[f"{block}.qkv.weight"].shape == (48, 8)
    assert tensors["sam.sam_mask_decoder.mask_tokens.weight"].shape[0] == MINI.num_classes + 1
    assert all(name.startswith("sam.") for name in tensors)


def test_both_kinds_of_file_and_ddp_names_load(tensors: dict[str, Tensor]) -> None:
    whole = {"model_state_dict": tensors, "epoch": 3, "best_miou": 63.48, "optimizer_state_dict": {"state": {}}}
    ddp = {f"module.{name}": tensor for name, tensor in tensors.items()}
    for checkpoint in (tensors, whole, {"model": tensors}, ddp):
        loaded = load_memorysam(checkpoint, MINI)
        assert all(torch.equal(value, tensors[name]) for name, value in checkpoint_tensors(loaded).items())


def test_misfits_are_refused_by_name(tensors: dict[str, Tensor]) -> None:
    with pytest.raises(WeightsError, match=r"1 missing \(sam\.no_mem_embed\)"):
        load_memorysam({name: t for name, t in tensors.items() if name != "sam.no_mem_embed"}, MINI)
    with pytest.raises(WeightsError, match=r"1 unexpected \(sam\.surprise\)"):
        load_memorysam({**tensors, "sam.surprise": torch.zeros(1)}, MINI)
    with pytest.raises(WeightsError, match="of another shape"):
        load_memorysam({**tensors, "sam.no_obj_ptr": torch.zeros(1, 3)}, MINI)
    with pytest.raises(WeightsError, match="leaves out the memory"):
        memorysam_tensors_from_checkpoint({"w_a_000": torch.zeros(1)})
    with pytest.raises(WeightsError, match="not a checkpoint"):
        memorysam_tensors_from_checkpoint({"epoch": 3})
    with pytest.raises(WeightsError, match="not a MemorySAM"):
        infer_architecture({"image_encoder.trunk.patch_embed.proj.weight": torch.zeros(1)})


def test_a_folded_network_is_not_saved() -> None:
    folded = random_memorysam(MINI, seed=0)
    assert folded.fold_adapters() < 1e-5
    with pytest.raises(ValueError, match="folded"):
        checkpoint_tensors(folded)


@pytest.mark.parametrize(("num_classes", "rank", "prefix"), [(20, 4, ""), (25, 7, "module.")])
def test_variant_classes_and_rank_are_read_off_the_tensors(num_classes: int, rank: int, prefix: str) -> None:
    """Shapes alone count, so the tensors may be empty of memory."""
    names = {f"sam.image_encoder.trunk.blocks.{block}.attn.qkv.linear_a_q.weight": (rank, 112) for block in range(24)}
    names["sam.image_encoder.trunk.patch_embed.proj.weight"] = (112, 3, 7, 7)
    names["sam.sam_mask_decoder.mask_tokens.weight"] = (num_classes + 1, 256)
    given = {prefix + name: torch.empty(shape) for name, shape in names.items()}
    architecture = infer_architecture(memorysam_tensors_from_checkpoint(given))
    assert (architecture.num_classes, architecture.lora_rank) == (num_classes, rank)
    assert architecture.sam2.stages == (2, 3, 16, 3)
    assert not architecture.sam2.no_obj_embed_spatial  # SAM 2.0
    expected = named_architecture("memorysam-base" if num_classes == 25 else "memorysam-base-mcubes")
    assert architecture.sam2 == expected.sam2


def test_adapters_of_several_ranks_are_refused() -> None:
    block = "sam.image_encoder.trunk.blocks.{}.attn.qkv.linear_a_q.weight"
    given = {block.format(number): torch.empty(number + 2, 96) for number in range(12)}
    given["sam.image_encoder.trunk.patch_embed.proj.weight"] = torch.empty(96, 3, 7, 7)
    given["sam.sam_mask_decoder.mask_tokens.weight"] = torch.empty(26, 256)
    with pytest.raises(WeightsError, match="ranks"):
        infer_architecture(given)


def test_architectures_that_do_not_fit_are_refused() -> None:
    values = dict(ARCHITECTURES["mini"])
    with pytest.raises(WeightsError, match="class_names"):
        read_architecture({**values, "class_names": ["road", "sky"]}, name="m")
    with pytest.raises(WeightsError, match="two classes"):
        read_architecture({**values, "sam2": {**values["sam2"], "num_multimask_outputs": 1}}, name="m")
    with pytest.raises(WeightsError, match="no-such"):
        named_architecture("no-such")


def test_sam2_fills_all_that_it_has_and_nothing_else() -> None:
    plain = MINI.sam2.model_copy(update={"num_multimask_outputs": 3})
    sam2 = build_sam2(plain, seed=5)
    filled = memorysam_from_sam2({"model": sam2.model.state_dict()}, MINI, seed=0)
    own, given = filled.core.model.state_dict(), sam2.model.state_dict()
    fresh = ("mask_tokens", "output_hypernetworks_mlps", "iou_prediction_head")
    same = {
        name
        for name, tensor in own.items()
        if torch.equal(tensor, given.get(name.replace("qkv.qkv", "qkv"), torch.empty(0)))
    }
    assert {name for name in own if not any(part in name for part in (*fresh, "linear_"))} == same
    head = own["sam_mask_decoder.iou_prediction_head.layers.2.bias"]
    assert head.shape == (MINI.num_classes + 1,)
    assert not head.any()
    broken = {name: tensor for name, tensor in given.items() if "no_mem_embed" not in name}
    with pytest.raises(WeightsError, match="no_mem_embed"):
        memorysam_from_sam2(broken, MINI, seed=0)


def test_inference_keeps_a_model_of_any_architecture_apart_from_its_names() -> None:
    tiny = named_architecture("tiny-multimodal")
    assert tiny.num_classes == 10
    assert MemorySamArchitecture.model_validate_json(tiny.model_dump_json()) == tiny
