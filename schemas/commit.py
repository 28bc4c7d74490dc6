"""Commits: the one write that makes a unit's parts visible, and the table of them."""

import json
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from schemas.error_table import ErrorRecord
from schemas.fields import documented
from schemas.ids import SCHEMA_VERSION

COMMITS: pa.Schema = documented(
    ("run_id", pa.string(), "Run."),
    ("unit_id", pa.string(), "Work unit that became visible."),
    ("video_id", pa.string(), "One row per video (or range) of the unit."),
    ("range_start", pa.int64(), "First source frame of the range."),
    ("range_end", pa.int64(), "End of the range, exclusive; null means the video's end."),
    ("attempt_id", pa.string(), "The attempt whose parts are visible."),
    ("config_hash", pa.string(), "Digest of method config, weights and decode options."),
    ("frames", pa.int64(), "Frames processed."),
    ("objects", pa.int32(), "Objects or expressions asked for."),
    ("rows", pa.int64(), "Rows of the masks table."),
    ("input_etag", pa.string(), "What the store said of the input's version; null when it says nothing."),
    ("input_bytes", pa.int64(), "Size of the input."),
    (
        "device_seconds",
        pa.float64(),
        "Device time of this video's batches, its share of each.",
    ),
    ("committed_at", pa.timestamp("us", tz="UTC"), "When the commit was written."),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One staged Parquet file: path relative to the lake's root, rows, bytes, md5 in hex."""

    table: str
    path: str
    rows: int
    bytes: int
    md5: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CommittedItem:
    """One video (or range) that is visible in full. Fields as in COMMITS, besides item_id."""

    item_id: str
    video_id: str
    video_uri: str
    range_start: int
    range_end: int | None
    frames: int
    objects: int
    rows: int
    input_etag: str | None
    input_bytes: int | None
    device_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """A unit's outcome: what became visible, and which of its videos failed.

    Attributes:
        attempt_id: every visible row of the unit carries it.
        items: videos whose rows are in `parts`, whole.
        parts: the only paths from which readers take this unit's rows.
        errors: videos of a pack that failed while the rest succeeded.
        committed_at: seconds since the epoch, UTC.
    """

    run_id: str
    unit_id: str
    attempt_id: str
    config_hash: str
    items: tuple[CommittedItem, ...]
    parts: tuple[Part, ...]
    errors: tuple[ErrorRecord, ...]
    wall_seconds: float
    committed_at: float
    schema_version: str = SCHEMA_VERSION

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True, indent=1)

    @classmethod
    def from_json(cls, text: str) -> "Commit":
        record: dict[str, Any] = json.loads(text)
        record["items"] = tuple(CommittedItem(**item) for item in record["items"])
        record["parts"] = tuple(Part(**part) for part in record["parts"])
        record["errors"] = tuple(ErrorRecord(**error) for error in record["errors"])
        return cls(**record)


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """The small thing that travels back from a worker: how one unit ended.

    Attributes:
        status: "committed" (some or all videos), "failed" (none), "skipped" (another attempt had settled it).
        errors: one message per failed video, "video_id: class: message".
    """

    unit_id: str
    attempt_id: str
    status: str
    videos_ok: int
    videos_failed: int
    frames: int
    rows: int
    bytes: int
    wall_seconds: float
    device_seconds: float
    worker: str
    errors: tuple[str, ...] = ()
