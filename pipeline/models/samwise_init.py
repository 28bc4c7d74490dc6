"""Seeded random weights for a SAMWISE that nobody trained, settled so that its masks are neither empty nor full."""

# Axes: C channels of the stride-4 mask features, h w their grid.

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.models.memory import MemorySelection
from pipeline.models.samwise_architecture import SamwiseArchitecture
from pipeline.models.samwise_network import SamwiseNetwork

PRESENT_BIAS = 2.0
"""Object score of an untrained model, about: sigmoid(2) is 0.88."""

LOGIT_SPREAD = 2.0
"""Standard deviation of an untrained model's mask logits over a frame."""


def random_samwise(architecture: SamwiseArchitecture, *, seed: int) -> SamwiseNetwork:
    """A network whose weights depend on the seed alone; torch's own random state is left as it was.

    Freshly drawn weights see no object, or call nearly every pixel alike. One frame of coloured noise is segmented
    and the mask head moved so that half of it is inside: enough to see a whole run at work, and no more.
    """
    with torch.random.fork_rng(devices=[]), torch.inference_mode():
        torch.manual_seed(seed)
        # Parameters made in inference mode could never be trained.
        with torch.inference_mode(False):
            network = SamwiseNetwork(architecture).eval()
        with torch.no_grad():
            _settle(network)
    return network


def _settle(network: SamwiseNetwork) -> None:
    decoder: Any = network.core.model.sam_mask_decoder
    if network.architecture.sam2.pred_obj_scores:
        decoder.pred_obj_score_head.layers[-1].bias += PRESENT_BIAS
    features, weights = _mask_head_inputs(network, decoder)
    mean_C = features.flatten(1).mean(dim=1)
    # The part of the weights that adds the same to every pixel, taken out.
    shift_C = -(weights @ mean_C) / (mean_C @ mean_C) * mean_C
    spread = torch.einsum("c,chw->hw", weights + shift_C, features).std()
    last = decoder.output_hypernetworks_mlps[0].layers[-1]
    last.bias.copy_((last.bias + shift_C) * LOGIT_SPREAD / spread)
    last.weight.mul_(LOGIT_SPREAD / spread)


def _mask_head_inputs(network: SamwiseNetwork, decoder: Any) -> tuple[Tensor, Tensor]:
    """Mask features (C, h, w) and their weights (C,) for a strong and a faint frame of noise, one above the other."""
    caught: dict[str, Tensor] = {}

    def catch(name: str) -> Callable[..., None]:
        def hook(_module: Any, _inputs: Any, output: Tensor) -> None:
            caught[name] = output

        return hook

    hooks = [
        decoder.output_upscaling[-1].register_forward_hook(catch("features")),
        decoder.output_hypernetworks_mlps[0].register_forward_hook(catch("weights")),
    ]
    fused = network.fuse(network.encode_prefix(_noise(network)), torch.tensor([[0, 2]]), num_frames=2)
    network.segment(fused.features, [MemorySelection()] * 2, fused.prompt_BSE.expand(2, -1, -1))
    for hook in hooks:
        hook.remove()
    return torch.cat(list(caught["features"]), dim=1), caught["weights"].mean(dim=0)


def _noise(network: SamwiseNetwork) -> Tensor:
    # Its own generator: the same frames, whichever parts the network was built with.
    generator = torch.Generator().manual_seed(0)
    side = network.architecture.sam2.image_size
    coarse = torch.randn(2, 3, 8, 8, generator=generator)
    fine = torch.randn(2, 3, side, side, generator=generator) / 4
    strength = torch.tensor([1.0, 0.25]).view(2, 1, 1, 1)
    return (F.interpolate(coarse, size=(side, side), mode="bilinear") + fine) * strength
