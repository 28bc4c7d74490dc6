"""Writes small videos whose every pixel is known: each frame shows its own number."""

import os
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]

os.environ.setdefault("SVT_LOG", "1")  # SVT-AV1 prints a page to stderr for each encoder otherwise.

BIT_ROWS, BIT_COLUMNS = 2, 6
"""The upper half shows the number in binary, 12 blocks of black or white: readable after any codec and resizing."""

PALETTE = np.array([(200, 60, 40), (50, 180, 70), (40, 70, 190), (190, 180, 50), (60, 170, 180)], dtype=np.uint8)
NUM_PATCHES = 3


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """How a drawn video is written.

    Attributes:
        codec: "libx264", "libx265", "mpeg4", "mpeg2video", "ffv1", "mjpeg", "libvpx", "libvpx-vp9", "libsvtav1".
        group: distance of keyframes; open_groups lets pictures refer across them.
        b_frames: pictures between references, stored out of order (x264, x265, mpeg2, mpeg4).
        pts: presentation times in `time_base`; by default the frame's place, at `fps`.
        parameters: more of the encoder's own, "key=value:..." (x264, x265).
        stored_pts: rewrites the times of the packets, even to nonsense; needs b_frames=0 and a Matroska file.
        rotation, hflip: display matrix: counter-clockwise degrees, and a flip left to right after it.
        matrix: any display matrix, 9 integers in 16.16 and 2.30 fixed point.
        colorspace, color_range: as libav numbers them: 1 BT.709, 5 BT.601, 9 BT.2020; 1 limited, 2 full.
        muxer: options of the container, e.g. {"movflags": "faststart"}; negative pts with
            {"avoid_negative_ts": "disabled"} make an mp4's edit list cut those frames.
        audio_seconds: length of a sine tone beside the pictures; 0 for none.
    """

    codec: str = "libx264"
    pix_fmt: str = "yuv420p"
    fps: int = 25
    time_base: Fraction | None = None
    pts: Sequence[int] | None = None
    stored_pts: Sequence[int] | None = None
    group: int = 8
    b_frames: int = 2
    open_groups: bool = False
    intra_refresh: bool = False
    parameters: str = ""
    rotation: int = 0
    hflip: bool = False
    matrix: Sequence[int] | None = None
    colorspace: int | None = None
    color_range: int | None = None
    muxer: dict[str, str] = field(default_factory=dict)
    audio_seconds: float = 0.0


H264 = Encoding()


def draw_frame(number: int, height: int, width: int) -> Picture:
    """uint8 (height, width, 3): the number in binary above, three coloured patches that depend on it below."""
    picture = np.zeros((height, width, 3), dtype=np.uint8)
    bits = [(number >> place) & 1 for place in range(BIT_ROWS * BIT_COLUMNS)]
    for place, bit in enumerate(bits):
        rows, columns = _block(place, height, width)
        picture[rows, columns] = 235 if bit else 20
    for patch in range(NUM_PATCHES):
        columns = slice(patch * width // NUM_PATCHES, (patch + 1) * width // NUM_PATCHES)
        picture[height // 2 :, columns] = PALETTE[(number + patch) % len(PALETTE)]
    return picture


def read_number(picture: Picture) -> int:
    """The number that an upright picture shows, at any size."""
    height, width = picture.shape[:2]
    number = 0
    for place in range(BIT_ROWS * BIT_COLUMNS):
        rows, columns = _block(place, height, width)
        number |= int(_core(picture[rows, columns]).mean() > 127) << place
    return number


def patch_colors(picture: Picture) -> NDArray[np.float64]:
    """(3, 3): mean colour in the middle of each patch, away from the edges that chroma subsampling blurs."""
    height, width = picture.shape[:2]
    edges = [patch * width // NUM_PATCHES for patch in range(NUM_PATCHES + 1)]
    patches = [picture[height // 2 :, left:right] for left, right in pairwise(edges)]
    return np.stack([_core(patch).mean(axis=(0, 1)) for patch in patches])


def drawn_colors(number: int) -> NDArray[np.float64]:
    """What `patch_colors` gives for the picture as it was drawn."""
    return np.stack([PALETTE[(number + patch) % len(PALETTE)] for patch in range(NUM_PATCHES)]).astype(np.float64)


def write_video(
    path: Path,
    num_frames: int = 24,
    *,
    height: int = 48,
    width: int = 80,
    encoding: Encoding = H264,
    format: str | None = None,
    numbers: Iterable[int] | None = None,
) -> list[Fraction]:
    """Write frames that show 0, 1, 2, ... (or `numbers`); returns their presentation times in seconds."""
    shown = list(range(num_frames) if numbers is None else numbers)
    pictures = [draw_frame(number, height, width) for number in shown]
    return write_pictures(path, pictures, encoding=encoding, format=format)


def write_pictures(
    path: Path, pictures: Sequence[Picture], *, encoding: Encoding = H264, format: str | None = None
) -> list[Fraction]:
    """Write any pictures, uint8 (H, W, 3) RGB; returns their presentation times in seconds."""
    time_base = encoding.time_base or Fraction(1, encoding.fps)
    pts = list(range(len(pictures))) if encoding.pts is None else list(encoding.pts)
    with av.open(str(path), "w", format=format, options=encoding.muxer) as container:
        stream = _video_stream(container, encoding, (pictures[0].shape[0], pictures[0].shape[1]), time_base)
        tone = _audio_stream(container) if encoding.audio_seconds else None
        frames = [_frame(picture, time, time_base, encoding) for time, picture in zip(pts, pictures, strict=True)]
        packets = [packet for frame in [*frames, None] for packet in stream.encode(frame)]
        if encoding.stored_pts is not None:
            for place, (packet, time) in enumerate(zip(packets, encoding.stored_pts, strict=True)):
                packet.pts, packet.dts = time, place
        container.mux(packets)
        if tone is not None:
            _write_tone(container, tone, encoding.audio_seconds)
    return [time * time_base for time in pts]


def write_sound(path: Path, *, seconds: float = 0.5) -> None:
    """A file that holds a sine tone and no picture."""
    with av.open(str(path), "w") as container:
        _write_tone(container, _audio_stream(container), seconds)


def set_edit_start(path: Path, media_time: int) -> None:
    """Rewrite an mp4's first edit so that the movie begins `media_time` ticks into the track.

    PyAV sets no edit list, so the version-0 'elst' box (ISO/IEC 14496-12, 8.6.6) is patched: 4 bytes of flags, 4 of
    the count, then per edit 4 of duration, 4 of media time, 4 of rate.
    """
    data = bytearray(path.read_bytes())
    box = data.index(b"elst")
    struct.pack_into(">i", data, box + 4 + 4 + 4 + 4, media_time)
    path.write_bytes(data)


def copy_packets(source: Path, target: Path, *, first: int) -> None:
    """Copy a video's packets from one on, without encoding: a recording that was cut, as a downloader cuts."""
    with av.open(str(source)) as whole, av.open(str(target), "w") as cut:
        stream = cut.add_stream_from_template(whole.streams.video[0])
        packets = [packet for packet in whole.demux(video=0) if packet.size]
        for packet in packets[first:]:
            packet.stream = stream
            cut.mux(packet)


def packet_places(path: Path) -> list[tuple[int, int]]:
    """(offset, size) in the file of each video packet, in the order of the file: where to damage it."""
    with av.open(str(path)) as container:
        return [(p.pos, p.size) for p in container.demux(video=0) if p.size]


def _block(place: int, height: int, width: int) -> tuple[slice, slice]:
    row, column = divmod(place, BIT_COLUMNS)
    rows = slice(row * height // (2 * BIT_ROWS), (row + 1) * height // (2 * BIT_ROWS))
    return rows, slice(column * width // BIT_COLUMNS, (column + 1) * width // BIT_COLUMNS)


def _core(block: Picture) -> Picture:
    height, width = block.shape[:2]
    return block[height // 4 : max(height - height // 4, 1), width // 4 : max(width - width // 4, 1)]


def _video_stream(container: Any, encoding: Encoding, size: tuple[int, int], time_base: Fraction) -> Any:
    stream = container.add_stream(encoding.codec, rate=encoding.fps, options=_codec_options(encoding))
    (stream.height, stream.width), stream.pix_fmt = size, encoding.pix_fmt
    stream.codec_context.time_base = time_base
    stream.codec_context.thread_count = 1
    stream.codec_context.gop_size = encoding.group
    if encoding.codec in ("libx264", "libx265", "mpeg4", "mpeg2video"):
        stream.codec_context.max_b_frames = encoding.b_frames
    if encoding.colorspace is not None:
        stream.codec_context.colorspace = encoding.colorspace
    if encoding.color_range is not None:
        stream.codec_context.color_range = encoding.color_range
    if encoding.matrix is not None:
        stream.set_display_matrix(encoding.matrix)
    elif encoding.rotation or encoding.hflip:
        stream.set_display_rotation(encoding.rotation, hflip=encoding.hflip)
    return stream


def _codec_options(encoding: Encoding) -> dict[str, str]:
    group, b_frames, is_open = encoding.group, encoding.b_frames, int(encoding.open_groups)
    fixed = f"keyint={group}:min-keyint={group}:scenecut=0:bframes={b_frames}:b-adapt=0:open-gop={is_open}"
    fixed += f":{encoding.parameters}" if encoding.parameters else ""
    return {
        "libx264": {"crf": "8", "x264-params": f"{fixed}:intra-refresh={int(encoding.intra_refresh)}"},
        "libx265": {"crf": "8", "x265-params": f"{fixed}:log-level=none:pools=none:frame-threads=1"},
        "mpeg4": {"qscale": "2"},
        "mpeg2video": {"qscale": "2"},
        "libvpx": {"b": "300k", "cpu-used": "8"},
        "libvpx-vp9": {"crf": "15", "cpu-used": "8"},
        "libsvtav1": {"crf": "20", "preset": "12", "svtav1-params": f"keyint={group}:lp=1"},
    }.get(encoding.codec, {})


def _frame(picture: Picture, pts: int, time_base: Fraction, encoding: Encoding) -> Any:
    matrices = {1: "itu709", 5: "itu601", 9: "bt2020"}
    frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(
        format=encoding.pix_fmt,
        dst_colorspace=matrices.get(encoding.colorspace or 0),
        dst_color_range=encoding.color_range,
    )
    frame.pts, frame.time_base = pts, time_base
    return frame


def _audio_stream(container: Any) -> Any:
    return container.add_stream("aac", rate=16_000, layout="mono")


def _write_tone(container: Any, stream: Any, seconds: float) -> None:
    samples = np.sin(np.arange(int(16_000 * seconds)) * 0.1).astype(np.float32)
    for start in range(0, len(samples), 1024):
        frame = av.AudioFrame.from_ndarray(samples[None, start : start + 1024], format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 16_000, start
        container.mux(stream.encode(frame))
    container.mux(stream.encode())
