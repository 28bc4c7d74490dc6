"""The masks table: one row per object per processed frame, also where the object is absent."""

import pyarrow as pa

from schemas.fields import LOW_CARDINALITY, documented

BOX = pa.struct([(name, pa.float32()) for name in ("x", "y", "w", "h")])
"""Pixels of the decoded frame: left, top, width, height; right = x + w, exclusive."""

TRACE = pa.struct(
    [
        ("source", pa.string()),
        ("prompt_kind", pa.string()),
        ("memory_frames", pa.list_(pa.int32())),
        ("kalman_iou", pa.float32()),
    ]
)

MASKS: pa.Schema = documented(
    ("run_id", LOW_CARDINALITY, "Run that made the row."),
    ("dataset", LOW_CARDINALITY, "Data set, as the manifest names it; null when it does not."),
    ("video_id", LOW_CARDINALITY, "Video, as the manifest names it."),
    ("unit_id", LOW_CARDINALITY, "Work unit that made the row; joins commits and errors."),
    ("object_id", pa.int32(), "The masklet's name within its video, >= 1, never reused."),
    ("query_id", LOW_CARDINALITY, "The caller's name of the expression or prompt; null for objects nobody asked for."),
    ("label", LOW_CARDINALITY, "The expression, verbatim, or the class's name; null for geometric prompts."),
    ("class_id", pa.int32(), "Semantic class; null for methods that give none."),
    ("frame_index", pa.int32(), "0-based position in the source, in presentation order; gaps where a stride skips."),
    ("pts_us", pa.int64(), "Presentation time in microseconds."),
    ("present", pa.bool_(), "Whether the object is in view: true exactly when the mask has a pixel."),
    (
        "confidence",
        pa.float32(),
        "0..1, the model's estimate that the object is in view on this frame and that this mask is good: "
        "sigmoid(object_score) x predicted_iou unless the weights carry a calibration. "
        "It also stands on rows with present = false.",
    ),
    ("object_score", pa.float32(), "Logit that the object is in view; null when the model has no such head."),
    ("predicted_iou", pa.float32(), "0..1, the decoder's own estimate of the mask's IoU; null when it gives none."),
    (
        "stability",
        pa.float32(),
        "0..1, IoU of the mask cut one logit above and one logit below the threshold; null when not measured.",
    ),
    ("area", pa.int32(), "Pixels of the mask; 0 when absent."),
    ("bbox", BOX, "Tight box of the mask in pixels of the decoded frame: left, top, width, height; null when absent."),
    ("height", pa.int32(), "Height of the mask and of the decoded frame in pixels."),
    ("width", pa.int32(), "Width of the mask and of the decoded frame in pixels."),
    ("rle", pa.binary(), "COCO RLE counts (compressed, column-major, size height x width); null when absent."),
    (
        "trace",
        TRACE,
        "Why the mask is what it is; null for methods that do not tell, or when switched off. source: prompted (shown "
        "on this frame), tracked, motion (the motion-prompted decode won) or untracked; prompt_kind: what was shown or "
        "what the motion prompt consisted of; memory_frames: source frames read; kalman_iou: 0..1, agreement with the "
        "box that motion foretold.",
    ),
    ("attempt_id", pa.string(), "The attempt that made the row; one per unit in the visible rows."),
)

MASKS_KEY = ("run_id", "video_id", "object_id", "frame_index")
"""Unique among the visible rows; the order of rows within a part."""
