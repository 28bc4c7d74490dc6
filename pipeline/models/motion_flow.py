"""Dense flow: who measures it (DIS, Farneback, RAFT or any callable), where, and where both directions agree."""

# Axes: H W pixels of a grey image or of a window of it, 2 as (x, y) displacements in grey pixels.

from collections.abc import Mapping
from dataclasses import dataclass, field
from pickle import UnpicklingError
from typing import Any, Protocol

import cv2
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torchvision.models import optical_flow

from pipeline.errors import WeightsError
from pipeline.models.motion_config import FlowName, MotionConfig
from pipeline.models.motion_kalman import Box4
from pipeline.models.motion_points import Floats, Grey
from pipeline.ticks import Mask

DIS_PRESETS = {
    "ultrafast": cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST,
    "fast": cv2.DISOPTICAL_FLOW_PRESET_FAST,
    "medium": cv2.DISOPTICAL_FLOW_PRESET_MEDIUM,
}
RAFT_MULTIPLE, RAFT_MIN_SIDE = 8, 128
"""Sides that torchvision's RAFT accepts."""

_MIN_TEMPLATE_SIDE = 4
"""Of a template at half size: smaller ones fit anywhere."""

_NUM_PEAKS = 4
"""Places at half size that are looked at again at full size."""

_OUTSIDE = 1e4
"""Flow of what lies outside the image: agrees with nothing."""


class Flow(Protocol):
    """Measures dense flow between two grey images, uint8 (H, W).

    Returns float32 (H, W, 2), the backward flow: the current image at (x, y) shows what the previous one shows at
    (x + flow[y, x, 0], y + flow[y, x, 1]).
    """

    def __call__(self, previous_HW: Grey, current_HW: Grey) -> Floats: ...


@dataclass(frozen=True, slots=True)
class DisFlow:
    """Dense inverse search (Kroeger et al., ECCV 2016). One call at a time: OpenCV's object keeps buffers."""

    preset: str = "fast"
    _dis: Any = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_dis", cv2.DISOpticalFlow.create(DIS_PRESETS[self.preset]))

    def __call__(self, previous_HW: Grey, current_HW: Grey) -> Floats:
        flow_HW2: Floats = self._dis.calc(np.ascontiguousarray(current_HW), np.ascontiguousarray(previous_HW), None)
        return flow_HW2


def farneback_flow(previous_HW: Grey, current_HW: Grey) -> Floats:
    """Polynomial expansion (Farneback, SCIA 2003): 4 levels, window 21."""
    flow_HW2: Floats = cv2.calcOpticalFlowFarneback(current_HW, previous_HW, None, 0.5, 4, 21, 3, 7, 1.5, 0)
    return flow_HW2


class RaftFlow:
    """RAFT (Teed and Deng, ECCV 2020) as torchvision has it, on grey images; seconds per pair on a CPU."""

    def __init__(self, network: nn.Module, *, device: torch.device | str = "cpu") -> None:
        self._network = network.to(device).eval()
        self._device = torch.device(device)

    @torch.inference_mode()
    def __call__(self, previous_HW: Grey, current_HW: Grey) -> Floats:
        height, width = current_HW.shape
        pad = [0, _missing(width), 0, _missing(height)]
        images = torch.from_numpy(np.stack([current_HW, previous_HW])).to(self._device)[:, None].float() / 127.5 - 1
        images = F.pad(images, pad, mode="replicate").expand(-1, 3, -1, -1)
        flow_2HW = self._network(images[:1], images[1:])[-1][0, :, :height, :width]
        return np.ascontiguousarray(flow_2HW.permute(1, 2, 0).float().cpu().numpy())


def build_flow(config: MotionConfig, *, device: torch.device | str = "cpu") -> Flow | None:
    """Who measures flow under this config; None for flow="none".

    Raises:
        WeightsError: RAFT's weights cannot be read or do not fit.
    """
    if config.flow == "none":
        return None
    if config.flow == "dis":
        return DisFlow()
    if config.flow == "farneback":
        return farneback_flow
    return RaftFlow(load_raft(config.flow, str(config.flow_weights)), device=device)


def load_raft(name: FlowName, path: str) -> nn.Module:
    """torchvision's network with the weights of a local file (a state dict as `torch.save` writes it)."""
    network: nn.Module = getattr(optical_flow, name)(weights=None)
    try:
        tensors: Mapping[str, torch.Tensor] = torch.load(path, map_location="cpu", weights_only=True)
        network.load_state_dict(dict(tensors))
    except (OSError, EOFError, UnpicklingError, RuntimeError, TypeError, ValueError) as error:
        raise WeightsError(
            f"{path}: not the weights of {name}: {error}. "
            f"Give a file with torchvision's {name} state dict, or choose flow='dis', which needs none."
        ) from error
    return network


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowField:
    """Flow between a window of the previous image and the same window, shifted, of the current one.

    Attributes:
        left, top: first pixel of the current window; it may reach beyond the image.
        shift_xy: whole pixels from the previous window to the current one; all displacements count from there.
        backward_HW2, forward_HW2: flow that is left, current to previous and previous to current.
        agrees_HW: bool, current pixels from which both lead back to where they began.
        current_HW: the current window.
        explained_HW: the previous window, moved by the flow: like the current one where the flow is right.
    """

    left: int
    top: int
    shift_xy: tuple[int, int]
    backward_HW2: Floats
    forward_HW2: Floats
    agrees_HW: Mask
    current_HW: Grey
    explained_HW: Grey

    def num_bytes(self) -> int:
        arrays = (self.backward_HW2, self.forward_HW2, self.agrees_HW, self.current_HW, self.explained_HW)
        return sum(array.nbytes for array in arrays)


def window_field(
    previous_HW: Grey, current_HW: Grey, box: Box4, shift_xy: tuple[float, float], flow: Flow, config: MotionConfig
) -> FlowField | None:
    """Velocity-compensated flow of an object: its crop of the previous image, moved by `shift_xy`, to the current.

    Args:
        box: of the object in the previous image.
        shift_xy: where it is expected to have gone.

    Returns:
        None when the object is expected outside the image.
    """
    shift = (round(shift_xy[0]), round(shift_xy[1]))
    columns, rows = (_grown(box[axis], box[axis + 2], shift[axis], config) for axis in (0, 1))
    height, width = current_HW.shape
    if columns[0] >= width or columns[-1] < 0 or rows[0] >= height or rows[-1] < 0:
        return None
    current = _window(current_HW, rows, columns)
    previous = _window(previous_HW, rows - shift[1], columns - shift[0])
    return _both_ways(previous, current, int(columns[0]), int(rows[0]), shift, flow, config)


def matched_shift(
    previous_HW: Grey,
    current_HW: Grey,
    mask_HW: Mask,
    box: Box4,
    around_xy: tuple[float, float],
    *,
    reach_px: float,
    config: MotionConfig,
) -> tuple[int, int] | None:
    """Where the object's own pixels fit best, in whole grey pixels; None if they fit nowhere well.

    Template matching by normalised correlation within the mask: on images of half the size, then at full size
    near its best places, since a fine pattern is lost at half size. For objects that turned or sped up so much that
    flow around the filter's forecast missed them [I: the spec's table of dense flow].

    Args:
        mask_HW, box: of the object in the previous image.
        around_xy: the displacement around which to search.
        reach_px: no displacement further from it is considered.
    """
    columns, rows = (_even(box[axis], box[axis + 2]) for axis in (0, 1))
    template = _window(previous_HW, rows, columns)
    mask = _window(mask_HW.astype(np.uint8), rows, columns)
    if min(template.shape) < 2 * _MIN_TEMPLATE_SIDE or mask.sum() < (2 * _MIN_TEMPLATE_SIDE) ** 2:
        return None
    far = round(reach_px / 2) * 2
    first_x, first_y = round(around_xy[0]), round(around_xy[1])
    search = _window(current_HW, _longer(rows + first_y, far + 1), _longer(columns + first_x, far + 1))
    coarse = cv2.matchTemplate(
        _halved(search[1:-1, 1:-1]), _halved(template), cv2.TM_CCOEFF_NORMED, mask=_halved(mask * np.uint8(255)) // 128
    )
    away_y, away_x = (2 * np.arange(count) - far for count in coarse.shape)
    away = np.hypot(away_y[:, None], away_x[None]) / max(reach_px, 1.0)
    coarse = np.where(np.isfinite(coarse) & (away <= 1), coarse, -1.0) - config.far_match_cost * away
    best: tuple[float, tuple[int, int]] | None = None
    for row, column in _peaks(coarse):
        near = search[2 * row : 2 * row + template.shape[0] + 2, 2 * column : 2 * column + template.shape[1] + 2]
        fine = cv2.matchTemplate(near, template, cv2.TM_CCOEFF_NORMED, mask=mask)
        fine = np.where(np.isfinite(fine), fine, -1.0)
        y, x = np.unravel_index(int(fine.argmax()), fine.shape)
        score = float(fine[y, x]) - config.far_match_cost * float(away[row, column])
        if fine[y, x] >= config.min_correlation and (best is None or score > best[0]):
            best = score, (first_x - far - 1 + 2 * column + int(x), first_y - far - 1 + 2 * row + int(y))
    return None if best is None else best[1]


def _peaks(scores: Floats) -> list[tuple[int, int]]:
    """The best places of a map, best first, no two of them neighbours."""
    rest, found = scores.copy(), []
    for _ in range(_NUM_PEAKS):
        row, column = np.unravel_index(int(rest.argmax()), rest.shape)
        if rest[row, column] <= -1:
            break
        found.append((int(row), int(column)))
        rest[max(0, row - 2) : row + 3, max(0, column - 2) : column + 3] = -np.inf
    return found


def _even(start: float, stop: float) -> Any:
    """The pixels of an axis from one place to another, and one more where their number is odd: halves are whole."""
    first, last = int(np.floor(start)), int(np.ceil(stop))
    return np.arange(first, last + (last - first) % 2)


def _longer(places: Any, more: int) -> Any:
    return np.arange(places[0] - more, places[-1] + 1 + more)


def whole_frame_field(previous_HW: Grey, current_HW: Grey, flow: Flow, config: MotionConfig) -> FlowField:
    """Flow of the whole frame, without compensation; DIS in its fastest preset."""
    quick = DisFlow("ultrafast") if isinstance(flow, DisFlow) else flow
    return _both_ways(previous_HW, current_HW, 0, 0, (0, 0), quick, config)


def move_points(points_P2: Floats, field: FlowField) -> Floats:
    """Where forward flow takes points of the previous image; outside its window they move by its shift."""
    shift = np.array(field.shift_xy, np.float32)
    inside_P2 = points_P2 - np.array((field.left, field.top), np.float32) + shift
    x, y = (np.ascontiguousarray(inside_P2[:, axis, None]) for axis in (0, 1))
    moved_P2: Floats = points_P2 + shift + sample(field.forward_HW2, x, y, outside=0.0)[:, 0]
    return moved_P2


def sample(array_HWx: Any, x: Floats, y: Floats, *, outside: float) -> Any:
    """Bilinear values of an array at any positions; `outside` beyond its pixels."""
    return cv2.remap(array_HWx, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=(outside,) * 4)


def _both_ways(
    previous_HW: Grey, current_HW: Grey, left: int, top: int, shift: tuple[int, int], flow: Flow, config: MotionConfig
) -> FlowField:
    backward, forward = flow(previous_HW, current_HW), flow(current_HW, previous_HW)
    height, width = current_HW.shape
    x = np.arange(width, dtype=np.float32)[None] + backward[..., 0]
    y = np.arange(height, dtype=np.float32)[:, None] + backward[..., 1]
    returned = sample(forward, x, y, outside=_OUTSIDE)
    # The shift is left out of both lengths: it is exact, so it earns no tolerance.
    error = ((returned + backward) ** 2).sum(axis=-1)
    allowed = config.agreement_relative * ((returned**2).sum(axis=-1) + (backward**2).sum(axis=-1))
    agrees = (error < allowed + config.agreement_absolute) & (np.abs(returned) < _OUTSIDE / 2).all(axis=-1)
    return FlowField(
        left=left,
        top=top,
        shift_xy=shift,
        backward_HW2=backward,
        forward_HW2=forward,
        agrees_HW=agrees,
        current_HW=current_HW,
        explained_HW=cv2.remap(previous_HW, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE),
    )


def _grown(start: float, stop: float, shift: int, config: MotionConfig) -> Any:
    """Pixels of one axis that the moved and grown box covers."""
    middle, side = (start + stop) / 2 + shift, (stop - start) * (1 + 2 * config.crop_margin)
    half = max(side, config.min_crop_px) / 2
    return np.arange(int(np.floor(middle - half)), int(np.ceil(middle + half)))


def _window(image_HW: Grey, rows: Any, columns: Any) -> Grey:
    """Pixels of an image, its rim repeated beyond it."""
    height, width = image_HW.shape
    found: Grey = image_HW[np.clip(rows, 0, height - 1)][:, np.clip(columns, 0, width - 1)]
    return np.ascontiguousarray(found)


def _halved(image_HW: Grey) -> Grey:
    height, width = image_HW.shape
    half: Grey = cv2.resize(image_HW, (max(1, width // 2), max(1, height // 2)), interpolation=cv2.INTER_AREA)
    return half


def _missing(side: int) -> int:
    """Pixels to add so that RAFT accepts a side."""
    return max(RAFT_MIN_SIDE, -(-side // RAFT_MULTIPLE) * RAFT_MULTIPLE) - side
