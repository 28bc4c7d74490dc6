"""SAM2's memory attention, run over its own modules with real-valued RoPE and memory tokens that may be dropped.

Axes: R rows, N tokens of the current frame (h w cells), M memory tokens, D decoder channels, C memory channels,
E half of D (one angle per pair of channels), P pointers, h w cells.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.models.memory import MemorySelection, padded_tokens
from pipeline.models.sam2_variants import Sam2Config

ROPE_THETA = 10000.0
SINE_TEMPERATURE = 10000.0


@dataclass(frozen=True, slots=True)
class Rotation:
    """Cosines and sines of a two-axis rotary position code, (..., tokens, E)."""

    cos: Tensor
    sin: Tensor

    def at(self, index_RM: Tensor) -> "Rotation":
        """The code of chosen tokens, per row."""
        return Rotation(self.cos[index_RM], self.sin[index_RM])


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryTokens:
    """Keys and values to be, spatial tokens first and pointers, which carry no rotary code, last.

    Attributes:
        memory_RMC: values; keys add `position_RMC` to them.
        position_RMC: sine and temporal codes.
        rotation: of the spatial tokens: (N, E), one frame's grid for every frame, or (R, spatial, E).
        num_spatial: tokens that get the rotary code.
        valid_RM: bool, False where a row was padded; None when every token counts.
        bias_RM: float, added to what attention thinks of a token; None adds nothing. Not together with valid_RM.
    """

    memory_RMC: Tensor
    position_RMC: Tensor
    rotation: Rotation
    num_spatial: int
    valid_RM: Tensor | None = None
    bias_RM: Tensor | None = None


def rotation_table(num_channels: int, height: int, width: int, device: torch.device) -> Rotation:
    """Rotary code of a grid in row-major order: a quarter of the channels' pairs turns with x, the rest with y.

    Source: Heo et al., Rotary Position Embedding for Vision Transformer, arXiv 2403.13298, "axial frequency".
    """
    # A table made in inference mode could not be used in a training graph later.
    with torch.inference_mode(False), torch.no_grad():
        exponents = torch.arange(0, num_channels, 4, dtype=torch.float32, device=device) / num_channels
        frequencies = 1.0 / (ROPE_THETA**exponents)
        cells = torch.arange(height * width, device=device)
        x, y = (cells % width).float(), (cells // width).float()
        angles_NE = torch.cat([torch.outer(x, frequencies), torch.outer(y, frequencies)], dim=-1)
        return Rotation(angles_NE.cos(), angles_NE.sin())


def rotate(tokens: Tensor, rotation: Rotation) -> Tensor:
    """Turn each pair of neighbouring channels by its angle; (..., tokens, D), computed in float32."""
    a, b = tokens.float().reshape(*tokens.shape[:-1], -1, 2).unbind(-1)
    turned = torch.stack((a * rotation.cos - b * rotation.sin, a * rotation.sin + b * rotation.cos), dim=-1)
    return turned.flatten(-2).type_as(tokens)


def time_code(differences: Tensor, num_channels: int) -> Tensor:
    """One-axis sine code, sines then cosines; adds a last axis of `num_channels`.

    Source: Vaswani et al., arXiv 1706.03762, section 3.5, with neighbouring channels sharing a wavelength.
    """
    half = num_channels // 2
    channel = torch.arange(half, dtype=torch.float32, device=differences.device)
    wavelength = SINE_TEMPERATURE ** (2 * (channel // 2) / half)
    angle = differences.unsqueeze(-1) / wavelength
    return torch.cat([angle.sin(), angle.cos()], dim=-1)


def gather_memory(
    model: Any, config: Sam2Config, selections: Sequence[MemorySelection], rotation: Rotation, dtype: torch.dtype
) -> MemoryTokens:
    """The tokens that rows of one `MemorySelection.shape` read, frames first, pointers last.

    Args:
        model: sam2's SAM2Base, for its position codes.
        rotation: code of the feature grid, (N, E).

    Raises:
        ValueError: a temporal position that the model's table does not have.
    """
    tokens = _spatial_tokens(model, config, selections, rotation, dtype)
    if selections[0].num_kept is not None:
        tokens = drop_tokens(tokens, _keep_masks(selections), padded_tokens(selections[0].num_kept))
    if selections[0].is_weighted:
        tokens = replace(tokens, bias_RM=_token_bias(selections))
    if selections[0].pointers:
        tokens = _with_pointers(tokens, *_pointer_tokens(model, config, selections))
    return tokens


def drop_tokens(tokens: MemoryTokens, keep_RM: Tensor, num_padded: int) -> MemoryTokens:
    """Keep the spatial tokens where `keep_RM` is True, in order, padded to `num_padded` per row.

    Tokens keep the rotary code of the full grid, so dropping does not move those that stay. Dropped before the
    projections rather than after the rotation: the values are the same and the work is not done.
    """
    index_RM = torch.argsort((~keep_RM).to(torch.uint8), dim=1, stable=True)[:, :num_padded]
    channels = index_RM.unsqueeze(-1).expand(-1, -1, tokens.memory_RMC.shape[-1])
    num_cells = tokens.rotation.cos.shape[0]
    return MemoryTokens(
        memory_RMC=tokens.memory_RMC.gather(1, channels),
        position_RMC=tokens.position_RMC.gather(1, channels),
        rotation=tokens.rotation.at(index_RM % num_cells),
        num_spatial=index_RM.shape[1],
        valid_RM=keep_RM.gather(1, index_RM),
    )


def condition_on_memory(
    module: Any, map_RDhw: Tensor, pos_RDhw: Tensor, rotation: Rotation, tokens: MemoryTokens
) -> Tensor:
    """Memory attention of a batch of rows, (R, D, h, w) to the same.

    Args:
        module: sam2's MemoryAttention in SAM2's configuration: one head, ReLU, position code at the input and at the
            memory keys.
        rotation: code of the current frame's grid, (N, E).
    """
    x_RND = map_RDhw.flatten(2).transpose(1, 2) + 0.1 * pos_RDhw.flatten(2).transpose(1, 2)
    keys_RMC = tokens.memory_RMC + tokens.position_RMC
    for layer in module.layers:
        x_RND = x_RND + _attend_to_itself(layer, x_RND, rotation)
        x_RND = x_RND + _attend_to_memory(layer, x_RND, rotation, keys_RMC, tokens)
        hidden = layer.dropout(F.relu(layer.linear1(layer.norm3(x_RND))))
        x_RND = x_RND + layer.dropout3(layer.linear2(hidden))
    out_RND: Tensor = module.norm(x_RND)
    return out_RND.transpose(1, 2).reshape(map_RDhw.shape)


def _attend_to_itself(layer: Any, x_RND: Tensor, rotation: Rotation) -> Tensor:
    attention, y_RND = layer.self_attn, layer.norm1(x_RND)
    q_RND = rotate(attention.q_proj(y_RND), rotation)
    k_RND = rotate(attention.k_proj(y_RND), rotation)
    out_RND: Tensor = layer.dropout1(_attention(attention, q_RND, k_RND, attention.v_proj(y_RND), None))
    return out_RND


def _attend_to_memory(layer: Any, x_RND: Tensor, rotation: Rotation, keys_RMC: Tensor, tokens: MemoryTokens) -> Tensor:
    attention = layer.cross_attn_image
    q_RND = rotate(attention.q_proj(layer.norm2(x_RND)), rotation)
    k_RMD = _rotate_spatial(attention.k_proj(keys_RMC), tokens)
    v_RMD = attention.v_proj(tokens.memory_RMC)
    mask_RM = tokens.valid_RM if tokens.bias_RM is None else tokens.bias_RM.type_as(q_RND)
    out_RND: Tensor = layer.dropout2(_attention(attention, q_RND, k_RMD, v_RMD, mask_RM))
    return out_RND


def _rotate_spatial(keys_RMD: Tensor, tokens: MemoryTokens) -> Tensor:
    spatial, pointers = keys_RMD[:, : tokens.num_spatial], keys_RMD[:, tokens.num_spatial :]
    if tokens.rotation.cos.ndim == 3:
        turned = rotate(spatial, tokens.rotation)
    else:
        num_cells = tokens.rotation.cos.shape[0]
        by_frame = spatial.reshape(spatial.shape[0], -1, num_cells, spatial.shape[-1])
        turned = rotate(by_frame, tokens.rotation).flatten(1, 2)
    return torch.cat([turned, pointers], dim=1)


def _attention(module: Any, q: Tensor, k: Tensor, v: Tensor, mask_RM: Tensor | None) -> Tensor:
    """One head over all channels; q, k, v are (R, tokens, D); the mask is bool, or a float to add."""
    mask = None if mask_RM is None else mask_RM[:, None, None, :]
    dropout = float(module.dropout_p) if module.training else 0.0
    attended = F.scaled_dot_product_attention(
        q.unsqueeze(1), k.unsqueeze(1), v.unsqueeze(1), attn_mask=mask, dropout_p=dropout
    )
    out: Tensor = module.out_proj(attended.squeeze(1))
    return out


def _spatial_tokens(
    model: Any, config: Sam2Config, selections: Sequence[MemorySelection], rotation: Rotation, dtype: torch.dtype
) -> MemoryTokens:
    reads = [read for selection in selections for read in selection.frames]
    features = torch.stack([read.entry.features_Chw for read in reads if read.entry.features_Chw is not None])
    position = _spatial_positions(model, config, [read.temporal_position for read in reads])
    memory = features.to(dtype).flatten(2).transpose(1, 2)
    memory_RMC, position_RMC = (x.reshape(len(selections), -1, config.mem_dim) for x in (memory, position))
    return MemoryTokens(
        memory_RMC=memory_RMC, position_RMC=position_RMC, rotation=rotation, num_spatial=memory_RMC.shape[1]
    )


def _spatial_positions(model: Any, config: Sam2Config, temporal_positions: Sequence[int | None]) -> Tensor:
    """(reads, N, C): the grid's sine code plus the temporal row, if there is one."""
    table: Tensor = model.maskmem_tpos_enc[:, 0, 0]
    if not all(position is None or 0 <= position < len(table) for position in temporal_positions):
        raise ValueError(
            f"temporal positions {sorted({p for p in temporal_positions if p is not None})}; expected "
            f"0..{len(table) - 1}, the rows of the model's temporal table (num_maskmem). "
            "Use a policy made for this model."
        )
    sine_Chw = model.memory_encoder.position_encoding(table.new_empty(1, 1, config.grid, config.grid))[0]
    rows = torch.tensor([-1 if p is None else p for p in temporal_positions], device=table.device)
    codes = table[rows]
    if None in temporal_positions:
        codes = torch.where((rows >= 0).unsqueeze(1), codes, 0.0)
    position: Tensor = sine_Chw.flatten(1).t() + codes.unsqueeze(1)
    return position


def _keep_masks(selections: Sequence[MemorySelection]) -> Tensor:
    """(R, M) bool over the spatial tokens of all frames."""
    reads = [read for selection in selections for read in selection.frames]
    first = reads[0].entry.features_Chw
    assert first is not None
    everything = torch.ones(first.shape[-2:], dtype=torch.bool, device=first.device)
    keep = torch.stack([everything if read.keep is None else read.keep.to(first.device) for read in reads])
    return keep.view(len(selections), -1)


def _token_bias(selections: Sequence[MemorySelection]) -> Tensor:
    """(R, M) logarithm of the spatial tokens' weights; 0 where a frame has none."""
    reads = [read for selection in selections for read in selection.frames]
    first = reads[0].entry.features_Chw
    assert first is not None
    equal = torch.ones(first.shape[-2:], device=first.device)
    weights = torch.stack([equal if read.weight is None else read.weight.to(first.device) for read in reads])
    return weights.log().view(len(selections), -1)


def _pointer_tokens(model: Any, config: Sam2Config, selections: Sequence[MemorySelection]) -> tuple[Tensor, Tensor]:
    """Pointers cut into tokens of C channels, and their position codes."""
    pointers = torch.stack([read.entry.pointer_D for s in selections for read in s.pointers])
    tokens_RMC = pointers.reshape(len(selections), -1, config.mem_dim)
    if not config.add_tpos_enc_to_obj_ptrs:
        return tokens_RMC, torch.zeros_like(tokens_RMC)
    elapsed = [[read.time_difference / s.max_time_difference for read in s.pointers] for s in selections]
    times_RP = torch.tensor(elapsed, dtype=torch.float32, device=tokens_RMC.device)
    width = config.d_model if config.proj_tpos_enc_in_obj_ptrs else config.mem_dim
    code_RPC: Tensor = model.obj_ptr_tpos_proj(time_code(times_RP, width))
    return tokens_RMC, code_RPC.repeat_interleave(config.tokens_per_pointer, dim=1)


def _with_pointers(tokens: MemoryTokens, pointers_RMC: Tensor, position_RMC: Tensor) -> MemoryTokens:
    valid_RM, bias_RM = tokens.valid_RM, tokens.bias_RM
    if valid_RM is not None:
        valid_RM = F.pad(valid_RM, (0, pointers_RMC.shape[1]), value=True)
    if bias_RM is not None:
        bias_RM = F.pad(bias_RM, (0, pointers_RMC.shape[1]), value=0.0)
    return MemoryTokens(
        memory_RMC=torch.cat([tokens.memory_RMC, pointers_RMC], dim=1),
        position_RMC=torch.cat([tokens.position_RMC, position_RMC], dim=1),
        rotation=tokens.rotation,
        num_spatial=tokens.num_spatial,
        valid_RM=valid_RM,
        bias_RM=bias_RM,
    )
