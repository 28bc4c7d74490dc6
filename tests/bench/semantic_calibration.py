"""Which proposals a SAM2 should be believed, and when a masklet may paint: chosen on streets of the validation split.

A model's predicted IoU and the spread of its logits are its own, and so are the thresholds that tell its good masks
from its bad ones. Each setting refines single frames by their own votes; that of the best boundary mIoU is taken among
those whose mIoU is not below the network's. Streets that the bench reports on are never looked at.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from pipeline.evaluate.semantic import SemanticScorer
from pipeline.evaluate.semantic_protocols import semantic_protocol
from pipeline.models.letterbox import resize_frame, to_square
from pipeline.models.proposals import (
    ProposalConfig,
    Proposals,
    believable,
    best_of,
    click,
    grid_points,
    without_duplicates,
)
from pipeline.models.sam2_core import Sam2Core
from pipeline.models.semantic_networks import SemanticMap, SemanticNetwork
from pipeline.models.vss_votes import NO_CLASS, VoteRules, decide, paint, tally
from pipeline.synth.street import iter_street_frames
from pipeline.synth.street_config import street_config
from pipeline.synth.street_world import STREET_CLASSES
from pipeline.ticks import RGB, Image

CALIBRATION_SEED = 2**31 + 2**30
"""Added to --seed; of the validation split. Neither trainings nor tables draw from it."""

PREDICTED_IOU = (0.3, 0.5, 0.6, 0.7, 0.8)
STABILITY = (0.3, 0.5, 0.65, 0.8)
PURITY = (0.5, 0.7, 0.9)
"""What is tried, each with each; the paper's 0.6, 0.8 and the method's own 0.5 are among them."""

_POINTS_AT_ONCE = 64

Labels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One setting and what it scores, 0..1."""

    min_predicted_iou: float
    min_stability: float
    min_purity: float
    miou: float
    boundary_miou: float
    masks_per_frame: float

    def proposals(self) -> ProposalConfig:
        """The thresholds over the method's defaults."""
        return ProposalConfig(min_predicted_iou=self.min_predicted_iou, min_stability=self.min_stability)


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """What came of it.

    Attributes:
        chosen: None where no setting is as good as the network alone.
        alone: (mIoU, boundary mIoU) of the network.
    """

    chosen: Setting | None
    alone: tuple[float, float]
    num_frames: int
    num_settings: int

    def told(self) -> str:
        """One line."""
        alone = f"alone {self.alone[0]:.3f} mIoU, {self.alone[1]:.3f} boundary mIoU"
        if self.chosen is None:
            return f"none of {self.num_settings} settings is as good as the network {alone}: the paper's are taken"
        best = self.chosen
        return (
            f"predicted IoU > {best.min_predicted_iou}, stability > {best.min_stability}, purity >= {best.min_purity}: "
            f"{best.miou:.3f} mIoU, {best.boundary_miou:.3f} boundary mIoU with {best.masks_per_frame:.1f} masks a "
            f"frame ({alone}; best of {self.num_settings} settings on {self.num_frames} validation frames)"
        )


def choose(settings: Sequence[Setting], *, alone: tuple[float, float]) -> Setting | None:
    """The best boundary mIoU of those that lower no mIoU; of equals the strictest. None where that gains nothing."""
    fitting = [one for one in settings if one.miou >= alone[0] and one.boundary_miou > alone[1]]
    return max(
        fitting,
        key=lambda one: (one.boundary_miou, one.min_purity, one.min_predicted_iou, one.min_stability),
        default=None,
    )


@torch.inference_mode()
def calibrated(network: SemanticNetwork, core: Sam2Core, *, num_frames: int, seed: int) -> Calibration:
    """Try every setting on the first frames of validation streets.

    Args:
        network, core: on the CPU, in eval mode.
        seed: of the bench; the streets are drawn from CALIBRATION_SEED + seed.
    """
    config = street_config("street_eval").derive(num_frames=1)
    frames = [
        next(iter_street_frames(config, CALIBRATION_SEED + seed, "valid", number)) for number in range(num_frames)
    ]
    maps = [network.predict([{RGB: frame.rgb}])[0] for frame in frames]
    found = [_all_clicks(core, frame.rgb) for frame in frames]
    truth = [frame.labels for frame in frames]
    alone = _scores([one.labels_HW.numpy().astype(np.uint8) for one in maps], truth)
    settings = list(_tried(maps, found, truth))
    return Calibration(
        chosen=choose(settings, alone=alone), alone=alone, num_frames=num_frames, num_settings=len(settings)
    )


def _tried(maps: Sequence[SemanticMap], found: Sequence[Proposals], truth: Sequence[Labels]) -> Iterator[Setting]:
    for predicted_iou, stability in product(PREDICTED_IOU, STABILITY):
        config = ProposalConfig(min_predicted_iou=predicted_iou, min_stability=stability)
        kept = [best_of(without_duplicates(believable(one, config), config), config.max_masklets) for one in found]
        for purity in PURITY:
            rules = VoteRules(scope="frame", min_purity=purity)
            refined = [refined_frame(one, masks, rules) for one, masks in zip(maps, kept, strict=True)]
            miou, boundary = _scores(refined, truth)
            yield Setting(
                min_predicted_iou=predicted_iou,
                min_stability=stability,
                min_purity=purity,
                miou=miou,
                boundary_miou=boundary,
                masks_per_frame=float(np.mean([len(masks) for masks in kept])),
            )


def _all_clicks(core: Sam2Core, image: Image) -> Proposals:
    """What the whole grid of clicks gives on a picture, nothing dropped."""
    side = core.config.image_size
    square = to_square([resize_frame(image, (side, side))], num_rows=1, image_size=side, device=core.device)
    features = core.encode_image(square)
    points = torch.tensor(grid_points(ProposalConfig().points_per_side))
    return Proposals.join([click(core, features.rows([0] * len(part)), part) for part in points.split(_POINTS_AT_ONCE)])


def refined_frame(semantic: SemanticMap, masks: Proposals, rules: VoteRules) -> Labels:
    """A frame repainted by masks that vote on it alone."""
    labels_HW = semantic.labels_HW
    masks_MHW = _enlarged(masks.logits_Mhw, labels_HW.shape) > 0
    ballots = tally(
        labels_HW,
        masks_MHW,
        num_classes=len(STREET_CLASSES),
        rules=rules,
        probabilities_CHW=semantic.probabilities_CHW,
    )
    verdicts = decide(ballots, torch.full((len(masks),), NO_CLASS), min_purity=rules.min_purity)
    painted = paint(
        labels_HW,
        masks_MHW,
        verdicts,
        ids_O=torch.arange(1, len(masks) + 1),
        quality_O=masks.predicted_iou_M,
        rules=rules,
    )
    return painted.labels_HW.numpy().astype(np.uint8)


def _enlarged(logits_Mhw: Tensor, size: Any) -> Tensor:
    if not len(logits_Mhw):
        return logits_Mhw.new_zeros(0, *size)
    return F.interpolate(logits_Mhw[:, None], size=tuple(size), mode="bilinear", align_corners=False)[:, 0]


def _scores(maps: Sequence[Labels], truth: Sequence[Labels]) -> tuple[float, float]:
    scorer = SemanticScorer(protocol=semantic_protocol("masklake"), num_classes=len(STREET_CLASSES))
    for one, true in zip(maps, truth, strict=True):
        scorer.add_video(one[None], true[None])
    scores = scorer.scores()
    return float(scores.miou or 0.0), float(scores.boundary_miou or 0.0)
