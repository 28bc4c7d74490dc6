"""Classes of masklets from a classifier of their feature vectors, fused over the frames they were seen on.

Source: "Evaluating SAM2 for Video Semantic Segmentation", arXiv 2512.01774, approach 2. Not stated in the paper: how
frames are fused; here running sums, so that a masklet costs one vector however long its video is.

Axes: O masklets, K classes and "mixed", D numbers of a feature vector.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from pipeline.models.masklet_classifier import MaskletClassifier
from pipeline.models.masklet_features import masklet_features
from pipeline.models.semantic_networks import Images, SemanticMap
from pipeline.models.vss_frames import FrameInFlight, Poll
from pipeline.models.vss_polls import FrameMasks
from pipeline.models.vss_votes import NO_CLASS, VOID, Verdicts
from pipeline.ticks import RGB

Fusion = Literal["mean_logit", "mean_feature", "last", "none"]


class ClassifyRules(BaseModel):
    """How a masklet's class follows from what was seen of it so far.

    Attributes:
        fuse: "mean_logit" averages log-probabilities over frames and "mean_feature" feature vectors, both weighted by
            presence, predicted IoU and the square root of area; "last" takes the newest frame for all that wait;
            "none" takes each frame for itself.
        min_probability: a masklet paints only if its class is at least this likely.
        fill_px: pixels that nobody painted take the class of the nearest painted one within this distance.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    fuse: Fusion = "mean_logit"
    min_probability: float = Field(default=0.0, ge=0, le=1)
    fill_px: int = Field(default=8, ge=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskletViews:
    """Masklets on one frame as a classifier sees them.

    Attributes:
        features_OD: float32.
        weight_O: float64, how much the frame counts: sigmoid(object score) * predicted IoU * sqrt(share of the frame).
    """

    features_OD: Tensor
    weight_O: Tensor


def masklet_views(flight: FrameInFlight) -> MaskletViews:
    """The views of all masklets that a frame has, in their order; there is one at least."""
    assert flight.features is not None
    pointers = []
    for masklet in flight.masklets:
        entry = None if masklet.bank is None else masklet.bank.get(flight.position)
        assert entry is not None, "each masklet of a painted frame was tracked or started on it"
        pointers.append(entry.pointer_D)
    logits_OHW = torch.stack([masklet.logits_hw for masklet in flight.masklets])
    device = logits_OHW.device
    iou_O = torch.tensor([masklet.predicted_iou for masklet in flight.masklets], device=device)
    score_O = torch.tensor([masklet.object_score for masklet in flight.masklets], dtype=torch.float64, device=device)
    share_O = (logits_OHW > 0).flatten(1).double().mean(dim=1)
    return MaskletViews(
        features_OD=masklet_features(flight.features.map_BDhw[0], logits_OHW, torch.stack(pointers), iou_O),
        weight_O=score_O.sigmoid() * iou_O.double().clamp(min=0) * share_O.sqrt(),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskletClasses:
    """Masklets are named by a classifier; see `pipeline.models.vss_polls.Opinions`.

    A poll holds the sum of weighted log-probabilities, or of features, since the masklet began.
    """

    classifier: MaskletClassifier
    rules: ClassifyRules
    revotes_shared_frame: bool = False

    @property
    def fill_px(self) -> int:
        return self.rules.fill_px

    def begun(self, polls: Mapping[int, Poll]) -> dict[int, Poll]:
        """As they are: a track goes on over windows."""
        return dict(polls)

    def polled(self, polls: Mapping[int, Poll], masks: FrameMasks, flight: FrameInFlight) -> dict[int, Poll]:
        after = dict(polls)
        if not masks.ids:
            return after
        views = masklet_views(flight)
        seen_OX = views.features_OD.double()
        if self.rules.fuse != "mean_feature":
            seen_OX = self.classifier.log_probabilities(views.features_OD)
        seen_OX = (seen_OX * views.weight_O[:, None]).cpu()
        weights = views.weight_O.tolist()
        is_running = self.rules.fuse in ("mean_logit", "mean_feature")
        for row, masklet_id in enumerate(masks.ids):
            before = polls.get(masklet_id)
            total_X, weight = seen_OX[row].clone(), weights[row]
            if before is not None and (is_running or weight == 0):
                # A frame that shows nothing of a masklet says nothing of its class.
                total_X, weight = total_X + before.votes_C, weight + before.weight
            winner = NO_CLASS if before is None else before.winner
            after[masklet_id] = Poll(votes_C=total_X, probability_C=total_X.new_zeros(0), winner=winner, weight=weight)
        return after

    def verdicts(self, polls: Mapping[int, Poll], ids: Sequence[int]) -> tuple[Verdicts, dict[int, Poll]]:
        chosen = [polls[masklet_id] for masklet_id in ids]
        if not chosen:
            none_O = torch.zeros(0, dtype=torch.long)
            empty = Verdicts(winner_O=none_O, painted_O=none_O, purity_O=none_O.double(), margin_O=none_O.double())
            return empty, dict(polls)
        weight_O1 = torch.tensor([[poll.weight] for poll in chosen], dtype=torch.float64)
        mean_OX = torch.stack([poll.votes_C for poll in chosen]) / weight_O1.clamp(min=torch.finfo(torch.float64).tiny)
        if self.rules.fuse == "mean_feature":
            device = next(self.classifier.parameters()).device
            mean_OX = self.classifier.log_probabilities(mean_OX.float().to(device)).cpu()
        share_O, winner_O = mean_OX.softmax(dim=1).max(dim=1)
        winner_O = torch.where(weight_O1[:, 0] > 0, winner_O, NO_CLASS)
        paints_O = (winner_O != self.classifier.config.mixed) & (share_O >= self.rules.min_probability)
        share_O = torch.where(winner_O == NO_CLASS, 0.0, share_O)
        verdicts = Verdicts(
            winner_O=winner_O,
            painted_O=torch.where(paints_O, winner_O, NO_CLASS),
            purity_O=share_O,
            margin_O=share_O,
        )
        return verdicts, dict(polls)


@dataclass(frozen=True, slots=True, kw_only=True)
class NoLabels:
    """Stands where a semantic network would and knows nothing: every pixel is void."""

    class_names: tuple[str, ...]
    device: torch.device
    name: str = "none"
    modality: str = RGB

    def predict(self, frames: Sequence[Images]) -> list[SemanticMap]:
        sizes = [frame[RGB].shape[:2] for frame in frames]
        return [SemanticMap(labels_HW=torch.full(size, VOID, device=self.device)) for size in sizes]
