"""Which masklets a frame has: where to look for new ones, who is new among what was found, and who goes on.

Axes: O masklets, M masks found, h w the mask logits' grid.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.models.mask_decoding import PRESENT_SCORE
from pipeline.models.memory import MemoryBank, MemoryEntry
from pipeline.models.motion_flow import Flow
from pipeline.models.proposals import (
    ProposalConfig,
    Proposals,
    believable,
    best_of,
    importance,
    mask_iou,
    without_duplicates,
)
from pipeline.models.vss_frames import FrameInFlight, FrameRules, Masklet
from pipeline.models.vss_stitching import StitchConfig, points_on, shows_something_new, stitch, uncovered
from pipeline.ticks import RGB, Image

FLOW_SIDE_PX = 256
"""Frames are shrunk to a square of at most this side to measure flow."""

_OUT_OF_VIEW_LOGIT = -8.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Discovery:
    """Decides on masklets; a value without state.

    Attributes:
        points: the grid's points as shares of the frame.
        grid: side of the mask logits.
        image_size: side of the model's square in pixels.
        flow: for propagator "flow".
    """

    points: tuple[tuple[float, float], ...]
    proposals: ProposalConfig
    stitching: StitchConfig
    rules: FrameRules
    grid: int
    image_size: int
    device: torch.device
    flow: Flow | None = None

    def choose_points(self, flight: FrameInFlight) -> FrameInFlight:
        """Where to click on this frame: everywhere on key frames, else on what is free if something new is there."""
        if flight.is_key or self.rules.propagator != "sam2":
            return replace(flight, points=tuple(range(len(self.points))))
        if len(flight.masklets) >= self.proposals.max_masklets:
            return replace(flight, points=())
        free_hw = self._free(flight.masklets)
        if not shows_something_new(share_of(free_hw), flight.uncovered_at_key, self.stitching):
            return replace(flight, points=())
        return replace(flight, points=points_on(free_hw, self.points))

    def believable(self, found: Proposals) -> Proposals:
        """What passes the thresholds, as a copy."""
        return believable(found, self.proposals)

    def settle(self, flight: FrameInFlight) -> FrameInFlight:
        """The frame's masklets once all clicks are answered; those that are new, or begin anew, have no memory yet."""
        found = without_duplicates(Proposals.join(flight.proposals), self.proposals)
        is_full_search = flight.is_key or self.rules.propagator != "sam2"
        if is_full_search:
            flight = self._moved(flight)
            masklets, next_id = self._stitched(flight, found)
        else:
            masklets, next_id = self._joined_by(flight, found)
        return replace(
            flight,
            masklets=masklets,
            next_id=next_id,
            proposals=(),
            uncovered_at_key=share_of(self._free(masklets)),
        )

    def started(self, masklet: Masklet, entry: MemoryEntry) -> Masklet:
        """A masklet with its own mask as the first memory."""
        bank = MemoryBank()
        bank.add(replace(entry, logits_hw=None))
        return replace(masklet, bank=bank, object_score=entry.object_score)

    def _stitched(self, flight: FrameInFlight, found: Proposals) -> tuple[tuple[Masklet, ...], int]:
        """Every mask found, under the id of the masklet that it continues or a new one, and old ones that go on."""
        old = flight.masklets
        parts = stitch(
            _masks_of(old, self.grid, self.device),
            found.logits_Mhw > 0,
            [masklet.object_score > 0 for masklet in old],
            self.stitching,
            carries=self.rules.propagator != "iou",
        )
        new = self._masklets_of(found, flight.position)
        named = [
            masklet if place is None else replace(masklet, masklet_id=old[place].masklet_id)
            for masklet, place in zip(new, parts.old_of, strict=True)
        ]
        named += [replace(old[place], position=flight.position, bank=None) for place in parts.carried]
        return _with_ids(_most_important(named, self.proposals.max_masklets), flight.next_id)

    def _joined_by(self, flight: FrameInFlight, found: Proposals) -> tuple[tuple[Masklet, ...], int]:
        """The masklets and what was found beside them, less what only repeats one of them."""
        known_Ohw = _masks_of(flight.masklets, self.grid, self.device)
        if len(flight.masklets):
            repeats_M = (mask_iou(found.logits_Mhw > 0, known_Ohw) > self.proposals.max_mask_iou).any(dim=1)
            found = found.pick((~repeats_M).nonzero()[:, 0])
        found = best_of(found, self.proposals.max_masklets - len(flight.masklets))
        named = [*flight.masklets, *self._masklets_of(found, flight.position)]
        return _with_ids(named, flight.next_id)

    def _masklets_of(self, found: Proposals, position: int) -> list[Masklet]:
        """Masklets without a name (id 0) and without memory."""
        return [
            Masklet(
                masklet_id=0,
                position=position,
                logits_hw=logits_hw.clone(),
                predicted_iou=predicted_iou,
                object_score=PRESENT_SCORE,
            )
            for logits_hw, predicted_iou in zip(found.logits_Mhw, found.predicted_iou_M.tolist(), strict=True)
        ]

    def _moved(self, flight: FrameInFlight) -> FrameInFlight:
        """With propagator "flow": the masklets of the frame before, where the flow takes them."""
        if self.flow is None:
            return flight
        assert flight.frame is not None
        grey = grey_square(flight.frame.images[RGB], min(FLOW_SIDE_PX, self.image_size))
        moved = flight.masklets
        if flight.grey_hw is not None and moved:
            backward = torch.from_numpy(self.flow(flight.grey_hw.numpy(), grey)).to(self.device)
            logits_Ohw = warp_logits(torch.stack([masklet.logits_hw for masklet in moved]), backward)
            moved = tuple(
                replace(masklet, logits_hw=logits_hw.clone())
                for masklet, logits_hw in zip(moved, logits_Ohw, strict=True)
            )
        return replace(flight, masklets=moved, grey_hw=torch.from_numpy(grey))

    def _free(self, masklets: Sequence[Masklet]) -> Tensor:
        return uncovered(_masks_of(masklets, self.grid, self.device), (self.grid, self.grid), self.device)


def share_of(free_hw: Tensor) -> float:
    """Share of True pixels."""
    return int(free_hw.sum()) / free_hw.numel()


def warp_logits(logits_Ohw: Tensor, backward_HW2: Tensor) -> Tensor:
    """Mask logits of the frame before, where a backward flow takes them; far below zero for what comes from outside.

    Args:
        backward_HW2: (x, y) displacements in pixels of its own grid, which covers the same frame.
    """
    height, width = backward_HW2.shape[:2]
    grid_hw = logits_Ohw.shape[-2:]
    unit = backward_HW2.new_tensor([2 / width, 2 / height])
    flow_2hw = F.interpolate((backward_HW2 * unit).permute(2, 0, 1)[None], size=grid_hw, mode="area")[0]
    ys, xs = ((2 * torch.arange(n, device=flow_2hw.device) + 1) / n - 1 for n in grid_hw)
    places_hw2 = torch.stack([xs[None, :] + flow_2hw[0], ys[:, None] + flow_2hw[1]], dim=-1)
    raised = logits_Ohw.float()[None] - _OUT_OF_VIEW_LOGIT
    warped = F.grid_sample(raised, places_hw2[None], mode="bilinear", padding_mode="zeros", align_corners=False)
    return warped[0] + _OUT_OF_VIEW_LOGIT


def grey_square(image_HW3: Image, side: int) -> Image:
    """A frame in grey, shrunk to a square: uint8 (side, side)."""
    grey: Image = cv2.resize(cv2.cvtColor(image_HW3, cv2.COLOR_RGB2GRAY), (side, side), interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(grey)


def _masks_of(masklets: Sequence[Masklet], grid: int, device: torch.device) -> Tensor:
    if not masklets:
        return torch.zeros(0, grid, grid, dtype=torch.bool, device=device)
    return torch.stack([masklet.logits_hw for masklet in masklets]) > 0


def _most_important(masklets: Sequence[Masklet], limit: int) -> list[Masklet]:
    """The most important ones, in their order."""
    if len(masklets) <= limit:
        return list(masklets)
    ranks = importance(
        Proposals(
            logits_Mhw=torch.stack([masklet.logits_hw for masklet in masklets]),
            predicted_iou_M=torch.tensor(
                [masklet.predicted_iou for masklet in masklets], device=masklets[0].logits_hw.device
            ),
        )
    )
    chosen = torch.argsort(ranks, descending=True, stable=True)[:limit]
    return [masklets[index] for index in sorted(chosen.tolist())]


def _with_ids(masklets: Sequence[Masklet], next_id: int) -> tuple[tuple[Masklet, ...], int]:
    """All by id, the nameless ones named in their order, and the id after the last."""
    named: list[Masklet] = []
    for masklet in masklets:
        if not masklet.masklet_id:
            masklet, next_id = replace(masklet, masklet_id=next_id), next_id + 1
        named.append(masklet)
    return tuple(sorted(named, key=lambda masklet: masklet.masklet_id)), next_id
