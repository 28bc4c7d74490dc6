"""Manifests: the columns of the input list, which JSONL, CSV and Parquet encode alike."""

import pyarrow as pa

from schemas.fields import documented

_EXPRESSION = pa.struct([("id", pa.string()), ("text", pa.string()), ("motion_words", pa.list_(pa.string()))])
_MASK_RLE = pa.struct([("size", pa.list_(pa.int32())), ("counts", pa.string())])
_PROMPT = pa.struct(
    [
        ("object_id", pa.int32()),
        ("id", pa.string()),
        ("frame", pa.int32()),
        ("points", pa.list_(pa.list_(pa.float64()))),
        ("box", pa.list_(pa.float64())),
        ("mask_rle", _MASK_RLE),
    ]
)

MANIFEST: pa.Schema = documented(
    (
        "video_uri",
        pa.string(),
        "Required. A video file or a directory of frames: local path, s3://, gs://, https:// ...; a relative path "
        "starts from the manifest's own directory.",
    ),
    ("video_id", pa.string(), "Name of the row, unique in the manifest; the file's stem when left out."),
    ("dataset", pa.string(), "Where the video belongs; a column of the masks table."),
    (
        "expressions",
        pa.list_(_EXPRESSION),
        "Texts, or {id, text, motion_words} each; id is the position when left out. In CSV a JSON array, or texts "
        "separated by '|'.",
    ),
    (
        "prompts",
        pa.list_(_PROMPT),
        "{object_id >= 1, frame, points [[x, y, 1 or -1]], box [x0, y0, x1, y1], mask_rle {size, counts}} each, in "
        "pixels of the decoded frame; frame is the source's frame index. In CSV a JSON array.",
    ),
    (
        "modalities",
        pa.map_(pa.string(), pa.string()),
        "Name to URI of what comes beside rgb: a video, a directory of frames, an image or a .npy; several URIs with "
        "'|' between them are stacked as channels. In CSV a JSON object.",
    ),
    (
        "modality_order",
        pa.list_(pa.string()),
        "Which modalities a method sees, in which order; rgb, then `modalities` as listed, when left out. rgb may be "
        "missing from it: the video then only tells times and size. In CSV a JSON array.",
    ),
    (
        "crop",
        pa.list_(pa.int32()),
        "[x0, y0, x1, y1] in source pixels of rgb: the part of every modality that is read; for rows with modalities "
        "or modality_order. In CSV a JSON array.",
    ),
    ("start_frame", pa.int64(), "First source frame; 0 when left out."),
    ("end_frame", pa.int64(), "End of the range, exclusive; the video's end when left out."),
    ("stride", pa.int32(), "Every stride-th source frame from start_frame on; 1 when left out."),
    ("max_side", pa.int32(), "Longest side of decoded frames in pixels, 16 or more; the job's when left out."),
    ("fps", pa.float64(), "Frames per second of a directory of frames; videos bring their own times."),
    ("tags", pa.map_(pa.string(), pa.string()), "The caller's join keys, carried through. In CSV a JSON object."),
)

MANIFEST_COLUMNS: tuple[str, ...] = tuple(MANIFEST.names)
