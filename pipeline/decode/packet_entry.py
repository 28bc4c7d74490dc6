"""Finds the keyframe to start decoding at, so that frame_index stays exact without decoding from the start."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from pipeline.decode.media_file import Media
from pipeline.decode.packet_facts import PacketFact, is_shown, packets_are_pictures, sample_table, scan_packets
from pipeline.errors import DecodeError

REORDER_PACKETS = 20
"""More than the 16 pictures that H.264 (A.3.1) and HEVC (A.4.2) may hold back: after so many packets past a
keyframe no earlier-shown one can follow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """Where decoding starts.

    Attributes:
        packet_index: position of the first packet to decode, in the order of the file.
        frame_index: that of the first picture at or after `first_pts`.
        first_pts: earlier pictures belong to a group that is not decoded: they are not handed out. None: all are.
        packets: those that were read to find out.
    """

    packet_index: int = 0
    frame_index: int = 0
    first_pts: int | None = None
    packets: tuple[Any, ...] = ()


START = Entry()


def find_entry(media: Media, start_frame: int) -> Entry:
    """The last keyframe from which frame `start_frame` can be decoded, and the frame_index of what comes out there.

    A keyframe's frame_index is the number of pictures before it in the file plus its leading pictures (shown before
    it, stored after it), which is exact for variable rates and open groups of pictures. An mp4 tells its packets in
    its sample table; other containers are read (not decoded) up to `start_frame`. What does not add up is decoded
    from the start instead: slower, never inexact.
    """
    if start_frame == 0 or not media.is_seekable or not packets_are_pictures(media):
        return START
    try:
        entry = _search(media, start_frame)
    except DecodeError:
        entry = None  # Broken data: decoding from the start tells the frame at which it breaks.
    if entry is None:
        media.reopen()
        return START
    return entry


def _search(media: Media, start_frame: int) -> Entry | None:
    table = sample_table(media) if media.codec_name != "vp8" else []  # It does not tell VP8's hidden pictures.
    first = list(_group_head(media.packets(), has_dts=bool(table)))
    if not first or not first[0].is_keyframe or _num_leading(first) != 0:
        return None
    delay = 0
    if table:
        facts, delay = table, first[0].pts - (first[0].dts or 0)
    else:
        media.reopen()
        facts = scan_packets(media, until_frame=start_frame)
    for stamp in _seek_stamps(facts, start_frame, delay):
        entry = _enter(media, facts, stamp, has_dts=bool(table))
        if entry is not None and entry.frame_index <= start_frame:
            return entry
    return None


def _seek_stamps(facts: list[PacketFact], start_frame: int, delay: int) -> list[int]:
    """Times to try, latest first: where they lead is checked, and the first that leads far enough back is taken.

    mp4 seeks by presentation time while its table tells decoding time, which comes earlier by the delay; behind an
    edit list it needs the delay once more.
    """
    keys = [
        fact.stamp
        for fact, before in zip(facts, _shown_before(facts), strict=True)
        if fact.is_keyframe and before <= start_frame and fact.stamp is not None
    ]
    nearest = keys[1:][-3:]
    return sorted({stamp + times * delay for stamp in nearest for times in range(3)}, reverse=True)


def _enter(media: Media, facts: list[PacketFact], stamp: int, *, has_dts: bool) -> Entry | None:
    """Seek, and recognise the packet it led to; None if that is not surely a keyframe of the index."""
    media.seek(stamp)
    packets = list(_group_head(media.packets(), has_dts=has_dts))
    if not packets or not packets[0].is_keyframe:
        return None
    first = packets[0]
    landed = (first.dts if has_dts else first.pts, first.size)
    places = [index for index, fact in enumerate(facts) if (fact.stamp, fact.size) == landed]
    num_leading = _num_leading(packets)
    if len(places) != 1 or num_leading is None:
        return None
    before = sum(fact.is_shown for fact in facts[: places[0]])
    return Entry(
        packet_index=places[0],
        frame_index=before + num_leading,
        first_pts=first.pts,
        packets=tuple(packets),
    )


def _group_head(packets: Iterator[Any], *, has_dts: bool) -> Iterator[Any]:
    """Packets up to where the leading pictures of the first one must have come.

    A picture is never shown before it is decoded, so an mp4's decoding times tell it. Matroska stores none, and what
    libav makes up after a seek is wrong (seen with MPEG-2): there, the most that may be held back tells it.
    """
    num_later, first_pts = 0, None
    for packet in packets:
        yield packet
        first_pts = packet.pts if first_pts is None else first_pts
        if packet.pts is None or first_pts is None or (has_dts and packet.dts is not None and packet.dts >= first_pts):
            return
        num_later += packet.pts > first_pts
        if num_later >= REORDER_PACKETS:
            return


def _num_leading(packets: list[Any]) -> int | None:
    """Pictures that follow the first packet in the file but are shown before it; None if a time is missing."""
    times = [packet.pts for packet in packets if is_shown(packet)]
    if packets[0].pts is None or None in times or max(Counter(times).values(), default=1) > 1:
        return None
    return sum(1 for pts in times if pts < packets[0].pts)


def _shown_before(facts: list[PacketFact]) -> list[int]:
    return list(accumulate((fact.is_shown for fact in facts), initial=0))[:-1]
