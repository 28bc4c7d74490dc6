"""What a video is, for planning: size, rate, length, codec."""

import os
from dataclasses import dataclass
from fractions import Fraction

from pipeline.decode.frame_folder import folder_fps, frame_files, image_size
from pipeline.decode.frame_reader import FrameReader
from pipeline.decode.media_file import Media, VideoFile, open_media
from pipeline.decode.options import DecodeOptions
from pipeline.decode.packet_entry import START
from pipeline.decode.packet_facts import average_rate, estimate_num_frames
from pipeline.decode.picture_index import count_frames
from pipeline.decode.pixels import orientation_of
from pipeline.errors import DecodeError


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoFacts:
    """What a video is.

    Attributes:
        height, width: of the upright picture, in pixels.
        rotation_degrees: how far the stored picture is turned counter-clockwise to stand upright: 0, 90, 180, 270.
        is_mirrored: whether it is also flipped left to right, after the turn.
        fps: average rate; None if the container does not tell.
        num_frames: frames of the source; an estimate unless `num_frames_is_exact`, None if unknown.
        duration_us: how long it is shown; None if the container does not tell.
        codec, pix_fmt: as libav names them, e.g. "h264", "yuv420p"; "images" and the suffix for a folder.
        num_bytes: size of the file, or of all frames of a folder; None if it cannot be told.
    """

    height: int
    width: int
    rotation_degrees: int
    is_mirrored: bool
    fps: float | None
    num_frames: int | None
    num_frames_is_exact: bool
    duration_us: int | None
    codec: str
    pix_fmt: str
    num_bytes: int | None


def probe(source: VideoFile, *, exact: bool = False, name: str | None = None, fps: float | None = None) -> VideoFacts:
    """Look at a video: decodes one frame, and with `exact` reads the file to its end to count frames.

    Args:
        source: path of a video or of a directory of frames, or an open binary file (the caller closes it).
        exact: count the frames, by reading packets (see `count_frames`); else take the container's word.
        name: what errors call the video.
        fps: rate of a source that tells no times, as in DecodeOptions.

    Raises:
        DecodeError: the source is missing, broken, or no video; with `exact`, also when it breaks off.
        StorageError: reading the file failed.
    """
    if isinstance(source, str | os.PathLike) and os.path.isdir(source):
        return _folder_facts(source, DecodeOptions(fps=fps))
    media = open_media(source, name=name)
    try:
        return _container_facts(media, exact=exact, fps=fps)
    finally:
        media.close()


def _container_facts(media: Media, *, exact: bool, fps: float | None) -> VideoFacts:
    rate = average_rate(media)
    num_frames, duration_us = estimate_num_frames(media), _duration_us(media)
    reader = FrameReader(media, START, on_bad_pts="drop", fps=fps)
    frame = next(reader.frames(), None)
    if frame is None:
        raise DecodeError(f"{media.name}: no picture can be decoded. Expected at least one; check the file.")
    first = frame.picture
    orientation = orientation_of(first, where=media.name)
    height, width = orientation.upright_size(first.height, first.width)
    if exact:
        media.reopen()
        num_frames = count_frames(media, fps=fps)
    return VideoFacts(
        height=height,
        width=width,
        rotation_degrees=orientation.rotation_degrees,
        is_mirrored=orientation.is_mirrored,
        fps=fps or (None if rate is None else float(rate)),
        num_frames=num_frames,
        num_frames_is_exact=exact,
        duration_us=duration_us,
        codec=media.codec_name,
        pix_fmt=first.format.name,
        num_bytes=media.num_bytes,
    )


def _duration_us(media: Media) -> int | None:
    """The stream's own length if told, else that of the longest stream."""
    stream = media.stream
    if not media.has_timestamps:
        return None
    if stream.duration is not None:
        return round(Fraction(stream.duration * stream.time_base) * 1_000_000)
    return None if media.container.duration is None else int(media.container.duration)


def _folder_facts(folder: str | os.PathLike[str], options: DecodeOptions) -> VideoFacts:
    files, fps = frame_files(folder), folder_fps(options)
    height, width = image_size(files[0])
    return VideoFacts(
        height=height,
        width=width,
        rotation_degrees=0,
        is_mirrored=False,
        fps=float(fps),
        num_frames=len(files),
        num_frames_is_exact=True,
        duration_us=round(len(files) / fps * 1_000_000),
        codec="images",
        pix_fmt=files[0].suffix.lower().lstrip("."),
        num_bytes=sum(file.stat().st_size for file in files),
    )
