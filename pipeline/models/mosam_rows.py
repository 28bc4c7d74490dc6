"""One tracked frame for a batch of rows: decode with memory, decode again with the motion prompt, and choose."""

# Axes: R rows (one object on one frame), K mask candidates, P points, h w the mask logits' grid.

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from pipeline.models.image_encoding import ImageFeatures
from pipeline.models.mask_decoding import ABSENT_LOGIT, DecoderPrompts, MaskCandidates, MaskOutput
from pipeline.models.memory import MemorySelection
from pipeline.models.motion_arbitration import Candidate, arbitrate, box_or_none, candidate_boxes, iou_with
from pipeline.models.motion_encoders import MotionEncoders, motion_inputs, with_motion_tokens
from pipeline.models.motion_forecast import MotionForecast, MotionPrompt
from pipeline.models.sam2_core import Sam2Core
from pipeline.models.tracking import uses_multimask

NO_POINT = -1
CORNERS = ((2, 0, 1), (3, 2, 3))
"""Label of a box corner, and where its x and y stand in the box."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackRules:
    """How tracked rows are decoded.

    Attributes:
        num_points: places for points in a motion prompt; spare ones are told to be none, so that rows with more or
            fewer points share a batch.
        arbitrates: the candidates of both decodes compete, with the forecast's expected box; else a motion prompt
            decides.
        present_score: object scores above it count as present: 0, SAM2's.
    """

    num_points: int
    arbitrates: bool
    present_score: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackRows:
    """Rows of equal memory shape.

    Attributes:
        features: of the rows' frames.
        selections: what each row reads.
        forecasts: what motion foretells, or None.
        frame_sizes: (height, width) of each row's decoded frame.
    """

    features: ImageFeatures
    selections: Sequence[MemorySelection]
    forecasts: Sequence[MotionForecast | None]
    frame_sizes: Sequence[tuple[int, int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackResult:
    """What rows gave.

    Attributes:
        output: one mask per row.
        prompted: rows whose mask comes from the decode with the motion prompt.
        kalman_ious: per row the IoU of the mask's box with the filter's, or None.
        candidates: of the decode that won, per row.
    """

    output: MaskOutput
    prompted: Sequence[bool]
    kalman_ious: Sequence[float | None]
    candidates: MaskCandidates


def track_and_choose(
    core: Sam2Core, rows: TrackRows, rules: TrackRules, encoders: MotionEncoders | None = None
) -> TrackResult:
    """Both decodes on the same memory-conditioned features, and the candidate that wins in each row.

    Source: spec of MGP, injection and arbitration [inferred]: the motion prompt goes to the prompt encoder while
    memory attention stays on; it never makes a conditioning frame. Both decodes offer all candidates, since the
    single-mask token's predicted IoU is not comparable with theirs.

    Args:
        encoders: trained motion encoders, whose tokens join the motion prompt; None goes without.
    """
    num_rows = len(rows.selections)
    pix_RDhw = core.attend(rows.features, rows.selections)
    multimask = uses_multimask(core.config, is_first_answer=False, num_points=0)
    plain = _candidates(core, pix_RDhw, rows.features, core.encode_prompts(num_rows), multimask, rules)
    prompts = [None if forecast is None else forecast.prompt for forecast in rows.forecasts]
    moved = plain
    if any(prompt is not None for prompt in prompts):
        asked = motion_prompts(core, prompts, rows.frame_sizes, num_points=rules.num_points)
        if encoders is not None:
            seen = motion_inputs(rows.forecasts, encoders.config).to(core.device)
            asked = with_motion_tokens(asked, encoders(seen))
        moved = _candidates(core, pix_RDhw, rows.features, asked, multimask, rules)
    index_R, prompted, kalman_ious = _choose(plain, moved, rows, rules)
    moved_R = torch.tensor(prompted, device=index_R.device)
    won = _merge(plain, moved, moved_R)
    output = core.choose(won, index_R)
    shifted = replace(output, object_score_R1=output.object_score_R1 + rules.present_score)
    return TrackResult(output=shifted, prompted=prompted, kalman_ious=kalman_ious, candidates=won)


def motion_prompts(
    core: Sam2Core,
    prompts: Sequence[MotionPrompt | None],
    frame_sizes: Sequence[tuple[int, int]],
    *,
    num_points: int,
) -> DecoderPrompts:
    """Motion prompts of all rows as decoder prompts: box corners, then points, padded to equal length."""
    side = core.config.image_size
    xy_RP2 = torch.zeros(len(prompts), len(CORNERS) + num_points, 2)
    labels_RP = torch.full(xy_RP2.shape[:2], NO_POINT, dtype=torch.int32)
    for row, (prompt, (height, width)) in enumerate(zip(prompts, frame_sizes, strict=True)):
        if prompt is None:
            continue
        scale = torch.tensor([side / width, side / height])
        if prompt.box is not None:
            for place, (label, x, y) in enumerate(CORNERS):
                xy_RP2[row, place] = torch.tensor([prompt.box[x], prompt.box[y]]) * scale
                labels_RP[row, place] = label
        found = len(prompt.points_P2)
        xy_RP2[row, len(CORNERS) : len(CORNERS) + found] = torch.from_numpy(prompt.points_P2).float() * scale
        labels_RP[row, len(CORNERS) : len(CORNERS) + found] = 1
    xy_RP2, labels_RP = xy_RP2.to(core.device), labels_RP.to(core.device)
    sparse = core.encode_prompts(len(prompts), points_RP2=xy_RP2, labels_RP=labels_RP)
    dense = [None if prompt is None else prompt.logits_hw for prompt in prompts]
    first = next((logits for logits in dense if logits is not None), None)
    if first is None:
        return sparse
    logits_R1hw = torch.zeros(len(prompts), 1, *first.shape)
    for row, logits in enumerate(dense):
        if logits is not None:
            logits_R1hw[row, 0] = torch.from_numpy(logits)
    masked = core.encode_prompts(
        len(prompts), points_RP2=xy_RP2, labels_RP=labels_RP, mask_logits_R1hw=logits_R1hw.to(core.device)
    )
    has_mask_R = torch.tensor([logits is not None for logits in dense], device=core.device)
    return replace(sparse, dense_RDhw=_where(has_mask_R, masked.dense_RDhw, sparse.dense_RDhw))


def _candidates(
    core: Sam2Core,
    pix_RDhw: Tensor,
    features: ImageFeatures,
    prompts: DecoderPrompts,
    multimask: bool,
    rules: TrackRules,
) -> MaskCandidates:
    """The decoder's candidates; scores are shifted so that above 0 means present by the rules."""
    if rules.present_score == 0:
        return core.decode_candidates(pix_RDhw, features.high_res, prompts, multimask=multimask)
    free = core.decode_candidates(pix_RDhw, features.high_res, prompts, multimask=multimask, gate_absent=False)
    score_R1 = free.object_score_R1 - rules.present_score
    logits_RKhw = torch.where(score_R1[:, :, None, None] > 0, free.logits_RKhw, ABSENT_LOGIT)
    return replace(free, logits_RKhw=logits_RKhw, object_score_R1=score_R1)


def _choose(
    plain: MaskCandidates, moved: MaskCandidates, rows: TrackRows, rules: TrackRules
) -> tuple[Tensor, list[bool], list[float | None]]:
    """Candidate index per row, whether it is the prompted decode's, and its IoU with the filter's box."""
    device = plain.predicted_iou_RK.device
    if all(forecast is None for forecast in rows.forecasts):
        num_rows = len(rows.selections)
        return plain.predicted_iou_RK.argmax(dim=1), [False] * num_rows, [None] * num_rows
    both = [[_numbers(c, row, size) for row, size in enumerate(rows.frame_sizes)] for c in (plain, moved)]
    index, prompted, kalman_ious = [], [], []
    for row, forecast in enumerate(rows.forecasts):
        has_prompt = forecast is not None and forecast.prompt is not None
        # Without arbitration a prompt decides, and the unprompted decode takes no part.
        decides = has_prompt and not rules.arbitrates
        candidates = [replace(c, prompted=False) for c in both[int(decides)][row]]
        num_plain = len(candidates)
        if has_prompt and rules.arbitrates:
            candidates += both[1][row]
        known = forecast or MotionForecast()
        weight = known.expected_weight if rules.arbitrates else 0.0
        choice = arbitrate(candidates, known.expected_box, weight, known.max_area)
        index.append(choice.index % num_plain)
        prompted.append(decides or choice.index >= num_plain)
        kalman_ious.append(iou_with(candidates[choice.index], known.kalman_box))
    return torch.tensor(index, device=device), prompted, kalman_ious


def _numbers(candidates: MaskCandidates, row: int, frame_size: tuple[int, int]) -> list[Candidate]:
    boxes_K4 = candidate_boxes(candidates.logits_RKhw[row : row + 1], frame_size)[0]
    area_K = (candidates.logits_RKhw[row] > 0).flatten(1).sum(dim=1)
    told_K2 = torch.stack([candidates.predicted_iou_RK[row].float(), area_K.float()], dim=1)
    score = float(candidates.object_score_R1[row, 0])
    return [
        Candidate(prompted=True, predicted_iou=iou, object_score=score, box=box_or_none(box), area=area)
        for iou, area, *box in torch.cat([told_K2, boxes_K4], dim=1).tolist()
    ]


def _merge(plain: MaskCandidates, moved: MaskCandidates, moved_R: Tensor) -> MaskCandidates:
    """Row by row the candidates of one decode or the other."""
    if plain is moved:
        return plain
    values = {f.name: _where(moved_R, getattr(moved, f.name), getattr(plain, f.name)) for f in fields(MaskCandidates)}
    return MaskCandidates(**values)


def _where(chosen_R: Tensor, ours: Tensor, others: Tensor) -> Tensor:
    return torch.where(chosen_R.view(-1, *[1] * (ours.ndim - 1)), ours, others)
