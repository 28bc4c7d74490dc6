"""One call of a worker, seen from its runner: any outcome is a receipt, and a unit that kills workers is told."""

import logging
import time
import traceback

from pipeline.engine.worker import Worker, WorkerSettings
from pipeline.io.attempts import begin_attempt, end_attempts
from pipeline.io.commit_log import record_failure
from pipeline.io.storage import open_store
from schemas.commit import Receipt
from schemas.error_table import ErrorRecord
from schemas.ids import new_attempt_id
from schemas.work_unit import WorkUnit

logger = logging.getLogger(__name__)


class WorkerLost(Exception):
    """The worker has lost its device: nothing is known of the unit, and only another process can run it."""


class UnitCall:
    """A worker behind a guard, for runners that must see a receipt for every unit."""

    def __init__(self, settings: WorkerSettings, *, max_unit_attempts: int) -> None:
        self._store = open_store(settings.lake)
        self._worker = Worker(settings)
        self._max_unit_attempts = max_unit_attempts

    def __call__(self, unit_json: str) -> Receipt:
        """Run one unit; what the worker did not catch is recorded at stage "worker".

        Raises:
            WorkerLost: the device was lost, under this unit or an earlier one.
        """
        unit = WorkUnit.from_json(unit_json)
        try:
            deaths = begin_attempt(self._store, unit.run_id, unit.unit_id, new_attempt_id())
            receipt = self._refuse(unit, deaths) if deaths >= self._max_unit_attempts else self._worker(unit_json)
            end_attempts(self._store, unit.run_id, unit.unit_id)
        except Exception as error:
            if not self._worker.alive:
                raise WorkerLost(f"unit {unit.unit_id}: {error}") from error
            logger.error("unit %s: %s", unit.unit_id, traceback.format_exc(), extra={"unit_id": unit.unit_id})
            message = f"{error}" if str(error) else repr(error)
            return self._failed(unit, type(error).__name__, message, retryable=True)
        return receipt

    def close(self) -> None:
        self._worker.close()

    def _refuse(self, unit: WorkUnit, deaths: int) -> Receipt:
        message = (
            f"{deaths} starts of this unit had no outcome: its worker died each time. Look for a video that kills the "
            "decoder or does not fit memory; then run again with --retry-failed."
        )
        return self._failed(unit, "WorkerDied", message, retryable=False)

    def _failed(self, unit: WorkUnit, error_class: str, message: str, *, retryable: bool) -> Receipt:
        now = time.time()
        errors = tuple(
            ErrorRecord(
                run_id=unit.run_id,
                unit_id=unit.unit_id,
                video_id=item.video_id,
                video_uri=item.video_uri,
                stage="worker",
                error_class=error_class,
                message=message,
                retryable=retryable,
                line=item.line,
                item_id=item.item_id,
                first_at=now,
                last_at=now,
            )
            for item in unit.items
        )
        try:
            record_failure(self._store, unit.run_id, unit.unit_id, errors)
        except Exception:
            logger.error("unit %s: its failure could not be recorded", unit.unit_id, exc_info=True)
        return Receipt(
            unit_id=unit.unit_id,
            attempt_id="",
            status="failed",
            videos_ok=0,
            videos_failed=len(unit.items),
            frames=0,
            rows=0,
            bytes=0,
            wall_seconds=0.0,
            device_seconds=0.0,
            worker="",
            errors=tuple(f"{item.video_id}: {error_class}: {message}" for item in unit.items),
        )
