"""How the modalities of one scene or video are brought together: alignment, tolerances, and what to do about gaps."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Count = Annotated[int, Field(ge=0)]


class BundleOptions(BaseModel):
    """How several modalities become one tick; rgb (`video_uri`) tells which ticks there are, and their size.

    Attributes:
        align: "time": the frame that is shown nearest to rgb's. "name": the frame of the same number; a frame of a
            directory is numbered by the digits of its name ("000123_rgb_front" and "000123_lidar_front" are one), one
            of a video or of a .npy by its place from 0. "auto": by name where a directory takes part and no video
            does (the times of a directory are counted, so that one missing file would shift all that follow), else by
            time. A single image or array is shown at time 0.
        tolerance_us: "time": the greatest distance that still counts as the same moment.
        tolerance_frames: "name": the greatest difference of the last number.
        on_missing: a modality has no frame within the tolerance, or its file is not there. "error" fails the video,
            "skip_frame" leaves the frame out (it has no masks), "drop_modality" goes on with the other modalities.
            The frames table tells of the last two: "missing:lidar" (no frame, or none of that number) or
            "late:lidar:+35000us" (the nearest one, so far after rgb's or, with -, before it), and "skipped".
        on_other_size: a modality has another size than rgb. "nearest" brings it to rgb's by nearest neighbour, as
            DELIVER's low-resolution events are, and tells "resized:event"; a picture of another shape (its sides
            differ by more than rounding) is refused always, as is any other size under "error".
        on_nan: a .npy holds NaN or infinity. "error" fails the video, "zero" puts 0 there and tells "nan:depth".
        zero_filled: modalities that are given as zeros instead of what was recorded (before any normalisation): the
            zero-filled protocol of missing modalities. rgb still tells times and size.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    align: Literal["auto", "time", "name"] = "auto"
    tolerance_us: Count = 20_000
    tolerance_frames: Count = 0
    on_missing: Literal["error", "skip_frame", "drop_modality"] = "error"
    on_other_size: Literal["nearest", "error"] = "nearest"
    on_nan: Literal["error", "zero"] = "error"
    zero_filled: tuple[str, ...] = ()
