"""Every picture of a video in presentation order, counted and timed without decoding."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from pipeline.decode.frame_reader import FrameReader
from pipeline.decode.media_file import Media
from pipeline.decode.packet_entry import START
from pipeline.decode.packet_facts import is_shown, packets_are_pictures
from pipeline.decode.packet_reader import checked_packets


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureIndex:
    """Every picture of a stream; a position in `pts` is its frame_index.

    Attributes:
        pts: presentation times in the stream's time base, strictly ascending.
        keyframe_pts: those of the keyframes, ascending; decoding can begin there.
        has_open_groups: some picture is stored after a keyframe and shown before it.
        has_cuts: an edit list leaves out packets that are in the file.
    """

    pts: tuple[int, ...]
    keyframe_pts: tuple[int, ...]
    has_open_groups: bool
    has_cuts: bool


def index_pictures(media: Media) -> PictureIndex | None:
    """Read every packet without decoding; None where packets do not tell the pictures apart.

    They do not where a packet may hold no picture or more than one (see `packets_are_pictures`), where a time is
    missing or twice there, and where the video starts in the middle of a group of pictures.

    Raises:
        DecodeError: the file breaks its word.
        StorageError: reading it failed.
    """
    if not packets_are_pictures(media):
        return None
    pts: list[int | None] = []
    keyframe_pts: list[int] = []
    has_open_groups = has_cuts = False
    for packet in checked_packets(media, START, frame_index=lambda: len(pts)):
        if not keyframe_pts and (not packet.is_keyframe or packet.pts is None):
            return None
        if packet.is_keyframe and packet.pts is not None:
            keyframe_pts.append(packet.pts)
        has_cuts = has_cuts or packet.is_discard
        if is_shown(packet):
            has_open_groups = has_open_groups or _is_before(packet, keyframe_pts[-1])
            pts.append(packet.pts)
    times = sorted(time for time in pts if time is not None)
    if len(times) < len(pts) or any(a == b for a, b in pairwise(times)) or _starts_open(times, keyframe_pts):
        return None
    return PictureIndex(
        pts=tuple(times),
        keyframe_pts=tuple(sorted(keyframe_pts)),
        has_open_groups=has_open_groups,
        has_cuts=has_cuts,
    )


def count_frames(media: Media, *, fps: float | None = None) -> int:
    """Exact number of frames: read off the packets, or by decoding the whole video where they do not tell it.

    Raises:
        DecodeError: the file breaks its word.
        StorageError: reading it failed.
    """
    index = index_pictures(media)
    if index is not None:
        return len(index.pts)
    media.reopen()
    reader = FrameReader(media, START, on_bad_pts="drop", fps=fps)
    for _ in reader.frames():
        pass
    return reader.next_index


def _is_before(packet: Any, keyframe_pts: int) -> bool:
    return packet.pts is not None and bool(packet.pts < keyframe_pts)


def _starts_open(times: list[int], keyframe_pts: list[int]) -> bool:
    """Whether pictures are shown before the first keyframe: only decoding tells which of them exist."""
    return bool(times) and times[0] < keyframe_pts[0]
