"""The reference's MemorySAM checkpoint layout: both kinds of file, strict loading, and back."""

import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pipeline.errors import WeightsError
from pipeline.models.memorysam_architecture import MemorySamArchitecture
from pipeline.models.memorysam_network import MemorySamNetwork
from pipeline.models.sam2_variants import check_fit

logger = logging.getLogger(__name__)

_WRAPPERS = ("model_state_dict", "model")
_OURS, _OFFICIAL = "core.model.", "sam."
_LEGACY_KEY = "w_a_000"


def memorysam_tensors_from_checkpoint(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors by their names `sam.*`, out of a bare state dict or a training checkpoint around one.

    Raises:
        WeightsError: there are none, or it is the older kind of file that leaves the memory out.
    """
    inner: Any = next((checkpoint[key] for key in _WRAPPERS if isinstance(checkpoint.get(key), Mapping)), checkpoint)
    named = {str(key).removeprefix("module."): value for key, value in inner.items() if isinstance(value, Tensor)}
    if _LEGACY_KEY in named:
        raise WeightsError(
            f"this file names its adapters {_LEGACY_KEY}, ...: a layout that leaves out the memory's weights, so it "
            "cannot be a whole MemorySAM. Give the state dict of the whole model (keys 'sam.*')."
        )
    if not named:
        raise WeightsError(f"no tensors under the keys {sorted(map(str, checkpoint))[:8]}: not a checkpoint.")
    return named


def load_memorysam(tensors: Mapping[str, Any], architecture: MemorySamArchitecture) -> MemorySamNetwork:
    """The network with these weights, in evaluation mode; every key and shape must fit.

    Args:
        tensors: reference names, or a checkpoint around them.

    Raises:
        WeightsError: keys are missing or left over, or shapes differ; names up to ten of each.
    """
    given = memorysam_tensors_from_checkpoint(tensors)
    with torch.random.fork_rng(devices=[]):
        network = MemorySamNetwork(architecture).eval()
    check_fit({official_name(key): value for key, value in network.state_dict().items()}, given)
    network.load_state_dict({own_name(key): value for key, value in given.items()}, strict=True)
    return network


def checkpoint_tensors(network: MemorySamNetwork) -> dict[str, Tensor]:
    """The network's weights by reference name: what `load_memorysam` takes, and a training saves.

    Raises:
        ValueError: its adapters are folded; what they were cannot be told any more.
    """
    if network.is_folded:
        raise ValueError("the adapters of this network are folded. Save it before folding.")
    return {official_name(key): value for key, value in network.state_dict().items()}


def official_name(key: str) -> str:
    """The reference's name of one of our parameters."""
    return _OFFICIAL + key.removeprefix(_OURS)


def own_name(key: str) -> str:
    """Our name of a tensor of the reference."""
    return _OURS + key.removeprefix(_OFFICIAL)
