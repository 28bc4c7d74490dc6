"""The frames table: one row per processed frame of a video."""

import pyarrow as pa

from schemas.fields import LOW_CARDINALITY, documented

FRAMES: pa.Schema = documented(
    ("run_id", LOW_CARDINALITY, "Run that made the row."),
    ("video_id", LOW_CARDINALITY, "Video, as the manifest names it."),
    ("frame_index", pa.int32(), "0-based position in the source, in presentation order; gaps where a stride skips."),
    ("pts_us", pa.int64(), "Presentation time in microseconds."),
    ("n_objects", pa.int32(), "Objects in view on the frame: rows of the masks table with present = true."),
    ("decode_ok", pa.bool_(), "False when the frame was damaged and its neighbour's picture stood in for it."),
    ("is_key", pa.bool_(), "Whether the source coded the frame as a key frame; null when unknown."),
    ("infer_us", pa.int32(), "Device time spent on the frame in microseconds, its share of each batch; null: unknown."),
    (
        "flags",
        pa.list_(pa.string()),
        'What the method told of the frame, such as "memory_reset", then what reading told, such as "missing:lidar" '
        'or "skipped" (no masks); empty when nothing.',
    ),
)

FRAMES_KEY = ("run_id", "video_id", "frame_index")
"""Unique among the visible rows; the order of rows within a part."""
