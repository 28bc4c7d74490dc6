"""Small random SAM2s for tests: sizes that run in milliseconds, weights whose masks and memories matter."""

import torch
from torch import Tensor, nn

from pipeline.models.image_encoding import ImageFeatures
from pipeline.models.memory import MemoryEntry, MemoryRead, MemorySelection, PointerRead
from pipeline.models.sam2_core import Sam2Core, build_sam2
from pipeline.models.sam2_variants import Sam2Config
from pipeline.models.tracking import memory_entries

SAM_2_0 = {
    "no_obj_embed_spatial": False,
    "add_tpos_enc_to_obj_ptrs": False,
    "proj_tpos_enc_in_obj_ptrs": False,
    "use_signed_tpos_enc_to_obj_ptrs": False,
}


def tiny_config(**changes: object) -> Sam2Config:
    """A SAM 2.1 of 0.7 M parameters on images of 128 px; `**SAM_2_0` makes it a 2.0."""
    small = {
        "embed_dim": 24,
        "num_heads": 1,
        "stages": (1, 2, 3, 1),
        "global_att_blocks": (4,),
        "window_spec": (8, 4, 4, 2),
        "window_pos_embed_bkg_spatial_size": (4, 4),
        "d_model": 64,
        "mem_dim": 16,
        "image_size": 128,
        "num_maskmem": 4,
        "num_memory_layers": 2,
        "memory_feedforward_dim": 64,
        "decoder_mlp_dim": 64,
        "iou_head_hidden_dim": 32,
    }
    return Sam2Config(**{**small, **changes})


def random_sam2(config: Sam2Config, *, seed: int = 0, object_score: float = 4.0) -> Sam2Core:
    """A model whose mask logits have the scale of a trained one's, cross zero, and hang on memory.

    The usual initialisation will not do: its mask logits are all but constant, and memory features, scaled by 1e-6
    in the fuser, hardly show the mask.

    Args:
        object_score: median of the object scores on tracked frames, whose standard deviation is 2; around 0 objects
            come and go.
    """
    core = build_sam2(config, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in core.model.named_parameters():
            weight.copy_(_draw(name, weight, generator))
        _set_scales(core, generator, object_score)
    return core


def random_images(core: Sam2Core, num: int, *, seed: int = 0) -> Tensor:
    """(num, 3, H, W) of white noise at the model's size."""
    side = core.config.image_size
    return torch.randn(num, 3, side, side, generator=torch.Generator().manual_seed(seed))


def random_entry(core: Sam2Core, frame_index: int, *, seed: int = 0) -> MemoryEntry:
    """What a frame might have left behind; the same for the same frame and seed."""
    config, draw = core.config, torch.Generator().manual_seed(1000 * seed + frame_index)
    return MemoryEntry(
        frame_index=frame_index,
        pointer_D=torch.randn(config.d_model, generator=draw),
        features_Chw=torch.randn(config.mem_dim, config.grid, config.grid, generator=draw),
        object_score=1.0,
        predicted_iou=0.5,
    )


def random_selection(core: Sam2Core, num_frames: int, num_pointers: int, *, seed: int = 0) -> MemorySelection:
    """Frames 0, 1, ... at temporal positions 0, 1, ... and pointers one frame further back each."""
    entries = [random_entry(core, index, seed=seed) for index in range(max(num_frames, num_pointers))]
    return MemorySelection(
        frames=tuple(MemoryRead(entry=e, temporal_position=e.frame_index) for e in entries[:num_frames]),
        pointers=tuple(PointerRead(entry=e, time_difference=1 + e.frame_index) for e in entries[:num_pointers]),
    )


def _draw(name: str, weight: Tensor, generator: torch.Generator) -> Tensor:
    noise = torch.randn(weight.shape, generator=generator)
    if name.endswith("gamma"):
        return 0.5 + 0.1 * noise
    if weight.ndim == 1:
        is_norm = name.endswith("weight")
        return 1.0 + 0.1 * noise if is_norm else 0.1 * noise
    if any(word in name for word in ("token", "embed", "tpos_enc", "no_obj")) and "proj" not in name:
        return noise
    fan_in = weight.shape[0] if "output_upscaling" in name else weight[0].numel()
    # Pointers are few among many memory tokens: only large ones are noticed.
    gain = 4.0 if name == "obj_ptr_proj.layers.2.weight" else 1.0
    return gain * noise * (1.5 / fan_in) ** 0.5


def _set_scales(core: Sam2Core, generator: torch.Generator, object_score: float) -> None:
    """Scale the heads by what they say on the second of two frames of patchwork images."""
    first, second = (_features(core, generator) for _ in range(2))
    prompts, num_rows = core.encode_prompts(len(first)), len(first)
    start = core.decode(core.attend(first, [MemorySelection()] * num_rows), first.high_res, prompts, multimask=True)
    seen = core.enlarge(start.low_res_logits_R1hw)
    memory = core.encode_memory(first, seen, start.object_score_R1, is_mask_from_points=False)
    selections = [
        MemorySelection(
            frames=(MemoryRead(entry=entry, temporal_position=0),),
            pointers=(PointerRead(entry=entry, time_difference=1),),
        )
        for entry in memory_entries([0] * num_rows, start, memory)
    ]
    pix_RDhw = core.attend(second, selections)
    said = core.decode_candidates(pix_RDhw, second.high_res, prompts, multimask=True, gate_absent=False)
    decoder = core.model.sam_mask_decoder
    for head in decoder.output_hypernetworks_mlps:
        _rescale(head.layers[-1], 4.0 / said.logits_RKhw.std())
    if core.config.pred_obj_scores:
        factor = 2.0 / said.object_score_R1.std()
        _rescale(decoder.pred_obj_score_head.layers[-1], factor)
        decoder.pred_obj_score_head.layers[-1].bias.add_(object_score - factor * said.object_score_R1.median())


def _features(core: Sam2Core, generator: torch.Generator) -> ImageFeatures:
    """Of 16 images of coloured patches, 8 pixels wide."""
    side = core.config.image_size
    patches = torch.randn(16, 3, side // 8, side // 8, generator=generator)
    return core.encode_image(patches.repeat_interleave(8, dim=2).repeat_interleave(8, dim=3))


def _rescale(layer: nn.Module, factor: Tensor) -> None:
    for weight in layer.parameters():
        weight.mul_(factor)
