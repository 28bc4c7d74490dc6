"""Starts of a unit that had no outcome yet: how a video that kills its worker is told from a killed worker."""

import json
import time

from pipeline.io.storage import Store

ATTEMPTS = "_attempts"


def begin_attempt(store: Store, run_id: str, unit_id: str, attempt_id: str) -> int:
    """Note that a unit is being started; return how many earlier starts had no outcome."""
    earlier = len(store.list(_folder(run_id, unit_id)))
    note = json.dumps({"attempt_id": attempt_id, "started_at": time.time()})
    store.write_whole(f"{_folder(run_id, unit_id)}/{attempt_id}.json", note.encode())
    return earlier


def end_attempts(store: Store, run_id: str, unit_id: str) -> None:
    """The unit has an outcome: forget its starts."""
    store.delete([file.path for file in store.list(_folder(run_id, unit_id))])


def _folder(run_id: str, unit_id: str) -> str:
    return f"{ATTEMPTS}/run={run_id}/{unit_id}"
