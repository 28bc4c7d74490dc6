"""Opens one video container, from a path or an open file, and guards what libav may read."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, cast

import av
import av.container
import av.error
import av.logging
from av.codec.context import ThreadType
from av.stream import Disposition

from pipeline.errors import DecodeError, MasklakeError, StorageError

VideoFile = str | os.PathLike[str] | BinaryIO

READ_BYTES = 64 * 1024
"""libav's read size: larger ones fetch what a short range never needs, smaller ones only cost calls."""

NO_TIMESTAMPS = 0x80
"""AVFMT_NOTIMESTAMPS of libavformat: raw elementary streams, whose times would be libav's invention."""

# libav reports through return codes as well; a lake of broken videos must not flood the worker's stderr.
av.logging.set_level(None)


class GuardedFile:
    """What libav reads through: cannot write, tells no name, remembers the first failure.

    A name would let libav choose a demuxer by suffix (".txt" is an ANSI-art video to it).
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.failure: Exception | None = None

    def read(self, size: int) -> bytes:
        try:
            data = self._file.read(size)
            if len(data) > size:
                raise OSError(f"a read of {size} bytes gave {len(data)}")
        except Exception as error:
            self.failure = self.failure or error
            raise
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        try:
            return self._file.seek(offset, whence)
        except Exception as error:
            self.failure = self.failure or error
            raise

    def tell(self) -> int:
        return self._file.tell()

    def seekable(self) -> bool:
        return self._file.seekable()


class Media:
    """One open container and its video stream; closes what it opened, never the caller's file.

    Attributes:
        name: how errors call this video.
        container, stream: PyAV's; replaced by `reopen`.
        num_bytes: size of the file, None where it cannot be told.
    """

    def __init__(self, file: BinaryIO, *, name: str, owns_file: bool, num_threads: int) -> None:
        self.name = name
        self._file = file
        self._owns_file = owns_file
        self._num_threads = num_threads
        self.container: Any = None
        self.stream: Any = None
        try:
            self.num_bytes = self._measure()
            self._open()
        except BaseException:
            self.close()
            raise

    @property
    def is_seekable(self) -> bool:
        return self._guard.seekable()

    @property
    def format_name(self) -> str:
        return str(self.container.format.name)

    @property
    def codec_name(self) -> str:
        return str(self.stream.codec.canonical_name)

    @property
    def has_timestamps(self) -> bool:
        return not self.container.format.flags & NO_TIMESTAMPS

    def packets(self) -> Iterator[Any]:
        """Packets of the video stream from where the container stands, without libav's closing empty one.

        Raises:
            DecodeError, StorageError: the container cannot be read on.
        """
        try:
            for packet in self.container.demux(self.stream):
                if packet.size or packet.pts is not None:
                    yield packet
        except (av.error.FFmpegError, OSError) as error:
            raise self.explain(error, "while reading packets") from error
        if self._guard.failure is not None:
            raise self.explain(self._guard.failure, "while reading packets")

    def seek(self, pts: int) -> None:
        """To the keyframe at or before a time in the stream's time base, as far as the container knows it.

        Raises:
            DecodeError, StorageError: the container cannot seek there.
        """
        with self._explained(f"seeking to pts {pts}"):
            self.container.seek(pts, stream=self.stream)

    def explain(self, error: Exception, where: str) -> MasklakeError:
        """The domain error that tells what stopped libav: the store that was read, or the data."""
        cause = self._guard.failure
        if isinstance(cause, MasklakeError):
            return cause
        if cause is not None:
            return StorageError(f"{self.name}, {where}: reading the file failed: {cause!r}. Try again.")
        return DecodeError(
            f"{self.name}, {where}: {reason(error)}. Expected intact data up to the end; "
            "check the file against its origin, or re-encode it."
        )

    def read_head(self, num_bytes: int) -> bytes:
        """The first bytes of the file. libav's own position is lost: only to be called when it is done."""
        with self._explained("while reading its head"):
            self._guard.seek(0)
            return self._guard.read(num_bytes)

    def reopen(self) -> None:
        """Back to the first packet, with a fresh decoder."""
        self.container.close()
        with self._explained("while going back to its start"):
            self._guard.seek(0)
        self._open()

    def close(self) -> None:
        """Release the container, and the file if it was opened here. A second call does nothing."""
        if self.container is not None:
            self.container.close()
        if self._owns_file:
            self._file.close()

    @contextmanager
    def _explained(self, where: str) -> Iterator[None]:
        try:
            yield
        except (av.error.FFmpegError, OSError) as error:
            raise self.explain(error, where) from error

    def _measure(self) -> int | None:
        self._guard = GuardedFile(self._file)
        if not self._guard.seekable():
            return None
        with self._explained("while measuring it"):
            num_bytes = self._guard.seek(0, os.SEEK_END)
            self._guard.seek(0)
        if num_bytes == 0:
            raise DecodeError(f"{self.name}: the file is empty (0 bytes). Copy it again from its origin.")
        return num_bytes

    def _open(self) -> None:
        try:
            # No protocol: else a playlist named .mp4 ("ffconcat", HLS) makes libav open other files and hosts.
            self.container = av.open(
                cast(Any, self._guard),
                "r",
                container_options={"protocol_whitelist": "none"},
                metadata_errors="replace",
                buffer_size=READ_BYTES,
            )
        except (av.error.FFmpegError, OSError) as error:
            raise self._cannot_open(error) from error
        self.stream = self._video_stream()
        self.stream.codec_context.thread_count = self._num_threads
        self.stream.codec_context.thread_type = ThreadType.AUTO if self._num_threads > 1 else ThreadType.NONE

    def _cannot_open(self, error: Exception) -> MasklakeError:
        if self._guard.failure is not None:
            return self.explain(error, "while opening")
        return DecodeError(
            f"{self.name}: cannot be opened as a video: {reason(error)}. Expected a whole mp4, mov, mkv, webm, "
            "avi or ts file; an mp4 that was cut off before its end has lost its index: copy it again."
        )

    def _video_stream(self) -> Any:
        streams = self.container.streams
        moving = [s for s in streams.video if not s.disposition & Disposition.attached_pic]
        if not moving:
            found = sorted({"cover picture" if s.type == "video" else str(s.type) for s in streams})
            raise DecodeError(
                f"{self.name}: no video stream, only {', '.join(found) or 'nothing'}. Give a file with moving pictures."
            )
        if moving[0].codec_context is None:
            raise DecodeError(
                f"{self.name}: no decoder for its codec is built into libav. Re-encode the video as H.264."
            )
        return moving[0]


def open_media(source: VideoFile, *, name: str | None = None, num_threads: int = 1) -> Media:
    """Open a local path, or take a caller's open binary file (which stays the caller's to close).

    Args:
        source: path, or file with `read`, `seek`, `tell`, `seekable`.
        name: what errors call it; by default the path, or the file's own name.
        num_threads: decoder threads.

    Raises:
        DecodeError: no such file, not readable, empty, not a video, no video stream.
        StorageError: reading the file failed.
    """
    if isinstance(source, str | os.PathLike):
        path = os.fspath(source)
        return Media(_open_path(path), name=name or path, owns_file=True, num_threads=num_threads)
    called = name or str(getattr(source, "full_name", None) or getattr(source, "name", "<open file>"))
    return Media(source, name=called, owns_file=False, num_threads=num_threads)


def reason(error: Exception) -> str:
    """What libav or the system said, without the noise of its numbers."""
    if isinstance(error, av.error.DecoderNotFoundError):
        return "no decoder for its codec is built into libav"
    told = getattr(error, "strerror", None) or str(error)
    return cast(str, told)


def _open_path(path: str) -> BinaryIO:
    try:
        return open(path, "rb")
    except FileNotFoundError as error:
        advice = "Open a remote file first and hand it in." if "://" in path else "Check the path."
        raise DecodeError(f"{path}: no such file. {advice}") from error
    except PermissionError as error:
        raise DecodeError(f"{path}: no permission to read it. Grant read access to this user.") from error
    except OSError as error:
        raise DecodeError(f"{path}: cannot be opened: {error.strerror}. Give the path of a file.") from error
