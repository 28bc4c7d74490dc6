"""Masks that nobody asked for: a grid of clicks on one frame, what is believable among the answers, and no duplicates.

Source: Kirillov et al., Segment Anything, arXiv 2304.02643, appendix B "Automatic mask generation"; numbers of
"Evaluating SAM2 for Video Semantic Segmentation", arXiv 2512.01774, where it gives them.
Departs from SAM2's generator: no crops, no hole filling; thresholds are measured on the decoder's own grid (stride 4)
instead of the full picture, which costs 16 times less and moves a rim by at most two pixels.

Axes: R clicks (rows of a batch), K mask candidates per click, M masks, h w the mask logits' grid.
"""

from dataclasses import dataclass

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from pipeline.models.image_encoding import ImageFeatures
from pipeline.models.memory import MemorySelection
from pipeline.models.sam2_core import Sam2Core


class ProposalConfig(BaseModel):
    """Which masks are proposed.

    Attributes:
        points_per_side: clicks per row and column of the grid.
        min_predicted_iou: a candidate's own estimate must exceed this.
        min_stability: so must the IoU between its masks cut `stability_offset` above and below zero.
        max_box_iou, max_mask_iou: of two masks whose boxes, or then pixels, overlap more, the better one stays.
        min_area, max_area: share of the frame. Not stated in the paper: it names no least or greatest area.
        max_masklets: masks kept, best by predicted IoU times the square root of area.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    points_per_side: int = Field(default=16, ge=1, le=64)
    min_predicted_iou: float = Field(default=0.6, ge=0, le=1)
    min_stability: float = Field(default=0.8, ge=0, le=1)
    stability_offset: float = Field(default=0.9, gt=0)
    max_box_iou: float = Field(default=0.7, gt=0, le=1)
    max_mask_iou: float = Field(default=0.85, gt=0, le=1)
    min_area: float = Field(default=0.0002, ge=0, lt=1)
    max_area: float = Field(default=0.95, gt=0, le=1)
    max_masklets: int = Field(default=128, ge=1, le=1024)


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposals:
    """Masks of one frame.

    Attributes:
        logits_Mhw: float32, stride 4.
        predicted_iou_M: the decoder's own estimates.
    """

    logits_Mhw: Tensor
    predicted_iou_M: Tensor

    def __len__(self) -> int:
        return self.logits_Mhw.shape[0]

    def pick(self, indices: Tensor) -> "Proposals":
        """Some of them, in that order."""
        return Proposals(logits_Mhw=self.logits_Mhw[indices], predicted_iou_M=self.predicted_iou_M[indices])

    def num_bytes(self) -> int:
        """Bytes of the tensors held."""
        return self.logits_Mhw.nbytes + self.predicted_iou_M.nbytes

    @classmethod
    def join(cls, parts: "list[Proposals] | tuple[Proposals, ...]") -> "Proposals":
        """All masks of several batches, in order."""
        return cls(
            logits_Mhw=torch.cat([part.logits_Mhw for part in parts]),
            predicted_iou_M=torch.cat([part.predicted_iou_M for part in parts]),
        )


def grid_points(points_per_side: int) -> list[tuple[float, float]]:
    """Centres (x, y) of a regular grid's cells, 0..1, row by row: 256 for 16 a side."""
    centres = [(place + 0.5) / points_per_side for place in range(points_per_side)]
    return [(x, y) for y in centres for x in centres]


def click(core: Sam2Core, features: ImageFeatures, points_R2: Tensor) -> Proposals:
    """All candidates of one click per row, as (R * K) masks, a click's candidates together.

    K is 3; or 1 for a model that gives one mask per click, whose other mask tokens mean nothing.

    Args:
        features: R rows.
        points_R2: (x, y) as shares of the frame, 0..1.
    """
    num_rows = len(features)
    # The decoder's object score is not asked, as in SAM2's picture predictor: on one picture all is in view.
    candidates = core.decode_candidates(
        core.attend(features, [MemorySelection()] * num_rows),
        features.high_res,
        core.encode_prompts(
            num_rows,
            points_RP2=points_R2[:, None] * core.config.image_size,
            labels_RP=torch.ones(num_rows, 1, dtype=torch.int32, device=points_R2.device),
        ),
        multimask=core.config.multimask_output_in_sam,
        gate_absent=False,
    )
    return Proposals(
        logits_Mhw=candidates.logits_RKhw.flatten(0, 1), predicted_iou_M=candidates.predicted_iou_RK.float().flatten()
    )


def believable(proposals: Proposals, config: ProposalConfig) -> Proposals:
    """Those that pass every threshold; raising one, or narrowing the range of areas, never lets in another mask."""
    inside_M = _areas(proposals.logits_Mhw, 0.0)
    share_M = inside_M / float(proposals.logits_Mhw[0].numel() if len(proposals) else 1)
    kept_M = (
        (proposals.predicted_iou_M > config.min_predicted_iou)
        & (stability_at(proposals.logits_Mhw, config.stability_offset) > config.min_stability)
        & (share_M >= config.min_area)
        & (share_M <= config.max_area)
        & (inside_M > 0)
    )
    return proposals.pick(kept_M.nonzero()[:, 0])


def stability_at(logits_Mhw: Tensor, offset: float) -> Tensor:
    """IoU between the masks above `offset` and above `-offset`; 0 where even the larger one is empty."""
    return _areas(logits_Mhw, offset) / _areas(logits_Mhw, -offset).clamp(min=1)


def without_duplicates(proposals: Proposals, config: ProposalConfig) -> Proposals:
    """The best of each heap of alike masks, best first: by boxes, then, among what is left, by pixels."""
    order = torch.argsort(proposals.predicted_iou_M, descending=True, stable=True)
    ranked = proposals.pick(order)
    ranked = ranked.pick(_suppressed(box_iou(boxes_of(ranked.logits_Mhw > 0)), config.max_box_iou))
    masks_Mhw = ranked.logits_Mhw > 0
    return ranked.pick(_suppressed(mask_iou(masks_Mhw, masks_Mhw), config.max_mask_iou))


def importance(proposals: Proposals) -> Tensor:
    """(M,) predicted IoU times the square root of area: who stays when there are too many."""
    return proposals.predicted_iou_M * _areas(proposals.logits_Mhw, 0.0).sqrt()


def best_of(proposals: Proposals, limit: int) -> Proposals:
    """The most important ones, in their order."""
    if len(proposals) <= limit:
        return proposals
    chosen = torch.argsort(importance(proposals), descending=True, stable=True)[:limit]
    return proposals.pick(chosen.sort().values)


def mask_iou(ours_Mhw: Tensor, theirs_Nhw: Tensor) -> Tensor:
    """(M, N) IoU of bool masks; 0 where both are empty."""
    # Counts up to 2**24 are exact in float32, also in TF32, whose operands are 0 and 1.
    ours, theirs = ours_Mhw.flatten(1).float(), theirs_Nhw.flatten(1).float()
    shared_MN = ours @ theirs.T
    union_MN = ours.sum(1)[:, None] + theirs.sum(1)[None] - shared_MN
    return shared_MN / union_MN.clamp(min=1)


def boxes_of(masks_Mhw: Tensor) -> Tensor:
    """(M, 4) tight boxes x0, y0, x1, y1 with exclusive ends; zeros for an empty mask."""
    columns_Mw, rows_Mh = masks_Mhw.any(dim=1), masks_Mhw.any(dim=2)
    ends = [side for x in (columns_Mw, rows_Mh) for side in (_first(x), x.shape[1] - _first(x.flip(1)))]
    boxes_M4 = torch.stack([ends[0], ends[2], ends[1], ends[3]], dim=1)
    return torch.where(masks_Mhw.flatten(1).any(dim=1)[:, None], boxes_M4, 0)


def box_iou(boxes_M4: Tensor) -> Tensor:
    """(M, M) IoU of boxes with each other; 0 where both are empty."""
    boxes = boxes_M4.float()
    low, high = torch.maximum(boxes[:, None, :2], boxes[None, :, :2]), torch.minimum(boxes[:, None, 2:], boxes[:, 2:])
    shared_MM = (high - low).clamp(min=0).prod(dim=2)
    area_M = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1)
    return shared_MM / (area_M[:, None] + area_M[None] - shared_MM).clamp(min=1)


def _first(found_Mn: Tensor) -> Tensor:
    """Index of the first True of each row."""
    places = torch.arange(found_Mn.shape[1], device=found_Mn.device)
    return torch.where(found_Mn, places, found_Mn.shape[1]).amin(dim=1)


def _areas(logits_Mhw: Tensor, cut: float) -> Tensor:
    return (logits_Mhw > cut).flatten(1).sum(dim=1).float()


def _suppressed(iou_MM: Tensor, limit: float) -> Tensor:
    """Indices that stay: none overlaps an earlier one that stays by more than `limit`."""
    too_close = (iou_MM > limit).cpu().numpy()
    kept: list[int] = []
    for index in range(len(too_close)):
        if not too_close[index, kept].any():
            kept.append(index)
    return torch.tensor(kept, dtype=torch.long, device=iou_MM.device)
