"""Snapshots of a long video half way, so that a killed worker's unit goes on inside it instead of from its start."""

import io
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch

from pipeline.errors import MasklakeError
from pipeline.io.storage import MissingFile, Store
from pipeline.segmenter import State

logger = logging.getLogger(__name__)

SNAPSHOTS = "_snapshots"
"""Folder of the lake: `_snapshots/run=R/<unit>.pt`, and rows staged by then below `_snapshots/run=R/<unit>/`."""

FORMAT = "masklake-snapshot/1"

_NUMPY = "__numpy__"


class SnapshotUnusable(Exception):
    """A snapshot cannot be gone on from; the unit is run from its start instead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """One video of a unit, half way.

    Attributes:
        input_etag: version of the video's file.
        last_frame_index: of the last frame that the session was given.
        frames, device_seconds: staged so far, by all attempts.
        session: from `SessionHandle.state_dict`.
        tracks: from `TrackAccumulator.state_dict`.
        saved: from `StagedItem.save`: where the rows lie.
        read_flags: (frame_index, what reading told of it) of frames that have not come out.
    """

    unit_id: str
    item_id: str
    input_etag: str | None
    last_frame_index: int
    frames: int
    device_seconds: float
    session: State
    tracks: Mapping[str, Any]
    saved: Mapping[str, list[str]]
    read_flags: Sequence[tuple[int, Sequence[str]]] = ()


def rows_folder(run_id: str, unit_id: str) -> str:
    """Where `StagedItem.save` puts the rows that belong to snapshots of a unit."""
    return f"{SNAPSHOTS}/run={run_id}/{unit_id}"


def write_snapshot(store: Store, run_id: str, snapshot: Snapshot) -> None:
    """Replace the unit's snapshot; readers see the old one or the new one, whole."""
    content = {field.name: _packed(getattr(snapshot, field.name)) for field in fields(Snapshot)}
    file = io.BytesIO()
    torch.save({"format": FORMAT, **content}, file)
    store.write_whole(_path(run_id, snapshot.unit_id), file.getvalue())


def read_snapshot(store: Store, run_id: str, unit_id: str, item_id: str) -> Snapshot | None:
    """The unit's snapshot, or None; one that is damaged or of something else is told in the log and left alone.

    Nothing in the file is executed: only tensors and plain values are read.
    """
    path = _path(run_id, unit_id)
    try:
        content = torch.load(io.BytesIO(store.read_bytes(path)), map_location="cpu", weights_only=True)
        if content.pop("format") != FORMAT:
            raise ValueError(f"not of format {FORMAT}")
        snapshot = Snapshot(**{name: _unpacked(value) for name, value in content.items()})
        if (snapshot.unit_id, snapshot.item_id) != (unit_id, item_id):
            raise ValueError(f"of unit {snapshot.unit_id}, item {snapshot.item_id}")
        return snapshot
    except MissingFile:
        return None
    # Whatever is wrong with the file, the video can be run from its start.
    except Exception as error:
        warn_unusable(unit_id, f"{store.uri(path)}: {type(error).__name__}: {error}")
        return None


def warn_unusable(unit_id: str, why: str) -> None:
    """Tell that a snapshot is not used."""
    logger.warning("unit %s: snapshot not used, starting over: %s", unit_id, why, extra={"unit_id": unit_id})


def delete_snapshot(store: Store, run_id: str, unit_id: str) -> None:
    """Remove a unit's snapshot and its rows; what the store will not delete expires with the bucket's lifecycle."""
    try:
        rows = [file.path for file in store.list(rows_folder(run_id, unit_id))]
        store.delete([_path(run_id, unit_id), *rows])
    except MasklakeError as error:
        logger.warning("unit %s: its snapshot stays: %s", unit_id, error, extra={"unit_id": unit_id})


def _path(run_id: str, unit_id: str) -> str:
    return f"{rows_folder(run_id, unit_id)}.pt"


def _packed(value: Any) -> Any:
    """The same with arrays as tensors and mappings as dicts, which is all that a safe load takes."""
    if isinstance(value, np.ndarray):
        return {_NUMPY: torch.from_numpy(value.copy())}
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return {key: _packed(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_packed(entry) for entry in value)
    return value


def _unpacked(value: Any) -> Any:
    if isinstance(value, dict):
        return value[_NUMPY].numpy() if _NUMPY in value else {key: _unpacked(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_unpacked(entry) for entry in value)
    return value
