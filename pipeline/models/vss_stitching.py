"""Who is who where two windows meet, and whether a frame shows something new; decides and changes nothing.

Source: "Evaluating SAM2 for Video Semantic Segmentation", arXiv 2512.01774, for windows of 32 frames.
Not stated in the paper: how masklets of two windows are told to be one, and how objects that enter later are found.

Axes: O masklets from the window before, M new masks, h w the mask logits' grid.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from pipeline.masks.matching import best_assignment
from pipeline.models.proposals import mask_iou


class StitchConfig(BaseModel):
    """How masklets go on from window to window.

    Attributes:
        min_iou: an old masklet and a new mask are one object if they overlap at least this much on the shared frame.
        max_covered: an old masklet without a partner goes on unless more of it than this is covered by those that
            have one.
        uncovered_share: new masks are looked for inside a window when more of the frame than this is covered by none,
        uncovered_growth: and by so much more than on the key frame, as shares of the frame.
        stitch: False gives every window ids of its own.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    min_iou: float = Field(default=0.5, gt=0, le=1)
    max_covered: float = Field(default=0.8, ge=0, le=1)
    uncovered_share: float = Field(default=0.10, ge=0, le=1)
    uncovered_growth: float = Field(default=0.05, ge=0, le=1)
    stitch: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Stitching:
    """How old masklets and new masks belong together.

    Attributes:
        old_of: per new mask the index of the old masklet that it continues, or None.
        carried: indices of old masklets that have no new mask and go on with their own.
    """

    old_of: tuple[int | None, ...]
    carried: tuple[int, ...]


def stitch(
    old_Ohw: Tensor, new_Mhw: Tensor, is_present: Sequence[bool], config: StitchConfig, *, carries: bool = True
) -> Stitching:
    """Match masks on the frame that two windows share, best total overlap first.

    Args:
        old_Ohw: bool, the old masklets' masks on that frame.
        new_Mhw: bool, proposed on that frame.
        is_present: per old masklet, whether the model still sees it.
        carries: whether old masklets may go on without a new mask.
    """
    num_old, num_new = len(old_Ohw), len(new_Mhw)
    if not config.stitch or not num_old:
        return Stitching(old_of=(None,) * num_new, carried=())
    old_of = _match(mask_iou(old_Ohw, new_Mhw), config.min_iou)
    if not carries:
        return Stitching(old_of=old_of, carried=())
    matched = {old for old in old_of if old is not None}
    covering = [new for new, old in enumerate(old_of) if old is not None]
    cover_hw = new_Mhw[covering].any(dim=0)
    areas = old_Ohw.flatten(1).sum(dim=1).tolist()
    covered = (old_Ohw & cover_hw).flatten(1).sum(dim=1).tolist()
    carried = tuple(
        old
        for old in range(num_old)
        if old not in matched and is_present[old] and areas[old] and covered[old] <= config.max_covered * areas[old]
    )
    return Stitching(old_of=old_of, carried=carried)


def uncovered(masks_Ohw: Tensor, grid_hw: tuple[int, int], device: torch.device) -> Tensor:
    """Pixels of the logits' grid that no masklet covers; bool (h, w)."""
    if not len(masks_Ohw):
        return torch.ones(grid_hw, dtype=torch.bool, device=device)
    return ~masks_Ohw.any(dim=0)


def shows_something_new(share: float, share_at_key: float, config: StitchConfig) -> bool:
    """Whether so much of a frame is covered by no masklet that something must have entered."""
    return share > config.uncovered_share and share - share_at_key >= config.uncovered_growth


def points_on(free_hw: Tensor, points: Sequence[tuple[float, float]]) -> tuple[int, ...]:
    """Indices of the points, given as shares of the frame, that lie on free pixels."""
    height, width = free_hw.shape
    free = free_hw.cpu().numpy()
    return tuple(index for index, (x, y) in enumerate(points) if free[int(y * height), int(x * width)])


def _match(iou_OM: Tensor, min_iou: float) -> tuple[int | None, ...]:
    """Per new mask its old masklet; pairs below the least overlap stay apart."""
    num_old, num_new = iou_OM.shape
    if not num_new:
        return ()
    # Pairs that may not be must not draw a masklet away from one that may; spare rows stand for "nobody".
    gains = torch.where(iou_OM >= min_iou, iou_OM, 0.0).double().cpu()
    padded = torch.cat([gains, torch.zeros(num_new, num_new, dtype=torch.float64)]).numpy()
    found = best_assignment(padded)
    return tuple(old if old < num_old and padded[old, new] > 0 else None for new, old in enumerate(found))
