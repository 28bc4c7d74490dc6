"""Which committed rows are read when two commits hold the same frames of a video: a pure decision over commits."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from schemas.commit import Commit, CommittedItem, Part

END = 2**31 - 1
"""Beyond any frame index: the end of a range that goes to the video's end."""

FrameRange = tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class HiddenRows:
    """Rows that are not read, because an earlier commit holds these frames: [start, stop) of a video.

    Attributes:
        tracks_too: all that the commit holds of the video is hidden, so its tracks rows are as well.
    """

    video_id: str
    start: int
    stop: int
    tracks_too: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class VisiblePart:
    """A part that is read, but for its hidden rows.

    Attributes:
        video_ids: the videos of the commit that names the part.
    """

    run_id: str
    unit_id: str
    attempt_id: str
    video_ids: frozenset[str]
    part: Part
    hidden: tuple[HiddenRows, ...]


def visible_parts(commits: Iterable[Commit]) -> tuple[VisiblePart, ...]:
    """The parts to read, so that each frame of a video comes from one attempt.

    Frames are held twice when a worker that was given up for dead commits after all, while its videos were planned
    anew in other packs or ranges. The commit made first keeps them (by committed_at, then unit_id, then attempt_id);
    of later ones the rest is read. Each commit is whole, so either choice would do; that it is always the same one
    is what matters.
    """
    taken: dict[tuple[str, str], list[FrameRange]] = {}
    visible: list[VisiblePart] = []
    for commit in sorted(commits, key=lambda commit: (commit.committed_at, commit.unit_id, commit.attempt_id)):
        hidden, anything_left = _hidden_rows(commit, taken)
        if not anything_left:
            continue
        visible += [_visible(commit, part, hidden) for part in commit.parts]
    return tuple(visible)


def frames_of(item: CommittedItem) -> FrameRange:
    """[start, stop) of source frames that a committed item holds."""
    return item.range_start, END if item.range_end is None else item.range_end


def _visible(commit: Commit, part: Part, hidden: tuple[HiddenRows, ...]) -> VisiblePart:
    return VisiblePart(
        run_id=commit.run_id,
        unit_id=commit.unit_id,
        attempt_id=commit.attempt_id,
        video_ids=frozenset(item.video_id for item in commit.items),
        part=part,
        hidden=hidden,
    )


def _hidden_rows(commit: Commit, taken: dict[tuple[str, str], list[FrameRange]]) -> tuple[tuple[HiddenRows, ...], bool]:
    """What of a commit is hidden by `taken`, and whether anything is left; takes the rest."""
    hidden: list[HiddenRows] = []
    anything_left = False
    for video_id, ranges in _ranges_by_video(commit).items():
        before = taken.setdefault((commit.run_id, video_id), [])
        overlaps = [overlap for frames in ranges for overlap in _overlaps(frames, before)]
        left = _length(ranges) > _length(overlaps)
        hidden += [
            HiddenRows(video_id=video_id, start=start, stop=stop, tracks_too=not left) for start, stop in overlaps
        ]
        anything_left |= left
        before[:] = _joined([*before, *ranges])
    return tuple(hidden), anything_left


def _ranges_by_video(commit: Commit) -> Mapping[str, list[FrameRange]]:
    ranges: dict[str, list[FrameRange]] = {}
    for item in commit.items:
        ranges.setdefault(item.video_id, []).append(frames_of(item))
    return ranges


def _overlaps(frames: FrameRange, taken: list[FrameRange]) -> list[FrameRange]:
    both = [(max(frames[0], start), min(frames[1], stop)) for start, stop in taken]
    return [(start, stop) for start, stop in both if start < stop]


def _joined(ranges: list[FrameRange]) -> list[FrameRange]:
    """The same frames as disjoint ranges in order."""
    joined: list[FrameRange] = []
    for start, stop in sorted(ranges):
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(stop, joined[-1][1]))
        else:
            joined.append((start, stop))
    return joined


def _length(ranges: list[FrameRange]) -> int:
    return sum(stop - start for start, stop in ranges)
