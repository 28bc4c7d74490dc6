"""Which frame of one modality belongs to a frame of another: the nearest in time or number, if near enough."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from pipeline.errors import DecodeError

Position = tuple[int, ...]
"""Where a frame stands: (pts_us,), or the numbers in its name. Ascends within a modality."""


class Placed(Protocol):
    """A frame that knows where it stands."""

    @property
    def position(self) -> Position: ...


Frame = TypeVar("Frame", bound=Placed)


def numbers_in(stem: str) -> Position:
    """The digits of a file's name as numbers: (123,) of "000123_rgb_front"; empty if there are none."""
    return tuple(int(digits) for digits in re.findall(r"\d+", stem))


def offset_of(position: Position, *, wanted: Position) -> int | None:
    """How far a frame stands after the wanted position, before it if negative; None where they do not compare.

    Positions compare when they have equally many numbers and all but the last are equal.
    """
    if len(position) != len(wanted) or position[:-1] != wanted[:-1]:
        return None
    return position[-1] - wanted[-1] if position else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Match(Generic[Frame]):
    """What a modality has for a position.

    Attributes:
        frame: within the tolerance, or None.
        offset: of the nearest frame, within the tolerance or not; None where there is none to compare with.
    """

    frame: Frame | None
    offset: int | None


class Follower(Generic[Frame]):
    """Finds the nearest frame to ever later positions, holding two frames at a time.

    Args:
        frames: in ascending order of their positions.
        name: for messages.
    """

    def __init__(self, frames: Iterator[Frame], *, tolerance: int, name: str) -> None:
        self._frames, self._tolerance, self._name = frames, tolerance, name
        self._before: Frame | None = None
        self._after: Frame | None = next(frames, None)

    def at(self, wanted: Position) -> Match[Frame]:
        """The nearest frame; of two equally near ones the earlier. Frames may be given more than once.

        Raises:
            DecodeError: the modality's positions do not ascend, or a frame cannot be read.
        """
        while (frame := self._after) is not None and frame.position <= wanted:
            self._before, self._after = frame, next(self._frames, None)
            if self._after is not None and self._after.position <= frame.position:
                raise DecodeError(
                    f"{self._name}: a frame at {self._after.position} after one at {frame.position}. Expected "
                    "ascending times or numbers, each once; rename the files, or align by time."
                )
        near = [
            (abs(offset), offset, frame)
            for frame in (self._before, self._after)
            if frame is not None and (offset := offset_of(frame.position, wanted=wanted)) is not None
        ]
        if not near:
            return Match(frame=None, offset=None)
        distance, offset, frame = min(near, key=lambda found: found[0])
        return Match(frame=frame if distance <= self._tolerance else None, offset=offset)
