"""A contact sheet: one row per video, frames side by side with the masks of all its sentences drawn on, as one PNG."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from pipeline.decode.options import DecodeOptions
from pipeline.decode.video import open_video
from pipeline.query import MaskChunk, Run
from pipeline.ticks import Mask

Picture = NDArray[np.uint8]
Colour = tuple[int, int, int]

PALETTE: tuple[Colour, ...] = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (213, 94, 0),
    (204, 121, 167),
)
"""Colours that the colour-blind tell apart. Source: Wong, Nature Methods 8, 441 (2011)."""

_FILL = 0.3
_OUTLINE_PX = 2
_GAP_PX = 4
_TEXT_PX = 13
_LINE_PX = 18
_SWATCH_PX = 9
_PAPER = (255, 255, 255)
_INK = (25, 25, 25)


@dataclass(frozen=True, slots=True, kw_only=True)
class SheetRow:
    """One video on the sheet.

    Attributes:
        lines: text and the colour it is written in, one line for each masklet.
        pictures: one for each column, of one size.
        captions: below the pictures.
    """

    lines: tuple[tuple[str, Colour], ...]
    pictures: tuple[Picture, ...]
    captions: tuple[str, ...]


def draw_mask(picture: Picture, mask: Mask, colour: Colour) -> Picture:
    """A copy of the picture, uint8 (H, W, 3), with the mask, bool (H, W), filled lightly and outlined within.

    Raises:
        ValueError: the sizes differ.
    """
    if picture.shape[:2] != mask.shape:
        raise ValueError(f"picture {picture.shape[:2]} and mask {mask.shape}: expected one size.")
    drawn = picture.copy()
    drawn[mask] = ((1 - _FILL) * picture[mask] + _FILL * np.array(colour)).astype(np.uint8)
    inner = cv2.erode(mask.astype(np.uint8), np.ones((3, 3), np.uint8), iterations=_OUTLINE_PX, borderValue=0)
    drawn[mask & (inner == 0)] = colour
    return drawn


def video_rows(run: Run, videos: Mapping[str, str], *, num_columns: int = 6) -> Iterator[SheetRow]:
    """A row for each video, on frames evenly spread over it: every masklet in a colour of its own, and with the
    sentence its mean confidence and the frames on which something was found.

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
            for frame_index, mask in _masks_at(parts, wanted):
                pictures[frame_index] = draw_mask(pictures[frame_index], mask, PALETTE[slot % len(PALETTE)])
        yield SheetRow(
            lines=tuple((_told(parts), PALETTE[slot % len(PALETTE)]) for slot, parts in enumerate(chunks.values())),
            pictures=tuple(pictures[frame_index] for frame_index in wanted),
            captions=tuple(f"frame {frame_index}" for frame_index in wanted),
        )


def write_contact_sheet(
    rows: Sequence[SheetRow], path: str | os.PathLike[str], *, note: str = "", picture_width_px: int = 192
) -> None:
    """Write rows as one PNG of 256 colours; all pictures are shown at the shape of the first.

    Raises:
        ValueError: there are no rows.
    """
    if not rows:
        raise ValueError("no rows: a contact sheet needs at least one video.")
    source_height, source_width = rows[0].pictures[0].shape[:2]
    width, height = picture_width_px, round(picture_width_px * source_height / source_width)
    tops = [0, *accumulate(len(row.lines) * _LINE_PX + height + _LINE_PX + _GAP_PX for row in rows)]
    columns = max(len(row.pictures) for row in rows)
    sheet = Image.new("RGB", (columns * (width + _GAP_PX) + _GAP_PX, tops[-1] + (_LINE_PX if note else 0)), _PAPER)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(_TEXT_PX)
    for top, row in zip(tops, rows, strict=False):
        for place, (text, colour) in enumerate(row.lines):
            line = top + place * _LINE_PX
            pen.rectangle((_GAP_PX, line + 4, _GAP_PX + _SWATCH_PX, line + 4 + _SWATCH_PX), fill=colour)
            pen.text((2 * _GAP_PX + _SWATCH_PX, line + 2), text, fill=_INK, font=font)
        below = top + len(row.lines) * _LINE_PX
        for column, (picture, caption) in enumerate(zip(row.pictures, row.captions, strict=True)):
            left = _GAP_PX + column * (width + _GAP_PX)
            sheet.paste(Image.fromarray(picture).resize((width, height)), (left, below))
            pen.text((left, below + height + 1), caption, fill=_INK, font=font)
    pen.text((_GAP_PX, tops[-1]), note, fill=_INK, font=font)
    sheet.quantize(256).save(path, optimize=True)


def _spread(chunks: Sequence[MaskChunk], count: int) -> list[int]:
    """Up to `count` of the processed frames, evenly spread, first and last among them."""
    frames = np.concatenate([chunk.frame_index for chunk in chunks])
    chosen = np.linspace(0, len(frames) - 1, min(count, len(frames))).round().astype(int)
    return [int(frames[position]) for position in np.unique(chosen)]


def _pictures(path: str, wanted: Sequence[int]) -> dict[int, Picture]:
    with open_video(path, DecodeOptions(start_frame=wanted[0], end_frame=wanted[-1] + 1)) as stream:
        return {tick.frame_index: tick.rgb for tick in stream if tick.frame_index in set(wanted)}


def _masks_at(parts: Sequence[MaskChunk], wanted: Sequence[int]) -> Iterator[tuple[int, Mask]]:
    """The masks of one object on the wanted frames."""
    for chunk in parts:
        for position, frame_index in enumerate(chunk.frame_index.tolist()):
            if frame_index in wanted:
                yield frame_index, chunk.masks[position]


def _told(parts: Sequence[MaskChunk]) -> str:
    """The sentence, with how sure the model is of what it found, or that it found nothing."""
    present = np.concatenate([chunk.present for chunk in parts])
    confidence = np.concatenate([chunk.confidence for chunk in parts])
    label = parts[0].label or f"object {parts[0].object_id}"
    if not present.any():
        return f"{label}: not there (confidence {confidence.mean():.2f})"
    return f"{label}: confidence {confidence[present].mean():.2f}, on {present.sum()} of {len(present)} frames"
