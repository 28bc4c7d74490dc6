"""Which frames of a video to hand out, and at what size."""

from dataclasses import dataclass
from typing import Literal

from pipeline.errors import DecodeError

BadPts = Literal["error", "drop"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeOptions:
    """Which frames of a video to hand out, and at what size.

    Attributes:
        start_frame: first frame_index to hand out; the range is [start_frame, end_frame).
        end_frame: the range stops before it; None or a number past the end means the end of the video.
        stride: hand out start_frame, start_frame + stride, and so on; the others are decoded, not converted.
        max_side: the longer side of the picture in pixels, at most; smaller pictures are never enlarged.
        on_bad_pts: what to do with a frame whose presentation time is missing or not after the one before:
            "error" ends the video there, "drop" leaves the frame out (it keeps its frame_index: a gap).
        fps: rate of a source that tells no times, a folder of frames or a raw H.264 stream; refused for a
            source that does.

    Raises:
        DecodeError: a value is out of range.
    """

    start_frame: int = 0
    end_frame: int | None = None
    stride: int = 1
    max_side: int | None = None
    on_bad_pts: BadPts = "error"
    fps: float | None = None

    def __post_init__(self) -> None:
        if self.start_frame < 0:
            raise DecodeError(f"start_frame {self.start_frame}: expected >= 0. Count frames from 0.")
        if self.end_frame is not None and self.end_frame <= self.start_frame:
            raise DecodeError(
                f"frames [{self.start_frame}, {self.end_frame}): the range is empty. "
                "Give an end_frame above start_frame, or none for the whole video."
            )
        if self.stride < 1:
            raise DecodeError(f"stride {self.stride}: expected >= 1. Use 1 for every frame.")
        if self.max_side is not None and self.max_side < 1:
            raise DecodeError(f"max_side {self.max_side}: expected >= 1 pixel, or none for the full size.")
        if self.on_bad_pts not in ("error", "drop"):
            raise DecodeError(f"on_bad_pts {self.on_bad_pts!r}: expected 'error' or 'drop'.")
        if self.fps is not None and not 0.0 < self.fps < float("inf"):
            raise DecodeError(f"fps {self.fps}: expected a positive rate in frames per second.")

    def is_past(self, frame_index: int) -> bool:
        """Whether the range ends before this frame."""
        return self.end_frame is not None and frame_index >= self.end_frame

    def keeps(self, frame_index: int) -> bool:
        """Whether this frame is handed out."""
        since_start = frame_index - self.start_frame
        return since_start >= 0 and since_start % self.stride == 0 and not self.is_past(frame_index)
