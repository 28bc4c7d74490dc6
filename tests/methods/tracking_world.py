"""What tests of tracking share: a small SAM2 whose memories matter, a segmenter on it, a drawn video, a spy."""

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import torch

from pipeline.methods.mosam import MosamConfig, MosamSegmenter
from pipeline.models.image_encoding import ImageFeatures
from pipeline.models.letterbox import to_square
from pipeline.models.mosam_stages import stretch
from pipeline.models.motion_config import MotionConfig
from pipeline.models.sam2_core import Sam2Core
from pipeline.models.sam2_variants import predictor_config
from pipeline.segmenter import finish, work_off
from pipeline.ticks import RGB, Image, PointPrompt, Prompt, Tick, TickMasks
from tests.parity.random_sam2 import random_sam2, tiny_config

HEIGHT, WIDTH = 48, 72
CPU = torch.device("cpu")
PLAIN: dict[str, Any] = {"policy": "sam2", "motion": MotionConfig(mode="off")}
"""SAM2's own tracking."""


@cache
def small_core(object_score: float = 4.0) -> Sam2Core:
    """A random SAM2.1 on images of 64 px, as the predictor runs it."""
    config = tiny_config(image_size=64, d_model=32, mem_dim=8, max_obj_ptrs_in_encoder=5)
    return random_sam2(predictor_config(config), object_score=object_score)


def segmenter_of(core: Any = None, **config: Any) -> MosamSegmenter:
    """A segmenter with room for three rows in a batch."""
    settings = MosamConfig(**{"rows_per_decode": 3, "frames_per_encode": 2, **config})
    return MosamSegmenter(settings, small_core() if core is None else core, CPU)


def image_at(place: int, *, seed: int = 0) -> Image:
    """Patches that drift, with a disc that moves the other way; sharp enough that motion can be measured."""
    rng = np.random.default_rng(seed)
    ground = rng.integers(30, 220, (HEIGHT // 4, WIDTH // 2, 3), dtype=np.uint8).repeat(4, 0).repeat(4, 1)
    image = np.ascontiguousarray(ground[:, place % WIDTH : place % WIDTH + WIDTH])
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    image[(y - 22) ** 2 + (x - 50 + place) ** 2 < 90] = (230, 40, 90)
    return image


def ticks_of(num_frames: int, *, seed: int = 0) -> list[Tick]:
    return [Tick(frame_index=i, pts_us=i * 40_000, images={RGB: image_at(i, seed=seed)}) for i in range(num_frames)]


def box_prompt(object_id: int = 1, frame_index: int = 0, *, left: float = 40.0) -> Prompt:
    return Prompt(object_id=object_id, frame_index=frame_index, box=(left, 12.0, left + 20, 32.0))


def point_prompt(object_id: int, frame_index: int = 0, *, x: float = 20.0, y: float = 30.0) -> Prompt:
    return Prompt(object_id=object_id, frame_index=frame_index, points=(PointPrompt(x=x, y=y),))


def track(
    segmenter: MosamSegmenter, prompts: Sequence[Prompt], ticks: Sequence[Tick], chunk: int = 1
) -> list[TickMasks]:
    """All masks of a video, pushed `chunk` frames at a time."""
    session, taken = segmenter.open(prompts, (HEIGHT, WIDTH)), []
    for start in range(0, len(ticks), chunk):
        for tick in ticks[start : start + chunk]:
            session.push(tick)
        work_off(segmenter, session)
        taken += session.take()
    return taken + finish(segmenter, session)


def features_of(core: Sam2Core, tick: Tick) -> ImageFeatures:
    """Features of a tick's frame, encoded by itself."""
    side = core.config.image_size
    with torch.inference_mode():
        return core.encode_image(to_square([stretch(tick.rgb, side)], num_rows=1, image_size=side, device=CPU))


class ScriptedCore:
    """Another core, but tracked rows say what a script tells: (predicted IoU, object score) per tracked frame."""

    def __init__(self, core: Sam2Core, script: Sequence[tuple[float, float]]) -> None:
        self.inner = core
        self.script = list(script)
        self.reads: list[tuple[list[int], list[int | None]]] = []
        self._tracks = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def attend(self, features: ImageFeatures, selections: Any) -> torch.Tensor:
        self._tracks = not selections[0].is_empty
        if self._tracks:
            reads = selections[0].frames
            self.reads.append(([r.entry.frame_index for r in reads], [r.temporal_position for r in reads]))
        return self.inner.attend(features, selections)

    def decode_candidates(self, *args: Any, **options: Any) -> Any:
        found = self.inner.decode_candidates(*args, **{**options, "gate_absent": False})
        if not self._tracks:
            return found
        iou, score = self.script[len(self.reads) - 1]
        found.predicted_iou_RK.fill_(iou)
        found.object_score_R1.fill_(score)
        return found
