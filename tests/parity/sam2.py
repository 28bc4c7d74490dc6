"""Our calls and Tracker beside upstream's SAM2VideoPredictor: same random weights, same frames, same interactions.

Upstream runs from its own source, driven through its public methods; what is compared are the mask logits it returns
at the video's size and the low-resolution logits it keeps.
"""

import argparse
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import numpy as np
import sam2.sam2_video_predictor as upstream
import torch
from numpy.typing import NDArray
from PIL import Image
from sam2.utils import misc as upstream_io
from torch import Tensor

from pipeline.models.mask_decoding import ABSENT_LOGIT
from pipeline.models.memory_policies import MemoryPolicy
from pipeline.models.sam2_core import Sam2Core, mask_decoder, upstream_arguments
from pipeline.models.sam2_variants import Sam2Config
from pipeline.models.tracking import Tracker
from tests.parity.random_sam2 import random_sam2, tiny_config
from tests.parity.sam2_cases import CASES, HEIGHT, WIDTH, Case, Click, GiveMask, Propagate

Rule = Callable[[Sam2Config, int, bool], MemoryPolicy]
"""(config, num_frames, reverse) to a policy."""

TIE = 1e-6
"""A pixel whose logit is nearer to zero than this share of the largest logit belongs to neither side."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Logits of all objects after one prompt or one tracked frame."""

    where: str
    video_O1HW: Tensor
    low_res_O1hw: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """How far one case is apart.

    Attributes:
        difference: largest difference of logits, as a share of the largest logit.
        num_flipped: pixels of the video on the other side of zero, ties apart.
        num_answers: prompts answered and frames tracked.
        share_present, share_inside: object-frames in view and positive logits, upstream's; a case in which hardly
            anything is seen would show little.
    """

    case: Case
    difference: float
    num_flipped: int
    num_answers: int
    share_present: float
    share_inside: float

    @property
    def ok(self) -> bool:
        return self.difference <= self.case.tolerance and self.num_flipped == 0

    def __str__(self) -> str:
        return (
            f"{self.case.name:52s} max difference {self.difference:.1e}  tolerance {self.case.tolerance:.0e}  "
            f"flipped {self.num_flipped}  answers {self.num_answers:2d}  present {self.share_present:4.0%}  "
            f"inside {self.share_inside:4.0%}  {'ok' if self.ok else 'DIFFERS'}"
        )


def main(argv: Sequence[str]) -> int:
    """Run all cases whose name holds a word; 1 if any differs."""
    parser = argparse.ArgumentParser(prog="python -m tests.parity sam2", description=__doc__)
    parser.add_argument("words", nargs="*", help="run only cases whose name holds one of these")
    words = parser.parse_args(argv).words
    torch.set_num_threads(1)
    chosen = [case for case in CASES if not words or any(word in case.name for word in words)]
    failed = 0
    for case in chosen:
        verdict = compare(case)
        failed += not verdict.ok
        print(verdict, flush=True)
    print(f"{len(chosen) - failed} of {len(chosen)} cases equal upstream's predictor")
    return int(failed > 0 or not chosen)


def compare(case: Case, *, policy: Rule | None = None) -> Verdict:
    """Run one case on both sides.

    Args:
        policy: what ours is to use instead of its default; for showing that a deviation is found.
    """
    core = random_sam2(tiny_config(**case.changes), seed=case.seed, object_score=case.object_score)
    frames, masks = moving_shapes(case.num_frames, seed=case.seed)
    with torch.inference_mode(), quiet_upstream(core.config.memory_dtype):
        images, theirs = run_upstream(core, case, frames, masks)
        ours = run_ours(core, case, images, masks, policy)
    return _judge(case, theirs, ours)


def _judge(case: Case, theirs: list[Answer], ours: list[Answer]) -> Verdict:
    assert [answer.where for answer in theirs] == [answer.where for answer in ours]
    low, low_ours = (_flat(answers, "low_res_O1hw") for answers in (theirs, ours))
    video, video_ours = (_flat(answers, "video_O1HW") for answers in (theirs, ours))
    scale = float(low[low > ABSENT_LOGIT].abs().max())
    apart = max(float((low - low_ours).abs().max()), float((video - video_ours).abs().max()))
    flipped = ((video > 0) != (video_ours > 0)) & (video.abs() > TIE * scale)
    present = torch.cat([answer.low_res_O1hw.flatten(1).amax(1) > ABSENT_LOGIT for answer in theirs])
    return Verdict(
        case=case,
        difference=apart / scale,
        num_flipped=int(flipped.sum()),
        num_answers=len(theirs),
        share_present=float(present.float().mean()),
        share_inside=float((low > 0).float().mean()),
    )


def _flat(answers: list[Answer], field: str) -> Tensor:
    return torch.cat([getattr(answer, field).flatten() for answer in answers])


def run_ours(
    core: Sam2Core,
    case: Case,
    images: Tensor,
    masks: NDArray[np.bool_],
    policy: Rule | None,
) -> list[Answer]:
    tracker = Tracker(
        core,
        frame_size=(HEIGHT, WIDTH),
        num_frames=case.num_frames,
        policy=policy and policy(core.config, case.num_frames, False),
        reverse_policy=policy and policy(core.config, case.num_frames, True),
        bounded=case.bounded,
        corrections_condition=case.corrections_condition,
    )
    features = core.encode_image(images)
    answers = []
    for step in case.steps:
        if isinstance(step, Propagate):
            for frame in _order(tracker, step, case.num_frames):
                low_res = tracker.track(features.rows([frame]), frame, reverse=step.reverse)
                answers.append(
                    Answer(where=f"track {frame}", video_O1HW=tracker.to_video(low_res), low_res_O1hw=low_res)
                )
            continue
        shown = _prompt_ours(tracker, features.rows([step.frame]), step, masks)
        entries = [e for e in tracker.tracks[step.object_id].pending.values() if e.frame_index == step.frame]
        low_res = entries[-1].logits_hw[None, None]
        answers.append(Answer(where=f"prompt {step.frame}", video_O1HW=shown, low_res_O1hw=low_res))
    return answers


def _prompt_ours(tracker: Tracker, features: Any, step: Click | GiveMask, masks: NDArray[np.bool_]) -> Tensor:
    if isinstance(step, GiveMask):
        mask = torch.from_numpy(_mask_of(step, masks))
        return tracker.prompt_mask(features, step.frame, step.object_id, mask)
    points = torch.tensor([p[:2] for p in step.points]) if step.points else None
    labels = torch.tensor([p[2] for p in step.points]) if step.points else None
    return tracker.prompt_points(
        features,
        step.frame,
        step.object_id,
        points_P2=points,
        labels_P=labels,
        box_4=None if step.box is None else torch.tensor(step.box),
        clear_old=step.clear_old,
    )


def _order(tracker: Tracker, step: Propagate, num_frames: int) -> range:
    """Frames in the order in which upstream's propagate_in_video visits them."""
    for track in tracker.tracks.values():
        track.commit()
    prompted = [frame for track in tracker.tracks.values() for frame in track.bank.conditioning]
    start = min(prompted) if step.start is None else step.start
    reach = num_frames if step.max_frames is None else step.max_frames
    if step.reverse:
        return range(start, max(start - reach, 0) - 1, -1) if start > 0 else range(0)
    return range(start, min(start + reach, num_frames - 1) + 1)


def run_upstream(
    core: Sam2Core, case: Case, frames: NDArray[np.uint8], masks: NDArray[np.bool_]
) -> tuple[Tensor, list[Answer]]:
    predictor = upstream.SAM2VideoPredictor(
        **upstream_arguments(core.config), add_all_frames_to_correct_as_cond=case.corrections_condition
    )
    predictor.sam_mask_decoder = mask_decoder(core.config)
    predictor.load_state_dict(core.model.state_dict(), strict=True)
    predictor.eval()
    with tempfile.TemporaryDirectory() as folder:
        for index, frame in enumerate(frames):
            Image.fromarray(frame).save(Path(folder) / f"{index:05d}.jpg", quality=95)
        state = predictor.init_state(folder)
    answers = []
    for step in case.steps:
        if isinstance(step, Propagate):
            for frame, _, video in predictor.propagate_in_video(
                state, start_frame_idx=step.start, max_frame_num_to_track=step.max_frames, reverse=step.reverse
            ):
                low_res = torch.cat([_kept(state["output_dict_per_obj"][o], frame) for o in range(len(video))])
                answers.append(Answer(where=f"track {frame}", video_O1HW=video, low_res_O1hw=low_res))
            continue
        shown = _prompt_upstream(predictor, state, step, masks)
        slot = state["obj_id_to_idx"][step.object_id]
        low_res = _kept(state["temp_output_dict_per_obj"][slot], step.frame)
        answers.append(Answer(where=f"prompt {step.frame}", video_O1HW=shown, low_res_O1hw=low_res))
    return state["images"], answers


def _prompt_upstream(predictor: Any, state: Any, step: Click | GiveMask, masks: NDArray[np.bool_]) -> Tensor:
    if isinstance(step, GiveMask):
        return predictor.add_new_mask(state, step.frame, step.object_id, _mask_of(step, masks))[2]
    return predictor.add_new_points_or_box(
        state,
        step.frame,
        step.object_id,
        points=[p[:2] for p in step.points] or None,
        labels=[p[2] for p in step.points] or None,
        box=step.box,
        clear_old_points=step.clear_old,
    )[2]


def _kept(outputs: dict[str, dict[int, Any]], frame: int) -> Tensor:
    kinds = (outputs["cond_frame_outputs"], outputs["non_cond_frame_outputs"])
    logits: Tensor = next(kind[frame]["pred_masks"] for kind in kinds if frame in kind)
    return logits


@contextmanager
def quiet_upstream(memory_dtype: str) -> Iterator[None]:
    """No progress bars, and memory stored in a given dtype where upstream's code says bfloat16."""
    stored = _TorchStoring(getattr(torch, memory_dtype))
    with (
        patch.object(upstream, "tqdm", lambda frames, **_: frames),
        patch.object(upstream_io, "tqdm", lambda frames, **_: frames),
        patch.object(upstream, "torch", stored),
    ):
        yield


class _TorchStoring(ModuleType):
    """torch, but for what `torch.bfloat16` means."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__("torch")
        self.bfloat16 = dtype

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


def moving_shapes(num_frames: int, *, seed: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Frames (T, H, W, 3) of three moving shapes on a texture, and their masks (3, T, H, W)."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    texture = random.integers(0, 80, size=(HEIGHT, WIDTH, 3), dtype=np.uint8)
    masks = np.zeros((3, num_frames, HEIGHT, WIDTH), dtype=bool)
    frames = np.empty((num_frames, HEIGHT, WIDTH, 3), dtype=np.uint8)
    colours = random.integers(100, 255, size=(3, 3), dtype=np.uint8)
    for t in range(num_frames):
        share = t / num_frames
        masks[0, t] = (x - 20 - 80 * share) ** 2 + (y - 24) ** 2 < 15**2
        masks[1, t] = (np.abs(x - 90 + 50 * share) < 14) & (np.abs(y - 50 + 10 * share) < 9)
        masks[2, t] = (np.abs(x - 60) + np.abs(y - 60 + 40 * share)) < 14
        frames[t] = texture
        for shape, colour in zip(masks[:, t], colours, strict=True):
            frames[t][shape] = colour
    return frames, masks


def _mask_of(step: GiveMask, masks: NDArray[np.bool_]) -> NDArray[np.bool_]:
    mask = masks[(step.object_id - 1) % 3, step.frame]
    return np.zeros_like(mask) if step.empty else mask
