"""A contact sheet: one row per masklet, frames side by side with its mask drawn on, as one PNG."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from pipeline.decode.options import DecodeOptions
from pipeline.decode.video import open_video
from pipeline.query import MaskChunk, Run
from pipeline.ticks import Mask

Picture = NDArray[np.uint8]

PALETTE: tuple[tuple[int, int, int], ...] = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (213, 94, 0),
    (204, 121, 167),
)
"""Colours that the colour-blind tell apart. Source: Wong, Nature Methods 8, 441 (2011)."""

_FILL = 0.45
_GAP_PX = 4
_TEXT_PX = 13
_LINE_PX = 18
_PAPER = (255, 255, 255)
_INK = (25, 25, 25)


@dataclass(frozen=True, slots=True, kw_only=True)
class SheetRow:
    """One masklet on the sheet: its title and (picture, caption) per column."""

    title: str
    cells: tuple[tuple[Picture, str], ...]


def draw_mask(picture: Picture, mask: Mask, colour: tuple[int, int, int]) -> Picture:
    """A copy of the picture, uint8 (H, W, 3), with the mask, bool (H, W), filled lightly and outlined.

    Raises:
        ValueError: the sizes differ.
    """
    if picture.shape[:2] != mask.shape:
        raise ValueError(f"picture {picture.shape[:2]} and mask {mask.shape}: expected one size.")
    drawn = picture.copy()
    drawn[mask] = ((1 - _FILL) * picture[mask] + _FILL * np.array(colour)).astype(np.uint8)
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    return np.asarray(cv2.drawContours(drawn, contours, -1, colour, thickness=1), dtype=np.uint8)


def masklet_rows(run: Run, videos: Mapping[str, str], *, num_columns: int = 6) -> Iterator[SheetRow]:
    """Rows for every masklet of some videos, on frames evenly spread over each.

    Args:
        videos: video_id to local path; at the size they were segmented at.
    """
    for video_id, path in videos.items():
        chunks: dict[int, list[MaskChunk]] = {}
        for chunk in run.masks(video_id):
            chunks.setdefault(chunk.object_id, []).append(chunk)
        wanted = _spread(next(iter(chunks.values())), num_columns)
        pictures = _pictures(path, wanted)
        for slot, parts in enumerate(chunks.values()):
            yield _row(parts, pictures, wanted, PALETTE[slot % len(PALETTE)])


def write_contact_sheet(
    rows: Sequence[SheetRow], path: str | os.PathLike[str], *, note: str = "", picture_width_px: int = 160
) -> None:
    """Write rows as one PNG of 256 colours; all pictures are shown at the shape of the first.

    Raises:
        ValueError: there are no rows.
    """
    if not rows:
        raise ValueError("no rows: a contact sheet needs at least one masklet.")
    source_height, source_width = rows[0].cells[0][0].shape[:2]
    width, height = picture_width_px, round(picture_width_px * source_height / source_width)
    row_px = height + 2 * _LINE_PX + _GAP_PX
    columns = max(len(row.cells) for row in rows)
    sheet = Image.new("RGB", (columns * (width + _GAP_PX) + _GAP_PX, len(rows) * row_px + _LINE_PX), _PAPER)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(_TEXT_PX)
    for index, row in enumerate(rows):
        top = index * row_px
        pen.text((_GAP_PX, top + 2), row.title, fill=_INK, font=font)
        for column, (picture, caption) in enumerate(row.cells):
            left = _GAP_PX + column * (width + _GAP_PX)
            sheet.paste(Image.fromarray(picture).resize((width, height)), (left, top + _LINE_PX))
            pen.text((left, top + _LINE_PX + height + 1), caption, fill=_INK, font=font)
    pen.text((_GAP_PX, len(rows) * row_px), note, fill=_INK, font=font)
    sheet.quantize(256).save(path, optimize=True)


def _spread(chunks: Sequence[MaskChunk], count: int) -> list[int]:
    """Up to `count` of the processed frames, evenly spread, first and last among them."""
    frames = np.concatenate([chunk.frame_index for chunk in chunks])
    chosen = np.linspace(0, len(frames) - 1, min(count, len(frames))).round().astype(int)
    return [int(frames[position]) for position in np.unique(chosen)]


def _pictures(path: str, wanted: Sequence[int]) -> dict[int, Picture]:
    with open_video(path, DecodeOptions(start_frame=wanted[0], end_frame=wanted[-1] + 1)) as stream:
        return {tick.frame_index: tick.rgb for tick in stream if tick.frame_index in set(wanted)}


def _row(
    parts: Sequence[MaskChunk], pictures: Mapping[int, Picture], wanted: Sequence[int], colour: tuple[int, int, int]
) -> SheetRow:
    cells: list[tuple[Picture, str]] = []
    for chunk in parts:
        for position, frame_index in enumerate(chunk.frame_index):
            if int(frame_index) in wanted:
                told = f"{chunk.confidence[position]:.2f}" if chunk.present[position] else "not there"
                drawn = draw_mask(pictures[int(frame_index)], chunk.masks[position], colour)
                cells.append((drawn, f"frame {frame_index}: {told}"))
    first = parts[0]
    return SheetRow(title=f"{first.video_id}: {first.label or first.object_id}", cells=tuple(cells))
