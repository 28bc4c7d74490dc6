"""What a container claims about its own length, in bytes and in time: the measure of a file that was cut off."""

import re

from pipeline.decode.media_file import Media

EBML_HEADER_ID = b"\x1a\x45\xdf\xa3"
MATROSKA_SEGMENT_ID = b"\x18\x53\x80\x67"
HEAD_BYTES = 4096


def num_missing_bytes(media: Media) -> int:
    """Bytes that the outermost element claims beyond the end of the file; 0 where nothing is claimed.

    Knows Matroska and WebM (RFC 8794: the Segment element's size) and AVI (the first RIFF chunk's size). An mp4 has a
    sample table, which tells more. To be called when libav has read all it will.
    """
    if media.num_bytes is None or media.format_name not in ("matroska,webm", "avi"):
        return 0
    head = media.read_head(HEAD_BYTES)
    end = _riff_end(head) if media.format_name == "avi" else _segment_end(head)
    return 0 if end is None else max(0, end - media.num_bytes)


def claimed_end_us(media: Media) -> int | None:
    """The time until which a Matroska track's DURATION tag says it is shown; None where no such claim is made."""
    if media.format_name != "matroska,webm":
        return None
    clock = re.fullmatch(r"(\d+):(\d\d):(\d\d)\.(\d{6})\d*", media.stream.metadata.get("DURATION", ""))
    if clock is None:
        return None
    hours, minutes, seconds, micros = (int(part) for part in clock.groups())
    return ((hours * 60 + minutes) * 60 + seconds) * 1_000_000 + micros


def _riff_end(head: bytes) -> int | None:
    if not head.startswith(b"RIFF") or len(head) < 8:
        return None
    size = int.from_bytes(head[4:8], "little")
    return None if size in (0, 0xFFFFFFFF) else size + 8


def _segment_end(head: bytes) -> int | None:
    if not head.startswith(EBML_HEADER_ID):
        return None
    header_size, place = _ebml_size(head, len(EBML_HEADER_ID))
    if header_size is None:
        return None
    place += header_size
    if head[place : place + 4] != MATROSKA_SEGMENT_ID:
        return None
    segment_size, place = _ebml_size(head, place + 4)
    return None if segment_size is None else place + segment_size


def _ebml_size(head: bytes, place: int) -> tuple[int | None, int]:
    """A variable-length size (RFC 8794, 4.4) and the place after it; None when unknown, as in a live recording."""
    if place >= len(head) or head[place] == 0:
        return None, place
    num_bytes = 9 - head[place].bit_length()
    value = int.from_bytes(head[place : place + num_bytes], "big") & ((1 << 7 * num_bytes) - 1)
    is_unknown = value == (1 << 7 * num_bytes) - 1
    return None if is_unknown else value, place + num_bytes
