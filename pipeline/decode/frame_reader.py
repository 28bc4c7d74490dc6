"""Decodes one container frame by frame: exact index and time, and an error wherever the file breaks its word."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av.error

from pipeline.decode.media_file import Media
from pipeline.decode.options import BadPts
from pipeline.decode.packet_entry import START, Entry
from pipeline.decode.packet_facts import ONE_PICTURE_CODECS, is_shown, packets_are_pictures
from pipeline.decode.packet_reader import broken, checked_packets
from pipeline.errors import DecodeError

MICROSECONDS = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodedFrame:
    """One picture as libav gives it, with its place and time in the source."""

    frame_index: int
    pts_us: int
    picture: Any


class FrameReader:
    """Every picture of one video stream from an entry on, in presentation order.

    Times are the stream's own, after its edit list: what an edit list cuts off has no frame_index, and a stream whose
    first frame is presented at 80 ms starts at 80 000 us. AVI holds no presentation times: its k-th picture is shown
    at the k-th chunk's slot. A raw stream is timed by `fps`.

    A recording that starts in the middle of a group of pictures begins with the first picture that can be decoded:
    decoders of the newer codecs know which that is, older ones (MPEG-4 part 2) would give grey, so they get nothing
    before the first keyframe.

    The file is held to its word (see `checked_packets`), and so is the decoder: a picture it marks corrupt, and a
    packet that gives no picture where each must give one, are errors at the frame where they show. Bytes that were
    changed and still decode cannot be noticed.
    """

    def __init__(self, media: Media, entry: Entry, *, on_bad_pts: BadPts, fps: float | None) -> None:
        self._media = media
        self._on_bad_pts = on_bad_pts
        self._fps = None if fps is None else Fraction(fps).limit_denominator(1_000_000)
        self._check_clock()
        self._begin(entry)

    @property
    def next_index(self) -> int:
        """The frame_index that the next picture will have."""
        return self._next_index

    def frames(self) -> Iterator[DecodedFrame]:
        """Pictures in order.

        Raises:
            DecodeError: broken data, a bad time under on_bad_pts="error", or a picture of another size.
            StorageError: reading the file failed.
        """
        try:
            yield from self._frames()
        except DecodeError:
            if self._entry is START or self._size is not None:
                raise
            # The keyframe needs earlier data after all (an intra refresh), or the file is broken: see from its start.
            self._media.reopen()
            self._begin(START)
            yield from self._frames()

    def _frames(self) -> Iterator[DecodedFrame]:
        for picture in self._pictures():
            frame = self._judge(picture)
            if frame is not None:
                yield frame

    def _begin(self, entry: Entry) -> None:
        self._entry = entry
        self._next_index = entry.frame_index
        self._has_begun = False
        self._first_pts = entry.first_pts
        self._last_pts: int | Fraction | None = None
        self._size: tuple[int, int] | None = None
        self._expected: set[int] | None = set() if packets_are_pictures(self._media) else None
        self._avi_slots: deque[int | None] = deque()

    def _pictures(self) -> Iterator[Any]:
        for packet in checked_packets(self._media, self._entry, frame_index=lambda: self._next_index):
            self._has_begun = self._has_begun or packet.is_keyframe
            if self._has_begun or self._media.codec_name in ONE_PICTURE_CODECS:
                self._note(packet)
                yield from self._decode(packet)
        # Only a whole file gets here: else pictures missing between those still in the decoder would shift the index.
        yield from self._decode(None)
        if self._expected:
            raise self._broken(f"the decoder gave no picture for {len(self._expected)} packets")

    def _note(self, packet: Any) -> None:
        """What this packet promises: a slot in an AVI, and a picture, except ahead of the first keyframe."""
        if not is_shown(packet):
            return
        self._avi_slots.append(packet.dts)
        if self._first_pts is None and packet.is_keyframe:
            self._first_pts = packet.pts
        if self._expected is None or self._first_pts is None or packet.pts is None:
            return
        if packet.pts >= self._first_pts:
            self._expected.add(packet.pts)

    def _decode(self, packet: Any) -> list[Any]:
        try:
            return list(self._media.stream.decode(packet))
        except (av.error.FFmpegError, OSError) as error:
            if self._has_begun:
                raise self._media.explain(error, f"frame {self._next_index}") from error
            self._avi_slots.clear()
            return []

    def _judge(self, picture: Any) -> DecodedFrame | None:
        if self._is_leading(picture) or (picture.is_corrupt and self._is_too_early(picture)):
            return None
        if picture.is_corrupt:
            raise self._broken("the decoder marks the picture as corrupt")
        self._check_none_swallowed(picture)
        self._check_size(picture)
        frame_index = self._next_index
        self._next_index += 1
        seconds = self._seconds(picture, frame_index)
        if seconds is None:
            return None
        return DecodedFrame(frame_index=frame_index, pts_us=round(seconds * MICROSECONDS), picture=picture)

    def _is_leading(self, picture: Any) -> bool:
        """Whether the picture belongs to the group before the one that decoding began with."""
        first_pts = self._entry.first_pts
        return bool(
            first_pts is not None and self._last_pts is None and picture.pts is not None and picture.pts < first_pts
        )

    def _is_too_early(self, picture: Any) -> bool:
        """Whether the picture is shown before the first keyframe, so that it could not be whole."""
        return not self._has_begun or (
            picture.pts is not None and self._first_pts is not None and picture.pts < self._first_pts
        )

    def _seconds(self, picture: Any, frame_index: int) -> Fraction | None:
        """When the picture is shown; None if it is to be dropped."""
        if self._fps is not None:
            return frame_index / self._fps
        pts = picture.pts
        if self._media.format_name == "avi":
            pts = self._avi_slots.popleft() if self._avi_slots else None
        if pts is not None and (self._last_pts is None or pts > self._last_pts):
            self._last_pts = pts
            return Fraction(pts * self._media.stream.time_base)
        if self._on_bad_pts == "drop":
            return None
        raise DecodeError(self._bad_pts(pts, frame_index))

    def _bad_pts(self, pts: int | None, frame_index: int) -> str:
        where = f"{self._media.name}, frame {frame_index}"
        advice = "Re-mux the video, or list it in the manifest with on_bad_pts='drop'."
        if pts is None:
            return f"{where}: it has no presentation time. Expected one on every frame. {advice}"
        now_us, last_us = (round(t * self._media.stream.time_base * MICROSECONDS) for t in (pts, self._last_pts))
        return f"{where}: pts {now_us} us is not after {last_us} us. Expected presentation order. {advice}"

    def _check_clock(self) -> None:
        if self._fps is None and not self._media.has_timestamps:
            raise DecodeError(
                f"{self._media.name}: a raw {self._media.format_name} stream tells no times. "
                "Give fps, or mux the stream into an mp4."
            )
        if self._fps is not None and self._media.has_timestamps:
            raise DecodeError(
                f"{self._media.name}: fps={float(self._fps)} was given for a video that has its own times. "
                "Leave fps out; to take fewer frames, use stride."
            )

    def _check_size(self, picture: Any) -> None:
        size = (picture.width, picture.height)
        self._size = self._size or size
        if size != self._size:
            raise DecodeError(
                f"{self._media.name}, frame {self._next_index}: the picture is {size[0]}x{size[1]}, those before it "
                f"{self._size[0]}x{self._size[1]} (width x height). Expected one size; cut or re-encode the video."
            )

    def _check_none_swallowed(self, picture: Any) -> None:
        if not self._expected or picture.pts is None:
            return
        # Where times may run backwards, only the end of the video tells that a picture is missing.
        if self._on_bad_pts == "error" and min(self._expected) < picture.pts:
            raise self._broken("the decoder gave no picture for a packet before this one")
        self._expected.discard(picture.pts)

    def _broken(self, what: str) -> DecodeError:
        return broken(self._media, self._next_index, what)
