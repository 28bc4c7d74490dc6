"""From what libav or Pillow decoded to an upright uint8 RGB picture of the asked size."""

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from av.sidedata.sidedata import Type as SideDataType
from av.video.reformatter import Interpolation, VideoReformatter

from pipeline.errors import DecodeError
from pipeline.ticks import Image


@dataclass(frozen=True, slots=True, kw_only=True)
class Orientation:
    """How a stored picture becomes upright: transposed first, then flipped."""

    transpose: bool = False
    flip_rows: bool = False
    flip_columns: bool = False

    @property
    def rotation_degrees(self) -> int:
        """How far the stored picture is turned counter-clockwise, before any mirroring: 0, 90, 180 or 270."""
        if self.transpose:
            return 90 if self.flip_rows else 270
        return 180 if self.flip_rows else 0

    @property
    def is_mirrored(self) -> bool:
        """Whether the picture is flipped left to right after it is turned."""
        return (self.transpose + self.flip_rows + self.flip_columns) % 2 == 1

    def upright_size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) of the upright picture."""
        return (width, height) if self.transpose else (height, width)

    def apply(self, image: Image) -> Image:
        """The upright picture, (H, W, 3) from (H, W, 3) or (W, H, 3); contiguous and writable."""
        turned = image.transpose(1, 0, 2) if self.transpose else image
        rows = slice(None, None, -1 if self.flip_rows else 1)
        columns = slice(None, None, -1 if self.flip_columns else 1)
        return np.require(turned[rows, columns], requirements=["C", "W"])


UPRIGHT = Orientation()


def orientation_of(picture: Any, *, where: str) -> Orientation:
    """How the display matrix of a decoded picture (ISO/IEC 14496-12, 8.5.3) says it is to be turned.

    Raises:
        DecodeError: the matrix is no right-angled turn or mirroring.
    """
    data = picture.side_data.get(SideDataType.DISPLAYMATRIX)
    if data is None:
        return UPRIGHT
    a, b, _, c, d, *_ = struct.unpack("=9i", bytes(data))  # x' = a x + c y, y' = b x + d y, with y down.
    if a and d and not b and not c:
        return Orientation(flip_rows=d < 0, flip_columns=a < 0)
    if b and c and not a and not d:
        return Orientation(transpose=True, flip_rows=b < 0, flip_columns=c < 0)
    raise DecodeError(
        f"{where}: the display matrix {(a, b, c, d)} is no turn by 0, 90, 180 or 270 degrees. "
        "Re-encode the video upright."
    )


def fitted_size(height: int, width: int, max_side: int | None) -> tuple[int, int]:
    """(height, width) with the longer side at most `max_side`, the other in proportion, rounded half up, at least 1."""
    longest = max(height, width)
    if max_side is None or longest <= max_side:
        return height, width

    def scaled(side: int) -> int:
        return max(1, (2 * side * max_side + longest) // (2 * longest))

    return scaled(height), scaled(width)


class RgbConverter:
    """Pictures of one video to RGB; keeps swscale's set-up between them.

    The matrix (BT.601, 709, 2020) and range are those the picture states; unstated, swscale takes BT.601 and limited
    range, as ffmpeg does. Deeper than 8 bits is rounded to 8; transfer curves (HDR) and non-square pixels are left as
    they are. Downsizing averages areas, in the same step.
    """

    def __init__(self, *, max_side: int | None) -> None:
        self._max_side = max_side
        self._reformatter = VideoReformatter()

    def convert(self, picture: Any) -> Image:
        """uint8 (H, W, 3) RGB, not yet turned upright."""
        height, width = fitted_size(picture.height, picture.width, self._max_side)
        is_same = (height, width) == (picture.height, picture.width)
        rgb = self._reformatter.reformat(
            picture,
            width=width,
            height=height,
            format="rgb24",
            interpolation=Interpolation.BILINEAR if is_same else Interpolation.AREA,
            threads=1,
        )
        return np.require(rgb.to_ndarray(), dtype=np.uint8, requirements=["C", "W"])
