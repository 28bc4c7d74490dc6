"""The tracks table: one row per object of a video, or of a range of a long one."""

import pyarrow as pa

from schemas.fields import LOW_CARDINALITY, documented

LOW_CONFIDENCE = 0.5
"""Below it a frame counts as doubtful in `low_conf_runs`."""

MIN_LOW_CONF_FRAMES = 5
"""Shorter stretches of doubtful frames are not listed in `low_conf_runs`."""

SOURCES = ("text", "mask", "box", "points", "method")
"""What an object was asked by; "method" for objects that nobody asked for."""

FRAME_RANGE = pa.struct([("start", pa.int32()), ("end", pa.int32())])

TRACKS: pa.Schema = documented(
    ("run_id", LOW_CARDINALITY, "Run that made the row."),
    ("video_id", LOW_CARDINALITY, "Video, as the manifest names it."),
    ("object_id", pa.int32(), "The masklet's name within its video, >= 1, never reused."),
    ("query_id", LOW_CARDINALITY, "The caller's name of the expression or prompt; null for objects nobody asked for."),
    ("label", LOW_CARDINALITY, "The expression, verbatim, or the class's name; null for geometric prompts."),
    ("class_id", pa.int32(), "The semantic class given most often over the frames; null when none was."),
    ("source", LOW_CARDINALITY, "What the object was asked by, one of: " + ", ".join(SOURCES) + "."),
    ("first_frame", pa.int32(), "First source frame on which the object is in view; null when it never is."),
    ("last_frame", pa.int32(), "Last source frame on which the object is in view; null when it never is."),
    ("n_frames", pa.int32(), "Frames processed: the object's rows in the masks table."),
    ("n_present", pa.int32(), "Frames on which the object is in view."),
    ("confidence_mean", pa.float32(), "0..1, mean of masks.confidence over the n_frames frames."),
    ("confidence_min", pa.float32(), "0..1, smallest masks.confidence over the n_frames frames."),
    (
        "confidence_p10",
        pa.float32(),
        "0..1, the smallest confidence that at least a tenth of the frames do not exceed; within 0.001.",
    ),
    (
        "low_conf_runs",
        pa.list_(FRAME_RANGE),
        f"Ranges [start, end) of source frames: {MIN_LOW_CONF_FRAMES} or more processed frames in a row with "
        f"confidence < {LOW_CONFIDENCE}, in view or not; in order, empty when none.",
    ),
    ("area_mean", pa.float32(), "Mean pixels of the mask over the frames in view; null when it never is."),
    ("area_min", pa.int32(), "Fewest pixels of the mask over the frames in view; null when it never is."),
    ("area_max", pa.int32(), "Most pixels of the mask over the frames in view; null when it never is."),
    ("merged_from", pa.list_(pa.int32()), "object_ids of the masklets that were joined into this one; empty if none."),
    (
        "flags",
        pa.list_(pa.string()),
        'Sorted: "never_present"; "has_gap" (out of view between two frames in view); "touches_border" '
        "(a pixel on the frame's border on some frame).",
    ),
)

TRACKS_KEY = ("run_id", "video_id", "object_id")
"""The order of rows within a part; unique unless a video was worked off in ranges: then one row per range."""
