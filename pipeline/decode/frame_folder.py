"""Reads a directory of numbered images as a video."""

import os
import re
from collections.abc import Iterator
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
from PIL import Image as PillowImage
from PIL import ImageOps, UnidentifiedImageError

from pipeline.decode.options import DecodeOptions
from pipeline.decode.pixels import RgbConverter
from pipeline.errors import DecodeError
from pipeline.ticks import RGB, Image, Tick, Values

SUFFIXES = {".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}
DEFAULT_FPS = 24.0
"""Of a folder whose rate nobody told: that of DAVIS (Perazzi et al., CVPR 2016)."""


def frame_files(folder: str | os.PathLike[str]) -> list[Path]:
    """The images of a folder in natural order (2 before 10); a file's place is its frame_index.

    Hidden files, other files and subfolders are left out.

    Raises:
        DecodeError: no such folder, no image in it, or two images of one name.
    """
    path = Path(folder)
    try:
        files = [f for f in path.iterdir() if f.suffix.lower() in SUFFIXES and not f.name.startswith(".")]
    except OSError as error:
        raise DecodeError(f"{path}: cannot be listed: {error.strerror}. Check the path and its rights.") from error
    if not files:
        expected = ", ".join(sorted(SUFFIXES))
        raise DecodeError(f"{path}: no image in this folder. Expected files that end in one of {expected}.")
    files.sort(key=lambda file: (natural_key(file.stem), file.name))
    for earlier, later in pairwise(files):
        if earlier.stem == later.stem:
            raise DecodeError(f"{path}: both {earlier.name} and {later.name}. Keep one image per frame.")
    return files


def is_image(name: str) -> bool:
    """Whether a file of this name is a single image."""
    return os.path.splitext(name)[1].lower() in SUFFIXES


def natural_key(stem: str) -> list[tuple[int, str]]:
    """Sorts digits by value: "f2" < "f10"."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", stem) if part]


def folder_fps(options: DecodeOptions) -> Fraction:
    """The rate at which the folder's frames are shown."""
    return Fraction(options.fps or DEFAULT_FPS).limit_denominator(1_000_000)


def image_size(file: Path) -> tuple[int, int]:
    """(height, width) of an image, upright, from its header."""
    with _opened(file) as image:
        turned = image.getexif().get(0x0112, 1) >= 5  # EXIF orientation: 5 to 8 swap the sides.
        return (image.width, image.height) if turned else (image.height, image.width)


def folder_ticks(files: list[Path], options: DecodeOptions) -> Iterator[Tick]:
    """The chosen frames of a folder; each is read when it is asked for.

    Raises:
        DecodeError: an image cannot be read, or is not of the size of the first one; start_frame is beyond the end.
    """
    if options.start_frame >= len(files):
        raise DecodeError(
            f"{files[0].parent}: start_frame {options.start_frame} is beyond the end, there are {len(files)} frames. "
            "Give a smaller start_frame."
        )
    expected, fps, converter = image_size(files[0]), folder_fps(options), RgbConverter(max_side=options.max_side)
    for frame_index in range(options.start_frame, len(files), options.stride):
        if options.is_past(frame_index):
            return
        image = read_image(files[frame_index], expected_size=expected)
        rgb = converter.convert(av.VideoFrame.from_ndarray(image, format="rgb24"))
        yield Tick(frame_index=frame_index, pts_us=round(frame_index / fps * 1_000_000), images={RGB: rgb})


def read_image(file: Path, *, expected_size: tuple[int, int]) -> Image:
    """One image as uint8 (H, W, 3) RGB, turned upright as its EXIF says.

    Grey becomes three equal channels, a palette its colours; transparency is dropped; of 16 bits the upper 8 are kept.

    Args:
        expected_size: (height, width) of the folder's first image.

    Raises:
        DecodeError: not readable, cut off, of another size, or of a kind (32-bit integers, floats) that has no 8-bit
            meaning.
    """
    with _opened(file) as stored:
        try:
            image = _to_rgb(ImageOps.exif_transpose(stored), file)
        except (OSError, SyntaxError, ValueError) as error:
            raise _unreadable(file, error) from error
    if image.shape[:2] != expected_size:
        raise DecodeError(
            f"{file}: {image.shape[0]}x{image.shape[1]} (height x width), but the first image of its folder is "
            f"{expected_size[0]}x{expected_size[1]}. Expected one size; resize the image or remove it."
        )
    return image


def read_values(file: Path) -> Image | Values:
    """One image of any size as `read_image` reads it, but 16 bits of grey become float32 (H, W, 3), value / 65535.

    Raises:
        DecodeError: as `read_image`.
    """
    with _opened(file) as stored:
        try:
            image = ImageOps.exif_transpose(stored)
            if not image.mode.startswith("I;16"):
                return _to_rgb(image, file)
            grey = np.asarray(image).astype(np.float32) / np.float32(65535)
        except (OSError, SyntaxError, ValueError) as error:
            raise _unreadable(file, error) from error
    return np.repeat(grey[:, :, None], 3, axis=2)


def _to_rgb(image: PillowImage.Image, file: Path) -> Image:
    if image.mode.startswith("I;16"):
        grey = (np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.mode in ("I", "F"):
        raise DecodeError(f"{file}: pixels of Pillow's mode {image.mode!r}. Expected 8 or 16 bits; convert the image.")
    return np.array(image.convert("RGB"))


def _opened(file: Path) -> PillowImage.Image:
    try:
        return PillowImage.open(file)
    except (UnidentifiedImageError, PillowImage.DecompressionBombError, OSError, SyntaxError, ValueError) as error:
        raise _unreadable(file, error) from error


def _unreadable(file: Path, error: Exception) -> DecodeError:
    if isinstance(error, FileNotFoundError | PermissionError):
        return DecodeError(f"{file}: cannot be opened: {error.strerror}. Check the file and its rights.")
    return DecodeError(f"{file}: not a whole image: {error}. Copy the file again from its origin.")
