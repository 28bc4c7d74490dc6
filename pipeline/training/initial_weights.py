"""The network that a training begins with: published parts, an earlier SAMWISE, or seeded random weights."""

import logging
from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import Tensor

from pipeline.engine.load_model import read_tensors
from pipeline.errors import WeightsError
from pipeline.io.weights import ResolvedModel, resolve_model
from pipeline.models.samwise_architecture import SamwiseArchitecture, infer_architecture, read_architecture
from pipeline.models.samwise_checkpoint import official_name, samwise_tensors_from_checkpoint
from pipeline.models.samwise_init import random_samwise
from pipeline.models.samwise_network import SamwiseNetwork
from pipeline.models.samwise_variants import ARCHITECTURES
from pipeline.training.samwise import TRAINED_PARTS

logger = logging.getLogger(__name__)

OPTIONAL_PARTS = (
    ".hsa.",
    ".norm_pre_HSA.",
    ".spatial_pos_embed",
    ".no_obj_ptr",
    ".obj_score_token.",
    ".pred_obj_score_head.",
    "conditional_memory_encoder.",
    "project_motion_prompts.",
)
"""What pre-training goes without, and fine-tuning adds."""

_TEXT_PREFIXES = ("roberta.", "text_model.")
_TEXT_LEFT_OUT = ("lm_head.", "pooler.", "vision_model.", "visual_projection.", "text_projection.", "logit_scale")

Tensors = Mapping[str, Tensor]


def read_weights(name: str, *, offline: bool, trust_unpinned: bool) -> tuple[ResolvedModel, dict[str, Tensor]]:
    """A model by registry name, path or URI, and its tensors on the CPU.

    Raises:
        WeightsError: it cannot be found or read, or the registry has no weights for it.
    """
    resolved = resolve_model(name, offline=offline or None, trust_unpinned=trust_unpinned)
    if "checkpoint" not in resolved.files:
        raise WeightsError(f"model {name!r} has no weights to begin with. Leave it out for random ones.")
    return resolved, read_tensors(resolved.files["checkpoint"])


def named_architecture(name: str) -> SamwiseArchitecture:
    """One of the architectures that this package knows.

    Raises:
        WeightsError: there is none of that name.
    """
    if name not in ARCHITECTURES:
        raise WeightsError(f"architecture {name!r}: expected one of {', '.join(ARCHITECTURES)}.")
    return read_architecture(ARCHITECTURES[name], name=name)


def architecture_of(resolved: ResolvedModel, tensors: Tensors) -> SamwiseArchitecture:
    """The architecture that goes with a SAMWISE checkpoint: stated, named, or read off its tensors."""
    if resolved.architecture:
        return read_architecture(resolved.architecture, name=resolved.name)
    if resolved.architecture_name is not None:
        return named_architecture(resolved.architecture_name)
    return infer_architecture(samwise_tensors_from_checkpoint(tensors))


def initial_network(
    architecture: SamwiseArchitecture,
    *,
    seed: int,
    trained: Literal["adapters", "all"] = "adapters",
    sam2: Tensors | None = None,
    text: Tensors | None = None,
    samwise: Tensors | None = None,
) -> SamwiseNetwork:
    """The network, filled first from SAM2's and the text encoder's own weights, then from an earlier SAMWISE.

    Args:
        seed: of what nothing fills.
        sam2: official SAM2 names.
        text: transformers' names of RoBERTa or CLIP.
        samwise: official SAMWISE names; may lack, or have beside, the parts that pre-training goes without.

    Raises:
        WeightsError: a tensor is missing, left over or of another shape; or some weights are given but a frozen part
            stays random.
    """
    if sam2 is None and text is None and samwise is None:
        logger.warning("no weights given: everything begins random, with seed %d.", seed)
        return random_samwise(architecture, seed=seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = SamwiseNetwork(architecture).eval()
    filled: set[str] = set()
    if sam2 is not None:
        filled |= _fill(network, sam2, _sam2_name, part="core.model.", what="SAM2")
    if text is not None:
        text = {_bare_text_name(name): tensor for name, tensor in text.items() if not _is_left_out_of_text(name)}
        filled |= _fill(network, text, _text_name, part="text_encoder.", what="text encoder")
    if samwise is not None:
        tensors = samwise_tensors_from_checkpoint(samwise)
        filled |= _fill(network, tensors, official_name, part="", what="SAMWISE")
    _check_filled(network, filled, trained)
    return network


def _fill(
    network: SamwiseNetwork, tensors: Tensors, name_of: Callable[[str], str], *, part: str, what: str
) -> set[str]:
    """Copy what fits into one part of the network; returns our names of it."""
    own = {key: value for key, value in network.state_dict().items() if key.startswith(part) and not _is_ours_only(key)}
    wanted = {name_of(key): key for key in own}
    missing = sorted(name for name in wanted.keys() - tensors.keys() if not _is_optional(name))
    left_over = sorted(name for name in tensors.keys() - wanted.keys() if not _is_optional(name))
    shapes = [
        f"{name} is {tuple(tensors[name].shape)}, expected {tuple(own[key].shape)}"
        for name, key in wanted.items()
        if name in tensors and tensors[name].shape != own[key].shape
    ]
    if missing or left_over or shapes:
        raise WeightsError(
            f"the {what} weights do not fit the architecture: {len(missing)} tensors missing ({missing[:3]}), "
            f"{len(left_over)} left over ({left_over[:3]}), {len(shapes)} of another shape ({shapes[:3]})."
        )
    found = {key: tensors[name] for name, key in wanted.items() if name in tensors}
    network.load_state_dict(found, strict=False)
    return set(found)


def _check_filled(network: SamwiseNetwork, filled: set[str], trained: Literal["adapters", "all"]) -> None:
    random = sorted(key for key, _ in network.named_parameters() if key not in filled and not _is_ours_only(key))
    frozen = [key for key in random if not key.startswith(TRAINED_PARTS)]
    if frozen and trained == "adapters":
        raise WeightsError(
            f"{len(frozen)} frozen parameters would stay random ({', '.join(frozen[:3])}, ...). Give the weights of "
            "SAM2 and of the text encoder too; pre-trained SAMWISE weights lack SAM2's object score parts."
        )
    if random:
        logger.info("%d parameters begin random: %s ...", len(random), ", ".join(random[:3]))


def _sam2_name(key: str) -> str:
    return key.removeprefix("core.model.")


def _text_name(key: str) -> str:
    return key.removeprefix("text_encoder.roberta.").removeprefix("text_encoder.clip.")


def _bare_text_name(name: str) -> str:
    for prefix in _TEXT_PREFIXES:
        name = name.removeprefix(prefix)
    return name


def _is_left_out_of_text(name: str) -> bool:
    bare = _bare_text_name(name)
    return bare.startswith(_TEXT_LEFT_OUT) or bare.endswith("position_ids") or _is_ours_only(bare)


def _is_ours_only(key: str) -> bool:
    # SAMWISE's RoBERTa has no token types: ours are zero, and stay so whatever a file says.
    return "token_type_embeddings" in key


def _is_optional(name: str) -> bool:
    return any(part in f".{name}" for part in OPTIONAL_PARTS)
