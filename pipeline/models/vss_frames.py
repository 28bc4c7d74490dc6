"""A frame on its way through video semantic segmentation: what a video remembers and what to do next; computes nothing.

Axes: O masklets, C classes, h w the mask logits' grid, H W the decoded frame.
"""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from torch import Tensor

from pipeline.models.image_encoding import ImageFeatures
from pipeline.models.memory import MemoryBank, MemorySelection
from pipeline.models.memory_policies import MemoryPolicy
from pipeline.models.proposals import Proposals
from pipeline.models.semantic_networks import Images, SemanticMap
from pipeline.models.vss_votes import NO_CLASS
from pipeline.ticks import TickMasks

ENCODE: Literal["encode"] = "encode"
LABEL: Literal["label"] = "label"
TRACK: Literal["track"] = "track"
PROPOSE: Literal["propose"] = "propose"
START: Literal["start"] = "start"
PAINT: Literal["paint"] = "paint"
Stage = Literal["encode", "label", "track", "propose", "start", "paint"]

Propagator = Literal["sam2", "flow", "iou"]
Emission = Literal["causal", "window"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameRules:
    """When a video does what.

    Attributes:
        window, overlap: frames of a window, and how many of them belong to the next one too (0 or 1).
        propagator: "sam2" tracks masklets; "flow" warps them and "iou" leaves them where they are, and both look for
            new masks on every frame.
        emit: "causal" gives out a frame at once, "window" when all its window has voted.
        buckets: places per batch of each stage.
        policy: which memories are read, and so kept.
    """

    window: int
    overlap: int
    propagator: Propagator
    emit: Emission
    buckets: Mapping[str, int]
    policy: MemoryPolicy


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingFrame:
    """A tick that waits, with the images that are read of it, at the decoded frame's size."""

    frame_index: int
    pts_us: int
    images: Images


@dataclass(frozen=True, slots=True, kw_only=True)
class Masklet:
    """One masklet on the newest frame it was seen to; a value.

    Attributes:
        masklet_id: >= 1, never reused within the video.
        position: number of that frame, counted from 0 over the frames of the session.
        logits_hw: its mask there.
        predicted_iou, object_score: the decoder's estimates; a proposal's score is that of a mask given as a prompt.
        bank: its memory since the window began; None where it is yet to be started, or nothing tracks it.
    """

    masklet_id: int
    position: int
    logits_hw: Tensor
    predicted_iou: float
    object_score: float
    bank: MemoryBank | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Poll:
    """What speaks for a masklet's classes so far.

    Attributes:
        votes_C, probability_C: votes and what breaks their ties, float64 on the CPU; where a classifier decides, the
            weighted sum of what it saw, and nothing.
        winner: the class it had last.
        weight: of that sum.
    """

    votes_C: Tensor
    probability_C: Tensor
    winner: int = NO_CLASS
    weight: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldMask:
    """One masklet on a frame that waits to be painted; `rle` is COCO's."""

    masklet_id: int
    rle: bytes
    predicted_iou: float
    object_score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldFrame:
    """A frame that waits for its window's votes.

    Attributes:
        labels_HW: the network's, uint8 on the CPU.
        confidence_HW: the network's probability of its label in 255ths, or None where it gives labels only.
        masks: O of them.
    """

    frame_index: int
    pts_us: int
    labels_HW: Tensor
    confidence_HW: Tensor | None
    masks: tuple[HeldMask, ...]

    def num_bytes(self) -> int:
        """Bytes held."""
        confidence = 0 if self.confidence_HW is None else self.confidence_HW.nbytes
        return self.labels_HW.nbytes + confidence + sum(len(mask.rle) for mask in self.masks)


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoMemory:
    """All that stays from frame to frame; a value.

    Attributes:
        position: number of the next frame.
        window_start: position of the key frame of the window at hand.
        masklets: by their ids.
        polls: votes by masklet id; in "window" emission also of masklets that ended within the window.
        next_id: the next masklet's.
        uncovered_at_key: share of the frame that no masklet covered when masks were last looked for.
        held: frames of the window that are not painted yet.
        grey_hw: the frame before in grey, where flow is measured.
    """

    position: int = 0
    window_start: int = 0
    masklets: tuple[Masklet, ...] = ()
    polls: Mapping[int, Poll] = field(default_factory=dict)
    next_id: int = 1
    uncovered_at_key: float = 1.0
    held: tuple[HeldFrame, ...] = ()
    grey_hw: Tensor | None = None

    def num_bytes(self) -> int:
        """Bytes held."""
        polls = sum(poll.votes_C.nbytes + poll.probability_C.nbytes for poll in self.polls.values())
        grey = 0 if self.grey_hw is None else self.grey_hw.nbytes
        return bytes_of(self.masklets) + polls + grey + sum(frame.num_bytes() for frame in self.held)


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameStep:
    """The next thing to do with a frame.

    Attributes:
        places: TRACK, START: indices of masklets; PROPOSE: indices of grid points; else empty.
        selections: TRACK: what each row reads.
    """

    stage: Stage
    size: int = 1
    places: tuple[int, ...] = ()
    selections: tuple[MemorySelection, ...] = ()

    @property
    def group(self) -> Hashable:
        """What must be equal for steps of several videos to share a batch, beside the stage."""
        return self.selections[0].shape if self.selections else ()


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameInFlight:
    """One frame, half done; a value, so that a failed step leaves it as it was.

    Attributes:
        memory: as the frame before left it.
        frame: None at the end of a video, when only held frames are left to paint.
        is_key: a window begins here.
        masklets, polls, next_id, uncovered_at_key, grey_hw: as in VideoMemory, as far as this frame has come.
        features, semantic: of this frame, once they are there.
        points: indices of grid points to click on; None while that is not decided.
        proposals: what the first `num_asked` of them gave.
        num_painted: held frames of the closing window that are painted.
        released: masks that come out when this frame is done.
        done: the memory that it leaves, once it is.
    """

    memory: VideoMemory
    frame: PendingFrame | None
    is_key: bool
    masklets: tuple[Masklet, ...]
    polls: Mapping[int, Poll]
    next_id: int
    uncovered_at_key: float
    grey_hw: Tensor | None
    features: ImageFeatures | None = None
    semantic: SemanticMap | None = None
    points: tuple[int, ...] | None = None
    proposals: tuple[Proposals, ...] = ()
    num_asked: int = 0
    num_painted: int = 0
    released: tuple[TickMasks, ...] = ()
    done: VideoMemory | None = None

    @classmethod
    def begin(cls, memory: VideoMemory, frame: PendingFrame | None, rules: FrameRules) -> "FrameInFlight":
        """A frame of which nothing is done."""
        since_key = memory.position - memory.window_start
        is_key = memory.position == 0 or since_key == rules.window - rules.overlap
        # Without a shared frame nothing ties two windows together.
        starts_afresh = is_key and rules.overlap == 0 and rules.propagator == "sam2"
        return cls(
            memory=memory,
            frame=frame,
            is_key=is_key,
            masklets=() if starts_afresh else memory.masklets,
            polls=memory.polls,
            next_id=memory.next_id,
            uncovered_at_key=memory.uncovered_at_key,
            grey_hw=memory.grey_hw,
        )

    @property
    def position(self) -> int:
        return self.memory.position

    @property
    def held_to_paint(self) -> tuple[HeldFrame, ...]:
        """Held frames whose window ends here."""
        return self.memory.held if self.is_key or self.frame is None else ()

    def next_step(self, rules: FrameRules) -> FrameStep | None:
        """What to do next; None when the frame is done."""
        if self.done is not None:
            return None
        if self.frame is not None:
            if self.features is None:
                return FrameStep(stage=ENCODE)
            if self.semantic is None:
                return FrameStep(stage=LABEL)
            if behind := self._behind(rules):
                return self._track_step(behind, rules)
        if self.num_painted < len(self.held_to_paint):
            return FrameStep(stage=PAINT)
        if self.points is not None and self.num_asked < len(self.points):
            asked = self.points[self.num_asked : self.num_asked + rules.buckets[PROPOSE]]
            return FrameStep(stage=PROPOSE, size=len(asked), places=asked)
        if rules.propagator == "sam2":
            unstarted = tuple(i for i, masklet in enumerate(self.masklets) if masklet.bank is None)
            if unstarted := unstarted[: rules.buckets[START]]:
                return FrameStep(stage=START, size=len(unstarted), places=unstarted)
        return FrameStep(stage=PAINT)

    def is_tracked(self, rules: FrameRules) -> bool:
        """Whether every masklet has come to this frame."""
        return not self._behind(rules)

    def num_bytes(self) -> int:
        """Bytes held, those of `memory` not counted."""
        total = sum(part.num_bytes() for part in self.proposals)
        total += sum(found.mask.nbytes for tick in self.released for found in tick.objects)
        if self.features is not None:
            total += sum(x.nbytes for x in (*self.features.high_res, self.features.map_BDhw))
        if self.semantic is not None:
            total += self.semantic.num_bytes()
        before = {id(masklet) for masklet in self.memory.masklets}
        return total + bytes_of(tuple(masklet for masklet in self.masklets if id(masklet) not in before))

    def with_masklets(self, changed: Mapping[int, Masklet]) -> "FrameInFlight":
        """With some masklets replaced, by index."""
        return replace(self, masklets=tuple(changed.get(i, masklet) for i, masklet in enumerate(self.masklets)))

    def _behind(self, rules: FrameRules) -> list[int]:
        if rules.propagator != "sam2":
            return []
        return [i for i, masklet in enumerate(self.masklets) if masklet.position < self.position]

    def _track_step(self, behind: list[int], rules: FrameRules) -> FrameStep:
        """As many masklets as fit whose memories have the shape of the first one's."""
        chosen: list[tuple[int, MemorySelection]] = []
        for index in behind:
            bank = self.masklets[index].bank
            assert bank is not None, "what is tracked was started"
            selection = rules.policy.select(bank, self.position)
            if not chosen or selection.shape == chosen[0][1].shape:
                chosen.append((index, selection))
            if len(chosen) == rules.buckets[TRACK]:
                break
        places, selections = zip(*chosen, strict=True)
        return FrameStep(stage=TRACK, size=len(chosen), places=places, selections=selections)


def bytes_of(masklets: tuple[Masklet, ...]) -> int:
    """Bytes of masks and memories; an entry that two masklets share is counted once."""
    entries: dict[int, int] = {}
    for masklet in masklets:
        for entry in masklet.bank or ():
            entries[id(entry)] = entry.num_bytes()
    return sum(entries.values()) + sum(masklet.logits_hw.nbytes for masklet in masklets)


def memory_to_state(memory: VideoMemory) -> dict[str, Any]:
    """Plain tensors, numbers, dicts and lists."""
    return {
        "position": memory.position,
        "window_start": memory.window_start,
        "next_id": memory.next_id,
        "uncovered_at_key": memory.uncovered_at_key,
        "grey": memory.grey_hw,
        "masklets": [
            {
                **{name: getattr(masklet, name) for name in _MASKLET_FIELDS},
                "bank": None if masklet.bank is None else masklet.bank.state_dict(),
            }
            for masklet in memory.masklets
        ],
        "polls": [(number, p.votes_C, p.probability_C, p.winner, p.weight) for number, p in memory.polls.items()],
        "held": [
            {
                **{name: getattr(held, name) for name in _HELD_FIELDS},
                "masks": [(m.masklet_id, m.rle.decode("ascii"), m.predicted_iou, m.object_score) for m in held.masks],
            }
            for held in memory.held
        ],
    }


def memory_from_state(state: Mapping[str, Any], *, device: Any) -> VideoMemory:
    """The memory that gave this state; masks and memories go to `device`."""
    return VideoMemory(
        position=state["position"],
        window_start=state["window_start"],
        next_id=state["next_id"],
        uncovered_at_key=state["uncovered_at_key"],
        grey_hw=state["grey"],
        masklets=tuple(
            Masklet(
                **{name: fields[name] for name in _MASKLET_FIELDS if name != "logits_hw"},
                logits_hw=fields["logits_hw"].to(device),
                bank=None if fields["bank"] is None else MemoryBank.from_state(fields["bank"], device=device),
            )
            for fields in state["masklets"]
        ),
        polls={
            number: Poll(votes_C=votes, probability_C=probability, winner=winner, weight=weight)
            for number, votes, probability, winner, weight in state["polls"]
        },
        held=tuple(
            HeldFrame(
                **{name: fields[name] for name in _HELD_FIELDS},
                masks=tuple(
                    HeldMask(masklet_id=number, rle=rle.encode("ascii"), predicted_iou=iou, object_score=score)
                    for number, rle, iou, score in fields["masks"]
                ),
            )
            for fields in state["held"]
        ),
    )


_MASKLET_FIELDS = ("masklet_id", "position", "logits_hw", "predicted_iou", "object_score")
_HELD_FIELDS = ("frame_index", "pts_us", "labels_HW", "confidence_HW")
