"""Golden cases of whole MemorySAM models: logits, labels, and what each modality gave on the way."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.models.mask_decoding import ABSENT_LOGIT
from pipeline.models.memorysam_network import MemorySamNetwork, SceneOutput
from pipeline.models.semantic_heads import enlarge_logits
from tests.parity.comparison import Check, as_array, close, failed, same
from tests.parity.memorysam_weights import golden_inputs, golden_network

LOGIT_TOLERANCE = 1e-4
GATED_TOLERANCE = 2e-3
"""Of logits in which a modality's -1024 takes part."""

SIDE_TOLERANCE = 1e-4
HALF_ABSOLUTE, HALF_RELATIVE = 2e-3, 2e-3
LARGE_ABSOLUTE, LARGE_RELATIVE = 4e-3, 1e-3
"""Of fields stored as float16: in general, and `fused_low` of the 1024 px cases."""

LABEL_AGREEMENT = 0.999

Golden = dict[str, Any]


def check_model_case(path: Path) -> Iterator[Check]:
    """All checks of one model_*.npz."""
    golden, meta = read_case(path)
    yield from check_model(path.stem, golden, meta, golden_network(meta))


def read_case(path: Path) -> tuple[Golden, dict[str, Any]]:
    """A case's arrays and its meta data."""
    with np.load(path) as file:
        golden: Golden = {key: file[key] for key in file.files if key != "meta"}
        return golden, json.loads(bytes(file["meta"]))


def check_model(name: str, golden: Golden, meta: dict[str, Any], network: MemorySamNetwork) -> Iterator[Check]:
    """What a network gives on a case's inputs beside what the case holds."""
    inputs = golden_inputs(meta)
    if "inputs" in golden:
        yield same(f"{name} inputs", inputs, golden["inputs"])
    with torch.inference_mode():
        output = network(inputs)
    side = meta["image_size"]
    high_BKHW = enlarge_logits(output.logits_BKhw, (side, side))
    yield from _check_fused(name, golden, meta, output, high_BKHW)
    yield _check_labels(name, golden, output, high_BKHW)
    yield from _check_modalities(name, golden, output)
    if "maskmem" in golden:
        # Nobody reads what the last modality leaves behind: computed only where one more follows.
        with torch.inference_mode():
            memories = network(torch.cat([inputs, inputs[-1:]])).memories
        yield _half(f"{name} maskmem", torch.stack(memories or (torch.zeros(0),)), golden["maskmem"])


def _check_fused(
    name: str, golden: Golden, meta: dict[str, Any], output: SceneOutput, high_BKHW: Tensor
) -> Iterator[Check]:
    tolerance = GATED_TOLERANCE if (golden["object_score"] <= 0).any() else LOGIT_TOLERANCE
    low, expected = output.logits_BKhw, golden["fused_low"]
    if expected.dtype == np.float16:
        yield _half(f"{name} fused_low", strided(low, expected), expected, LARGE_ABSOLUTE, LARGE_RELATIVE)
    else:
        yield close(f"{name} fused_low", low, expected, absolute=tolerance, per_scale=False)
    # Rows 3::step, columns 5::step.
    step = high_BKHW.shape[-1] // golden["high_sample"].shape[-1]
    sample = high_BKHW[..., 3::step, 5::step]
    yield close(f"{name} high_sample", sample, golden["high_sample"], absolute=tolerance, per_scale=False)
    yield _half(f"{name} m_feat", strided(output.features_BPhw, golden["m_feat"]), golden["m_feat"])


def _check_labels(name: str, golden: Golden, output: SceneOutput, high_BKHW: Tensor) -> Check:
    """One minus the share of equal labels, of the scenes of which at least one modality is open."""
    labels, expected = as_array(strided(high_BKHW.argmax(dim=1), golden["label_map"])), as_array(golden["label_map"])
    if labels.shape != expected.shape:
        return failed(f"{name} labels", f"shape {labels.shape}, expected {expected.shape}")
    is_open = (golden["object_score"][..., 0] > 0).any(axis=0)
    differing = float((labels[is_open] != expected[is_open]).mean()) if is_open.any() else 0.0
    # Of scenes that are gated off throughout every class ties, and the first one is expected.
    differing = max(differing, float((labels[~is_open] != 0).any()))
    return Check(name=f"{name} labels that differ", difference=differing, tolerance=1 - LABEL_AGREEMENT)


def _check_modalities(name: str, golden: Golden, output: SceneOutput) -> Iterator[Check]:
    parts = output.modalities
    logits = torch.stack([part.logits_RKhw for part in parts])
    yield _half(f"{name} frame_low", strided(logits, golden["frame_low"]), golden["frame_low"])
    gated = logits.amax(dim=(2, 3, 4)) == ABSENT_LOGIT
    yield same(f"{name} gated", gated, golden["object_score"][..., 0] <= 0)
    yield same(f"{name} best_idx", torch.stack([part.best_R for part in parts]), golden["best_idx"])
    for key, values in (
        ("iou", [part.predicted_iou_RK for part in parts]),
        ("object_score", [part.object_score_R1 for part in parts]),
        ("obj_ptr", [part.pointer_RD for part in parts]),
    ):
        yield close(f"{name} {key}", torch.stack(values), golden[key], absolute=SIDE_TOLERANCE, per_scale=False)
    if "pix_with_mem" in golden:
        conditioned = torch.stack([part.conditioned_RDhw for part in parts])
        yield _half(f"{name} pix_with_mem", conditioned, golden["pix_with_mem"])


def strided(values: Tensor, golden: Any) -> Tensor:
    """Every n-th row and column, so that the last two axes have the golden values' size."""
    step = max(1, values.shape[-1] // golden.shape[-1])
    return values[..., ::step, ::step]


def _half(
    name: str, ours: Tensor, golden: Any, absolute: float = HALF_ABSOLUTE, relative: float = HALF_RELATIVE
) -> Check:
    """Values stored as float16, in units of their tolerance."""
    a, b = as_array(ours), as_array(golden)
    if a.shape != b.shape:
        return failed(name, f"shape {a.shape}, expected {b.shape}", tolerance=1.0)
    excess = float((np.abs(a - b) / (absolute + relative * np.abs(b))).max(initial=0))
    label = f"{name} / ({absolute:g} + {relative:g} |x|)"
    return Check(name=label, difference=excess if np.isfinite(excess) else float("inf"), tolerance=1.0)
