"""Our tracker against upstream's video predictor: three clicked objects, 40 frames, same weights, in one run."""

import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from pipeline.code_version import code_version
from tests.parity import sam2 as parity
from tests.parity.random_sam2 import random_sam2, tiny_config
from tests.parity.sam2_cases import Case, Click, Propagate

REPEATS = 3

Result = TypeVar("Result")

CASE = Case(
    name="three objects",
    num_frames=40,
    steps=(
        *(Click(frame=0, object_id=number, points=((12.0 * number, 20.0, 1),)) for number in (1, 2, 3)),
        Propagate(),
    ),
)


def main(arguments: Sequence[str] = ()) -> int:
    """Print the median ratio upstream/ours of the seconds of whole runs, image encoder included on both sides."""
    torch.set_num_threads(1)
    core = random_sam2(tiny_config(**CASE.changes), seed=CASE.seed, object_score=CASE.object_score)
    frames, masks = parity.moving_shapes(CASE.num_frames, seed=CASE.seed)
    seconds: dict[str, list[float]] = {"upstream": [], "ours": []}
    with torch.inference_mode(), parity.quiet_upstream(core.config.memory_dtype):
        for _ in range(REPEATS):
            images, _ = timed(seconds["upstream"], lambda: parity.run_upstream(core, CASE, frames, masks))
            timed(seconds["ours"], lambda images=images: parity.run_ours(core, CASE, images, masks, None))
    ratios = [theirs / ours for theirs, ours in zip(seconds["upstream"], seconds["ours"], strict=True)]
    print(f"machine   {platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, 1 thread")
    print(f"commit    {code_version()}")
    for name, values in seconds.items():
        print(
            f"{name:9} {CASE.num_frames / statistics.median(values):.1f} frames/s with 3 objects (median of {REPEATS})"
        )
    print(f"ratio     upstream/ours seconds {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
    return 0


def timed(seconds: list[float], action: Callable[[], Result]) -> Result:
    started = time.perf_counter()
    result = action()
    seconds.append(time.perf_counter() - started)
    return result


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
