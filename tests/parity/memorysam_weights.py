"""Rebuilds a golden MemorySAM case's weights and inputs, by the recipe that the golden vectors' README states."""

import hashlib
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.models.memorysam_architecture import MemorySamArchitecture, memorysam_sam2
from pipeline.models.memorysam_checkpoint import load_memorysam, official_name
from pipeline.models.memorysam_network import MemorySamNetwork

VARIANTS = {"t": "tiny", "s": "small", "b+": "base-plus", "l": "large"}

_OBJECT_BIAS = "sam.sam_mask_decoder.pred_obj_score_head.layers.2.bias"
_TOKENS = (
    *("mask_tokens", "iou_token", "obj_score_token", "no_obj_ptr", "no_mem_embed", "no_mem_pos_enc"),
    *("maskmem_tpos_enc", "no_mask_embed", "not_a_point_embed", "point_embeddings"),
)


def golden_network(meta: Mapping[str, Any]) -> MemorySamNetwork:
    """The case's network, its weights loaded as a checkpoint of the reference would be."""
    return load_memorysam(golden_tensors(meta), golden_architecture(meta))


def golden_architecture(meta: Mapping[str, Any]) -> MemorySamArchitecture:
    """The case's sizes."""
    sam2 = memorysam_sam2(VARIANTS[meta["variant"]], num_classes=meta["classes"])
    return MemorySamArchitecture(
        sam2=sam2.model_copy(update={"image_size": meta["image_size"]}), lora_rank=meta["lora_rank"]
    )


def golden_tensors(meta: Mapping[str, Any]) -> dict[str, Tensor]:
    """The case's checkpoint by reference name."""
    shapes = MemorySamNetwork(golden_architecture(meta)).state_dict()
    tensors = {}
    for key, value in shapes.items():
        name = official_name(key)
        drawn = draw_weight(name, tuple(value.shape), meta["weight_seed"])
        if name == _OBJECT_BIAS:
            drawn = (drawn + np.float32(meta["obj_bias_add"])).astype(np.float32)
        tensors[name] = torch.from_numpy(drawn)
    return tensors


def golden_inputs(meta: Mapping[str, Any]) -> Tensor:
    """Float32 (M, B, 3, S, S), already normalised.

    Raises:
        ValueError: NumPy's stream is not the one the golden vectors were made from.
    """
    side, drawn = meta["image_size"], []
    for modality, expected in enumerate(meta["input_sha16"]):
        generator = np.random.Generator(np.random.PCG64([meta["input_seed"], modality]))
        image = generator.standard_normal((meta["batch"], 3, side, side)).astype(np.float32)
        digest = hashlib.sha256(image.tobytes()).hexdigest()[:16]
        if digest != expected:
            raise ValueError(f"input {modality}: sha256 {digest}..., expected {expected}...")
        drawn.append(image)
    return torch.from_numpy(np.stack(drawn))


def draw_weight(name: str, shape: tuple[int, ...], seed: int) -> NDArray[np.float32]:
    """One tensor of a checkpoint, from its name and the case's seed."""
    generator = np.random.Generator(np.random.PCG64([zlib.crc32(name.encode()), seed]))
    normal = generator.standard_normal(int(np.prod(shape, dtype=np.int64))).reshape(shape)
    return (normal * _scale(name, shape) + _offset(name, shape)).astype(np.float32)


def _scale(name: str, shape: tuple[int, ...]) -> float:
    if "positional_encoding_gaussian_matrix" in name:
        return 1.0
    if "pos_embed" in name:
        return 0.05
    if any(token in name for token in _TOKENS):
        return 0.5
    return float(1 / np.sqrt(int(np.prod(shape[1:])))) if len(shape) >= 2 else 0.1


def _offset(name: str, shape: tuple[int, ...]) -> float:
    is_norm = len(shape) == 1 and name.endswith(".weight")
    return 1.0 if is_norm else 0.0
