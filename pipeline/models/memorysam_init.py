"""First weights of a MemorySAM: seeded random ones, settled so that many classes win somewhere, or SAM2's own."""

# Axes: K classes, P channels of the stride-4 mask features, h w their grid.

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.models.memorysam_architecture import MemorySamArchitecture
from pipeline.models.memorysam_network import MemorySamNetwork
from pipeline.models.sam2_variants import check_fit

PRESENT_BIAS = 2.0
"""Added to the object score of an untrained model, so that no modality is gated off for no reason."""

LOGIT_SPREAD = 1.0
"""Standard deviation of an untrained model's class logits over a frame."""


def random_memorysam(architecture: MemorySamArchitecture, *, seed: int) -> MemorySamNetwork:
    """A network whose weights depend on the seed alone, in evaluation mode; torch's own random state is left alone.

    Freshly drawn weights call every pixel the same class. One image of coloured noise is segmented, and each class's
    mask head moved so that its logits vary around zero.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = MemorySamNetwork(architecture).eval()
        with torch.no_grad():
            _settle(network)
    return network


def memorysam_from_sam2(
    tensors: Mapping[str, Any], architecture: MemorySamArchitecture, *, seed: int
) -> MemorySamNetwork:
    """A network with SAM2's weights wherever SAM2 has the part: all but adapters, mask tokens, mask and IoU heads.

    Source: the released code of MemorySAM. Departs from it: strict, where it would log and go on.

    Args:
        tensors: SAM 2.0's by official name, with or without its outer "model" key.
        seed: of the rest.

    Raises:
        WeightsError: a tensor is missing, left over or of another shape.
    """
    given: Mapping[str, Any] = tensors["model"] if isinstance(tensors.get("model"), Mapping) else tensors
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = MemorySamNetwork(architecture).eval()
        model: Any = network.core.model
        for layer in model.sam_mask_decoder.iou_prediction_head.layers:
            nn.init.kaiming_normal_(layer.weight, mode="fan_in", nonlinearity="relu")
            nn.init.zeros_(layer.bias)
    own = {_sam2_name(key): key for key in model.state_dict() if not any(part in key for part in _NOT_FROM_SAM2)}
    found = {key: value for key, value in given.items() if not any(part in key for part in _NOT_FROM_SAM2)}
    check_fit({name: model.state_dict()[key] for name, key in own.items()}, found)
    model.load_state_dict({own[name]: value for name, value in found.items()}, strict=False)
    return network


_NOT_FROM_SAM2 = ("mask_tokens", "output_hypernetworks_mlps", "iou_prediction_head", ".linear_a_", ".linear_b_")


def _sam2_name(key: str) -> str:
    return key.replace(".qkv.qkv.", ".qkv.")


def _settle(network: MemorySamNetwork) -> None:
    decoder: Any = network.core.model.sam_mask_decoder
    if network.architecture.sam2.pred_obj_scores:
        decoder.pred_obj_score_head.layers[-1].bias += PRESENT_BIAS
    features_Phw, weights_KP = _mask_head_inputs(network, decoder)
    mean_P = features_Phw.flatten(1).mean(dim=1)
    for head, weights_P in zip(list(decoder.output_hypernetworks_mlps)[1:], weights_KP, strict=True):
        # The part of the weights that adds the same to every pixel, taken out.
        shift_P = -(weights_P @ mean_P) / (mean_P @ mean_P) * mean_P
        spread = torch.einsum("p,phw->hw", weights_P + shift_P, features_Phw).std()
        last = head.layers[-1]
        last.bias.copy_((last.bias + shift_P) * LOGIT_SPREAD / spread)
        last.weight.mul_(LOGIT_SPREAD / spread)


def _mask_head_inputs(network: MemorySamNetwork, decoder: Any) -> tuple[Tensor, Tensor]:
    """Mask features (P, h, w) of one image of noise, and each class's weights (K, P) for them."""
    features: list[Tensor] = []
    weights: list[Tensor] = []
    hooks = [
        decoder.output_upscaling[-1].register_forward_hook(lambda _module, _inputs, output: features.append(output[0])),
        *(
            head.register_forward_hook(lambda _module, _inputs, output: weights.append(output[0]))
            for head in list(decoder.output_hypernetworks_mlps)[1:]
        ),
    ]
    network(_noise(network)[None, None])
    for hook in hooks:
        hook.remove()
    return features[0], torch.stack(weights)


def _noise(network: MemorySamNetwork) -> Tensor:
    # Its own generator: the same image, whatever the network drew before.
    generator = torch.Generator().manual_seed(0)
    side = network.architecture.sam2.image_size
    coarse = torch.randn(1, 3, 8, 8, generator=generator)
    fine = torch.randn(3, side, side, generator=generator) / 4
    return F.interpolate(coarse, size=(side, side), mode="bilinear")[0] + fine
