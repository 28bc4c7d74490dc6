"""The official SAMWISE checkpoint layout: what to drop, which tensor is which parameter, and back."""

import argparse
import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pipeline.errors import WeightsError
from pipeline.models.samwise_architecture import CLIP_PREFIX, PROMPT_PREFIX, ROBERTA_PREFIX, SamwiseArchitecture
from pipeline.models.samwise_network import SamwiseNetwork

logger = logging.getLogger(__name__)

CHECKPOINT_GLOBALS = (argparse.Namespace,)
"""What `torch.load(weights_only=True)` must be told is safe: the file also pickles its training arguments."""

_ROBERTA_TABLES = {
    "embeddings.word_embeddings": "embed_tokens",
    "embeddings.position_embeddings": "embed_positions",
    "embeddings.LayerNorm": "layernorm_embedding",
}

_ROBERTA_LAYER = {
    "attention.self.query": "self_attn.q_proj",
    "attention.self.key": "self_attn.k_proj",
    "attention.self.value": "self_attn.v_proj",
    "attention.output.dense": "self_attn.out_proj",
    "attention.output.LayerNorm": "self_attn_layer_norm",
    "intermediate.dense": "fc1",
    "output.dense": "fc2",
    "output.LayerNorm": "final_layer_norm",
}
"""transformers' name to fairseq's, within a layer."""

_PREFIXES = {
    "core.model.": "sam.",
    "adapters.": "cmt_adapters.",
    "grounding.": "grounding.",
    "cme.": "conditional_memory_encoder.",
    "detail.": "detail_stem.",
    "project_text.": f"{PROMPT_PREFIX}project_text.",
    "project_motion.": f"{PROMPT_PREFIX}project_motion_prompts.",
    "text_encoder.clip.": CLIP_PREFIX,
}

_STEM_PARTS = ("grounding.stem.", "grounding.motion_to_fine.", "grounding.motion_down.")

_NOT_IN_CHECKPOINTS = "token_type_embeddings"
"""RoBERTa's one token type is zero in ours and absent from fairseq's."""


def samwise_tensors_from_checkpoint(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors that inference needs, by official name, out of what the checkpoint file holds.

    Strips `module.`, and drops RoBERTa's language-model head, fairseq's version marks, and profiler counts.

    Args:
        checkpoint: {"model": tensors, "args": ..., ...} or the tensors themselves.

    Raises:
        WeightsError: there are no tensors.
    """
    tensors = checkpoint.get("model", checkpoint)
    named = {key.removeprefix("module."): value for key, value in tensors.items() if isinstance(value, Tensor)}
    if not named:
        raise WeightsError(f"no tensors under the keys {sorted(map(str, checkpoint))[:8]}: not a checkpoint.")
    return {key: value for key, value in named.items() if not _is_dropped(key)}


def load_samwise(
    tensors: Mapping[str, Any], architecture: SamwiseArchitecture, *, name: str = "samwise"
) -> SamwiseNetwork:
    """The network with these weights; strict, but for parts that `architecture` leaves out on purpose.

    Args:
        tensors: official names, any floating type.
        architecture: hsa, cme or motion_prompt may be off although the tensors have them.

    Raises:
        WeightsError: a parameter is missing, left over, or of another shape.
    """
    tensors = samwise_tensors_from_checkpoint(tensors)
    with torch.random.fork_rng(devices=[]):
        network = SamwiseNetwork(architecture)
    own = network.state_dict()
    wanted = {key: official_name(key) for key in own if _NOT_IN_CHECKPOINTS not in key}
    _check_keys(set(wanted.values()), {key for key in tensors if not _is_left_out(key, architecture)}, name)
    shapes = [
        f"{key} is {tuple(tensors[key].shape)}, expected {tuple(own[ours].shape)}"
        for ours, key in wanted.items()
        if tensors[key].shape != own[ours].shape
    ]
    if shapes:
        raise WeightsError(f"model {name!r} does not fit its architecture: {_first(shapes)}.")
    network.load_state_dict({ours: tensors[key] for ours, key in wanted.items()}, strict=False)
    return network


def checkpoint_tensors(network: SamwiseNetwork) -> dict[str, Tensor]:
    """The network's weights by official name: what `load_samwise` takes, and a job saves."""
    state = network.state_dict()
    return {official_name(key): value for key, value in state.items() if _NOT_IN_CHECKPOINTS not in key}


def official_name(key: str) -> str:
    """The checkpoint's name of one of our parameters.

    Raises:
        KeyError: no such parameter.
    """
    roberta = "text_encoder.roberta."
    if key.startswith(roberta):
        return ROBERTA_PREFIX + _fairseq_name(key.removeprefix(roberta))
    for ours, official in _PREFIXES.items():
        if key.startswith(ours):
            return official + key.removeprefix(ours)
    raise KeyError(key)


def _fairseq_name(key: str) -> str:
    stem, _, kind = key.rpartition(".")
    if stem in _ROBERTA_TABLES:
        return f"{_ROBERTA_TABLES[stem]}.{kind}"
    _, _, layer, part = stem.split(".", 3)
    return f"layers.{layer}.{_ROBERTA_LAYER[part]}.{kind}"


def _is_dropped(key: str) -> bool:
    return (
        key == "text_encoder._float_tensor"
        or key.endswith((".sentence_encoder.version", ".total_ops", ".total_params"))
        or key in ("total_ops", "total_params")
        or key.startswith("text_encoder.model.encoder.lm_head.")
    )


def _is_left_out(key: str, architecture: SamwiseArchitecture) -> bool:
    hsa_parts = (".hsa.", ".norm_pre_HSA.", ".spatial_pos_embed")
    return (
        (not architecture.hsa and key.startswith("grounding.hsa_"))
        or (not architecture.motion_stem and key.startswith(_STEM_PARTS))
        or (not architecture.detail_stem and key.startswith("detail_stem."))
        or (not architecture.hsa and key.startswith("cmt_adapters.") and any(part in key for part in hsa_parts))
        or (not architecture.cme and key.startswith("conditional_memory_encoder."))
        or (not architecture.motion_prompt and key.startswith(f"{PROMPT_PREFIX}project_motion_prompts."))
    )


def _check_keys(wanted: set[str], found: set[str], name: str) -> None:
    missing, left_over = sorted(wanted - found), sorted(found - wanted)
    if missing or left_over:
        raise WeightsError(
            f"model {name!r} does not fit its architecture: {len(missing)} tensors missing ({_first(missing)}), "
            f"{len(left_over)} left over ({_first(left_over)}). Name the architecture it was trained with."
        )


def _first(names: list[str], limit: int = 4) -> str:
    return ", ".join(names[:limit]) + (", ..." if len(names) > limit else "") if names else "none"
