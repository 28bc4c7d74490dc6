"""Random access to frames by index, for training clips: over PyAV, decord, or a folder of images."""

import importlib
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Protocol, Self

import av
import numpy as np
from numpy.typing import NDArray

from pipeline.decode.frame_folder import folder_fps, frame_files, image_size, read_image
from pipeline.decode.media_file import Media, VideoFile, open_media, reason
from pipeline.decode.options import DecodeOptions
from pipeline.decode.picture_index import PictureIndex, index_pictures
from pipeline.decode.pixels import Orientation, RgbConverter, fitted_size, orientation_of
from pipeline.errors import DecodeError
from pipeline.ticks import Image

Backend = Literal["pyav", "decord", "images"]
Clip = NDArray[np.uint8]


class ClipReader(Protocol):
    """Frames of one video by index, in any order and as often as asked for.

    Attributes:
        height, width: of the pictures handed out, in pixels: upright, and at most max_side.
    """

    height: int
    width: int

    def __len__(self) -> int:
        """Number of frames, exact."""
        ...

    def get_frames(self, indices: Sequence[int]) -> Clip:
        """uint8 (N, H, W, 3) RGB, in the order of `indices`, which may repeat.

        Raises:
            IndexError: an index is negative or not below the length.
            DecodeError: a frame cannot be decoded.
        """
        ...

    def pts_us(self, indices: Sequence[int]) -> list[int]:
        """Presentation times in microseconds, exact.

        Raises:
            IndexError: an index is negative or not below the length.
        """
        ...

    def close(self) -> None:
        """Release the file; a second call does nothing."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...


def open_clips(
    source: VideoFile,
    *,
    backend: Backend,
    max_side: int | None = None,
    name: str | None = None,
    fps: float | None = None,
) -> ClipReader:
    """Open a video for random access. Same frame, index and time as `open_video` gives, whichever the backend.

    Args:
        source: path of a video, or an open binary file ("pyav" only); path of a directory for "images".
        backend: "pyav" decodes from the keyframe before; "decord" is for many short reads of local videos: it reads
            the whole file and decodes ahead without limit, and takes only videos that it gets right; "images" reads
            a directory of frames.
        max_side: the longer side of the picture in pixels, at most.
        name: what errors call the video.
        fps: rate of a directory of frames, as in DecodeOptions.

    Raises:
        DecodeError: the source is missing or broken, or this backend would get it wrong.
        StorageError: reading the file failed.
    """
    options = DecodeOptions(max_side=max_side, fps=fps)
    is_folder = isinstance(source, str | os.PathLike) and os.path.isdir(source)
    if is_folder != (backend == "images"):
        kind = "a directory of frames" if is_folder else "a video"
        raise DecodeError(
            f"{name or source}: backend {backend!r} cannot read {kind}. Use 'images' for a directory only."
        )
    if backend == "images":
        return ImageClips(frame_files(source), options)  # type: ignore[arg-type]
    media = open_media(source, name=name)
    try:
        return PyavClips(media, options) if backend == "pyav" else DecordClips(media, source, options)
    except BaseException:
        media.close()
        raise


class _Clips(ABC):
    """What every backend shares: bounds, times, and being a context manager."""

    height: int
    width: int

    def __init__(self, name: str, times_us: Sequence[int]) -> None:
        self._name = name
        self._times_us = times_us

    def __len__(self) -> int:
        return len(self._times_us)

    def get_frames(self, indices: Sequence[int]) -> Clip:
        self._check(indices)
        clip = np.empty((len(indices), self.height, self.width, 3), dtype=np.uint8)
        places: dict[int, list[int]] = {}
        for place, index in enumerate(indices):
            places.setdefault(index, []).append(place)
        for index, image in self._read(sorted(places)):
            clip[places[index]] = image
        return clip

    def pts_us(self, indices: Sequence[int]) -> list[int]:
        self._check(indices)
        return [self._times_us[index] for index in indices]

    def close(self) -> None:  # noqa: B027 - a hook, not a duty
        """Nothing is held, unless a backend says so."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @abstractmethod
    def _read(self, indices: list[int]) -> Iterator[tuple[int, Image]]:
        """Each index, ascending and without repeats, with its picture."""

    def _check(self, indices: Sequence[int]) -> None:
        for index in indices:
            if not 0 <= index < len(self):
                raise IndexError(f"{self._name}: frame {index} of {len(self)}. Expected 0 <= index < {len(self)}.")


class PyavClips(_Clips):
    """Decodes from the last keyframe at or before each frame that is asked for, once for neighbours."""

    def __init__(self, media: Media, options: DecodeOptions) -> None:
        self._media = media
        self._index = _require_index(media)
        self._converter = RgbConverter(max_side=options.max_side)
        super().__init__(media.name, _times_us(media, self._index))
        self.height, self.width = _upright_size(media, options)

    def close(self) -> None:
        self._media.close()

    def _read(self, indices: list[int]) -> Iterator[tuple[int, Image]]:
        wanted = {self._index.pts[index]: index for index in indices}
        while wanted:
            found = 0
            for picture in self._pictures_from(min(wanted)):
                index = wanted.pop(picture.pts, None)
                if index is not None:
                    found += 1
                    where = f"{self._name}, frame {index}"
                    yield index, orientation_of(picture, where=where).apply(self._converter.convert(picture))
                    if not wanted or self._is_nearer_by_seeking(picture.pts, min(wanted)):
                        break
            if found == 0:
                raise DecodeError(f"{self._name}, frame {min(wanted.values())}: it cannot be decoded. Check the file.")

    def _pictures_from(self, pts: int) -> Iterator[Any]:
        """Pictures from the keyframe before on; from the start, if that one gives only later ones."""
        keyframe_pts = max((key for key in self._index.keyframe_pts if key <= pts), default=None)
        if keyframe_pts is not None and keyframe_pts != self._index.keyframe_pts[0]:
            self._media.seek(keyframe_pts)
            pictures = self._decoded()
            first = next(pictures, None)
            if first is not None and first.pts <= pts:
                yield first
                yield from pictures
                return
        self._media.reopen()
        yield from self._decoded()

    def _decoded(self) -> Iterator[Any]:
        try:
            for packet in self._media.packets():
                if packet.size:
                    yield from self._intact(self._media.stream.decode(packet))
            yield from self._intact(self._media.stream.decode(None))
        except av.error.FFmpegError as error:
            raise self._media.explain(error, "random access") from error

    def _intact(self, pictures: list[Any]) -> Iterator[Any]:
        for picture in pictures:
            if picture.is_corrupt:
                raise DecodeError(f"{self._name}, pts {picture.pts}: the picture is corrupt. Check the file.")
            yield picture

    def _is_nearer_by_seeking(self, pts: int, target: int) -> bool:
        return any(pts < key <= target for key in self._index.keyframe_pts)


class DecordClips(_Clips):
    """decord's reader behind PyAV's index: it tells times as 32-bit floats and counts frames that are cut off.

    Refused is what decord 0.6.0 gets wrong, each found by comparing it with drawn videos: quarter turns (it fails) and
    mirrored pictures (ignored), edit lists that cut (frames counted), open groups of pictures (wrong frames after a
    seek), and other containers than mp4 and Matroska (frames repeated). A half turn it makes itself.
    """

    def __init__(self, media: Media, source: VideoFile, options: DecodeOptions) -> None:
        if not isinstance(source, str | os.PathLike):
            raise DecodeError(f"{media.name}: decord needs a local path. Use backend='pyav' for an open file.")
        index = _require_index(media)
        super().__init__(media.name, _times_us(media, index))
        _refuse(media, "an edit list that cuts frames", index.has_cuts)
        _refuse(media, "open groups of pictures", index.has_open_groups)
        self.height, self.width = _upright_size(media, options)
        orientation = _orientation(media)
        _refuse(media, "a display matrix with a quarter turn", orientation.transpose)
        _refuse(media, "a display matrix that mirrors", orientation.is_mirrored)
        media.close()
        self._converter = RgbConverter(max_side=options.max_side)
        self._reader = _decord_reader(os.fspath(source), self._name)
        if len(self._reader) != len(self):
            raise DecodeError(
                f"{self._name}: decord counts {len(self._reader)} frames, the file holds {len(self)}. "
                "Use backend='pyav'."
            )

    def _read(self, indices: list[int]) -> Iterator[tuple[int, Image]]:
        try:
            frames = self._reader.get_batch(indices).asnumpy()
        except Exception as error:  # decord raises its own error classes, RuntimeError and IndexError alike.
            raise DecodeError(f"{self._name}, frames {indices}: decord failed: {error}. Check the file.") from error
        for index, image in zip(indices, frames, strict=True):
            yield index, self._converter.convert(av.VideoFrame.from_ndarray(image, format="rgb24"))


class ImageClips(_Clips):
    """A directory of frames; reads only the images that are asked for."""

    def __init__(self, files: list[Path], options: DecodeOptions) -> None:
        fps = folder_fps(options)
        super().__init__(str(files[0].parent), [round(i / fps * 1_000_000) for i in range(len(files))])
        self._files = files
        self._size = image_size(files[0])
        self._converter = RgbConverter(max_side=options.max_side)
        self.height, self.width = fitted_size(*self._size, options.max_side)

    def _read(self, indices: list[int]) -> Iterator[tuple[int, Image]]:
        for index in indices:
            image = read_image(self._files[index], expected_size=self._size)
            yield index, self._converter.convert(av.VideoFrame.from_ndarray(image, format="rgb24"))


def _require_index(media: Media) -> PictureIndex:
    index = index_pictures(media)
    media.reopen()
    if index is None or not index.pts:
        raise DecodeError(
            f"{media.name}: its packets ({media.format_name}, {media.codec_name}) do not tell one picture from the "
            "next, as random access needs. Re-mux it into an mp4 with a codec such as H.264, or stream it in order."
        )
    return index


def _times_us(media: Media, index: PictureIndex) -> list[int]:
    return [round(pts * media.stream.time_base * 1_000_000) for pts in index.pts]


def _first_picture(media: Media) -> Any:
    try:
        picture = next(media.container.decode(media.stream))
    except (av.error.FFmpegError, StopIteration) as error:
        raise DecodeError(f"{media.name}, frame 0: {reason(error)}. Check the file.") from error
    finally:
        media.reopen()
    return picture


def _orientation(media: Media) -> Orientation:
    return orientation_of(_first_picture(media), where=media.name)


def _upright_size(media: Media, options: DecodeOptions) -> tuple[int, int]:
    picture = _first_picture(media)
    orientation = orientation_of(picture, where=media.name)
    return fitted_size(*orientation.upright_size(picture.height, picture.width), options.max_side)


def _refuse(media: Media, what: str, is_so: bool) -> None:
    if is_so:
        raise DecodeError(f"{media.name}: it has {what}, which decord gets wrong. Use backend='pyav'.")


def _decord_reader(path: str, name: str) -> Any:
    try:
        decord = importlib.import_module("decord")
    except ImportError as error:
        raise DecodeError(
            f"{name}: decord is not installed (it comes for Linux on x86-64). Use backend='pyav', or install it."
        ) from error
    decord.logging.set_level(decord.logging.QUIET)
    try:
        return decord.VideoReader(path, ctx=decord.cpu(0), num_threads=1)
    except Exception as error:  # decord raises its own error classes and RuntimeError alike.
        raise DecodeError(f"{name}: decord cannot open it: {error}. Use backend='pyav', or check the file.") from error
