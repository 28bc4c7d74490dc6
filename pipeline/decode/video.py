"""Streams a video, or a folder of frames, as ticks: in order, exact in index and time, bounded in memory."""

import os
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from types import TracebackType
from typing import Self

from pipeline.decode.frame_folder import folder_fps, folder_ticks, frame_files, image_size
from pipeline.decode.frame_reader import DecodedFrame, FrameReader
from pipeline.decode.media_file import Media, VideoFile, open_media
from pipeline.decode.options import DecodeOptions
from pipeline.decode.packet_entry import find_entry
from pipeline.decode.packet_facts import average_rate, estimate_num_frames
from pipeline.decode.pixels import Orientation, RgbConverter, fitted_size, orientation_of
from pipeline.decode.read_ahead import ReadAhead
from pipeline.errors import DecodeError
from pipeline.ticks import RGB, Tick

__all__ = ["DecodeOptions", "StreamFacts", "VideoStream", "open_video"]

WHOLE = DecodeOptions()


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamFacts:
    """What is known of a stream when its first frame is.

    Attributes:
        height, width: of the pictures handed out, in pixels: upright, and at most max_side.
        source_height, source_width: of the upright picture before max_side.
        fps: average rate that the container states, or that of a folder; None if unknown.
        num_frames_estimate: frames of the whole source; exact for an mp4 and a folder, else from its duration and
            rate; None if unknown.
    """

    height: int
    width: int
    source_height: int
    source_width: int
    fps: float | None
    num_frames_estimate: int | None


class VideoStream:
    """Iterator of ticks, and a context manager; holds one file, and one thread if it reads ahead.

    Leaving the `with` block, reaching the end, an error, and dropping the object all release both.
    """

    def __init__(
        self,
        facts: StreamFacts,
        ticks: Iterator[Tick],
        *,
        name: str,
        release: Callable[[], None],
        read_ahead_frames: int,
    ) -> None:
        self.facts = facts
        self.name = name
        self._failure: Exception | None = None
        if read_ahead_frames > 0:
            ahead = ReadAhead(ticks, num_items=read_ahead_frames, release=release, name=name)
            self._next: Callable[[], Tick] = ahead.next
            self._finalizer = weakref.finalize(self, ahead.stop)
        else:
            self._next = ticks.__next__
            self._finalizer = weakref.finalize(self, release)

    @property
    def height(self) -> int:
        return self.facts.height

    @property
    def width(self) -> int:
        return self.facts.width

    @property
    def source_height(self) -> int:
        return self.facts.source_height

    @property
    def source_width(self) -> int:
        return self.facts.source_width

    @property
    def fps(self) -> float | None:
        return self.facts.fps

    @property
    def num_frames_estimate(self) -> int | None:
        return self.facts.num_frames_estimate

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Tick:
        if self._failure is not None:
            raise self._failure
        try:
            return self._next()
        except BaseException as error:
            self._failure = error if isinstance(error, DecodeError | StopIteration) else self._closed()
            self._finalizer()
            raise

    def close(self) -> None:
        """Release file and thread now; a second call does nothing."""
        self._failure = self._failure or self._closed()
        self._finalizer()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _closed(self) -> DecodeError:
        return DecodeError(f"{self.name}: the stream was closed before its end. Open it again to read on.")


def open_video(
    source: VideoFile,
    options: DecodeOptions = WHOLE,
    *,
    name: str | None = None,
    read_ahead_frames: int = 0,
    num_threads: int = 1,
) -> VideoStream:
    """Open a video and decode its first chosen frame; the others are decoded as they are asked for.

    A range is the slice of the full decode, bit for bit: same pixels, frame_index and pts_us.

    Args:
        source: path of a video or of a directory of frames, or an open binary file (the caller closes it).
        options: which frames, and at what size.
        name: what errors call the video; by default its path.
        read_ahead_frames: 0 decodes when asked, in the caller's thread; n > 0 lets a thread decode ahead, with at
            most n frames waiting and one in the making.
        num_threads: decoder threads; 1 is best when many videos are decoded side by side.

    Raises:
        DecodeError: the source is missing, broken, no video, or holds no frame of the range.
        StorageError: reading the file failed.
    """
    if isinstance(source, str | os.PathLike) and os.path.isdir(source):
        files = frame_files(source)
        facts = _folder_facts(image_size(files[0]), options, num_files=len(files))
        ticks, called = folder_ticks(files, options), name or os.fspath(source)
        first = next(ticks)
        return VideoStream(
            facts, chain([first], ticks), name=called, release=_nothing, read_ahead_frames=read_ahead_frames
        )
    media = open_media(source, name=name, num_threads=num_threads)
    try:
        facts, ticks = _container_ticks(media, options)
    except BaseException:
        media.close()
        raise
    return VideoStream(facts, ticks, name=media.name, release=media.close, read_ahead_frames=read_ahead_frames)


def _folder_facts(size: tuple[int, int], options: DecodeOptions, *, num_files: int) -> StreamFacts:
    height, width = fitted_size(*size, options.max_side)
    return StreamFacts(
        height=height,
        width=width,
        source_height=size[0],
        source_width=size[1],
        fps=float(folder_fps(options)),
        num_frames_estimate=num_files,
    )


def _container_ticks(media: Media, options: DecodeOptions) -> tuple[StreamFacts, Iterator[Tick]]:
    num_frames, fps = estimate_num_frames(media), average_rate(media)
    entry = find_entry(media, options.start_frame)
    reader = FrameReader(media, entry, on_bad_pts=options.on_bad_pts, fps=options.fps)
    chosen = _chosen(reader, media.name, options)
    first = next(chosen)
    orientation = orientation_of(first.picture, where=f"{media.name}, frame {first.frame_index}")
    source_size = orientation.upright_size(first.picture.height, first.picture.width)
    height, width = fitted_size(*source_size, options.max_side)
    facts = StreamFacts(
        height=height,
        width=width,
        source_height=source_size[0],
        source_width=source_size[1],
        fps=options.fps or (None if fps is None else float(fps)),
        num_frames_estimate=num_frames,
    )
    return facts, _ticks(chain([first], chosen), orientation, media.name, options)


def _chosen(reader: FrameReader, name: str, options: DecodeOptions) -> Iterator[DecodedFrame]:
    """The frames that the options keep; there must be one."""
    found = False
    for frame in reader.frames():
        if options.keeps(frame.frame_index):
            found = True
            yield frame
        if options.is_past(frame.frame_index + 1):
            break  # Not one frame later: what lies beyond the range may be broken.
    if not found and reader.next_index > options.start_frame:
        raise DecodeError(f"{name}: every chosen frame was dropped for its presentation time. Re-mux the video.")
    if not found:
        expected = f"a start_frame below {reader.next_index}" if reader.next_index else "at least one picture"
        raise DecodeError(
            f"{name}: no frame at or after start_frame {options.start_frame}, the video holds {reader.next_index}. "
            f"Expected {expected}."
        )


def _ticks(
    frames: Iterator[DecodedFrame], orientation: Orientation, name: str, options: DecodeOptions
) -> Iterator[Tick]:
    converter = RgbConverter(max_side=options.max_side)
    for frame in frames:
        where = f"{name}, frame {frame.frame_index}"
        if orientation_of(frame.picture, where=where) != orientation:
            raise DecodeError(f"{where}: the picture is turned otherwise than those before it. Cut or re-encode it.")
        image = orientation.apply(converter.convert(frame.picture))
        yield Tick(frame_index=frame.frame_index, pts_us=frame.pts_us, images={RGB: image})


def _nothing() -> None:
    """A folder keeps no file open between frames."""
