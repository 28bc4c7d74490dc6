"""What a tracked object's memory policy must offer: what to read, and what to remember; and SAM2's own rule so dressed.

A policy counts processed frames: `frame_index` here and in the entries is a frame's place in the pass, so that a
stride changes nothing.
"""

from dataclasses import replace
from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict, Field

from pipeline.models.memory import MemoryBank, MemoryEntry, MemoryRead, MemorySelection, PointerRead
from pipeline.models.memory_policies import RecentFrames

MAX_PROMPTED_FRAMES = 4
"""Prompted frames that one object keeps, the first and the latest: each more costs attention on every later frame."""


class TrackingPolicy(Protocol):
    """A memory policy that also decides what of a frame is worth remembering. A value; nothing is kept between calls.

    Laws: `select` and `remember` change nothing that they are given. What `remember` leaves out is never selected
    again on later frames. The number of entries is bounded whatever the video's length.

    Attributes:
        wants_alternatives: entries must bring `alternative_iou`.
    """

    @property
    def wants_alternatives(self) -> bool: ...

    def select(self, bank: MemoryBank, frame_index: int) -> MemorySelection:
        """What to read on `frame_index`."""
        ...

    def remember(self, bank: MemoryBank, entry: MemoryEntry) -> MemoryBank:
        """The bank after one more frame, which may be prompted."""
        ...


class Fifo(BaseModel):
    """SAM2's own memory: the frames just passed, good or bad, empty or not.

    Attributes:
        recent: what is read.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    recent: RecentFrames

    @property
    def wants_alternatives(self) -> bool:
        return False

    def select(self, bank: MemoryBank, frame_index: int) -> MemorySelection:
        """As `RecentFrames`."""
        return self.recent.select(bank, frame_index)

    def remember(self, bank: MemoryBank, entry: MemoryEntry) -> MemoryBank:
        """Everything enters; what lies beyond the horizon goes."""
        bank = with_entry(bank, entry)
        bank.forget(self.recent.horizon)
        return bank


class PoolPolicy(BaseModel):
    """What policies share that read chosen entries by rank instead of by frame distance.

    Attributes:
        num_recent: tracked frames to read; the temporal table has that many rows and one for conditioning frames.
        max_pointers: object pointers reach this many entries back, less one.
        only_past_pointers, signed_time: of conditioning frames' pointers, as in RecentFrames.
        reverse: tracking runs towards frame 0.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_recent: int = Field(default=6, ge=1)
    max_pointers: int = Field(default=16, ge=2)
    only_past_pointers: bool = True
    signed_time: bool = True
    reverse: bool = False

    @property
    def wants_alternatives(self) -> bool:
        return False

    def elapsed(self, entry: MemoryEntry, frame_index: int) -> int:
        """Frames from the entry to `frame_index`, positive for the past as this pass runs."""
        return (frame_index - entry.frame_index) * (-1 if self.reverse else 1)

    def newest(self, bank: MemoryBank, frame_index: int) -> MemoryEntry | None:
        """The entry of the frame just passed, if there is one and its features are kept."""
        entry = bank.recent.get(frame_index + (1 if self.reverse else -1))
        return None if entry is None or entry.features_Chw is None else entry

    def selection(
        self, bank: MemoryBank, frame_index: int, chosen: list[MemoryEntry], pointers: list[PointerRead]
    ) -> MemorySelection:
        """Conditioning frames, then the chosen entries, oldest first: the newest has offset 1, the next 2, and so on.

        Temporal codes go by rank: real gaps exceed the model's table (as SAMURAI and SAM2Long do).
        """
        if not bank.conditioning:
            return MemorySelection()
        frames = [MemoryRead(entry=e, temporal_position=self.num_recent) for e in bank.conditioning.values()]
        oldest_first = sorted(chosen, key=lambda entry: -self.elapsed(entry, frame_index))
        frames += [
            MemoryRead(entry=entry, temporal_position=rank)
            for rank, entry in zip(range(len(oldest_first) - 1, -1, -1), oldest_first, strict=True)
        ]
        return MemorySelection(
            frames=tuple(frames),
            pointers=(*self.conditioning_pointers(bank, frame_index), *pointers),
            max_time_difference=self.max_pointers - 1,
        )

    def conditioning_pointers(self, bank: MemoryBank, frame_index: int) -> list[PointerRead]:
        """Pointers of prompted frames with their true distance."""
        reads = []
        for entry in bank.conditioning.values():
            elapsed = self.elapsed(entry, frame_index)
            if elapsed >= 0 or not self.only_past_pointers:
                reads.append(PointerRead(entry=entry, time_difference=elapsed if self.signed_time else abs(elapsed)))
        return reads

    def recent_pointers(self, bank: MemoryBank, frame_index: int) -> list[PointerRead]:
        """Pointers of the frames just passed, by distance, as SAM2."""
        by_distance = {self.elapsed(entry, frame_index): entry for entry in bank.recent.values()}
        return [
            PointerRead(entry=by_distance[distance], time_difference=distance)
            for distance in range(1, self.max_pointers)
            if distance in by_distance
        ]

    def in_order(self, bank: MemoryBank) -> list[MemoryEntry]:
        """Tracked entries, newest first."""
        return sorted(bank.recent.values(), key=lambda entry: self.elapsed(entry, 0))


def pool_settings(recent: RecentFrames) -> dict[str, Any]:
    """What policies of a pool share with the rule that a model was trained with: how much is read, and which way."""
    names = ("num_recent", "max_pointers", "only_past_pointers", "signed_time", "reverse")
    return {name: getattr(recent, name) for name in names}


def with_entry(bank: MemoryBank, entry: MemoryEntry) -> MemoryBank:
    """A copy of the bank with one more entry; of too many prompted frames the second oldest goes."""
    bank = bank.copy()
    bank.add(entry)
    if entry.is_conditioning:
        bank.remove(entry.frame_index, conditioning=False)
        if len(bank.conditioning) > MAX_PROMPTED_FRAMES:
            bank.remove(list(bank.conditioning)[1], conditioning=True)
    return bank


def pointer_only(entry: MemoryEntry) -> MemoryEntry:
    """The entry without its features and logits."""
    return entry if entry.features_Chw is None else replace(entry, features_Chw=None, logits_hw=None)


def keep_only(bank: MemoryBank, whole: list[MemoryEntry], pointers: list[MemoryEntry]) -> MemoryBank:
    """The bank's conditioning entries, these tracked entries whole, and of those the pointers alone."""
    kept = {entry.frame_index for entry in whole}
    others = {entry.frame_index for entry in pointers}
    reduced = MemoryBank()
    for entry in bank:
        if entry.is_conditioning or entry.frame_index in kept:
            reduced.add(entry)
        elif entry.frame_index in others:
            reduced.add(pointer_only(entry))
    return reduced
