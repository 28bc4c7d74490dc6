"""What MoSAM's prompts and memory selection add to a tracked frame: CPU time against the same engine with both off."""

import os
import platform
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from pipeline.code_version import code_version
from pipeline.methods.mosam import MosamConfig, MosamSegmenter
from pipeline.models.image_encoding import ImageFeatures
from pipeline.models.sam2_core import Sam2Core, build_sam2
from pipeline.models.sam2_variants import SAM2_VARIANTS, predictor_config
from pipeline.segmenter import step
from pipeline.ticks import RGB, Image, Mask, Tick
from tests.bench.drawn_discs import NUM_DISCS, DrawnDiscs

MODEL, IMAGE_SIZE = "sam2.1-hiera-tiny", 512
HEIGHT, WIDTH = 480, 854
WARM_UP, NUM_FRAMES = 8, 8
"""Frames until every variant's memory is full, and frames that are measured after them."""
TARGET_SHARE = 0.15

BOTH_OFF: dict[str, Any] = {"temporal": "fifo", "pixel": "off", "motion": {"mode": "off"}}
VARIANTS: dict[str, dict[str, Any]] = {"both off": BOTH_OFF, "full": {}}
PARTS: dict[str, dict[str, Any]] = {
    "MGP alone": {"temporal": "fifo", "pixel": "off"},
    "ST-MS alone": {"motion": {"mode": "off"}},
}
"""Measured too with `--parts`."""


class SureCore:
    """A core whose every computation is done, and whose answers are then replaced by the drawn masks.

    Untrained weights never earn a motion prompt; these answers always do, so that the dearest path is what is timed.
    """

    def __init__(self, core: Sam2Core) -> None:
        self.inner = core
        self.masks: Sequence[Mask] = ()
        self.num_prompted = 0
        """Tracked rows that were decoded a second time, with a motion prompt."""
        self._row = -1
        self._decodes = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def begin_frame(self, masks: Sequence[Mask]) -> None:
        self.masks, self._row = masks, -1

    def attend(self, features: ImageFeatures, selections: Any) -> Tensor:
        """Called once per object and frame, in the objects' order, since a batch holds one row."""
        self._row += 1
        self._decodes = 0
        return self.inner.attend(features, selections)

    def decode_candidates(self, *args: Any, **options: Any) -> Any:
        self._decodes += 1
        self.num_prompted += self._decodes == 2
        found = self.inner.decode_candidates(*args, **options)
        return self._sure(found, "logits_RKhw", "predicted_iou_RK")

    def decode(self, *args: Any, **options: Any) -> Any:
        found = self.inner.decode(*args, **options)
        return self._sure(found, "low_res_logits_R1hw", "predicted_iou_R")

    def _sure(self, found: Any, logits: str, predicted_iou: str) -> Any:
        grid = getattr(found, logits).shape[-2:]
        soft = cv2.resize(self.masks[self._row].astype(np.float32), grid[::-1], interpolation=cv2.INTER_AREA)
        getattr(found, logits).copy_(torch.from_numpy(16 * soft - 8))
        getattr(found, predicted_iou).fill_(0.9)
        found.object_score_R1.fill_(5.0)
        return found


def main(arguments: Sequence[str] = ()) -> int:
    """Print each variant's CPU time per frame and what it adds; the status is 1 if full adds more than it may."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    inner = build_sam2(predictor_config(SAM2_VARIANTS[MODEL]).model_copy(update={"image_size": IMAGE_SIZE}), seed=0)
    print(f"machine   {platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, 1 thread, CPU time")
    print(f"commit    {code_version()}")
    print(f"work      {MODEL} (random weights) at {IMAGE_SIZE} px, {NUM_DISCS} objects, {HEIGHT} x {WIDTH} frames")
    variants = {**VARIANTS, **(PARTS if "--parts" in arguments else {})}
    times, prompted = measure(inner, variants)
    base = times["both off"]
    for name, seconds in times.items():
        ratios = [ours / theirs - 1 for ours, theirs in zip(seconds, base, strict=True)]
        print(
            f"{name:12} {1e3 * statistics.median(seconds):7.0f} ms per frame, adds {statistics.median(ratios):6.1%} "
            f"({min(ratios):.1%} to {max(ratios):.1%}), motion prompts on {prompted[name]:.0%} of tracked rows"
        )
    added = statistics.median([ours / theirs - 1 for ours, theirs in zip(times["full"], base, strict=True)])
    print(f"target    MGP + ST-MS add at most {TARGET_SHARE:.0%}: {'met' if added <= TARGET_SHARE else 'missed'}")
    return int(added > TARGET_SHARE)


def measure(inner: Sam2Core, variants: Mapping[str, dict[str, Any]]) -> tuple[dict[str, list[float]], dict[str, float]]:
    """CPU seconds of each measured frame, the variants in turn on every frame; and the share of prompted rows."""
    world = DrawnDiscs(height=HEIGHT, width=WIDTH)
    cores = {name: SureCore(inner) for name in variants}
    segmenters = {name: _segmenter(cores[name], values) for name, values in variants.items()}
    sessions = {name: segmenter.open(world.prompts(), (HEIGHT, WIDTH)) for name, segmenter in segmenters.items()}
    times: dict[str, list[float]] = {name: [] for name in variants}
    for place in range(WARM_UP + NUM_FRAMES):
        image, masks = world.frame(place)
        for name in _in_turn(list(variants), place):
            cores[name].begin_frame(masks)
            cores[name].num_prompted *= place > WARM_UP
            started = time.process_time()
            step(segmenters[name], [sessions[name]], [_tick(place, image)])
            if place >= WARM_UP:
                times[name].append(time.process_time() - started)
    return times, {name: core.num_prompted / (NUM_FRAMES * NUM_DISCS) for name, core in cores.items()}


def _segmenter(core: SureCore, values: dict[str, Any]) -> MosamSegmenter:
    settings = {"frames_per_encode": 1, "rows_per_decode": 1, **values}
    config = MosamConfig.model_validate(settings)
    return MosamSegmenter(config, core, torch.device("cpu"))  # type: ignore[arg-type]


def _in_turn(names: list[str], place: int) -> list[str]:
    """All variants, another one first on each frame."""
    first = place % len(names)
    return names[first:] + names[:first]


def _tick(place: int, image: Image) -> Tick:
    return Tick(frame_index=place, pts_us=place * 40_000, images={RGB: image})


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
