"""The frames of one modality: of a video, a directory, one image, or a .npy; each is read when it is asked for."""

import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal, cast

import av
import cv2
import numpy as np

from pipeline.decode.alignment import Position, numbers_in
from pipeline.decode.frame_folder import folder_fps, frame_files, is_image, read_values
from pipeline.decode.npy_frames import NpyFrames
from pipeline.decode.options import DecodeOptions
from pipeline.decode.pixels import RgbConverter, fitted_size
from pipeline.decode.video import open_video
from pipeline.errors import DecodeError
from pipeline.io.inputs import InputHandle
from pipeline.ticks import Image, Values

Kind = Literal["video", "folder", "image", "array"]
Alignment = Literal["time", "name"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModalityFrame:
    """One frame of a modality.

    Attributes:
        position: its time or its numbers, see `pipeline.decode.alignment`.
        load: reads it: uint8 or float32 (H, W, 3), the latter possibly with NaN; may be called again.
    """

    position: Position
    load: Callable[[], Image | Values]


def kind_of(handle: InputHandle) -> Kind:
    """What an opened input is, by its name and by whether it is a directory."""
    if handle.local_path is not None and handle.local_path.is_dir():
        return "folder"
    name = handle.name if handle.local_path is None else handle.local_path.name
    if name.lower().endswith(".npy"):
        return "array"
    return "image" if is_image(name) else "video"


def modality_frames(
    handle: InputHandle, stack: ExitStack, options: DecodeOptions, *, align: Alignment
) -> Iterator[ModalityFrame]:
    """The frames of one input, in the order of its files or of time; all of them, whatever range the options name.

    Args:
        stack: closes what was opened for them.
        options: `max_side` and `on_bad_pts` of videos, which are scaled as they are decoded (images and arrays come as
            they are); `fps` of directories and series of arrays.

    Raises:
        DecodeError: the input cannot be read.
    """
    kind = kind_of(handle)
    if kind == "video":
        return _video_frames(handle, stack, options, align)
    path = local_path_of(handle)
    rate = folder_fps(options)
    if kind == "array":
        return _array_frames(NpyFrames(path, name=handle.name), path, rate, align)
    return _image_frames(frame_files(path) if kind == "folder" else [path], rate, align)


def local_path_of(handle: InputHandle) -> Path:
    """Where the input lies on this machine.

    Raises:
        DecodeError: it is too large to have been downloaded.
    """
    if handle.local_path is None:
        raise DecodeError(f"{handle.name}: too large for the scratch disk. Allow more of it, or split the file.")
    return handle.local_path


def nearest_resized(image: Image | Values, size: tuple[int, int]) -> Image | Values:
    """(H, W, C) at another (height, width): pixel floor(place * old / new), as torch's legacy "nearest" takes it."""
    rows, columns = ((np.arange(new) * old) // new for old, new in zip(image.shape[:2], size, strict=True))
    return cast(Image, image[rows[:, None], columns[None, :]])


def shrunk(image: Image | Values, max_side: int | None) -> Image | Values:
    """(H, W, 3) with its longer side at most `max_side`, averaging areas; itself if it is small enough."""
    height, width = fitted_size(image.shape[0], image.shape[1], max_side)
    if (height, width) == image.shape[:2]:
        return image
    if image.dtype == np.uint8:
        return RgbConverter(max_side=max_side).convert(av.VideoFrame.from_ndarray(image, format="rgb24"))
    return cast(Values, cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA))


def _video_frames(
    handle: InputHandle, stack: ExitStack, options: DecodeOptions, align: Alignment
) -> Iterator[ModalityFrame]:
    source = handle.local_path if handle.file is None else handle.file
    assert source is not None, "an input is a path or a file"
    # From its start: where in this file rgb's range begins is known only once decoding is there.
    whole = DecodeOptions(max_side=options.max_side, on_bad_pts=options.on_bad_pts)
    ticks = stack.enter_context(open_video(source, whole, name=handle.name))
    for tick in ticks:
        position = tick.frame_index if align == "name" else tick.pts_us
        yield ModalityFrame(position=(position,), load=functools.partial(_given, tick.rgb))


def _image_frames(files: list[Path], fps: Fraction, align: Alignment) -> Iterator[ModalityFrame]:
    for frame_index, file in enumerate(files):
        position = numbers_in(file.stem) if align == "name" else _time(frame_index, fps)
        load = functools.cache(functools.partial(read_values, file))
        yield ModalityFrame(position=position, load=load)


def _array_frames(frames: NpyFrames, path: Path, fps: Fraction, align: Alignment) -> Iterator[ModalityFrame]:
    for frame_index in range(len(frames)):
        position = _time(frame_index, fps)
        if align == "name":
            position = numbers_in(path.stem) if len(frames) == 1 else (frame_index,)
        load = functools.cache(functools.partial(frames.read, frame_index))
        yield ModalityFrame(position=position, load=load)


def _time(frame_index: int, fps: Fraction) -> Position:
    return (round(frame_index / fps * 1_000_000),)


def _given(image: Image) -> Image | Values:
    return image
