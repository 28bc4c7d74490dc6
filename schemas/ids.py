"""Names of videos, units and attempts as content digests; the schema version."""

import hashlib
import json
import re
import uuid
from typing import Any

SCHEMA_VERSION = "masks/1.0"
"""Table family / major.minor: minor adds nullable columns only, major renames or retypes. Readers accept 1.x."""

NUM_BUCKETS = 16
"""Hash partitions of a run's parts; fixed, so that a video's bucket never moves."""

_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


def content_digest(content: Any) -> str:
    """32 hex digits that name a JSON value: equal content gives equal names on every machine.

    Args:
        content: nested dicts, lists, tuples, strings, numbers, booleans, None. Keys are sorted; NaN is refused.
    """
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode("ascii")).hexdigest()[:32]


def bucket_of(name: str) -> int:
    """The hash partition of a unit or video, 0 .. NUM_BUCKETS - 1."""
    return int(hashlib.sha256(name.encode("utf-8")).hexdigest()[:8], 16) % NUM_BUCKETS


def new_attempt_id() -> str:
    """A name for one attempt at one unit, never used before."""
    return uuid.uuid4().hex


def check_run_id(run_id: str) -> str:
    """The run id itself, if it can be a file name in every store.

    Raises:
        ValueError: it cannot.
    """
    if not _RUN_ID.fullmatch(run_id):
        raise ValueError(
            f"run id {run_id!r}: expected 1 to 128 letters, digits, '.', '_' or '-', not beginning with a sign. "
            "Name the run with --run-id."
        )
    return run_id
