"""What a tracked object remembers: memory entries, the bank that holds and bounds them, and a selection to read.

Axes: D decoder channels, C memory channels, h w cells of the tensor's own grid (stride 16 for features, stride 4
for mask logits).
"""

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, Self

import torch
from torch import Tensor

KEEP_BLOCK = 256
"""Kept tokens are padded to a multiple of this, so that rows with different keep masks can share a batch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryEntry:
    """What one frame left behind for one object. The positional part is the same for all and kept in the model.

    Attributes:
        frame_index: source frame.
        pointer_D: object pointer.
        features_Chw: memory features, or None once only the pointer can be read again.
        logits_hw: low-resolution mask logits, or None where no one will correct the mask or select pixels by it.
        object_score: logit that the object is in view.
        predicted_iou: the decoder's estimate of its mask, 0..1.
        is_conditioning: the frame was prompted.
        num_inside: cells of the logits' grid that are inside; None where nobody counted, as of all below.
        certainty: 0..1, mean of |2 sigmoid(logit) - 1| over the object and its rim.
        kalman_iou: IoU of the mask's box with the box a motion filter foretold.
        alternative_iou: least IoU of the mask's box with its box joined to what other candidates saw beside it.
        is_anchor: a policy keeps it beside the conditioning frames.
    """

    frame_index: int
    pointer_D: Tensor
    features_Chw: Tensor | None
    logits_hw: Tensor | None = None
    object_score: float
    predicted_iou: float
    is_conditioning: bool = False
    num_inside: int | None = None
    certainty: float | None = None
    kalman_iou: float | None = None
    alternative_iou: float | None = None
    is_anchor: bool = False

    def num_bytes(self) -> int:
        """Bytes of the tensors held."""
        tensors = (self.pointer_D, self.features_Chw, self.logits_hw)
        return sum(t.numel() * t.element_size() for t in tensors if t is not None)

    def state_dict(self) -> dict[str, Any]:
        """Its fields: tensors, numbers, None."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @classmethod
    def from_state(cls, state: Mapping[str, Any], *, device: torch.device | str | None = None) -> Self:
        """The entry that gave this state; tensors are moved to `device` if one is given."""
        return cls(**{name: _moved(value, device) for name, value in state.items()})


def _moved(value: Any, device: torch.device | str | None) -> Any:
    return value.to(device) if isinstance(value, Tensor) and device is not None else value


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryRead:
    """One memory to attend to.

    Attributes:
        entry: has features.
        temporal_position: row of the model's temporal table (0 is the frame before, the last one conditioning), or
            None for no temporal code.
        keep: bool (h, w) on the feature grid; False tokens are dropped after their position code was applied.
            None keeps all.
        weight: float (h, w) on the feature grid, above 0: a token's share of attention is multiplied by it.
            None leaves it. Not together with keep masks.
    """

    entry: MemoryEntry
    temporal_position: int | None
    keep: Tensor | None = None
    weight: Tensor | None = None

    def __post_init__(self) -> None:
        if self.entry.features_Chw is None:
            raise ValueError(
                f"frame {self.entry.frame_index}: only its pointer is left. Raise the bank's horizon to read it."
            )
        grid = self.entry.features_Chw.shape[-2:]
        if self.keep is not None and (self.keep.dtype != torch.bool or self.keep.shape != grid):
            raise ValueError(
                f"frame {self.entry.frame_index}: keep is {self.keep.dtype} {tuple(self.keep.shape)}; "
                f"expected torch.bool {tuple(grid)}, the grid of the memory features."
            )
        if self.weight is not None and (self.weight.dtype != torch.float32 or self.weight.shape != grid):
            raise ValueError(
                f"frame {self.entry.frame_index}: weight is {self.weight.dtype} {tuple(self.weight.shape)}; "
                f"expected torch.float32 {tuple(grid)}, the grid of the memory features."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class PointerRead:
    """One object pointer to attend to; `time_difference` in frames (positive is the past when tracking forward)."""

    entry: MemoryEntry
    time_difference: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MemorySelection:
    """What one row reads on one frame; a value that a test can compare and a scheduler can group by.

    Attributes:
        frames: spatial memories, in the order in which they become keys.
        pointers: object pointers, which come after all frames.
        max_time_difference: time differences are divided by this before they are encoded.
    """

    frames: tuple[MemoryRead, ...] = ()
    pointers: tuple[PointerRead, ...] = ()
    max_time_difference: int = 15
    num_kept: int | None = field(init=False, compare=False)
    """Spatial tokens that survive the keep masks; None when no frame has one."""

    def __post_init__(self) -> None:
        if self.pointers and not self.frames:
            raise ValueError(
                f"{len(self.pointers)} pointers without a memory frame: SAM2 attends to pointers beside at least "
                "one spatial memory. Add a frame or read nothing."
            )
        kept = _count_kept(self.frames)
        if kept == 0 and not self.pointers:
            raise ValueError("the keep masks drop every memory token. Leave the frames out of the selection instead.")
        if kept is not None and self.is_weighted:
            raise ValueError("keep masks and weights in one selection; expected one of the two.")
        object.__setattr__(self, "num_kept", kept)

    @property
    def is_empty(self) -> bool:
        """Nothing to read: the row gets the learned no-memory embedding instead."""
        return not self.frames

    @property
    def is_weighted(self) -> bool:
        """Whether a frame's tokens are weighted."""
        return any(read.weight is not None for read in self.frames)

    @property
    def shape(self) -> Hashable:
        """Rows of equal shape may share a batch: (frames, pointers, padded kept tokens, "weighted" or None)."""
        filtered = "weighted" if self.is_weighted else None
        if self.num_kept is not None:
            return len(self.frames), len(self.pointers), padded_tokens(self.num_kept)
        return len(self.frames), len(self.pointers), filtered


def padded_tokens(num_kept: int) -> int:
    """`num_kept` rounded up to a whole number of blocks, at least one."""
    return max(1, -(-num_kept // KEEP_BLOCK)) * KEEP_BLOCK


def _count_kept(frames: tuple[MemoryRead, ...]) -> int | None:
    if all(read.keep is None for read in frames):
        return None
    counts = []
    for read in frames:
        assert read.entry.features_Chw is not None
        total = read.entry.features_Chw.shape[-2] * read.entry.features_Chw.shape[-1]
        counts.append(total if read.keep is None else int(read.keep.sum()))
    return sum(counts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Horizon:
    """How far back a policy reads; what lies beyond may be forgotten. Conditioning entries are never forgotten.

    Attributes:
        features: reach of memory features.
        pointers: reach of object pointers.
        unit: "frames" counts frame indices from the newest entry (1 is the entry of the newest frame itself);
            "entries" counts entries, however old (a pool of accepted frames).
    """

    features: int
    pointers: int
    unit: Literal["frames", "entries"] = "frames"


class MemoryBank:
    """All that one object remembers, by frame; bounded by calls of `forget` with the policy's horizon."""

    def __init__(self) -> None:
        self._conditioning: dict[int, MemoryEntry] = {}
        self._recent: dict[int, MemoryEntry] = {}

    @property
    def conditioning(self) -> Mapping[int, MemoryEntry]:
        """Entries of prompted frames, in the order in which they were added."""
        return self._conditioning

    @property
    def recent(self) -> Mapping[int, MemoryEntry]:
        """Entries of tracked frames, in the order in which they were last written."""
        return self._recent

    def __len__(self) -> int:
        return len(self._conditioning) + len(self._recent)

    def __iter__(self) -> Iterator[MemoryEntry]:
        yield from self._conditioning.values()
        yield from self._recent.values()

    def get(self, frame_index: int) -> MemoryEntry | None:
        """The entry of a frame, conditioning first, or None."""
        return self._conditioning.get(frame_index, self._recent.get(frame_index))

    def add(self, entry: MemoryEntry) -> None:
        """Store an entry; it replaces one of the same frame and kind."""
        if entry.is_conditioning:
            self._conditioning[entry.frame_index] = entry
            return
        # The order of writing is what `forget` goes by, so a frame tracked anew counts as new.
        self._recent.pop(entry.frame_index, None)
        self._recent[entry.frame_index] = entry

    def copy(self) -> Self:
        """Another bank of the same entries, which are shared."""
        bank = type(self)()
        bank._conditioning, bank._recent = dict(self._conditioning), dict(self._recent)
        return bank

    def remove(self, frame_index: int, *, conditioning: bool) -> MemoryEntry | None:
        """Take an entry out; None if there was none."""
        return (self._conditioning if conditioning else self._recent).pop(frame_index, None)

    def forget(self, horizon: Horizon) -> None:
        """Drop the features, then the pointers, of tracked frames that lie beyond the horizon."""
        if not self._recent:
            return
        ages = self._ages(horizon.unit)
        for frame_index, age in ages.items():
            entry = self._recent[frame_index]
            if age > max(horizon.features, horizon.pointers):
                del self._recent[frame_index]
            elif age > horizon.features and entry.features_Chw is not None:
                self._recent[frame_index] = replace(entry, features_Chw=None, logits_hw=None)

    def num_bytes(self) -> int:
        """Bytes of all tensors held."""
        return sum(entry.num_bytes() for entry in self)

    def state_dict(self) -> dict[str, Any]:
        """Entries as plain dicts of tensors and numbers, in order."""
        return {"entries": [entry.state_dict() for entry in self]}

    @classmethod
    def from_state(cls, state: Mapping[str, Any], *, device: torch.device | str | None = None) -> Self:
        """The bank that gave this state; tensors are moved to `device` if one is given."""
        bank = cls()
        for entry in state["entries"]:
            bank.add(MemoryEntry.from_state(entry, device=device))
        return bank

    def _ages(self, unit: str) -> dict[int, int]:
        newest = next(reversed(self._recent))
        if unit == "frames":
            return {index: abs(newest - index) + 1 for index in self._recent}
        return {index: len(self._recent) - place for place, index in enumerate(self._recent)}
