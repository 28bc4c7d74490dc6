"""Promptable tracking of one video over the core's calls: the rules, one batched step, and Tracker, which owns state.

Axes: R rows (one object on one frame), O objects, P points, C memory channels, H W pixels (of the model's square image
or, where said, of the video), h w the mask logits' grid.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.errors import PromptError, SessionError
from pipeline.models.image_encoding import ImageFeatures
from pipeline.models.mask_decoding import ABSENT_LOGIT, DecoderPrompts, MaskOutput, shrink
from pipeline.models.memory import MemoryBank, MemoryEntry, MemorySelection
from pipeline.models.memory_policies import MemoryPolicy, RecentFrames
from pipeline.models.sam2_core import Sam2Core
from pipeline.models.sam2_variants import Sam2Config

PREVIOUS_LOGIT_LIMIT = 32.0
"""Logits of an earlier answer are cut here before they prompt its correction (SAM2's released predictor)."""


def uses_multimask(config: Sam2Config, *, is_first_answer: bool, num_points: int) -> bool:
    """Whether to choose among the mask candidates: few points (a box counts two) leave it open what is meant.

    Args:
        is_first_answer: the frame is prompted before it was ever tracked.
    """
    allowed = config.multimask_output_in_sam and (is_first_answer or config.multimask_output_for_tracking)
    return allowed and config.multimask_min_pt_num <= num_points <= config.multimask_max_pt_num


def track_rows(
    core: Sam2Core,
    features: ImageFeatures,
    selections: Sequence[MemorySelection],
    prompts: DecoderPrompts | None = None,
) -> tuple[MaskOutput, Tensor]:
    """One tracked frame of each row: what its selection reads, its mask, and what it leaves behind.

    Args:
        features: of the rows' frames.
        prompts: for methods that prompt tracked frames; None asks for nothing.

    Returns:
        The masks, and memory features (R, C, h, w).
    """
    prompts = core.encode_prompts(len(features)) if prompts is None else prompts
    multimask = uses_multimask(core.config, is_first_answer=False, num_points=0)
    pix_RDhw = core.attend(features, selections)
    output = core.decode(pix_RDhw, features.high_res, prompts, multimask=multimask)
    mask_R1HW = core.enlarge(output.low_res_logits_R1hw)
    memory = core.encode_memory(features, mask_R1HW, output.object_score_R1, is_mask_from_points=False)
    return output, memory


def memory_entries(
    frame_indices: Sequence[int], output: MaskOutput, memory_RChw: Tensor, *, is_conditioning: bool = False
) -> list[MemoryEntry]:
    """What each row leaves behind; copies, so that forgetting one row frees its memory. Waits for the device once."""
    scores = torch.stack([output.object_score_R1[:, 0].float(), output.predicted_iou_R.float()]).tolist()
    return [
        MemoryEntry(
            frame_index=frame_index,
            pointer_D=output.object_pointer_RD[row].clone(),
            features_Chw=memory_RChw[row].clone(),
            logits_hw=output.low_res_logits_R1hw[row, 0].clone(),
            object_score=scores[0][row],
            predicted_iou=scores[1][row],
            is_conditioning=is_conditioning,
        )
        for row, frame_index in enumerate(frame_indices)
    ]


@dataclass(slots=True)
class ObjectTrack:
    """All that is known of one object of one video.

    Attributes:
        bank: committed memory.
        pending: answers to prompts since the last commit, by (is_conditioning, frame).
        points: clicks so far, by frame: (1, P, 2) in model pixels and (1, P) labels.
        runs: frames tracked, as (first, last, reverse), oldest run first.
    """

    bank: MemoryBank = field(default_factory=MemoryBank)
    pending: dict[tuple[bool, int], MemoryEntry] = field(default_factory=dict)
    points: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    runs: list[tuple[int, int, bool]] = field(default_factory=list)

    def direction_at(self, frame_index: int) -> bool | None:
        """Whether the frame was last tracked in reverse; None if it was never tracked."""
        for first, last, reverse in reversed(self.runs):
            if min(first, last) <= frame_index <= max(first, last):
                return reverse
        return None

    def mark_tracked(self, frame_index: int, reverse: bool) -> None:
        """Note a tracked frame; neighbours in one direction make one run, so a long video stays small."""
        if self.runs:
            first, last, direction = self.runs[-1]
            if direction == reverse and frame_index == last + (-1 if reverse else 1):
                self.runs[-1] = (first, frame_index, reverse)
                return
        self.runs.append((frame_index, frame_index, reverse))

    def answer_at(self, frame_index: int, *, is_conditioning: bool) -> MemoryEntry | None:
        """The latest answer on a frame: pending of that kind, then committed."""
        return self.pending.get((is_conditioning, frame_index)) or self.bank.get(frame_index)

    def commit(self) -> None:
        """Make pending answers memory; a conditioning frame's entry replaces its tracked one."""
        for entry in sorted(self.pending.values(), key=lambda entry: entry.is_conditioning):
            self.bank.add(entry)
        self.pending.clear()
        for frame_index in self.bank.conditioning:
            self.bank.remove(frame_index, conditioning=False)

    def state_dict(self) -> dict[str, Any]:
        """Plain data of tensors, numbers, dicts and lists."""
        return {
            "bank": self.bank.state_dict(),
            "pending": [entry.state_dict() for entry in self.pending.values()],
            "points": dict(self.points),
            "runs": list(self.runs),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any], *, device: torch.device | str | None = None) -> Self:
        """The track that gave this state."""
        pending = [MemoryEntry.from_state(fields, device=device) for fields in state["pending"]]
        return cls(
            bank=MemoryBank.from_state(state["bank"], device=device),
            pending={(entry.is_conditioning, entry.frame_index): entry for entry in pending},
            points={
                frame: (xy.to(device=device), labels.to(device=device))
                for frame, (xy, labels) in state["points"].items()
            },
            runs=[(first, last, reverse) for first, last, reverse in state["runs"]],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerPlan:
    """How a prompt on a frame is to be answered.

    Attributes:
        selection: memory to read; empty on a frame that was never tracked, which is segmented like an image.
        multimask: choose among the candidates.
        is_conditioning: the answer becomes a conditioning entry; else it only corrects the tracked one.
    """

    selection: MemorySelection
    multimask: bool
    is_conditioning: bool


class Tracker:
    """Objects of one video, prompted on any frame and tracked through the others, in either direction.

    Equals `SAM2VideoPredictor` of sam2 1.1.0 (`python -m tests.parity sam2`) without its whole-video buffers: the
    caller brings each frame's features. Not offered: hole filling, and keeping objects from overlapping.

    Args:
        frame_size: (height, width) of the video in pixels.
        num_frames: of the video, if known; see RecentFrames.
        policy, reverse_policy: who reads which memory; the model's own rule if not given.
        bounded: forget what tracking on in one direction cannot read again. Then frames come in order, and of the
            frames tracked only the last can be corrected.
        corrections_condition: a corrected frame becomes a conditioning frame
            (`add_all_frames_to_correct_as_cond` of the predictor). If not, correcting a conditioning frame after
            tracking has no effect on the others, as upstream.
    """

    def __init__(
        self,
        core: Sam2Core,
        *,
        frame_size: tuple[int, int],
        num_frames: int | None = None,
        policy: MemoryPolicy | None = None,
        reverse_policy: MemoryPolicy | None = None,
        bounded: bool = True,
        corrections_condition: bool = False,
    ) -> None:
        self.core = core
        self.frame_size = frame_size
        self.policy = policy or RecentFrames.of(core.config, num_frames=num_frames)
        self.reverse_policy = reverse_policy or RecentFrames.of(core.config, num_frames=num_frames, reverse=True)
        self.bounded = bounded
        self.corrections_condition = corrections_condition
        self.tracks: dict[int, ObjectTrack] = {}

    def prompt_points(
        self,
        features: ImageFeatures,
        frame_index: int,
        object_id: int,
        *,
        points_P2: Tensor | None = None,
        labels_P: Tensor | None = None,
        box_4: Tensor | None = None,
        clear_old: bool = True,
    ) -> Tensor:
        """Click on an object or box it; on a frame tracked before, this corrects its mask.

        Args:
            features: of this one frame.
            points_P2: (x, y) in pixels of the video.
            labels_P: 1 object, 0 background.
            box_4: (x0, y0, x1, y1) in pixels of the video.
            clear_old: forget earlier clicks on this frame; a box requires it.

        Returns:
            Mask logits of all objects on this frame at the video's size, (O, 1, H, W).

        Raises:
            PromptError: nothing asked, a box added to old clicks, or the answer to correct is forgotten.
        """
        points = self._model_points(points_P2, labels_P, box_4)
        track = self.tracks.get(object_id, ObjectTrack())
        if not clear_old:
            points = _join_clicks(track.points.get(frame_index), points, box_4 is not None)
        self._check_correctable(track, frame_index)
        plan = self.plan_answer(track, frame_index, num_points=points[1].shape[1])
        previous = self._previous_logits(track, frame_index, plan)
        prompts = self.core.encode_prompts(1, points_RP2=points[0], labels_RP=points[1], mask_logits_R1hw=previous)
        pix_RDhw = self.core.attend(features, [plan.selection])
        output = self.core.decode(pix_RDhw, features.high_res, prompts, multimask=plan.multimask)
        track.points[frame_index] = points
        return self._hold(object_id, track, features, frame_index, output, plan)

    def prompt_mask(self, features: ImageFeatures, frame_index: int, object_id: int, mask_HW: Tensor) -> Tensor:
        """Give an object's mask, (H, W) bool at any size; returns as `prompt_points` does."""
        track = self.tracks.get(object_id, ObjectTrack())
        self._check_correctable(track, frame_index)
        plan = self.plan_answer(track, frame_index, num_points=0)
        output = self.core.take_mask(features, self._model_mask(mask_HW))
        track.points.pop(frame_index, None)
        return self._hold(object_id, track, features, frame_index, output, plan)

    def track(self, features: ImageFeatures, frame_index: int, *, reverse: bool = False) -> Tensor:
        """Every object's mask logits on a frame, (O, 1, h, w), in the order of `tracks`; prompted masks as given.

        Args:
            features: of this one frame.
            reverse: tracking runs towards frame 0.

        Raises:
            PromptError: no object was prompted.
            SessionError: the tracker is bounded and the frame does not go on from the last one.
        """
        if not self.tracks:
            raise PromptError("nothing to track: prompt an object on some frame first.")
        for track in self.tracks.values():
            self._check_order(track, frame_index, reverse)
        for track in self.tracks.values():
            track.commit()
        self._track_unprompted(features, frame_index, reverse)
        for track in self.tracks.values():
            track.mark_tracked(frame_index, reverse)
        answers = [track.bank.get(frame_index) for track in self.tracks.values()]
        return torch.stack([a.logits_hw for a in answers if a is not None and a.logits_hw is not None]).unsqueeze(1)

    def to_video(self, logits_O1hw: Tensor) -> Tensor:
        """Mask logits at the video's size, (O, 1, H, W)."""
        return F.interpolate(logits_O1hw, size=self.frame_size, mode="bilinear", align_corners=False)

    def plan_answer(self, track: ObjectTrack, frame_index: int, *, num_points: int) -> AnswerPlan:
        """Decide how a prompt on a frame is answered; changes nothing."""
        reverse = track.direction_at(frame_index)
        is_first = reverse is None
        selection = MemorySelection() if is_first else self._policy(bool(reverse)).select(track.bank, frame_index)
        return AnswerPlan(
            selection=selection,
            multimask=uses_multimask(self.core.config, is_first_answer=is_first, num_points=num_points),
            is_conditioning=is_first or self.corrections_condition,
        )

    def remove_object(self, object_id: int) -> None:
        """Forget an object altogether; unknown objects are no error."""
        self.tracks.pop(object_id, None)

    def num_bytes(self) -> int:
        """Bytes of all memory held."""
        return sum(
            track.bank.num_bytes() + sum(e.num_bytes() for e in track.pending.values())
            for track in self.tracks.values()
        )

    def state_dict(self) -> dict[int, Any]:
        """All tracks; `load_state` of a tracker built alike goes on from it."""
        return {object_id: track.state_dict() for object_id, track in self.tracks.items()}

    def load_state(self, state: Mapping[int, Any]) -> None:
        """Take over the tracks of a `state_dict`."""
        device = self.core.device
        self.tracks = {object_id: ObjectTrack.from_state(track, device=device) for object_id, track in state.items()}

    def _policy(self, reverse: bool) -> MemoryPolicy:
        return self.reverse_policy if reverse else self.policy

    def _track_unprompted(self, features: ImageFeatures, frame_index: int, reverse: bool) -> None:
        policy = self._policy(reverse)
        tracks = [track for track in self.tracks.values() if frame_index not in track.bank.conditioning]
        if not tracks:
            return
        selections = [policy.select(track.bank, frame_index) for track in tracks]
        output, memory_RChw = track_rows(self.core, features.rows([0] * len(tracks)), selections)
        entries = memory_entries([frame_index] * len(tracks), output, memory_RChw)
        for track, entry in zip(tracks, entries, strict=True):
            track.bank.add(entry)
            if self.bounded:
                # One frame more than the policy reads next, so that the frame just tracked can be corrected.
                reach = policy.horizon
                track.bank.forget(replace(reach, features=reach.features + 1, pointers=reach.pointers + 1))

    def _check_order(self, track: ObjectTrack, frame_index: int, reverse: bool) -> None:
        if not (self.bounded and track.runs):
            return
        _, last, before = track.runs[-1]
        if before != reverse or (frame_index >= last if reverse else frame_index <= last):
            raise SessionError(
                f"frame {frame_index} tracked {'backward' if reverse else 'forward'} after frame {last} tracked "
                f"{'backward' if before else 'forward'}: a bounded tracker forgot what this would read. Go on in "
                "one direction, or build the tracker with bounded=False."
            )

    def _hold(
        self,
        object_id: int,
        track: ObjectTrack,
        features: ImageFeatures,
        frame_index: int,
        output: MaskOutput,
        plan: AnswerPlan,
    ) -> Tensor:
        """Keep an answer pending, memory included, and show the frame."""
        # Upstream encodes memory of prompted frames when tracking goes on; what it encodes does not depend on that.
        mask_R1HW = self.core.enlarge(output.low_res_logits_R1hw)
        memory = self.core.encode_memory(features, mask_R1HW, output.object_score_R1, is_mask_from_points=True)
        kind = plan.is_conditioning
        (entry,) = memory_entries([frame_index], output, memory, is_conditioning=kind)
        track.pending[kind, frame_index] = entry
        self.tracks[object_id] = track
        shown = [t.answer_at(frame_index, is_conditioning=kind) for t in self.tracks.values()]
        absent_hw = torch.full_like(output.low_res_logits_R1hw[0, 0], ABSENT_LOGIT)
        logits = [absent_hw if a is None or a.logits_hw is None else a.logits_hw for a in shown]
        return self.to_video(torch.stack(logits).unsqueeze(1))

    def _check_correctable(self, track: ObjectTrack, frame_index: int) -> None:
        if not self.bounded or track.direction_at(frame_index) is None or frame_index == track.runs[-1][1]:
            return
        raise PromptError(
            f"frame {frame_index} was tracked, and what it read is forgotten, so it cannot be corrected. Correct the "
            f"frame tracked last ({track.runs[-1][1]}), or build the tracker with bounded=False."
        )

    def _previous_logits(self, track: ObjectTrack, frame_index: int, plan: AnswerPlan) -> Tensor | None:
        previous = track.answer_at(frame_index, is_conditioning=plan.is_conditioning)
        if previous is None or previous.logits_hw is None:
            return None
        return previous.logits_hw[None, None].clamp(-PREVIOUS_LOGIT_LIMIT, PREVIOUS_LOGIT_LIMIT)

    def _model_points(
        self, points_P2: Tensor | None, labels_P: Tensor | None, box_4: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Box corners (labels 2 and 3), then clicks, in model pixels: (1, P, 2) and (1, P)."""
        if (points_P2 is None) != (labels_P is None) or (points_P2 is None and box_4 is None):
            raise PromptError("give points with their labels, or a box, or both.")
        xy = torch.zeros(0, 2) if points_P2 is None else points_P2.float().cpu()
        labels = torch.zeros(0, dtype=torch.int32) if labels_P is None else labels_P.to(torch.int32).cpu()
        if box_4 is not None:
            xy = torch.cat([box_4.float().cpu().reshape(2, 2), xy])
            labels = torch.cat([torch.tensor([2, 3], dtype=torch.int32), labels])
        height, width = self.frame_size
        xy = xy / torch.tensor([width, height]) * self.core.config.image_size
        return xy[None].to(self.core.device), labels[None].to(self.core.device)

    def _model_mask(self, mask_HW: Tensor) -> Tensor:
        """(1, 1, H, W) of 0 and 1 at the model's image size."""
        side = self.core.config.image_size
        mask = mask_HW[None, None].float().to(self.core.device)
        return mask if mask_HW.shape == (side, side) else (shrink(mask, (side, side)) >= 0.5).float()


def _join_clicks(old: tuple[Tensor, Tensor] | None, new: tuple[Tensor, Tensor], has_box: bool) -> tuple[Tensor, Tensor]:
    if has_box:
        raise PromptError("a box cannot join earlier clicks, which it would have to precede. Pass clear_old=True.")
    if old is None:
        return new
    return torch.cat([old[0], new[0]], dim=1), torch.cat([old[1], new[1]], dim=1)
