"""Reads a .npy as one picture of measured values or a series of them, a frame at a time."""

from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import DecodeError
from pipeline.ticks import Image, Values

_EXPECTED = "Expected (H, W), (H, W, 1), (H, W, 3), or a series (T, H, W), (T, H, W, 1), (T, H, W, 3)"


class NpyFrames:
    """The pictures of one .npy; mapped into memory, so that only what is asked for is read.

    An array of three axes whose last one is 1 or 3 long is one picture with channels, otherwise a series of grey ones.

    Raises:
        DecodeError: no array file, a pickled one, of another shape, or of a kind (integers of other widths, complex)
            that has no stated scale.
    """

    def __init__(self, path: Path, *, name: str) -> None:
        self._name = name
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise DecodeError(f"{name}: cannot be read as .npy: {error}. Save it with numpy.save.") from error
        if not isinstance(array, np.ndarray):
            array.close()
            raise DecodeError(f"{name}: an archive of arrays. Save one array with numpy.save.")
        if array.dtype.kind != "f" and (array.dtype.kind, array.dtype.itemsize) not in (("u", 1), ("u", 2)):
            raise DecodeError(
                f"{name}: values of type {array.dtype}. Expected float (taken as they are), uint8 (0..255) or uint16 "
                "(divided by 65535)."
            )
        self._frames = self._as_series(array)

    def __len__(self) -> int:
        return int(self._frames.shape[0])

    def read(self, frame_index: int) -> Image | Values:
        """uint8 (H, W, 3), or float32 (H, W, 3), possibly with NaN; grey becomes three equal channels."""
        frame = np.asarray(self._frames[frame_index])
        values = frame if frame.dtype == np.uint8 else _as_float(frame)
        return np.repeat(values, 3, axis=2) if values.shape[2] == 1 else np.array(values)

    def _as_series(self, array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """(T, H, W, 1 or 3), a view."""
        has_channels = array.ndim >= 3 and array.shape[-1] in (1, 3)
        if not 2 <= array.ndim <= 4 or (array.ndim == 4 and not has_channels) or 0 in array.shape:
            raise DecodeError(f"{self._name}: an array of shape {array.shape}. {_EXPECTED}.")
        with_channels = array if has_channels else array[..., None]
        return with_channels if with_channels.ndim == 4 else with_channels[None]


def _as_float(frame: np.ndarray[Any, Any]) -> Values:
    scale = np.float32(65535 if frame.dtype.kind == "u" else 1)
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is told as such
        return frame.astype(np.float32) / scale
