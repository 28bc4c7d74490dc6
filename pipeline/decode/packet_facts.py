"""What packets tell without being decoded: which give a picture, how many there are, at what rate."""

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from pipeline.decode.media_file import Media

SCAN_MARGIN_PACKETS = 40
"""How far a scan reads past the frame it looks for: pictures are stored out of order by 16 places at most."""

ONE_PICTURE_CONTAINERS = {"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"}
ONE_PICTURE_CODECS = {
    *("h264", "hevc", "vvc", "av1", "vp8", "vp9", "mpeg2video", "mjpeg", "png", "jpeg2000"),
    *("ffv1", "ffvhuff", "huffyuv", "utvideo", "prores", "dnxhd", "cfhd", "rawvideo"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PacketFact:
    """What an index tells of one packet: dts (from a sample table) or pts (from a scan) as `stamp`."""

    stamp: int | None
    size: int
    is_keyframe: bool
    is_shown: bool


def packets_are_pictures(media: Media) -> bool:
    """Whether each shown packet gives exactly one picture.

    So it is in mp4 and Matroska for the codecs listed. Not for MPEG-4 part 2 and its kin (skipped pictures, packed
    ones), nor in transport streams (a packet may hold one field).
    """
    return media.format_name in ONE_PICTURE_CONTAINERS and media.codec_name in ONE_PICTURE_CODECS


def is_shown(packet: Any) -> bool:
    """Whether this packet gives a picture: it is not empty, not cut by an edit list, not a hidden VP8 reference."""
    if packet.size == 0 or packet.is_discard:
        return False
    if packet.stream.codec.canonical_name == "vp8":
        return bool(memoryview(packet)[0] & 0x10)  # RFC 6386, 9.1: show_frame is bit 4 of the first byte.
    return True


def sample_table(media: Media) -> list[PacketFact]:
    """Every packet as an mp4's sample table lists it after its edit list is applied; empty for other containers."""
    if not media.format_name.startswith("mov"):
        return []
    return [
        PacketFact(
            stamp=entry.timestamp,
            size=entry.size,
            is_keyframe=entry.is_keyframe,
            is_shown=entry.size > 0 and not entry.is_discard,
        )
        for entry in media.stream.index_entries
    ]


def num_samples(media: Media) -> int:
    """Packets that an mp4's sample table lists; 0 for other containers."""
    return len(media.stream.index_entries) if media.format_name.startswith("mov") else 0


def scan_packets(media: Media, *, until_frame: int | None = None) -> list[PacketFact]:
    """Every packet of the stream, by reading without decoding, up to where `until_frame` is surely covered."""
    facts: list[PacketFact] = []
    num_shown = 0
    for packet in media.packets():
        shown = is_shown(packet)
        facts.append(PacketFact(stamp=packet.pts, size=packet.size, is_keyframe=packet.is_keyframe, is_shown=shown))
        num_shown += shown
        if until_frame is not None and num_shown > until_frame + SCAN_MARGIN_PACKETS:
            break
    return facts


def estimate_num_frames(media: Media) -> int | None:
    """Frames of the whole stream: what the sample table shows, or duration times rate; None if unknown."""
    if num_samples(media):
        return sum(1 for entry in media.stream.index_entries if entry.size and not entry.is_discard)
    rate, duration = average_rate(media), media.container.duration
    if media.stream.frames:
        return int(media.stream.frames)
    return None if rate is None or duration is None else max(1, round(duration * rate / 1_000_000))


def average_rate(media: Media) -> Fraction | None:
    """Frames per second as the container states or libav found; None for a stream that tells no times."""
    if not media.has_timestamps:
        return None
    rate = media.stream.average_rate or media.stream.guessed_rate
    return Fraction(rate) if rate else None
