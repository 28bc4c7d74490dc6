"""Golden cases of single MemorySAM parts: adapters, prototypes, losses and schedule, scores, preprocessing."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.evaluate.semantic import class_ious, confusion_matrix
from pipeline.evaluate.semantic_class_scores import class_accuracy, class_f1, mean_all
from pipeline.models.lora import LoraQkv
from pipeline.models.memorysam_input import reference_validation_images, reference_validation_labels
from pipeline.ticks import RGB
from pipeline.training.memorysam_losses import ohem_cross_entropy
from pipeline.training.memorysam_recipes import reference_schedule
from pipeline.training.prototypes import REFERENCE_WEIGHT, class_sums, reference_step
from pipeline.training.schedule import learning_rate_factor
from tests.parity.comparison import Check, close, failed, same

LORA_TOLERANCE = 1e-5
PROTOTYPE_ABSOLUTE, PROTOTYPE_RELATIVE = 1e-8, 1e-5
GRADIENT_RELATIVE = 1e-4
LOSS_RELATIVE = 1e-6
PERCENT_TOLERANCE = 0.01
MAX_ROUNDED_PIXELS = 0.005

Golden = dict[str, Any]


def check_module_case(path: Path) -> Iterator[Check]:
    """All checks of one npz, chosen by its name."""
    with np.load(path) as file:
        golden: Golden = {key: file[key] for key in file.files}
    for prefix, check in _KINDS.items():
        if path.stem.startswith(prefix):
            yield from check(path.stem, golden)
            return
    yield failed(path.stem, f"unknown case; expected a name that begins with {', '.join(_KINDS)}")


def check_lora(name: str, golden: Golden) -> Iterator[Check]:
    """Adapted and base projections, per tag."""
    for tag in _tags(golden, "x"):
        adapted = lora_of(golden, tag)
        x = torch.from_numpy(golden[f"{tag}__x"])
        with torch.no_grad():
            yield close(
                f"{name} {tag} base", adapted.qkv(x), golden[f"{tag}__base"], absolute=LORA_TOLERANCE, per_scale=False
            )
            yield close(
                f"{name} {tag} adapted", adapted(x), golden[f"{tag}__y"], absolute=LORA_TOLERANCE, per_scale=False
            )
            yield close(
                f"{name} {tag} folded",
                adapted.folded()(x),
                golden[f"{tag}__y"],
                absolute=LORA_TOLERANCE,
                per_scale=False,
            )


def lora_of(golden: Golden, tag: str) -> LoraQkv:
    """The adapted projection of a tag, strictly loaded."""
    weights = {
        key.removeprefix(f"{tag}__"): torch.from_numpy(value)
        for key, value in golden.items()
        if key.startswith(f"{tag}__") and key.endswith((".weight", ".bias"))
    }
    out_features, in_features = weights["qkv.weight"].shape
    adapted = LoraQkv(nn.Linear(in_features, out_features), rank=weights["linear_a_q.weight"].shape[0])
    adapted.load_state_dict(weights, strict=True)
    return adapted


def check_prototypes(name: str, golden: Golden) -> Iterator[Check]:
    """Three steps that share one running state: prototypes, loss, gradient."""
    global_KP = torch.zeros(golden["s0_global_proto"].shape)
    seen_K = torch.zeros(len(global_KP), dtype=torch.bool)
    for step in range(sum(key.endswith("_features") for key in golden)):
        features = torch.from_numpy(golden[f"s{step}_features"]).requires_grad_(True)
        labels = torch.from_numpy(golden[f"s{step}_labels"])
        sums = class_sums(features, labels, num_classes=len(global_KP))
        result = reference_step(sums, global_KP, seen_K)
        global_KP, seen_K = result.global_KP, result.seen_K
        loss = result.loss * REFERENCE_WEIGHT
        (gradient,) = torch.autograd.grad(loss, features)
        told = f"{name} step {step}"
        yield _relative(f"{told} batch", result.batch_KP, golden[f"s{step}_batch_proto"])
        yield _relative(f"{told} global", result.global_KP, golden[f"s{step}_global_proto"])
        yield _relative(f"{told} loss", result.loss, golden[f"s{step}_loss"])
        yield _relative(f"{told} weighted loss", loss, golden[f"s{step}_loss_weighted"])
        yield _relative(f"{told} gradient", gradient, golden[f"s{step}_grad"], relative=GRADIENT_RELATIVE)


def check_loss_and_schedule(name: str, golden: Golden) -> Iterator[Check]:
    """Cross-entropy over hard pixels with gradients, and learning rates of two runs."""
    for tag in ("hard", "easy"):
        logits = torch.from_numpy(golden[f"{tag}_logits"]).requires_grad_(True)
        loss = ohem_cross_entropy(logits, torch.from_numpy(golden[f"{tag}_label"]))
        (gradient,) = torch.autograd.grad(loss, logits)
        yield _relative(f"{name} {tag} loss", loss, golden[f"{tag}_loss"], relative=LOSS_RELATIVE)
        # Stored as float16, whose step below 6e-5 is 6e-8.
        yield _relative(f"{name} {tag} gradient", gradient, golden[f"{tag}_grad"], relative=1e-3, absolute=6e-8)
    for key, (epochs, steps, rate) in _RUNS.items():
        schedule, num_steps = reference_schedule(epochs=epochs, steps_per_epoch=steps)
        rates = [rate * learning_rate_factor(schedule, int(step), num_steps=num_steps) for step in golden[key][:, 0]]
        yield _relative(f"{name} {key}", np.array(rates), golden[key][:, 1], relative=LOSS_RELATIVE, absolute=0.0)


_RUNS = {"lr_deliver": (200, 248, 6e-4), "lr_mcubes": (500, 18, 4e-4)}
"""Epochs, steps per epoch and learning rate, as stated beside the vectors."""


def check_scores(name: str, golden: Golden) -> Iterator[Check]:
    """Confusion counts exactly; percentages of IoU, F1 and accuracy, and their means over all classes."""
    for tag in sorted({key.partition("_")[0] for key in golden}):
        expected = golden[f"{tag}_hist"]
        num_classes = len(expected)
        counts = np.zeros((num_classes, num_classes + 1), dtype=np.int64)
        for batch in range(sum(key.startswith(f"{tag}_b") and key.endswith("_label") for key in golden)):
            prediction, truth = golden[f"{tag}_b{batch}_pred"], golden[f"{tag}_b{batch}_label"]
            logits = golden.get(f"{tag}_b{batch}_logits")
            if logits is not None:
                labels = torch.from_numpy(logits.astype(np.float32)).argmax(dim=1)
                yield same(f"{name} {tag} labels of batch {batch}", labels, prediction)
            counts += confusion_matrix(prediction, truth, num_classes=num_classes)
        yield same(f"{name} {tag} counts", counts[:, :num_classes], expected)
        yield same(f"{name} {tag} unpredicted", counts[:, num_classes], np.zeros(num_classes))
        found = {"iou": class_ious(counts), "f1": class_f1(counts), "acc": class_accuracy(counts)}
        for kind, scores in found.items():
            percent = np.nan_to_num(scores * 100, nan=0.0)
            wanted = np.nan_to_num(golden[f"{tag}_{kind}_pct"], nan=0.0)
            yield close(f"{name} {tag} {kind}", percent, wanted, absolute=PERCENT_TOLERANCE, per_scale=False)
            mean = np.array(mean_all(scores) * 100)
            mean_key = f"{tag}_m{kind}_pct"
            yield close(f"{name} {tag} m{kind}", mean, golden[mean_key], absolute=PERCENT_TOLERANCE, per_scale=False)


def check_preprocessing(name: str, golden: Golden) -> Iterator[Check]:
    """The validation transform with and without antialiasing; labels exactly."""
    short = min(golden["out_mask"].shape[-2:])
    for antialias, suffix in ((True, "aa"), (False, "noaa")):
        for key, modality in (("img", RGB), ("depth", "depth")):
            image = torch.from_numpy(golden[key])
            ours = reference_validation_images(image, modality, short_side_px=short, antialias=antialias)
            yield from _rounded(f"{name} {key} {suffix}", ours, golden[f"out_{key}_{suffix}"], modality)
    labels = reference_validation_labels(torch.from_numpy(golden["mask"][0]), short_side_px=short)
    yield same(f"{name} labels", labels, golden["out_mask"][0])


def _rounded(name: str, ours: Tensor, golden: Any, modality: str) -> Iterator[Check]:
    """Equal but for pixels whose uint8 value was rounded the other way: one step of 255, in few pixels."""
    expected = torch.from_numpy(golden)
    if ours.shape != expected.shape:
        yield failed(name, f"shape {tuple(ours.shape)}, expected {tuple(expected.shape)}")
        return
    difference = (ours - expected).abs()
    step = 1 / 255 / (0.224 if modality == RGB else 1.0)  # the smallest deviation that RGB is divided by
    yield close(f"{name} largest step", difference.max(), np.zeros(()), absolute=step * 1.001)
    share = float((difference > 1e-6).float().mean())
    yield Check(name=f"{name} share of pixels off", difference=share, tolerance=MAX_ROUNDED_PIXELS)


def _relative(
    name: str,
    ours: object,
    golden: object,
    *,
    relative: float = PROTOTYPE_RELATIVE,
    absolute: float = PROTOTYPE_ABSOLUTE,
) -> Check:
    """Largest difference in units of `absolute + relative |golden|`."""
    a = np.asarray(ours.detach().numpy() if isinstance(ours, Tensor) else ours, dtype=np.float64)
    b = np.asarray(golden, dtype=np.float64)
    if a.shape != b.shape:
        return failed(name, f"shape {a.shape}, expected {b.shape}", tolerance=1.0)
    room = absolute + relative * np.abs(b)
    excess = np.divide(np.abs(a - b), room, out=np.where(a == b, 0.0, np.inf), where=room > 0)
    label = f"{name} / ({absolute:g} + {relative:g} |x|)"
    largest = float(excess.max(initial=0))
    return Check(name=label, difference=largest if np.isfinite(largest) else float("inf"), tolerance=1.0)


def _tags(golden: Golden, suffix: str) -> list[str]:
    return sorted(key.removesuffix(f"__{suffix}") for key in golden if key.endswith(f"__{suffix}"))


_KINDS: dict[str, Callable[[str, Golden], Iterator[Check]]] = {
    "lora": check_lora,
    "spmm": check_prototypes,
    "loss": check_loss_and_schedule,
    "metrics": check_scores,
    "prep": check_preprocessing,
}
"""Beginning of a case's name to its checks."""
