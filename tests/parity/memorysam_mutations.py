"""Eight planted mistakes in MemorySAM, each of which the golden cases must notice: `python -m` this, with --cases DIR.

Prints one line per mistake: checks of one case that fail, and how far the fused logits and labels move. Exit status 1
if a mistake passes, or if the unchanged code fails.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.models import memorysam_network
from pipeline.models.lora import LoraQkv
from pipeline.models.memorysam_network import MemorySamNetwork
from tests.parity.memorysam_models import check_model, read_case
from tests.parity.memorysam_weights import golden_network

CASE = "model_t128_m4"

Plant = Callable[[MemorySamNetwork], Any]
"""Makes a network wrong for the length of a context."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What the checker said of one mistake.

    Attributes:
        failed: checks that noticed it. moved: largest difference of the fused logits. agreement: share of equal labels.
    """

    failed: tuple[str, ...]
    num_checks: int
    moved: float
    agreement: float


def run_mutation(directory: Path, plant: Plant) -> Result:
    """The checks of the case on a network with a planted mistake."""
    golden, meta = read_case(directory / f"{CASE}.npz")
    network = golden_network(meta)
    with plant(network):
        checks = list(check_model(CASE, golden, meta, network))
    by_name = {check.name.removeprefix(f"{CASE} "): check for check in checks}
    return Result(
        failed=tuple(name for name, check in by_name.items() if not check.ok),
        num_checks=len(checks),
        moved=by_name["fused_low"].difference,
        agreement=1 - by_name["labels that differ"].difference,
    )


def main(argv: Sequence[str]) -> int:
    """Every mistake in turn; 1 if one is not noticed."""
    parser = argparse.ArgumentParser(prog="python -m tests.parity.memorysam_mutations", description=__doc__)
    parser.add_argument("--cases", type=Path, required=True, help=f"folder with {CASE}.npz")
    directory = parser.parse_args(argv).cases
    status = 0
    for name, plant in {"unchanged": _unchanged, **MUTATIONS}.items():
        result = run_mutation(directory, plant)
        is_expected = bool(result.failed) == (name != "unchanged")
        status |= not is_expected
        print(
            f"{name:52s} {len(result.failed):2d} of {result.num_checks} checks fail  fused_low off by "
            f"{result.moved:9.2e}  labels {result.agreement:7.2%}  {'as expected' if is_expected else 'WRONG'}",
            flush=True,
        )
    return status


@contextmanager
def _unchanged(_network: MemorySamNetwork) -> Iterator[None]:
    yield


def _no_memory(network: MemorySamNetwork) -> Any:
    own = network.forward
    return mock.patch.object(network, "forward", lambda images: own(images, use_memory=False))


@contextmanager
def _no_adapters(network: MemorySamNetwork) -> Iterator[None]:
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, LoraQkv):
                module.linear_b_q.weight.zero_()
                module.linear_b_v.weight.zero_()
    yield


def _value_adapted_at_its_beginning(_network: MemorySamNetwork) -> Any:
    def forward(adapted: LoraQkv, x: Tensor) -> Tensor:
        projected: Tensor = adapted.qkv(x)
        width, rest = adapted.qkv.in_features, adapted.qkv.out_features - adapted.qkv.in_features
        before = projected.shape[-1] // 3 * 2
        value = F.pad(adapted.linear_b_v(adapted.linear_a_v(x)), (before, rest - before))
        assert value.shape == projected.shape
        assert width <= projected.shape[-1] // 3
        return projected + F.pad(adapted.linear_b_q(adapted.linear_a_q(x)), (0, rest)) + value

    return mock.patch.object(LoraQkv, "forward", forward)


def _last_modality_for_the_mean(_network: MemorySamNetwork) -> Any:
    return mock.patch.object(memorysam_network, "fuse_modalities", lambda logits_MBKhw: logits_MBKhw[-1])


def _reversed_order(network: MemorySamNetwork) -> Any:
    own = network.forward
    return mock.patch.object(network, "forward", lambda images: own(images.flip(0)))


def _later_modalities_as_recent_frames(network: MemorySamNetwork) -> Any:
    own = network.select

    def select(entries: Sequence[Any]) -> Any:
        selection = own(entries)
        frames = [
            read if place == 0 else replace(read, temporal_position=len(entries) - place - 1)
            for place, read in enumerate(selection.frames)
        ]
        return replace(selection, frames=tuple(frames))

    return mock.patch.object(network, "select", select)


def _first_class_into_memory(network: MemorySamNetwork) -> Any:
    own = network.remember

    def remember(features: Any, output: Any) -> Tensor:
        return own(features, replace(output, best_R=torch.zeros_like(output.best_R)))

    return mock.patch.object(network, "remember", remember)


def _no_pointers(_network: MemorySamNetwork) -> Any:
    own = memorysam_network.memory_entries

    def memory_entries(*arguments: Any, **options: Any) -> list[Any]:
        return [replace(e, pointer_D=torch.zeros_like(e.pointer_D)) for e in own(*arguments, **options)]

    return mock.patch.object(memorysam_network, "memory_entries", memory_entries)


MUTATIONS: dict[str, Plant] = {
    "no memory": _no_memory,
    "adapters off": _no_adapters,
    "value adapted at its beginning where a stage ends": _value_adapted_at_its_beginning,
    "last modality instead of the mean": _last_modality_for_the_mean,
    "modalities in reversed order": _reversed_order,
    "modalities from the second on as recent frames": _later_modalities_as_recent_frames,
    "mask of class 0 into memory": _first_class_into_memory,
    "object pointers zeroed": _no_pointers,
}

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
