"""What a masklet looks like on one frame, as a vector: SAM2's embedding inside and around it, its pointer, its shape.

Source: "Evaluating SAM2 for Video Semantic Segmentation", arXiv 2512.01774, describes each mask by a vector and
classifies it. Not stated in the paper: which layer, how it is pooled, and what else is in the vector.

Axes: O masklets, D channels of the embedding, h w its grid (stride 16), H W the mask logits' grid (stride 4).
"""

import hashlib
import json

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from pipeline.models.proposals import boxes_of
from pipeline.models.sam2_core import Sam2Core

NUM_GEOMETRY = 10
"""Area, centroid x and y, box aspect, whether it touches the left, top, right and bottom, fill, predicted IoU."""

RING_TOKENS = 2
"""Width of the ring around a masklet, in cells of the embedding."""

_TINY = 1e-6


class FeatureSchema(BaseModel):
    """What the numbers of a vector are; a classifier reads vectors of its own schema only.

    Attributes:
        embedding, pointer: channels of SAM2's image embedding and of its object pointers.
        image_size: side of SAM2's square in pixels.
        sam2: digest of the weights that give the vectors.
        version: of how they are computed here.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    embedding: int = Field(ge=1)
    pointer: int = Field(ge=1)
    image_size: int = Field(ge=32)
    sam2: str
    version: int = 1

    @classmethod
    def of(cls, core: Sam2Core) -> "FeatureSchema":
        """The schema of the vectors that this SAM2 gives."""
        config = core.config
        return cls(
            embedding=config.d_model, pointer=config.d_model, image_size=config.image_size, sam2=weights_digest(core)
        )

    @property
    def blocks(self) -> dict[str, int]:
        """Numbers per block, in the order in which they stand in the vector; each block has length 1."""
        return {
            "inside_mean": self.embedding,
            "inside_std": self.embedding,
            "pointer": self.pointer,
            "ring_mean": self.embedding,
            "geometry": NUM_GEOMETRY,
        }

    @property
    def size(self) -> int:
        """Numbers of a vector: 1034 with SAM2's 256 channels."""
        return sum(self.blocks.values())

    @property
    def sha256(self) -> str:
        """Of all that the schema says."""
        said = {**self.model_dump(mode="json"), "blocks": list(self.blocks.items())}
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def masklet_features(map_Dhw: Tensor, logits_OHW: Tensor, pointers_OD: Tensor, predicted_iou_O: Tensor) -> Tensor:
    """One vector per masklet, float32 (O, size), each block of L2 length 1 (or 0 where there is nothing).

    Args:
        map_Dhw: image embedding before memory attention.
        logits_OHW: mask logits, four times as fine.
        pointers_OD: object pointers of the same frame.
        predicted_iou_O: the decoder's own estimates.
    """
    map_Dhw = map_Dhw.float()
    inside_Ohw = F.avg_pool2d(logits_OHW.float().sigmoid().unsqueeze(1), 4).squeeze(1)
    side = 2 * RING_TOKENS + 1
    wide_Ohw = F.max_pool2d(inside_Ohw.unsqueeze(1), side, stride=1, padding=RING_TOKENS).squeeze(1)
    mean_OD = _pooled(map_Dhw, inside_Ohw)
    variance_OD = _pooled(map_Dhw**2, inside_Ohw) - mean_OD**2
    blocks = (
        mean_OD,
        variance_OD.clamp(min=0).sqrt(),
        pointers_OD.float(),
        _pooled(map_Dhw, wide_Ohw - inside_Ohw),
        geometry(logits_OHW > 0, predicted_iou_O),
    )
    return torch.cat([F.normalize(block, dim=1) for block in blocks], dim=1)


def geometry(masks_OHW: Tensor, predicted_iou_O: Tensor) -> Tensor:
    """(O, NUM_GEOMETRY), all in 0..1; zeros but for the predicted IoU where a mask is empty."""
    height, width = masks_OHW.shape[1:]
    area_O = masks_OHW.flatten(1).sum(1).float()
    some_O = area_O.clamp(min=1)
    y, x = ((torch.arange(n, device=masks_OHW.device) + 0.5) / n for n in (height, width))
    box = boxes_of(masks_OHW).float()
    box_width, box_height = box[:, 2] - box[:, 0], box[:, 3] - box[:, 1]
    return torch.stack(
        [
            area_O / (height * width),
            masks_OHW.sum(dim=1).float() @ x / some_O,
            masks_OHW.sum(dim=2).float() @ y / some_O,
            box_width / (box_width + box_height).clamp(min=1),
            masks_OHW[:, :, 0].any(dim=1).float(),
            masks_OHW[:, 0].any(dim=1).float(),
            masks_OHW[:, :, -1].any(dim=1).float(),
            masks_OHW[:, -1].any(dim=1).float(),
            area_O / (box_width * box_height).clamp(min=1),
            predicted_iou_O.float(),
        ],
        dim=1,
    )


def weights_digest(core: Sam2Core) -> str:
    """sha256 of all tensors and their names, wherever they lie."""
    digest = hashlib.sha256()
    for name, tensor in sorted(core.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _pooled(map_Dhw: Tensor, weights_Ohw: Tensor) -> Tensor:
    """Weighted means (O, D); zeros where all weights are nearly zero."""
    total_O1 = weights_Ohw.flatten(1).sum(dim=1, keepdim=True)
    mean_OD = weights_Ohw.flatten(1) @ map_Dhw.flatten(1).T / total_O1.clamp(min=_TINY)
    return torch.where(total_O1 > _TINY, mean_OD, 0.0)
