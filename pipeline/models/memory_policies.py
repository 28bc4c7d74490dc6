"""Who reads which memory: the MemoryPolicy protocol and the rules of SAM2 and of SAMWISE. Pure; no tensors touched."""

from collections.abc import Iterable
from typing import Protocol, Self

from pydantic import BaseModel, ConfigDict, Field

from pipeline.models.memory import Horizon, MemoryBank, MemoryEntry, MemoryRead, MemorySelection, PointerRead
from pipeline.models.sam2_variants import Sam2Config


class MemoryPolicy(Protocol):
    """Chooses what one object's row reads on one frame. A value: it remembers nothing between calls.

    Laws: `select` changes nothing and depends on its arguments alone; what `horizon` lets the bank forget can
    never be selected again on later frames.
    """

    @property
    def horizon(self) -> Horizon: ...

    def select(self, bank: MemoryBank, frame_index: int) -> MemorySelection:
        """What to read on `frame_index`; empty when the frame is to be segmented without memory."""
        ...


class RecentFrames(BaseModel):
    """SAM2's own rule: conditioning frames, the frames just passed, and the pointers of both.

    Source: Ravi et al., SAM 2, arXiv 2408.00714, section 4 "Memory bank"; orders and time codes as in
    `SAM2VideoPredictor`.

    Attributes:
        num_recent: tracked frames to read, the nearest first in time but last in order.
        max_conditioning: conditioning frames to read, the closest in time; None means all.
        stride: read every stride-th frame, and always the one just passed.
        max_pointers: object pointers reach this many frames back, less one.
        only_past_pointers: no pointers of conditioning frames that are still to come.
        signed_time: the time difference of a conditioning frame's pointer may be negative.
        num_frames: length of the video, if known. Departs from SAM2 when it is not: the pointer time code is then
            that of a video of at least `max_pointers` frames, so only shorter videos differ.
        reverse: tracking runs towards frame 0.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_recent: int = Field(default=6, ge=1)
    max_conditioning: int | None = Field(default=None, ge=2)
    stride: int = Field(default=1, ge=1)
    max_pointers: int = Field(default=16, ge=2)
    only_past_pointers: bool = True
    signed_time: bool = True
    num_frames: int | None = Field(default=None, ge=1)
    reverse: bool = False

    @classmethod
    def of(cls, config: Sam2Config, *, num_frames: int | None = None, reverse: bool = False) -> Self:
        """The rule that a model was trained with."""
        limit = config.max_cond_frames_in_attn
        return cls(
            num_recent=config.num_maskmem - 1,
            max_conditioning=None if limit == -1 else limit,
            stride=config.memory_temporal_stride_for_eval,
            max_pointers=config.max_obj_ptrs_in_encoder,
            only_past_pointers=config.only_obj_ptrs_in_the_past_for_eval,
            signed_time=config.use_signed_tpos_enc_to_obj_ptrs,
            num_frames=num_frames,
            reverse=reverse,
        )

    @property
    def horizon(self) -> Horizon:
        return Horizon(features=1 + (self.num_recent - 1) * self.stride, pointers=self.max_pointers - 1)

    def select(self, bank: MemoryBank, frame_index: int) -> MemorySelection:
        """Empty when no frame was prompted yet."""
        if not bank.conditioning:
            return MemorySelection()
        chosen = closest_conditioning(bank, frame_index, self.max_conditioning)
        others = {index: entry for index, entry in bank.conditioning.items() if index not in chosen}
        frames = [MemoryRead(entry=bank.conditioning[i], temporal_position=self.num_recent) for i in chosen]
        frames += self._recent_reads(bank, others, frame_index)
        pointers = self._conditioning_pointers(bank, chosen, frame_index)
        pointers += self._recent_pointers(bank, others, frame_index)
        return MemorySelection(
            frames=tuple(frames),
            pointers=tuple(pointers),
            max_time_difference=max(1, self._pointer_reach - 1),
        )

    @property
    def _pointer_reach(self) -> int:
        return self.max_pointers if self.num_frames is None else min(self.num_frames, self.max_pointers)

    @property
    def _direction(self) -> int:
        return -1 if self.reverse else 1

    def _recent_reads(self, bank: MemoryBank, others: dict[int, MemoryEntry], frame_index: int) -> list[MemoryRead]:
        reads = []
        for steps in range(self.num_recent, 0, -1):
            index = self._frame_back(frame_index, steps)
            entry = bank.recent.get(index, others.get(index))
            if entry is not None:
                reads.append(MemoryRead(entry=entry, temporal_position=steps - 1))
        return reads

    def _frame_back(self, frame_index: int, steps: int) -> int:
        """The frame just passed for one step; beyond it, every stride-th frame of a fixed raster."""
        forward = self._direction
        if steps == 1:
            return frame_index - forward
        # Floor towards the past, which for reverse tracking is the ceiling.
        nearest = forward * ((forward * frame_index - 2) // self.stride) * self.stride
        return nearest - forward * (steps - 2) * self.stride

    def _conditioning_pointers(self, bank: MemoryBank, chosen: Iterable[int], frame_index: int) -> list[PointerRead]:
        reads = []
        for index in chosen:
            elapsed = (frame_index - index) * self._direction
            if elapsed < 0 and self.only_past_pointers:
                continue
            difference = elapsed if self.signed_time else abs(elapsed)
            reads.append(PointerRead(entry=bank.conditioning[index], time_difference=difference))
        return reads

    def _recent_pointers(self, bank: MemoryBank, others: dict[int, MemoryEntry], frame_index: int) -> list[PointerRead]:
        reads = []
        for difference in range(1, self._pointer_reach):
            index = frame_index - difference * self._direction
            entry = bank.recent.get(index, others.get(index))
            if entry is not None:
                reads.append(PointerRead(entry=entry, time_difference=difference))
        return reads


class LastFrames(BaseModel):
    """SAMWISE's rule: the frames just passed, prompted or not, and nothing else.

    The frame before reads row 0 of the temporal table, the one before it row 1, and so on; the last row, SAM2's
    place for conditioning frames, is never used, so even frame 0 is forgotten.

    Source: Cuttano et al., SAMWISE, arXiv 2411.17646; the released inference code's memory bank.

    Attributes:
        num_recent: frames to read, oldest first.
        num_pointers: object pointers to read, newest first.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_recent: int = Field(default=6, ge=1)
    num_pointers: int = Field(default=15, ge=1)

    @property
    def horizon(self) -> Horizon:
        return Horizon(features=self.num_recent, pointers=self.num_pointers)

    def select(self, bank: MemoryBank, frame_index: int) -> MemorySelection:
        """Empty on the first frame, and after a gap as long as the memory."""
        frames = [
            MemoryRead(entry=entry, temporal_position=steps - 1)
            for steps in range(self.num_recent, 0, -1)
            if (entry := bank.get(frame_index - steps)) is not None
        ]
        if not frames:
            return MemorySelection()
        pointers = [
            PointerRead(entry=entry, time_difference=steps)
            for steps in range(1, self.num_pointers + 1)
            if (entry := bank.get(frame_index - steps)) is not None
        ]
        return MemorySelection(
            frames=tuple(frames),
            pointers=tuple(pointers),
            max_time_difference=self.num_pointers,
        )


def closest_conditioning(bank: MemoryBank, frame_index: int, limit: int | None) -> list[int]:
    """Frames of the conditioning entries to read: all, or the `limit` closest in time.

    The closest before, then the closest at or after, then whatever is closest; ties go to the one added first.
    """
    frames = list(bank.conditioning)
    if limit is None or len(frames) <= limit:
        return frames
    before = [max(earlier)] if (earlier := [f for f in frames if f < frame_index]) else []
    after = [min(later)] if (later := [f for f in frames if f >= frame_index]) else []
    chosen = before + after
    rest = sorted((f for f in frames if f not in chosen), key=lambda f: abs(f - frame_index))
    return chosen + rest[: limit - len(chosen)]
