"""Reads the packets of one video stream and holds the file to what it promised."""

from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any

from pipeline.decode.media_file import Media
from pipeline.decode.packet_entry import Entry
from pipeline.decode.packet_facts import num_samples
from pipeline.decode.truncation import claimed_end_us, num_missing_bytes
from pipeline.errors import DecodeError


def checked_packets(media: Media, entry: Entry, *, frame_index: Callable[[], int]) -> Iterator[Any]:
    """Packets that hold data, from an entry to the end of the file.

    The file is held to its word. These are errors: a packet that libav marks corrupt; fewer packets than an mp4's
    sample table lists; fewer bytes than a Matroska segment or an AVI file claims; packets that stop short of the
    duration that a Matroska track claims. A transport stream, a raw stream and a live recording promise nothing:
    there, data that ends between two packets is the end of the video. libav skips a damaged Matroska block or mp4
    fragment without a word, and then so must we.

    Args:
        frame_index: the frame that an error is to name.

    Raises:
        DecodeError: the file breaks its word, after the last packet that is whole.
        StorageError: reading the file failed.
    """
    num_packets, last_pts, longest = entry.packet_index, None, 0
    for packet in chain(entry.packets, media.packets()):
        if packet.is_corrupt:
            raise broken(media, frame_index(), "the container marks the data as cut off or corrupt")
        num_packets += 1
        if packet.pts is not None:
            longest = max(longest, packet.duration or 0, 0 if last_pts is None else packet.pts - last_pts)
            last_pts = max(packet.pts, packet.pts if last_pts is None else last_pts)
        if packet.size > 0:
            yield packet
    what = _broken_promise(media, num_packets, last_pts, longest)
    if what is not None:
        raise broken(media, frame_index(), what)


def _broken_promise(media: Media, num_packets: int, last_pts: int | None, longest: int) -> str | None:
    num_promised = num_samples(media)
    if num_packets < num_promised:
        return f"the file ends after {num_packets} of {num_promised} packets in its index"
    num_missing = num_missing_bytes(media)
    if num_missing > 0:
        return f"the file is {num_missing} bytes shorter than it says"
    end_us = claimed_end_us(media)
    # The claim counts how long the last picture is shown, which the packets need not tell: hence two intervals.
    if end_us is not None and last_pts is not None:
        read_us = (last_pts + 2 * longest) * media.stream.time_base * 1_000_000
        if read_us < end_us:
            return (
                f"the last packet is shown at {round(last_pts * media.stream.time_base * 1_000_000)} us, but the "
                f"track claims to last until {end_us} us"
            )
    return None


def broken(media: Media, frame_index: int, what: str) -> DecodeError:
    """The error of a file that breaks its word at a frame."""
    return DecodeError(
        f"{media.name}, frame {frame_index}: {what}. Expected intact data up to the end; "
        "check the file against its origin, or re-encode it."
    )
