"""Frames one after the other in training, each row reading what its earlier frames left: referring, and tracking."""

# Axes: C clips, T frames, F = C*T, B = C*E rows (expressions or objects), S prompt tokens, K mask candidates, P points,
# H W image.

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.models.conditional_memory import is_evaluation_due
from pipeline.models.image_encoding import ImageFeatures
from pipeline.models.mask_decoding import ABSENT_LOGIT, MaskCandidates, MaskOutput
from pipeline.models.memory import MemoryBank, MemoryEntry, MemorySelection
from pipeline.models.memory_policies import MemoryPolicy, RecentFrames
from pipeline.models.sam2_core import Sam2Core
from pipeline.models.samwise_network import FusedClip, SamwiseNetwork
from pipeline.models.tracking import uses_multimask
from pipeline.training.forecast_prompts import ForecastPrompts
from pipeline.training.grounded_clips import GroundedBatch
from pipeline.training.mask_losses import RowScores
from pipeline.training.tiny_stages import SHOWN_BY, ShownBy

BOX_JITTER = 0.1
"""Of a box's sides, for its corners: users draw no exact boxes. Source: SAM, arXiv 2304.02643, appendix A."""


class TrackedClips(Protocol):
    """Clips of which objects are tracked; see `GroundedBatch`."""

    @property
    def images_F3HW(self) -> Tensor: ...
    @property
    def objects_CTHW(self) -> Tensor: ...
    @property
    def sample_ids(self) -> tuple[str, ...]: ...
    @property
    def num_clips(self) -> int: ...
    @property
    def num_frames(self) -> int: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptedObjects:
    """Objects to track, and how each is shown on the first frame; all in the same way.

    Attributes:
        clip_B: which clip a row is of.
        targets_BTHW: bool.
        mask_B1HW: 0 or 1, if shown by its mask.
        points_BP2, labels_BP: pixels and labels, if shown by clicks, or by a box as two corners (labels 2, 3).
    """

    clip_B: tuple[int, ...]
    targets_BTHW: Tensor
    mask_B1HW: Tensor | None = None
    points_BP2: Tensor | None = None
    labels_BP: Tensor | None = None


class Memories:
    """One memory bank per row; what it holds carries gradients."""

    def __init__(self, num_rows: int, policy: MemoryPolicy) -> None:
        self._policy = policy
        self._banks = [MemoryBank() for _ in range(num_rows)]

    def select(self, frame: int) -> list[MemorySelection]:
        """What each row reads."""
        return [self._policy.select(bank, frame) for bank in self._banks]

    def add(self, frame: int, output: MaskOutput, memory_BChw: Tensor, *, is_conditioning: bool = False) -> None:
        """What each row leaves behind."""
        told = torch.stack([output.object_score_R1[:, 0], output.predicted_iou_R]).detach().tolist()
        for row, bank in enumerate(self._banks):
            bank.add(
                MemoryEntry(
                    frame_index=frame,
                    pointer_D=output.object_pointer_RD[row],
                    features_Chw=memory_BChw[row],
                    object_score=told[0][row],
                    predicted_iou=told[1][row],
                    is_conditioning=is_conditioning,
                )
            )
            bank.forget(self._policy.horizon)


@dataclass(frozen=True, slots=True, kw_only=True)
class CmeRows:
    """What the memory encoder's head said on the frames on which it was questioned, R rows of all frames.

    Attributes:
        decisions_R2: logits of keep and switch.
        with_memory_R1HW, alone_R1HW: the two masks it chose between, logits with absent objects painted out.
        targets_RHW: bool.
    """

    decisions_R2: Tensor
    with_memory_R1HW: Tensor
    alone_R1HW: Tensor
    targets_RHW: Tensor


def refer_through(network: SamwiseNetwork, fused: FusedClip, batch: GroundedBatch) -> RowScores:
    """Expressions of clips, frame by frame with memory: rows frame by frame, B of each."""
    num_rows, num_frames = batch.targets_BTHW.shape[:2]
    memories = Memories(num_rows, network.memory_policy)
    outputs: list[tuple[MaskOutput, Tensor]] = []
    for frame in range(num_frames):
        features = fused.features.rows([row * num_frames + frame for row in range(num_rows)])
        output = network.segment(features, memories.select(frame), fused.prompt_BSE, gate_absent=False)
        logits_B1HW = network.core.enlarge(output.low_res_logits_R1hw)
        outputs.append((output, logits_B1HW))
        if frame + 1 < num_frames:
            memory = network.remember(
                features, painted_out(logits_B1HW, output.object_score_R1), output.object_score_R1
            )
            memories.add(frame, output, memory)
    return RowScores(
        logits_RKHW=torch.cat([logits for _, logits in outputs]),
        predicted_iou_RK=torch.cat([output.predicted_iou_R[:, None] for output, _ in outputs]),
        object_score_R=torch.cat([output.object_score_R1[:, 0] for output, _ in outputs]),
        targets_RHW=batch.targets_BTHW.transpose(0, 1).flatten(0, 1),
    )


def track_through(
    core: Sam2Core,
    images_F3HW: Tensor,
    objects: PromptedObjects,
    *,
    num_frames: int,
    forecasts: Sequence[ForecastPrompts | None] = (),
    policy: MemoryPolicy | None = None,
) -> RowScores:
    """Objects shown on the first frame, tracked by SAM2 alone; a given mask's own frame is not scored.

    Args:
        forecasts: motion prompts by frame, as MoSAM's decode with them has; by default none.
        policy: which memories are read; by default SAM2's own.
    """
    features = core.encode_image(images_F3HW)
    return track_encoded(core, features, objects, num_frames=num_frames, forecasts=forecasts, policy=policy)


def track_encoded(
    core: Sam2Core,
    features: ImageFeatures,
    objects: PromptedObjects,
    *,
    num_frames: int,
    forecasts: Sequence[ForecastPrompts | None] = (),
    policy: MemoryPolicy | None = None,
) -> RowScores:
    """`track_through` on frames encoded already."""
    memories = Memories(len(objects.clip_B), policy or RecentFrames.of(core.config))
    scores: list[RowScores] = []
    for frame in range(num_frames):
        rows = features.rows([clip * num_frames + frame for clip in objects.clip_B])
        if frame == 0 and objects.mask_B1HW is not None:
            shown = core.take_mask(rows, objects.mask_B1HW)
            memories.add(0, shown, _memory_of_prompt(core, rows, shown), is_conditioning=True)
            continue
        forecast = forecasts[frame] if forecasts else None
        multimask, candidates = _candidates(core, rows, memories, objects, frame, forecast)
        chosen = core.choose(candidates, candidates.predicted_iou_RK.argmax(dim=1))
        logits_BKHW = _enlarge_all(core, candidates.logits_RKhw)
        scores.append(
            RowScores(
                logits_RKHW=logits_BKHW if multimask else logits_BKHW[:, :1],
                predicted_iou_RK=candidates.predicted_iou_RK,
                object_score_R=candidates.object_score_R1[:, 0],
                targets_RHW=objects.targets_BTHW[:, frame],
            )
        )
        if frame == 0:
            memories.add(0, chosen, _memory_of_prompt(core, rows, chosen), is_conditioning=True)
        elif frame + 1 < num_frames:
            logits_B1HW = painted_out(core.enlarge(chosen.low_res_logits_R1hw), chosen.object_score_R1)
            memory = core.encode_memory(rows, logits_B1HW, chosen.object_score_R1, is_mask_from_points=False)
            memories.add(frame, chosen, memory)
    return joined_scores(scores)


@torch.no_grad()
def question_through(network: SamwiseNetwork, fused: FusedClip, batch: GroundedBatch, *, window: int) -> CmeRows:
    """Expressions through clips with memory; the CME is questioned as if it never switched. Only it has a gradient."""
    assert network.cme is not None
    num_rows, num_frames = batch.targets_BTHW.shape[:2]
    memories = Memories(num_rows, network.memory_policy)
    found: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
    for frame in range(num_frames):
        features = fused.features.rows([row * num_frames + frame for row in range(num_rows)])
        output = network.segment(features, memories.select(frame), fused.prompt_BSE)
        logits_B1HW = network.core.enlarge(output.low_res_logits_R1hw)
        if is_evaluation_due(frame, 0, window=window):
            alone = network.segment_without_memory(features, fused.prompt_BSE)
            with torch.enable_grad():
                decisions = network.cme(output.object_pointer_RD, alone.early_token_RD)
            found.append(
                (decisions, logits_B1HW, network.core.enlarge(alone.low_res_logits_R1hw), batch.targets_BTHW[:, frame])
            )
        memories.add(frame, output, network.remember(features, logits_B1HW, output.object_score_R1))
    decisions, *masks = zip(*found, strict=True)
    with torch.enable_grad():
        decisions_R2 = torch.cat(decisions)
    with_memory, alone_R1HW, targets = (torch.cat(part) for part in masks)
    return CmeRows(decisions_R2=decisions_R2, with_memory_R1HW=with_memory, alone_R1HW=alone_R1HW, targets_RHW=targets)


def painted_out(logits_B1HW: Tensor, object_score_B1: Tensor) -> Tensor:
    """Masks as inference remembers them: nothing where the object is out of view."""
    return torch.where(object_score_B1[:, :, None, None] > 0, logits_B1HW, ABSENT_LOGIT)


def joined_scores(scores: Sequence[RowScores]) -> RowScores:
    """All rows in one; single masks are repeated where others have several candidates."""
    most = max(part.logits_RKHW.shape[1] for part in scores)
    return RowScores(
        logits_RKHW=torch.cat([_repeated(part.logits_RKHW, most) for part in scores]),
        predicted_iou_RK=torch.cat([_repeated(part.predicted_iou_RK, most) for part in scores]),
        object_score_R=torch.cat([part.object_score_R for part in scores]),
        targets_RHW=torch.cat([part.targets_RHW for part in scores]),
    )


def choose_objects(
    batch: TrackedClips,
    *,
    per_clip: int,
    generator: np.random.Generator,
    kinds: Sequence[ShownBy] = SHOWN_BY,
    num_frames: int | None = None,
) -> PromptedObjects:
    """Objects in view on the first frame, the same number of each clip that has so many, shown in one random way.

    Args:
        kinds: one of them is drawn.
        num_frames: of the targets, by default all.

    Raises:
        ValueError: no clip shows any object on its first frame.
    """
    rows = []
    for clip in range(batch.num_clips):
        seen = [int(number) for number in torch.unique(batch.objects_CTHW[clip, 0]) if number > 0]
        rows += [(clip, int(number)) for number in generator.permutation(seen)[:per_clip]]
    if not rows:
        raise ValueError(f"no object is in view on the first frames of {', '.join(batch.sample_ids)}.")
    targets = torch.stack([batch.objects_CTHW[clip, :num_frames] == number for clip, number in rows])
    kind = kinds[int(generator.integers(len(kinds)))]
    clips = tuple(clip for clip, _ in rows)
    if kind == "mask":
        return PromptedObjects(clip_B=clips, targets_BTHW=targets, mask_B1HW=targets[:, :1].float())
    shown = _box if kind == "box" else _point
    points = np.stack([shown(mask.cpu().numpy(), generator) for mask in targets[:, 0]])
    labels = torch.tensor([[2, 3]] if kind == "box" else [[1]], dtype=torch.int32)
    return PromptedObjects(
        clip_B=clips,
        targets_BTHW=targets,
        points_BP2=torch.from_numpy(points).float().to(targets.device),
        labels_BP=labels.expand(len(rows), -1).to(targets.device),
    )


def _candidates(
    core: Sam2Core,
    rows: ImageFeatures,
    memories: Memories,
    objects: PromptedObjects,
    frame: int,
    forecast: ForecastPrompts | None,
) -> tuple[bool, MaskCandidates]:
    first = frame == 0
    asked = objects if first else forecast
    num_points = objects.labels_BP.shape[1] if first and objects.labels_BP is not None else 0
    prompts = core.encode_prompts(
        len(rows),
        points_RP2=None if asked is None else asked.points_BP2,
        labels_RP=None if asked is None else asked.labels_BP,
    )
    multimask = uses_multimask(core.config, is_first_answer=first, num_points=num_points)
    pix = core.attend(rows, memories.select(frame))
    return multimask, core.decode_candidates(pix, rows.high_res, prompts, multimask=multimask, gate_absent=False)


def _memory_of_prompt(core: Sam2Core, rows: ImageFeatures, shown: MaskOutput) -> Tensor:
    """Memory of a prompted frame; its mask is binarised, as SAM2's predictor does with clicks."""
    inside = core.enlarge(shown.low_res_logits_R1hw) > 0
    binary = torch.where(inside & (shown.object_score_R1[:, :, None, None] > 0), 1.0, -1.0) * -ABSENT_LOGIT
    return core.encode_memory(rows, binary, shown.object_score_R1, is_mask_from_points=True)


def _enlarge_all(core: Sam2Core, logits_BKhw: Tensor) -> Tensor:
    enlarged = core.enlarge(logits_BKhw.flatten(0, 1)[:, None])
    return enlarged.view(*logits_BKhw.shape[:2], *enlarged.shape[-2:])


def _repeated(x: Tensor, most: int) -> Tensor:
    return x if x.shape[1] == most else x.expand(-1, most, *x.shape[2:])


def _box(mask_HW: NDArray[np.bool_], generator: np.random.Generator) -> NDArray[np.float64]:
    """Corners (x0, y0), (x1, y1), each moved a little."""
    y, x = np.nonzero(mask_HW)
    low, high = np.array([x.min(), y.min()]), np.array([x.max() + 1, y.max() + 1])
    jitter = generator.uniform(-BOX_JITTER, BOX_JITTER, size=(2, 2)) * (high - low)
    height, width = mask_HW.shape
    corners: NDArray[np.float64] = np.clip(np.stack([low, high]) + jitter, 0, [width, height])
    return corners


def _point(mask_HW: NDArray[np.bool_], generator: np.random.Generator) -> NDArray[np.float64]:
    """The centre of a random pixel of the object."""
    y, x = np.nonzero(mask_HW)
    chosen = int(generator.integers(len(x)))
    return np.array([[x[chosen] + 0.5, y[chosen] + 0.5]])
