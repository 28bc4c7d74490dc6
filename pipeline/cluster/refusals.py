"""Bad rows of a manifest as rows of the errors table."""

import time
from collections.abc import Sequence

from pipeline.io.commit_log import ERRORS, record_failure
from pipeline.io.manifest import ManifestReading
from pipeline.io.manifest_rows import RowProblem
from pipeline.io.storage import Store
from schemas.error_table import ErrorRecord
from schemas.ids import content_digest


def record_refusals(store: Store, run_id: str, reading: ManifestReading) -> None:
    """Put what was refused into the errors table, in place of what an earlier state of the manifest had refused."""
    unit_id = content_digest(["manifest", reading.uri])
    store.delete([f"{ERRORS}/run={run_id}/{unit_id}.json"])
    records = refusal_records(run_id, unit_id, reading.refused)
    if records:
        record_failure(store, run_id, unit_id, records)


def refusal_records(run_id: str, unit_id: str, refused: Sequence[RowProblem]) -> list[ErrorRecord]:
    """One record per bad row, with everything that is wrong with it."""
    by_line: dict[tuple[str, int], list[RowProblem]] = {}
    for problem in refused:
        by_line.setdefault((problem.file, problem.line), []).append(problem)
    now = time.time()
    return [
        ErrorRecord(
            run_id=run_id,
            unit_id=unit_id,
            video_id=problems[0].video_id,
            video_uri=problems[0].video_uri,
            stage="manifest",
            error_class="ManifestError",
            message="; ".join(str(problem) for problem in problems),
            retryable=False,
            line=line,
            first_at=now,
            last_at=now,
        )
        for (_, line), problems in by_line.items()
    ]
