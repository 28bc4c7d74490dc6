"""SAM2's image encoder, run stage by stage over its own modules, so that callers can share a prefix or step between.

Axes: B images (or rows picked from them), D decoder channels, C a stage's channels, H W pixels, h w the tensor's own
grid.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor

BetweenStages = Callable[[int, Tensor], Tensor]
"""(stage, map_BChw) -> map_BChw, called after the last block of Hiera stages 2, 3 and 4 (counted from 1)."""

NUM_STAGES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class StageState:
    """The image encoder stopped after some of its stages, so that several callers can go on from there.

    Attributes:
        maps: outputs of the stages done so far, (B, C, h, w), finest first.
    """

    maps: tuple[Tensor, ...]

    def rows(self, indices: Sequence[int]) -> Self:
        """Images picked, repeated or reordered into a new batch."""
        return type(self)(maps=tuple(pick(x, indices) for x in self.maps))


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFeatures:
    """What the decoder needs of images.

    Attributes:
        high_res: (B, D/8, 4h, 4w) and (B, D/4, 2h, 2w), already projected for the decoder.
        map_BDhw: stride 16, raw: memory attention and the memory encoder start from it.
        pos_BDhw: its sine position code, the same for every image (a view of one).
    """

    high_res: tuple[Tensor, Tensor]
    map_BDhw: Tensor
    pos_BDhw: Tensor

    def __len__(self) -> int:
        return self.map_BDhw.shape[0]

    def rows(self, indices: Sequence[int]) -> Self:
        """Images picked, repeated or reordered into decoder rows; one image repeated costs no memory."""
        fine, middle = (pick(x, indices) for x in self.high_res)
        return type(self)(
            high_res=(fine, middle),
            map_BDhw=pick(self.map_BDhw, indices),
            pos_BDhw=self.pos_BDhw[:1].expand(len(indices), -1, -1, -1),
        )

    @classmethod
    def join(cls, parts: Sequence[Self]) -> Self:
        """One batch out of several, in order."""
        if len(parts) == 1:
            return parts[0]
        fine, middle = (torch.cat([part.high_res[level] for part in parts]) for level in (0, 1))
        map_BDhw = torch.cat([part.map_BDhw for part in parts])
        pos_BDhw = parts[0].pos_BDhw[:1].expand(map_BDhw.shape[0], -1, -1, -1)
        return cls(high_res=(fine, middle), map_BDhw=map_BDhw, pos_BDhw=pos_BDhw)


def begin(trunk: Any, images_B3HW: Tensor, num_stages: int) -> StageState:
    """Patch and position embedding and the first stages of sam2's Hiera."""
    x_BhwC: Tensor = trunk.patch_embed(images_B3HW)
    x_BhwC = x_BhwC + trunk._get_pos_embed(x_BhwC.shape[1:3])
    maps: list[Tensor] = []
    for stage in range(1, num_stages + 1):
        x_BhwC = _run_stage(trunk, stage, x_BhwC)
        maps.append(x_BhwC.permute(0, 3, 1, 2))
    return StageState(maps=tuple(maps))


def finish(trunk: Any, state: StageState, between_stages: BetweenStages | None) -> list[Tensor]:
    """The remaining stages; all four maps, strides 4 to 32."""
    maps = list(state.maps)
    while True:
        stage = len(maps)
        if between_stages is not None and stage >= 2:
            maps[-1] = between_stages(stage, maps[-1])
        if stage == NUM_STAGES:
            return maps
        maps.append(_run_stage(trunk, stage + 1, maps[-1].permute(0, 2, 3, 1)).permute(0, 3, 1, 2))


def advance(trunk: Any, state: StageState) -> StageState:
    """The state after one more stage."""
    last = state.maps[-1].permute(0, 2, 3, 1)
    return StageState(maps=(*state.maps, _run_stage(trunk, len(state.maps) + 1, last).permute(0, 3, 1, 2)))


def pyramid(neck: Any, decoder: Any, maps: Sequence[Tensor]) -> ImageFeatures:
    """Feature pyramid of the four stage maps, without its stride-32 level.

    Only stride 16 hears from the level above it; the two finer ones are lateral (SAM 2, arXiv 2408.00714,
    appendix C.1), so the decoder's projections of them follow at once.
    """
    above = neck.convs[0](maps[3])
    map_BDhw = neck.convs[1](maps[2]) + F.interpolate(above.float(), scale_factor=2.0, mode="nearest")
    fine, middle = decoder.conv_s0(neck.convs[3](maps[0])), decoder.conv_s1(neck.convs[2](maps[1]))
    pos_1Dhw = neck.position_encoding(map_BDhw[:1]).to(map_BDhw.dtype)
    return ImageFeatures(high_res=(fine, middle), map_BDhw=map_BDhw, pos_BDhw=pos_1Dhw.expand_as(map_BDhw))


def pick(x: Tensor, indices: Sequence[int]) -> Tensor:
    """Rows of the first axis, as a view where one row is repeated or nothing changes."""
    if x.shape[0] == 1 and all(index == 0 for index in indices):
        return x.expand(len(indices), *x.shape[1:])
    if list(indices) == list(range(x.shape[0])):
        return x
    return x[torch.tensor(indices, device=x.device)]


def _run_stage(trunk: Any, stage: int, x_BhwC: Tensor) -> Tensor:
    ends = trunk.stage_ends
    first = 0 if stage == 1 else ends[stage - 2] + 1
    for block in trunk.blocks[first : ends[stage - 1] + 1]:
        x_BhwC = block(x_BhwC)
    return x_BhwC
