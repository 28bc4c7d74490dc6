"""What masklets have come to over the frames so far, and who decides their classes: a network's labels, by vote.

Axes: O masklets, C classes, H W the decoded frame.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.models.semantic_networks import SemanticMap
from pipeline.models.vss_frames import FrameInFlight, Masklet, Poll
from pipeline.models.vss_votes import NO_CLASS, Ballots, Verdicts, VoteRules, decide, tally

_CHUNK_MASKS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameMasks:
    """Masklets on one frame at its own size.

    Attributes:
        masks_OHW: bool.
    """

    ids: tuple[int, ...]
    masks_OHW: Tensor
    predicted_iou: tuple[float, ...]
    object_score: tuple[float, ...]


def masks_on_frame(masklets: Sequence[Masklet], size: tuple[int, int], device: torch.device) -> FrameMasks:
    """Masks enlarged bilinearly to (H, W) and cut at zero."""
    masks_OHW = torch.zeros(len(masklets), *size, dtype=torch.bool, device=device)
    for start in range(0, len(masklets), _CHUNK_MASKS):
        part = masklets[start : start + _CHUNK_MASKS]
        logits_O1hw = torch.stack([masklet.logits_hw for masklet in part]).unsqueeze(1).float()
        enlarged = F.interpolate(logits_O1hw, size=size, mode="bilinear", align_corners=False)
        masks_OHW[start : start + len(part)] = enlarged[:, 0] > 0
    return FrameMasks(
        ids=tuple(masklet.masklet_id for masklet in masklets),
        masks_OHW=masks_OHW,
        predicted_iou=tuple(masklet.predicted_iou for masklet in masklets),
        object_score=tuple(masklet.object_score for masklet in masklets),
    )


def poll_frame(
    polls: Mapping[int, Poll], masks: FrameMasks, semantic: SemanticMap, *, num_classes: int, rules: VoteRules
) -> dict[int, Poll]:
    """The polls with one more frame's votes; masklets that are not on the frame keep theirs."""
    ballots = tally(
        semantic.labels_HW,
        masks.masks_OHW,
        num_classes=num_classes,
        rules=rules,
        probabilities_CHW=semantic.probabilities_CHW,
    )
    votes_OC, probability_OC = ballots.votes_OC.cpu(), ballots.probability_OC.cpu()
    decay = {"frame": 0.0, "window": 1.0, "track": rules.track_decay}[rules.scope]
    after = dict(polls)
    for row, masklet_id in enumerate(masks.ids):
        before = polls.get(masklet_id)
        votes_C, probability_C = votes_OC[row].clone(), probability_OC[row].clone()
        if before is not None:
            votes_C += decay * before.votes_C
            probability_C += decay * before.probability_C
        winner = NO_CLASS if before is None else before.winner
        after[masklet_id] = Poll(votes_C=votes_C, probability_C=probability_C, winner=winner)
    return after


def decide_polls(
    polls: Mapping[int, Poll], ids: Sequence[int], *, num_classes: int, min_purity: float
) -> tuple[Verdicts, dict[int, Poll]]:
    """What the polls of some masklets have come to, in the order of `ids`, and the polls that remember it."""
    chosen = [polls[masklet_id] for masklet_id in ids]
    empty = torch.zeros(0, num_classes, dtype=torch.float64)
    ballots = Ballots(
        votes_OC=torch.stack([poll.votes_C for poll in chosen]) if chosen else empty,
        probability_OC=torch.stack([poll.probability_C for poll in chosen]) if chosen else empty,
    )
    previous_O = torch.tensor([poll.winner for poll in chosen], dtype=torch.long)
    verdicts = decide(ballots, previous_O, min_purity=min_purity)
    winners = verdicts.winner_O.tolist()
    remembered = {
        masklet_id: Poll(votes_C=poll.votes_C, probability_C=poll.probability_C, winner=winner)
        for masklet_id, poll, winner in zip(ids, chosen, winners, strict=True)
    }
    return verdicts, {**polls, **remembered}


class Opinions(Protocol):
    """Where a masklet's class comes from. Remembers nothing: polls are values of the video.

    Attributes:
        revotes_shared_frame: the frame that the next window begins with votes for this window's masklets too.
        fill_px: pixels that nobody painted take the class of the nearest painted one within this distance.
    """

    @property
    def revotes_shared_frame(self) -> bool: ...

    @property
    def fill_px(self) -> int: ...

    def begun(self, polls: Mapping[int, Poll]) -> dict[int, Poll]:
        """The polls of masklets that go on, as a window begins."""
        ...

    def polled(self, polls: Mapping[int, Poll], masks: FrameMasks, flight: FrameInFlight) -> dict[int, Poll]:
        """The polls with one more frame; masklets that are not on the frame keep theirs."""
        ...

    def verdicts(self, polls: Mapping[int, Poll], ids: Sequence[int]) -> tuple[Verdicts, dict[int, Poll]]:
        """What the polls of some masklets have come to, in the order of `ids`, and the polls that remember it."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkVotes:
    """The pixels of a masklet vote by a semantic network's labels; see `pipeline.models.vss_votes`."""

    num_classes: int
    rules: VoteRules
    fill_px: int = 0

    @property
    def revotes_shared_frame(self) -> bool:
        return self.rules.scope == "window"

    def begun(self, polls: Mapping[int, Poll]) -> dict[int, Poll]:
        """Whole if tracks vote, else only what won."""
        if self.rules.scope == "track":
            return dict(polls)
        none_C = torch.zeros(self.num_classes, dtype=torch.float64)
        return {
            number: Poll(votes_C=none_C, probability_C=none_C, winner=poll.winner) for number, poll in polls.items()
        }

    def polled(self, polls: Mapping[int, Poll], masks: FrameMasks, flight: FrameInFlight) -> dict[int, Poll]:
        assert flight.semantic is not None
        return poll_frame(polls, masks, flight.semantic, num_classes=self.num_classes, rules=self.rules)

    def verdicts(self, polls: Mapping[int, Poll], ids: Sequence[int]) -> tuple[Verdicts, dict[int, Poll]]:
        return decide_polls(polls, ids, num_classes=self.num_classes, min_purity=self.rules.min_purity)
