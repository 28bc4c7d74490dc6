"""The errors table: a failed input is an outcome too, with stage, class, message and whether a retry makes sense."""

from dataclasses import dataclass

import pyarrow as pa

from schemas.fields import documented

STAGES = ("manifest", "open", "decode", "prompt", "segment", "encode", "stage", "commit", "worker")
"""Where an input can fail, in the order in which it passes them."""

ERRORS: pa.Schema = documented(
    ("run_id", pa.string(), "Run that met the error."),
    ("unit_id", pa.string(), "Work unit; for a refused manifest row a digest of manifest and line."),
    ("item_id", pa.string(), "What failed: the video or range with its prompts, by content; null for a manifest row."),
    ("video_id", pa.string(), "Video, as the manifest names it; null when the row does not say."),
    ("video_uri", pa.string(), "Where the video was looked for; null when the row does not say."),
    ("stage", pa.string(), "One of: " + ", ".join(STAGES) + "."),
    ("class", pa.string(), "Error class."),
    ("message", pa.string(), "What came, what was expected, what to do."),
    ("retryable", pa.bool_(), "Whether the same input may succeed later without a change."),
    ("attempts", pa.int32(), "Attempts that ended in an error so far."),
    ("line", pa.int32(), "Line of the manifest, 1-based; null when unknown."),
    ("first_at", pa.timestamp("us", tz="UTC"), "First attempt that failed."),
    ("last_at", pa.timestamp("us", tz="UTC"), "Last attempt that failed."),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorRecord:
    """One failed input. Fields as in ERRORS; times are seconds since the epoch, UTC."""

    run_id: str
    unit_id: str
    video_id: str | None
    video_uri: str | None
    stage: str
    error_class: str
    message: str
    retryable: bool
    attempts: int = 1
    line: int | None = None
    first_at: float
    last_at: float
    item_id: str | None = None

    def __post_init__(self) -> None:
        if self.stage not in STAGES:
            raise ValueError(f"stage {self.stage!r}: expected one of {', '.join(STAGES)}.")
