"""Motion encoders in training: objects of generated clips tracked by a frozen SAM2 under learned motion prompts."""

# Axes: T frames, R rows (objects of one clip), K mask candidates, H W the model's square, h w the mask logits' grid.

import hashlib
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from typing import Any, cast

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.models.image_encoding import ImageFeatures
from pipeline.models.letterbox import resize_frame, to_square
from pipeline.models.mask_decoding import MaskOutput
from pipeline.models.memory_policies import RecentFrames
from pipeline.models.mosam_rows import motion_prompts
from pipeline.models.motion_camera import FrameMotion, observe_frame
from pipeline.models.motion_config import MotionConfig
from pipeline.models.motion_encoders import (
    MotionEncoderConfig,
    MotionEncoders,
    encoder_content,
    motion_inputs,
    with_motion_tokens,
)
from pipeline.models.motion_flow import Flow, build_flow
from pipeline.models.motion_forecast import MotionForecast, forecast
from pipeline.models.motion_state import ObjectMotion
from pipeline.models.motion_update import update
from pipeline.models.sam2_core import Sam2Core
from pipeline.models.tracking import uses_multimask
from pipeline.synth.clip import Clip, sample_clip
from pipeline.synth.config import ClipConfig
from pipeline.synth.presets import TRAIN
from pipeline.training.gradients import BatchLosses
from pipeline.training.loop import LoopConfig
from pipeline.training.mask_losses import RowScores, row_losses, row_metrics
from pipeline.training.rollout import Memories, joined_scores, painted_out
from pipeline.training.schedule import ScheduleConfig

SURE_SCORE, SURE_IOU, SURE_LOGIT = 8.0, 1.0, 8.0
"""What a true mask counts as where motion is measured from the truth."""

_HISTORY_STREAM = 23


class TrackTraining(BaseModel):
    """What the motion encoders are trained on, and for how long.

    Not stated in the paper: data, losses and schedule are ours. Losses are SAM 2's (arXiv 2408.00714, appendix D.2.1).

    Attributes:
        clips: drawn without end, or the same `num_clips` again and again.
        objects_per_clip: tracked together, from their masks on the first frame.
        true_history: share of clips in which motion is measured from true masks; in the others from the masks that
            were just predicted, as when tracking.
        motion: how it is measured; `mode` is what is prompted beside the learned tokens.
        encoder_width: inner channels.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    clips: ClipConfig = TRAIN.derive(name="track8", num_frames=8)
    num_clips: int | None = Field(default=None, ge=1)
    objects_per_clip: int = Field(default=3, ge=1)
    true_history: float = Field(default=0.5, ge=0, le=1)
    motion: MotionConfig = MotionConfig()
    encoder_width: int = Field(default=64, ge=8)
    loop: LoopConfig = LoopConfig(
        num_steps=1000,
        batch_size=4,
        learning_rate=1e-3,
        weight_decay=0.02,
        schedule=ScheduleConfig(kind="cosine", warmup_steps=40, final_factor=0.03),
        ema_decay=0.995,
        checkpoint_every=100,
        log_every=10,
    )


class TrackLearner:
    """The motion encoders as the training loop sees them; SAM2 is frozen by this.

    Args:
        core: on its device.
        num_threads: that draw clips ahead of time.
    """

    def __init__(self, core: Sam2Core, training: TrackTraining, *, num_threads: int = 0) -> None:
        config = MotionEncoderConfig(
            d_model=core.config.d_model, num_points=training.motion.num_points, width=training.encoder_width
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(training.loop.seed)
            self._encoders = MotionEncoders(config).to(core.device)
        self._core = core.eval().requires_grad_(False)
        self._training = training
        self._flow = build_flow(training.motion, device=core.device)
        self._pool = ThreadPoolExecutor(num_threads, thread_name_prefix="clips") if num_threads else None
        self._coming: dict[int, Future[Clip]] = {}

    @property
    def module(self) -> MotionEncoders:
        return self._encoders

    def trained(self) -> Mapping[str, nn.Parameter]:
        """The encoders' parameters, by name, and no other."""
        return dict(self._encoders.named_parameters())

    def trained_buffers(self) -> Mapping[str, Tensor]:
        """None."""
        return {}

    def losses(self, positions: Sequence[int]) -> BatchLosses:
        """Draw the clips at these positions and track their objects."""
        clips = [self._drawn(position) for position in positions]
        scores = [
            found
            for position, clip in zip(positions, clips, strict=True)
            for found in track_clip(
                self._core,
                self._encoders,
                clip,
                self._training,
                flow=self._flow,
                from_truth=self._from_truth(position),
            )
        ]
        names = tuple(clip.video_id for clip in clips)
        if not scores:
            # No object moved believably: nothing is learned from these clips, but all losses must be there.
            nothing = sum(
                (p.sum() * 0.0 for p in self._encoders.parameters()), torch.zeros((), device=self._core.device)
            )
            return BatchLosses(means=dict.fromkeys(("focal", "dice", "presence", "iou"), nothing), sample_ids=names)
        joined = joined_scores(scores)
        return BatchLosses(means=row_losses(joined), metrics=row_metrics(joined), sample_ids=names)

    def look_ahead(self, positions: Sequence[int]) -> None:
        """Begin to draw these clips."""
        if self._pool is not None:
            for position in positions:
                if position not in self._coming:
                    self._coming[position] = self._pool.submit(self._sample, position)

    def model_content(self) -> dict[str, Any]:
        """The encoders, as `load_motion_encoders` reads them."""
        return encoder_content(self._encoders)

    def recipe(self) -> dict[str, Any]:
        """The settings and a digest of the frozen SAM2."""
        digest = hashlib.sha256()
        for name, parameter in self._core.named_parameters():
            digest.update(name.encode())
            digest.update(cast(Any, parameter.detach().float().cpu().contiguous().numpy()))
        return {**self._training.model_dump(mode="json", exclude={"loop"}), "frozen_weights": digest.hexdigest()[:32]}

    def close(self) -> None:
        """Stop drawing ahead."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
        self._coming.clear()

    def _drawn(self, position: int) -> Clip:
        coming = self._coming.pop(position, None)
        return self._sample(position) if coming is None else coming.result()

    def _sample(self, position: int) -> Clip:
        training = self._training
        item = position if training.num_clips is None else position % training.num_clips
        return sample_clip(training.clips, training.loop.seed, "train", item)

    def _from_truth(self, position: int) -> bool:
        generator = np.random.default_rng((_HISTORY_STREAM, self._training.loop.seed, position))
        return bool(generator.random() < self._training.true_history)


@dataclass(slots=True)
class _ClipRun:
    """Objects of one clip on their way from frame to frame."""

    memories: Memories
    motions: list[ObjectMotion]
    previous: FrameMotion | None = None


def track_clip(
    core: Sam2Core,
    encoders: MotionEncoders,
    clip: Clip,
    training: TrackTraining,
    *,
    flow: Flow | None,
    from_truth: bool,
) -> list[RowScores]:
    """Decode every frame of the objects that the first one shows under their motion prompts; only these have gradients.

    Memory holds what was decoded, without gradients: each frame teaches its own prompt.

    Returns:
        Scores per frame, of the rows that were prompted; none where no motion was believed.
    """
    side, config = core.config.image_size, training.motion
    ids = [int(number) for number in np.unique(clip.labels[0]) if number > 0][: training.objects_per_clip]
    if not ids:
        return []
    labels_T1HW = F.interpolate(torch.from_numpy(clip.labels)[:, None].float(), size=(side, side), mode="nearest-exact")
    targets_TRHW = torch.cat([labels_T1HW == number for number in ids], dim=1).to(core.device)
    squares = [resize_frame(image, (side, side)) for image in clip.frames]
    with torch.no_grad():
        features = core.encode_image(to_square(squares, num_rows=len(squares), image_size=side, device=core.device))
    run = _ClipRun(Memories(len(ids), RecentFrames.of(core.config)), [ObjectMotion()] * len(ids))
    scores = []
    for index, image in enumerate(clip.frames):
        frame = observe_frame(image, index, run.previous, run.motions, config, flow)
        rows = features.rows([index] * len(ids))
        ahead: list[MotionForecast] | None = None
        if index == 0:
            with torch.no_grad():
                output = core.take_mask(rows, targets_TRHW[0][:, None])
        else:
            ahead = [forecast(motion, frame, config, flow) for motion in run.motions]
            output, found = _decode(core, encoders, rows, run.memories, ahead, frame, targets_TRHW[index])
            scores += found
        _remember(core, rows, run, index, output)
        masks_Ryx = np.stack([clip.labels[index] == number for number in ids])
        run.motions = _followed(run, frame, ahead, output, masks_Ryx if from_truth else None, config)
        run.previous = frame
    return scores


def _decode(
    core: Sam2Core,
    encoders: MotionEncoders,
    rows: ImageFeatures,
    memories: Memories,
    ahead: Sequence[MotionForecast],
    frame: FrameMotion,
    targets_RHW: Tensor,
) -> tuple[MaskOutput, list[RowScores]]:
    """The masks of all rows, prompted where motion is believed, and the scores of those rows."""
    multimask = uses_multimask(core.config, is_first_answer=False, num_points=0)
    with torch.no_grad():
        pix_RDhw = core.attend(rows, memories.select(frame.frame_index))
        prompts = core.encode_prompts(len(rows))
        output = core.decode(pix_RDhw, rows.high_res, prompts, multimask=multimask, gate_absent=False)
    moved = [row for row, found in enumerate(ahead) if found.prompt is not None]
    if not moved:
        return output, []
    chosen = [ahead[row] for row in moved]
    with torch.no_grad():
        asked = motion_prompts(
            core,
            [found.prompt for found in chosen],
            [frame.frame_size] * len(moved),
            num_points=encoders.config.num_points,
        )
    asked = with_motion_tokens(asked, encoders(motion_inputs(chosen, encoders.config).to(core.device)))
    candidates = core.decode_candidates(
        pix_RDhw[moved], rows.rows(moved).high_res, asked, multimask=multimask, gate_absent=False
    )
    logits_R1hw = candidates.logits_RKhw.flatten(0, 1)[:, None]
    score = RowScores(
        logits_RKHW=core.enlarge(logits_R1hw).view(*candidates.logits_RKhw.shape[:2], *targets_RHW.shape[-2:]),
        predicted_iou_RK=candidates.predicted_iou_RK,
        object_score_R=candidates.object_score_R1[:, 0],
        targets_RHW=targets_RHW[moved],
    )
    with torch.no_grad():
        best = core.choose(candidates, candidates.predicted_iou_RK.argmax(dim=1))
        return _replaced(output, best, moved), [score]


def _replaced(output: MaskOutput, others: MaskOutput, rows: Sequence[int]) -> MaskOutput:
    """The output with some rows taken from another one, without gradients."""
    values = {}
    for part in fields(MaskOutput):
        values[part.name] = getattr(output, part.name).clone()
        values[part.name][list(rows)] = getattr(others, part.name).detach()
    return replace(output, **values)


@torch.no_grad()
def _remember(core: Sam2Core, rows: ImageFeatures, run: _ClipRun, index: int, output: MaskOutput) -> None:
    logits_R1HW = painted_out(core.enlarge(output.low_res_logits_R1hw), output.object_score_R1)
    memory = core.encode_memory(rows, logits_R1HW, output.object_score_R1, is_mask_from_points=False)
    run.memories.add(index, output, memory, is_conditioning=index == 0)


def _followed(
    run: _ClipRun,
    frame: FrameMotion,
    ahead: Sequence[MotionForecast] | None,
    output: MaskOutput,
    truth_Ryx: Any,
    config: MotionConfig,
) -> list[ObjectMotion]:
    """Motion after the frame: from the true masks if they are given, else from the decoded ones."""
    logits_Rhw = output.low_res_logits_R1hw[:, 0].detach().float().cpu().numpy()
    scores = output.object_score_R1[:, 0].detach().tolist()
    ious = output.predicted_iou_R.detach().tolist()
    if truth_Ryx is not None:
        logits_Rhw = np.where(truth_Ryx, SURE_LOGIT, -SURE_LOGIT).astype(np.float32)
        scores = [SURE_SCORE if mask.any() else -SURE_SCORE for mask in truth_Ryx]
        ious = [SURE_IOU] * len(scores)
    return [
        update(
            motion,
            frame,
            None if ahead is None else ahead[row],
            logits_hw=logits_Rhw[row],
            object_score=scores[row],
            predicted_iou=ious[row],
            config=config,
        )
        for row, motion in enumerate(run.motions)
    ]
