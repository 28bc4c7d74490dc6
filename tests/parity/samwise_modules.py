"""Golden cases of single SAMWISE parts: adapters, prompts, memory encoder, losses, labels, text."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.models.conditional_memory import ConditionalMemoryEncoder, fuse_mask_logits
from pipeline.models.cross_modal_adapter import CrossModalAdapter
from pipeline.models.mask_decoding import ABSENT_LOGIT
from pipeline.models.sam2_core import build_sam2
from pipeline.models.sam2_variants import SAM2_VARIANTS
from pipeline.models.samwise_architecture import PROMPT_PREFIX, ROBERTA_PREFIX
from pipeline.models.samwise_checkpoint import official_name
from pipeline.models.samwise_network import PromptProjection
from pipeline.models.text_encoder import PAD_ID, RobertaTextEncoder, TextEncoderConfig
from pipeline.training.losses import cme_labels, cme_loss, dice_loss, focal_loss, match_sizes
from tests.parity.comparison import Check, close, failed, same
from tests.parity.samwise_weights import golden_weights, part_of

TOLERANCE = 1e-5
TEXT_HEADS = 4
"""Of the golden text encoders narrower than RoBERTa-base (stated beside the vectors)."""

Golden = dict[str, Any]


def check_module_case(path: Path) -> Iterator[Check]:
    """All checks of one npz, chosen by what it holds."""
    with np.load(path) as file:
        golden: Golden = {key: file[key] for key in file.files}
    for mark, check in _KINDS.items():
        if mark in golden:
            with torch.no_grad():
                yield from check(path.stem, path, golden)
            return
    yield failed(path.stem, f"unknown case, holds {sorted(golden)}")


def check_indivisible() -> Iterator[Check]:
    """A map that cannot be cut into blocks must be refused, never padded."""
    adapter = CrossModalAdapter(vision_width=16, text_width=16, block_side=4)
    try:
        adapter(torch.zeros(1, 16, 10, 8), torch.zeros(1, 3, 16), num_frames=1)
    except ValueError:
        yield Check(name="hsa refuses 10 x 8 in blocks of 4", difference=0.0, tolerance=0.0)
    else:
        yield failed("hsa refuses 10 x 8 in blocks of 4", "no ValueError")


def _check_adapter(name: str, path: Path, golden: Golden) -> Iterator[Check]:
    weights = part_of(_weights(path, golden), "adapter.")
    _, num_frames, channels, _, _, text_width, _, side = (int(n) for n in golden["geom"])
    adapter = _adapter(weights, channels, text_width, side)
    vision, text = torch.from_numpy(golden["vis_in"]), _batch_first(golden["txt_in"])
    if "vis_query" in golden:
        query = adapter.relate_frames(adapter.proj_vis_down(vision), num_frames=num_frames)
        yield close(f"{name} visual query", query.flatten(2).permute(2, 0, 1), golden["vis_query"], absolute=TOLERANCE)
    vision_delta, text_delta = adapter(vision, text, num_frames=num_frames)
    yield close(f"{name} visual delta", vision_delta, golden["vis_out"], absolute=TOLERANCE)
    yield close(f"{name} text delta", text_delta.transpose(0, 1), golden["txt_out"], absolute=TOLERANCE)
    if "train_vis_out" in golden:
        yield from _check_training_step(name, _adapter(weights, channels, text_width, side), vision, text, golden)


def _check_training_step(
    name: str, adapter: CrossModalAdapter, vision: Tensor, text: Tensor, golden: Golden
) -> Iterator[Check]:
    adapter.train()
    if adapter.has_hsa:
        adapter.hsa.self_attn.dropout = 0.0
    vision_delta, text_delta = adapter(vision, text, num_frames=int(golden["geom"][1]))
    yield close(f"{name} training visual delta", vision_delta, golden["train_vis_out"], absolute=TOLERANCE)
    yield close(f"{name} training text delta", text_delta.transpose(0, 1), golden["train_txt_out"], absolute=TOLERANCE)
    for part, norm in (("down", adapter.proj_vis_down[1]), ("up", adapter.proj_vis_up[1])):
        for statistic in ("mean", "var"):
            running = getattr(norm, f"running_{statistic}")
            golden_running = golden[f"bn_{part}_{statistic}_after"]
            yield close(f"{name} running {statistic} {part}", running, golden_running, absolute=TOLERANCE)


def _check_prompt(name: str, path: Path, golden: Golden) -> Iterator[Check]:
    weights = part_of(_weights(path, golden), PROMPT_PREFIX)
    core = build_sam2(SAM2_VARIANTS["sam2-hiera-tiny"])
    own = {key: value for key, value in weights.items() if not key.startswith("project_")}
    core.model.sam_prompt_encoder.load_state_dict(own, strict=True)
    sentence = _projection(weights, "project_text.")(torch.from_numpy(golden["cls"])).unsqueeze(1)
    prompts = core.encode_prompts(len(sentence), extra_RTD=sentence)
    yield close(f"{name} sparse", prompts.sparse_RTD, golden["sparse"], absolute=TOLERANCE)
    motion = _projection(weights, "project_motion_prompts.")(torch.from_numpy(golden["verb"])).unsqueeze(1)
    with_motion = core.encode_prompts(len(sentence), extra_RTD=torch.cat([sentence, motion], dim=1))
    yield close(f"{name} with motion", with_motion.sparse_RTD, golden["sparse_with_motion"], absolute=TOLERANCE)
    yield close(f"{name} dense", prompts.dense_RDhw[0, :, 0, 0], golden["dense_00"], absolute=TOLERANCE)
    golden_pe = golden["dense_pe_sample"]
    pe = core.model.sam_prompt_encoder.get_dense_pe()[0]
    stride = pe.shape[-1] // golden_pe.shape[-1]
    yield close(f"{name} position code", pe[:, ::stride, ::stride], golden_pe, absolute=TOLERANCE)


def _check_cme(name: str, path: Path, golden: Golden) -> Iterator[Check]:
    weights = part_of(_weights(path, golden), "conditional_memory_encoder.")
    inner, width = weights["transformerBlock.linear1.weight"].shape
    cme = ConditionalMemoryEncoder(width, feedforward_width=inner).eval()
    cme.load_state_dict(weights, strict=True)
    logits = cme(torch.from_numpy(golden["ptr_mem"]), torch.from_numpy(golden["tok_nomem"]))
    yield close(f"{name} logits", logits, golden["logits"], absolute=TOLERANCE)
    yield same(f"{name} decisions", logits.argmax(1), golden["logits"].argmax(1))
    with_memory, memory_less = torch.from_numpy(golden["mask_mem"]), torch.from_numpy(golden["mask_nomem"])
    for fusion in ("reweight", "all_mask", "avg"):
        fused = fuse_mask_logits(with_memory, memory_less, fusion=fusion)  # type: ignore[arg-type]
        yield close(f"{name} {fusion}", fused, golden[f"fused_{fusion}"], absolute=TOLERANCE)
    absent = torch.full_like(memory_less, ABSENT_LOGIT)
    fused = fuse_mask_logits(with_memory, absent, fusion="reweight")
    yield same(f"{name} reweight when absent", fused, golden["fused_reweight_when_memless_absent"])


def _check_losses(name: str, path: Path, golden: Golden) -> Iterator[Check]:
    targets = torch.from_numpy(golden["targets"])
    clips = torch.from_numpy(golden["logits"]).view(*targets.shape[:2], *golden["logits"].shape[-2:])
    for suffix, logits, wanted in (("", clips, targets), ("_single", clips[:1, :1], targets[:1, :1])):
        matched = match_sizes(logits, wanted)
        yield close(f"{name} focal{suffix}", focal_loss(*matched), golden[f"focal{suffix}"], absolute=TOLERANCE)
        yield close(f"{name} dice{suffix}", dice_loss(*matched), golden[f"dice{suffix}"], absolute=TOLERANCE)
    loss = cme_loss(torch.from_numpy(golden["cme_logits"]), torch.from_numpy(golden["cme_labels"]))
    yield close(f"{name} cme", loss, golden["cme_ce"], absolute=TOLERANCE)


def _check_labels(name: str, path: Path, golden: Golden) -> Iterator[Check]:
    # Bits are packed along the last axis; masks are square.
    side = golden["mask_mem"].shape[1]
    with_memory, memory_less = (
        torch.from_numpy(np.unpackbits(golden[key], axis=-1, count=side).astype(np.float32)) * 2 - 1
        for key in ("mask_mem", "mask_nomem")
    )
    labels = cme_labels(with_memory, memory_less, torch.from_numpy(golden["nomem_score"]))
    yield same(f"{name} labels", labels, golden["label"])


def _check_text(name: str, path: Path, golden: Golden) -> Iterator[Check]:
    weights = _weights(path, golden)
    encoder = golden_text_encoder(weights, num_layers=len(golden["hidden"]) - 1)
    token_ids = torch.from_numpy(golden["token_ids"])
    keep = token_ids != PAD_ID
    text = encoder.embed(token_ids)
    hidden = [text]
    for layer in range(encoder.config.num_layers):
        text = encoder.run_layers(text, start=layer, stop=layer + 1, keep_BL=keep)
        hidden.append(text)
    for layer, (ours, wanted) in enumerate(zip(hidden, torch.from_numpy(golden["hidden"]), strict=True)):
        yield close(f"{name} hidden {layer}", ours[keep], wanted[keep], absolute=TOLERANCE)


def golden_text_encoder(weights: dict[str, Tensor], *, num_layers: int) -> RobertaTextEncoder:
    """The text encoder of a golden case, strictly loaded."""
    words = weights[f"{ROBERTA_PREFIX}embed_tokens.weight"]
    config = TextEncoderConfig(
        vocabulary_size=words.shape[0],
        width=words.shape[1],
        num_layers=num_layers,
        num_heads=text_heads(words.shape[1]),
        feedforward_width=weights[f"{ROBERTA_PREFIX}layers.0.fc1.weight"].shape[0],
        max_positions=weights[f"{ROBERTA_PREFIX}embed_positions.weight"].shape[0],
    )
    encoder = RobertaTextEncoder(config).eval()
    names = {key: official_name(f"text_encoder.{key}") for key in encoder.state_dict() if "token_type" not in key}
    encoder.load_state_dict({key: weights[name] for key, name in names.items()}, strict=False)
    return encoder


def text_heads(width: int) -> int:
    """RoBERTa-base has 12; the golden vectors' narrow encoders have four."""
    return 12 if width == 768 else TEXT_HEADS


def _weights(path: Path, golden: Golden) -> dict[str, Tensor]:
    return golden_weights(path.with_suffix(".manifest.json"), str(golden["salt"]))


def _adapter(weights: dict[str, Tensor], vision_width: int, text_width: int, side: int) -> CrossModalAdapter:
    adapter = CrossModalAdapter(
        vision_width=vision_width,
        text_width=text_width,
        width=weights["proj_text_down.0.weight"].shape[0],
        block_side=side,
        hsa="hsa.linear.weight" in weights,
    )
    adapter.load_state_dict(weights, strict=True)
    return adapter.eval()


def _projection(weights: dict[str, Tensor], prefix: str) -> PromptProjection:
    own = part_of(weights, prefix)
    decoder_width, text_width = own["layers.0.weight"].shape
    projection = PromptProjection(text_width, decoder_width)
    projection.load_state_dict(own, strict=True)
    return projection


def _batch_first(text_LBD: Any) -> Tensor:
    return torch.from_numpy(text_LBD).transpose(0, 1).contiguous()


_KINDS: dict[str, Callable[[str, Path, Golden], Iterator[Check]]] = {
    "vis_in": _check_adapter,
    "sparse": _check_prompt,
    "ptr_mem": _check_cme,
    "targets": _check_losses,
    "nomem_score": _check_labels,
    "hidden": _check_text,
}
"""A key that only this kind of case holds, to its checks."""
