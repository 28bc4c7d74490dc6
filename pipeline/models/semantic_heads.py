"""From class logits to class regions: equal-weight fusion, label maps with confidences, and datasets' class names."""

# Axes: M modalities, B scenes, K classes, h w the stride-4 grid, H W pixels.

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.ticks import Mask

DELIVER_CLASSES = (
    *("Building", "Fence", "Other", "Pedestrian", "Pole", "RoadLine", "Road", "SideWalk", "Vegetation", "Cars"),
    *("Wall", "TrafficSign", "Sky", "Ground", "Bridge", "RailTrack", "GroundRail", "TrafficLight", "Static"),
    *("Dynamic", "Water", "Terrain", "TwoWheeler", "Bus", "Truck"),
)
"""Ids 0..24 after the loader's shift by one. Source: Zhang et al., DELIVER, CVPR 2023."""

MCUBES_CLASSES = (
    *("asphalt", "concrete", "metal", "road_marking", "fabric", "glass", "plaster", "plastic", "rubber", "sand"),
    *("gravel", "ceramic", "cobblestone", "brick", "grass", "wood", "leaf", "water", "human", "sky"),
)
"""Ids 0..19 as stored. Source: Liang et al., MCubeS, CVPR 2022."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassRegion:
    """All pixels of one class.

    Attributes:
        mask: bool (H, W), at least one pixel.
        confidence: mean softmax probability of the class over them, 0..1.
    """

    class_id: int
    mask: Mask
    confidence: float


def fuse_modalities(logits_MBKhw: Tensor) -> Tensor:
    """Equal-weight mean over the modalities, (B, K, h, w) in float32.

    A modality that was gated off adds the same constant to every class. Averaged before enlarging, which is linear:
    the same up to rounding for M times less work. Source: MemorySAM, arXiv 2503.06700.
    """
    return logits_MBKhw.float().mean(dim=0)


def enlarge_logits(logits_BKhw: Tensor, size: tuple[int, int]) -> Tensor:
    """Class logits at (H, W), bilinear, in float32."""
    return F.interpolate(logits_BKhw.float(), size=size, mode="bilinear", align_corners=False)


def class_regions(logits_KHW: Tensor) -> list[ClassRegion]:
    """The region of every class that wins somewhere, by class; together they cover the frame once.

    Ties go to the lower class, so a frame on which every modality was gated off is class 0 everywhere, at 1 / K.
    """
    num_classes = logits_KHW.shape[0]
    labels_N = logits_KHW.argmax(dim=0).flatten()
    # The winner's softmax. Its logit is subtracted first: a gated modality puts all of them hundreds below zero.
    best_N = (logits_KHW - logits_KHW.amax(dim=0)).exp_().sum(dim=0).reciprocal().flatten()
    counts_K = torch.zeros(num_classes, dtype=torch.float64, device=logits_KHW.device)
    sums_K = torch.zeros_like(counts_K)
    for class_id in range(num_classes):
        inside_N = labels_N == class_id
        counts_K[class_id] = inside_N.sum()
        sums_K[class_id] = (best_N * inside_N).sum(dtype=torch.float64)
    counts, means = counts_K.tolist(), (sums_K / counts_K.clamp(min=1)).tolist()
    labels_HW = labels_N.view(logits_KHW.shape[1:]).cpu().numpy()
    return [
        ClassRegion(class_id=class_id, mask=labels_HW == class_id, confidence=min(1.0, max(0.0, means[class_id])))
        for class_id in range(num_classes)
        if counts[class_id]
    ]


def contributions(logits_MKhw: Tensor) -> list[float]:
    """Share of cells whose fused label changes when a modality's logits are left out of the mean; one per modality.

    What later modalities read of it in memory stays. A lone modality decides everything: 1.0.
    """
    num_modalities = logits_MKhw.shape[0]
    if num_modalities == 1:
        return [1.0]
    total_Khw = logits_MKhw.float().sum(dim=0)
    labels_hw = total_Khw.argmax(dim=0)
    shares = [((total_Khw - own.float()).argmax(dim=0) != labels_hw).float().mean() for own in logits_MKhw]
    return [float(share) for share in shares]
