"""The trainable motion encoders: key points and dense flow of an object's forecast become prompt tokens."""

# Axes: R rows (one object on one frame), P key points, F numbers of a point, G cells of the flow crop's side, T tokens,
# D decoder channels.

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.errors import WeightsError
from pipeline.models.mask_decoding import DecoderPrompts
from pipeline.models.motion_flow import FlowField, sample
from pipeline.models.motion_forecast import Motion, MotionForecast
from pipeline.models.motion_kalman import Box4
from pipeline.models.sam2_variants import check_fit

POINT_NUMBERS = 6
"""Of a key point: place (x, y) in the frame, 0..1; step and the filter's velocity in box sides per frame."""

FLOW_CHANNELS = 4
"""Of a cell of the crop: flow (x, y) in box sides, agreement of both directions, probability of the moved mask."""

CROP_MARGIN = 0.25
"""The crop is the forecast box grown by this share of its sides on every side."""

_NUM_WAVES = 6


class MotionEncoderConfig(BaseModel):
    """Sizes of the motion encoders.

    Source: MoSAM's figures mark a sparse and a dense motion encoder as trainable, fed by past segmentations [F]; their
    insides, sizes and training are not public: all numbers are ours [U].

    Attributes:
        d_model: width of the decoder's tokens.
        num_points: key points, each a token.
        crop_cells: side of the crop of flow and mask, a multiple of 8.
        dense_side: the crop becomes so many tokens squared.
        width: inner channels.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    d_model: int = Field(default=256, ge=8)
    num_points: int = Field(default=5, ge=1)
    crop_cells: int = Field(default=16, ge=8, multiple_of=8)
    dense_side: int = Field(default=2, ge=1, le=2)
    width: int = Field(default=64, ge=8)


@dataclass(frozen=True, slots=True, kw_only=True)
class MotionInputs:
    """Forecasts as the encoders read them.

    Attributes:
        points_RPF: see POINT_NUMBERS; zero where there is no point.
        has_point_RP: bool.
        crops_R4GG: see FLOW_CHANNELS.
        boxes_R4: of the forecasts, 0..1 of the frame's width and height.
    """

    points_RPF: Tensor
    has_point_RP: Tensor
    crops_R4GG: Tensor
    boxes_R4: Tensor

    def to(self, device: torch.device) -> Self:
        """The same inputs on a device."""
        return type(self)(
            points_RPF=self.points_RPF.to(device),
            has_point_RP=self.has_point_RP.to(device),
            crops_R4GG=self.crops_R4GG.to(device),
            boxes_R4=self.boxes_R4.to(device),
        )


class SparseMotionEncoder(nn.Module):
    """Key points, where they are and how they moved, to a token each; a learned token stands for a missing point."""

    def __init__(self, config: MotionEncoderConfig) -> None:
        super().__init__()
        inputs = 4 * _NUM_WAVES + POINT_NUMBERS
        self.layers = nn.Sequential(
            nn.Linear(inputs, config.width), nn.GELU(), nn.Linear(config.width, config.width), nn.GELU()
        )
        self.to_token = _silent(nn.Linear(config.width, config.d_model))
        self.missing = nn.Parameter(torch.zeros(config.d_model))

    def forward(self, points_RPF: Tensor, has_point_RP: Tensor) -> Tensor:
        """Tokens (R, P, D)."""
        seen_RPE = torch.cat([waves(points_RPF[..., :2]), points_RPF], dim=-1)
        tokens_RPD: Tensor = self.to_token(self.layers(seen_RPE))
        return torch.where(has_point_RP[..., None], tokens_RPD, self.missing)


class DenseMotionEncoder(nn.Module):
    """The crop of flow and moved mask to a few tokens, which also know where the crop is."""

    def __init__(self, config: MotionEncoderConfig) -> None:
        super().__init__()
        width = config.width
        self.layers = nn.Sequential(
            nn.Conv2d(FLOW_CHANNELS, width, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(width, width, 3, stride=2, padding=1),
            nn.GELU(),
            nn.Conv2d(width, width, 3, stride=2, padding=1),
            nn.GELU(),
            nn.AdaptiveAvgPool2d(config.dense_side),
        )
        self.place = nn.Linear(8 * _NUM_WAVES + 4, width)
        self.to_token = _silent(nn.Linear(width, config.d_model))

    def forward(self, crops_R4GG: Tensor, boxes_R4: Tensor) -> Tensor:
        """Tokens (R, T, D)."""
        cells_RTC = self.layers(crops_R4GG).flatten(2).transpose(1, 2)
        place_R1C = self.place(torch.cat([waves(boxes_R4), boxes_R4], dim=-1))[:, None]
        tokens_RTD: Tensor = self.to_token(F.gelu(cells_RTC + place_R1C))
        return tokens_RTD


class MotionEncoders(nn.Module):
    """Both encoders. At first every token is zero, so that training begins close to the training-free prompt."""

    def __init__(self, config: MotionEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.sparse = SparseMotionEncoder(config)
        self.dense = DenseMotionEncoder(config)

    def forward(self, inputs: MotionInputs) -> Tensor:
        """Prompt tokens (R, T, D): one per key point, then those of the flow."""
        points_RPD = self.sparse(inputs.points_RPF, inputs.has_point_RP)
        return torch.cat([points_RPD, self.dense(inputs.crops_R4GG, inputs.boxes_R4)], dim=1)


def motion_inputs(forecasts: Sequence[MotionForecast | None], config: MotionEncoderConfig) -> MotionInputs:
    """What the encoders read of forecasts, on the CPU; zeros for rows without a motion prompt."""
    num_rows, cells = len(forecasts), config.crop_cells
    points_RPF = np.zeros((num_rows, config.num_points, POINT_NUMBERS), np.float32)
    has_point_RP = np.zeros((num_rows, config.num_points), np.bool_)
    crops_R4GG = np.zeros((num_rows, FLOW_CHANNELS, cells, cells), np.float32)
    boxes_R4 = np.zeros((num_rows, 4), np.float32)
    for row, ahead in enumerate(forecasts):
        if ahead is None or ahead.motion is None or ahead.motion.box is None:
            continue
        height, width = ahead.motion.size
        found = _point_numbers(ahead, ahead.motion, ahead.motion.box)[: config.num_points]
        points_RPF[row, : len(found)], has_point_RP[row, : len(found)] = found, True
        crops_R4GG[row] = _crop(ahead.motion, ahead.motion.box, cells)
        boxes_R4[row] = np.array(ahead.motion.box) / (width, height, width, height)
    arrays = (points_RPF, has_point_RP, crops_R4GG, boxes_R4)
    points, has_point, crops, boxes = (torch.from_numpy(array) for array in arrays)
    return MotionInputs(points_RPF=points, has_point_RP=has_point, crops_R4GG=crops, boxes_R4=boxes)


def with_motion_tokens(prompts: DecoderPrompts, tokens_RTD: Tensor) -> DecoderPrompts:
    """The prompts with motion tokens after all others."""
    return replace(prompts, sparse_RTD=torch.cat([prompts.sparse_RTD, tokens_RTD], dim=1))


def waves(places: Tensor) -> Tensor:
    """Sine and cosine of places in 0..1 at doubling frequencies: (..., n) to (..., n * 2 * 6)."""
    frequencies = math.pi * 2.0 ** torch.arange(_NUM_WAVES, device=places.device, dtype=places.dtype)
    angles = places[..., None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(-2)


def encoder_content(encoders: MotionEncoders) -> dict[str, Any]:
    """What a checkpoint holds: {"model": tensors, "architecture": sizes}."""
    tensors = {name: tensor.detach().cpu().clone() for name, tensor in encoders.state_dict().items()}
    return {"model": tensors, "architecture": encoders.config.model_dump(mode="json")}


def load_motion_encoders(path: str | Path, *, d_model: int) -> MotionEncoders:
    """The encoders of a local file that `train_track` wrote, in eval mode.

    Raises:
        WeightsError: the file cannot be read, holds something else, or was trained for a decoder of another width.
    """
    try:
        content: Mapping[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        config = MotionEncoderConfig.model_validate(content["architecture"])
        tensors: Mapping[str, Tensor] = content["model"]
    except (OSError, EOFError, UnpicklingError, RuntimeError, KeyError, TypeError, ValueError) as error:
        raise WeightsError(
            f"{path}: not a checkpoint of motion encoders: {error}. Give the model.pt that train_track wrote."
        ) from error
    if config.d_model != d_model:
        raise WeightsError(
            f"{path}: trained for decoder tokens of {config.d_model} channels, but this SAM2 has {d_model}. "
            "Motion encoders belong to the SAM2 that they were trained with."
        )
    encoders = MotionEncoders(config)
    check_fit(encoders.state_dict(), tensors)
    encoders.load_state_dict(dict(tensors))
    return encoders.eval()


def _point_numbers(ahead: MotionForecast, motion: Motion, box: Box4) -> NDArray[np.float32]:
    """See POINT_NUMBERS, (P, F)."""
    sides = np.maximum((box[2] - box[0], box[3] - box[1]), 1.0)
    velocity = np.zeros(2) if ahead.kalman is None else ahead.kalman.mean[4:6]
    places = (motion.points_P2 + 0.5) / (motion.size[1], motion.size[0])
    steps = (motion.points_P2 - motion.from_P2) / sides
    return np.concatenate([places, steps, np.broadcast_to(velocity / sides, steps.shape)], axis=1).astype(np.float32)


def _crop(motion: Motion, box: Box4, cells: int) -> NDArray[np.float32]:
    """See FLOW_CHANNELS, (4, G, G), sampled over the grown box."""
    wide, high = max(box[2] - box[0], 1.0), max(box[3] - box[1], 1.0)
    steps = (np.arange(cells, dtype=np.float32) + 0.5) / cells * (1 + 2 * CROP_MARGIN) - CROP_MARGIN
    across, down = np.meshgrid(box[0] + steps * wide - 0.5, box[1] + steps * high - 0.5)
    x, y = across.astype(np.float32), down.astype(np.float32)
    flow, agrees = _flow_at(motion.field, motion.displacement_xy, x, y)
    height, width = motion.logits_hw.shape
    columns = (x + 0.5) * np.float32(width / motion.size[1]) - 0.5
    rows = (y + 0.5) * np.float32(height / motion.size[0]) - 0.5
    mask = 1 / (1 + np.exp(-sample(motion.logits_hw, columns, rows, outside=-8.0)))
    return np.stack([flow[..., 0] / wide, flow[..., 1] / high, agrees, mask]).astype(np.float32)


def _flow_at(
    field: FlowField | None, displacement_xy: tuple[float, float], x: NDArray[np.float32], y: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Displacement towards each place of the current image (G, G, 2), and whether both directions agree (G, G)."""
    whole = np.broadcast_to(np.array(displacement_xy, np.float32), (*x.shape, 2))
    if field is None:
        return whole, np.zeros(x.shape, np.float32)
    x = (x - field.left).astype(np.float32)
    y = (y - field.top).astype(np.float32)
    found = np.array(field.shift_xy, np.float32) - sample(field.backward_HW2, x, y, outside=0.0)
    agrees = sample(field.agrees_HW.astype(np.float32), x, y, outside=0.0)
    high, wide = field.agrees_HW.shape
    inside = (x >= 0) & (x <= wide - 1) & (y >= 0) & (y <= high - 1)
    return np.where(inside[..., None], found, whole), agrees


def _silent(layer: nn.Linear) -> nn.Linear:
    """A layer whose output is zero until it is trained."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
