"""The seam in SAM2: encode_image, attend, decode, encode_memory over upstream's modules; the only import of sam2.

Upstream's submodules and checkpoints are used as they are. What chooses, moves and joins (`track_step`,
`forward_image`, `_prepare_memory_conditioned_features`, the forwards of MaskDecoder and MemoryAttention) is ours.

Axes: B images, R rows (one object on one frame), D decoder channels, C memory channels, K mask candidates, T sparse
prompt tokens, P points or pointers, F memory frames, M memory tokens, H W pixels of the model's square image, h w the
tensor's own grid (stride 16 for features and memory, stride 4 for mask logits).
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
import torch.nn.functional as F
from sam2.modeling.backbones.hieradet import Hiera
from sam2.modeling.backbones.image_encoder import FpnNeck, ImageEncoder
from sam2.modeling.memory_attention import MemoryAttention, MemoryAttentionLayer
from sam2.modeling.memory_encoder import CXBlock, Fuser, MaskDownSampler, MemoryEncoder
from sam2.modeling.position_encoding import PositionEmbeddingSine
from sam2.modeling.sam2_base import SAM2Base
from sam2.modeling.sam.mask_decoder import MaskDecoder
from sam2.modeling.sam.transformer import RoPEAttention, TwoWayTransformer
from torch import Tensor, nn

from pipeline.errors import WeightsError
from pipeline.models.mask_decoding import (
    DecoderPrompts,
    DecoderSwitches,
    MaskCandidates,
    MaskOutput,
    decode_candidates,
    take,
)
from pipeline.models.memory import MemorySelection, padded_tokens
from pipeline.models.memory_attention import (
    MemoryTokens,
    Rotation,
    condition_on_memory,
    drop_tokens,
    rotation_table,
    time_code,
    with_pointers,
)
from pipeline.models.sam2_variants import Sam2Config

BetweenStages = Callable[[int, Tensor], Tensor]
"""(stage, map_BCHW) -> map_BCHW, called after the last block of Hiera stages 2, 3 and 4 (counted from 1)."""

TOP_DOWN_LEVELS = (2, 3)
"""Pyramid levels that hear from the level above; the two finest are lateral only (SAM 2, appendix C.1)."""

MASK_SCALE, MASK_BIAS = 20.0, -10.0
"""Logits of a mask given as output: -10 outside, +10 inside (SAM2's released code)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageState:
    """The image encoder stopped after some of its stages, so that several callers can go on from there.

    Attributes:
        maps: outputs of the stages done so far, (B, channels, h, w), finest first.
    """

    maps: tuple[Tensor, ...]

    def rows(self, indices: Sequence[int]) -> Self:
        """Images picked, repeated or reordered into a new batch."""
        return type(self)(maps=tuple(_pick(x, indices) for x in self.maps))


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFeatures:
    """What the decoder needs of images.

    Attributes:
        high_res: (B, D/8, 4h, 4w) and (B, D/4, 2h, 2w), already projected for the decoder.
        map_BDhw: stride 16, raw: memory attention and the memory encoder start from it.
        pos_BDhw: its sine position code, the same for every image (a view).
    """

    high_res: tuple[Tensor, Tensor]
    map_BDhw: Tensor
    pos_BDhw: Tensor

    def __len__(self) -> int:
        return self.map_BDhw.shape[0]

    def rows(self, indices: Sequence[int]) -> Self:
        """Images picked, repeated or reordered into decoder rows; one image repeated costs no memory."""
        fine, middle = (_pick(x, indices) for x in self.high_res)
        return type(self)(
            high_res=(fine, middle),
            map_BDhw=_pick(self.map_BDhw, indices),
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


class Sam2Core(nn.Module):
    """SAM2 as calls without state: nothing of any video is kept between them.

    Attributes:
        config: what it was built from.
        model: upstream's SAM2Base, which holds modules and weights; its own methods are never called.
    """

    def __init__(self, config: Sam2Config, model: nn.Module) -> None:
        super().__init__()
        self.config = config
        self.model: Any = model
        self._rotations: dict[torch.device, Rotation] = {}

    @property
    def device(self) -> torch.device:
        device: torch.device = self.model.no_mem_embed.device
        return device

    # Image encoder

    def encode_image(self, images_B3HW: Tensor, *, between_stages: BetweenStages | None = None) -> ImageFeatures:
        """Normalised images, square at the config's size, to features.

        Args:
            between_stages: what it returns is both a pyramid level and the next stage's input.
        """
        return self.to_features(self.continue_stages(self.begin_stages(images_B3HW), between_stages))

    def begin_stages(self, images_B3HW: Tensor, num_stages: int = 2) -> StageState:
        """Patch and position embedding and the first 1 or 2 stages: the part that no adapter changes.

        Raises:
            ValueError: images of another size, or a number of stages that would skip a `between_stages` call.
        """
        side = self.config.image_size
        if images_B3HW.ndim != 4 or images_B3HW.shape[1:] != (3, side, side):
            raise ValueError(
                f"images are {tuple(images_B3HW.shape)}; expected (batch, 3, {side}, {side}). "
                "Resize or pad to the model's square, or build it with another image_size."
            )
        if num_stages not in (1, 2):
            raise ValueError(f"num_stages is {num_stages}; expected 1 or 2. Later stages hear from between_stages.")
        trunk = self.model.image_encoder.trunk
        x_BhwC = trunk.patch_embed(images_B3HW)
        x_BhwC = x_BhwC + trunk._get_pos_embed(x_BhwC.shape[1:3])
        maps: list[Tensor] = []
        for stage in range(1, num_stages + 1):
            x_BhwC = self._run_stage(stage, x_BhwC)
            maps.append(x_BhwC.permute(0, 3, 1, 2))
        return StageState(maps=tuple(maps))

    def continue_stages(self, state: StageState, between_stages: BetweenStages | None = None) -> list[Tensor]:
        """The remaining stages: four maps (B, channels, h, w), strides 4 to 32."""
        maps = list(state.maps)
        while True:
            stage = len(maps)
            if between_stages is not None and stage >= 2:
                maps[-1] = between_stages(stage, maps[-1])
            if stage == len(self.config.stages):
                return maps
            maps.append(self._run_stage(stage + 1, maps[-1].permute(0, 2, 3, 1)).permute(0, 3, 1, 2))

    def to_features(self, maps: Sequence[Tensor]) -> ImageFeatures:
        """Feature pyramid of four stage maps, without its stride-32 level."""
        neck, decoder = self.model.image_encoder.neck, self.model.sam_mask_decoder
        above = neck.convs[0](maps[3])
        map_BDhw = neck.convs[1](maps[2])
        map_BDhw = map_BDhw + F.interpolate(above.float(), scale_factor=2.0, mode="nearest")
        high_res = decoder.conv_s0(neck.convs[3](maps[0])), decoder.conv_s1(neck.convs[2](maps[1]))
        pos_1Dhw = neck.position_encoding(map_BDhw[:1]).to(map_BDhw.dtype)
        return ImageFeatures(high_res=high_res, map_BDhw=map_BDhw, pos_BDhw=pos_1Dhw.expand_as(map_BDhw))

    def _run_stage(self, stage: int, x_BhwC: Tensor) -> Tensor:
        ends = self.config.stage_ends
        first = 0 if stage == 1 else ends[stage - 2] + 1
        for block in self.model.image_encoder.trunk.blocks[first : ends[stage - 1] + 1]:
            x_BhwC = block(x_BhwC)
        return x_BhwC

    # Memory attention

    def attend(self, features: ImageFeatures, selections: Sequence[MemorySelection]) -> Tensor:
        """Condition each row's features on what its selection reads: (R, D, h, w).

        Rows of equal `MemorySelection.shape` run as one batch, the others group by group; a caller that needs
        results independent of who shares the batch passes rows of one shape only, always equally many. A row with
        an empty selection gets the learned no-memory embedding.
        """
        if len(features) != len(selections):
            raise ValueError(f"{len(features)} rows of features but {len(selections)} selections; expected as many.")
        groups: dict[Hashable, list[int]] = {}
        for row, selection in enumerate(selections):
            groups.setdefault(selection.shape, []).append(row)
        if len(groups) == 1:
            return self._attend_alike(features, selections)
        out_RDhw = torch.empty_like(features.map_BDhw)
        for rows in groups.values():
            out_RDhw[rows] = self._attend_alike(features.rows(rows), [selections[row] for row in rows])
        return out_RDhw

    def _attend_alike(self, features: ImageFeatures, selections: Sequence[MemorySelection]) -> Tensor:
        if selections[0].is_empty:
            return features.map_BDhw + self.model.no_mem_embed.view(1, -1, 1, 1)
        rotation = self._rotation()
        tokens = self._spatial_tokens(selections, rotation, features.map_BDhw.dtype)
        if selections[0].pointers:
            tokens = with_pointers(tokens, *self._pointer_tokens(selections))
        return condition_on_memory(
            self.model.memory_attention, features.map_BDhw, features.pos_BDhw, rotation, tokens
        )

    def _spatial_tokens(
        self, selections: Sequence[MemorySelection], rotation: Rotation, dtype: torch.dtype
    ) -> MemoryTokens:
        reads = [read for selection in selections for read in selection.frames]
        features = torch.stack([read.entry.features_Chw for read in reads if read.entry.features_Chw is not None])
        memory_RMC = features.to(dtype).flatten(2).transpose(1, 2).unflatten(0, (len(selections), -1)).flatten(1, 2)
        position_RMC = self._spatial_positions([read.temporal_position for read in reads])
        position_RMC = position_RMC.unflatten(0, (len(selections), -1)).flatten(1, 2)
        tokens = MemoryTokens(
            memory_RMC=memory_RMC, position_RMC=position_RMC, rotation=rotation, num_spatial=memory_RMC.shape[1]
        )
        num_kept = selections[0].num_kept
        if num_kept is None:
            return tokens
        grid = features.shape[-2:]
        everything = torch.ones(grid, dtype=torch.bool, device=features.device)
        keep = torch.stack([everything if read.keep is None else read.keep.to(features.device) for read in reads])
        return drop_tokens(tokens, keep.view(len(selections), -1), padded_tokens(num_kept))

    def _spatial_positions(self, temporal_positions: Sequence[int]) -> Tensor:
        """(reads, tokens of a frame, C): the grid's sine code plus the temporal row."""
        table = self.model.maskmem_tpos_enc[:, 0, 0]
        if not all(0 <= position < len(table) for position in temporal_positions):
            raise ValueError(
                f"temporal positions {sorted(set(temporal_positions))}; expected 0..{len(table) - 1}, the rows of the "
                "model's temporal table (num_maskmem). Use a policy made for this model."
            )
        grid = self.config.grid
        pos_Chw = self.model.memory_encoder.position_encoding(table.new_empty(1, 1, grid, grid))[0]
        rows = torch.tensor(temporal_positions, device=table.device)
        return pos_Chw.flatten(1).t() + table[rows].unsqueeze(1)

    def _pointer_tokens(self, selections: Sequence[MemorySelection]) -> tuple[Tensor, Tensor]:
        """Pointers cut into tokens and their position codes, both (R, P * tokens_per_pointer, C)."""
        config = self.config
        pointers_RPD = torch.stack(
            [torch.stack([read.entry.pointer_D for read in selection.pointers]) for selection in selections]
        )
        tokens_RMC = pointers_RPD.unflatten(2, (-1, config.mem_dim)).flatten(1, 2)
        if not config.add_tpos_enc_to_obj_ptrs:
            return tokens_RMC, torch.zeros_like(tokens_RMC)
        elapsed = [
            [read.time_difference / selection.max_time_difference for read in selection.pointers]
            for selection in selections
        ]
        times_RP = torch.tensor(elapsed, dtype=torch.float32, device=tokens_RMC.device)
        width = config.d_model if config.proj_tpos_enc_in_obj_ptrs else config.mem_dim
        code_RPC = self.model.obj_ptr_tpos_proj(time_code(times_RP, width))
        return tokens_RMC, code_RPC.repeat_interleave(config.tokens_per_pointer, dim=1)

    def _rotation(self) -> Rotation:
        device, grid = self.device, self.config.grid
        if device not in self._rotations:
            self._rotations[device] = rotation_table(self.config.d_model, grid, grid, device)
        return self._rotations[device]
