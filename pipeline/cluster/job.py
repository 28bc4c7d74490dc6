"""A corpus job from config to exit code: plan, run on Ray or in this process, summary."""

import logging
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from pipeline.cluster.config import CorpusJob, JobT, max_failures, parse_job
from pipeline.cluster.logs import set_up_logging
from pipeline.cluster.preparation import Prepared, begin_run, finish_run, prepare, withdraw_run
from pipeline.cluster.progress import Progress, TooManyFailures, clock_text
from pipeline.errors import ConfigError, EngineError, ManifestError, MasklakeError, PromptError, WeightsError
from schemas.commit import Receipt

logger = logging.getLogger(__name__)

EXIT_OK = 0
EXIT_CRASH = 1
EXIT_USAGE = 2
EXIT_PARTIAL = 3
EXIT_TOO_MANY_FAILURES = 4
EXIT_NO_WEIGHTS = 5
EXIT_INTERRUPTED = 130


def main(job_class: type[JobT], arguments: Sequence[str], *, prog: str) -> int:
    """Parse flags, run the job, return the exit code; errors a user can act on end in one message on stderr."""
    try:
        job = parse_job(job_class, arguments, prog=prog)
        set_up_logging(as_json=job.log_json, quiet=job.quiet)
        with _stopped_by_sigterm():
            return run_corpus(job)
    except (ConfigError, ManifestError, PromptError) as error:
        return _told(error, EXIT_USAGE)
    except WeightsError as error:
        return _told(error, EXIT_NO_WEIGHTS)
    except TooManyFailures as error:
        return _told(error, EXIT_TOO_MANY_FAILURES)
    except MasklakeError as error:
        return _told(error, EXIT_CRASH)
    except KeyboardInterrupt:
        return _told("interrupted; committed units stay, run the same command again to go on.", EXIT_INTERRUPTED)


def run_corpus(job: CorpusJob) -> int:
    """Do what the job says and return its exit code.

    Raises:
        ConfigError, ManifestError, WeightsError, StorageError: nothing was run.
        TooManyFailures: given up as --max-errors asks.
        EngineError: the run ended early; committed units stay.
    """
    prepared = prepare(job)
    if job.dry_run or not job.quiet:
        print(prepared.render(), flush=True)
    if job.dry_run:
        return EXIT_OK
    record = begin_run(prepared)
    progress = Progress(
        num_units=len(prepared.plan.units),
        num_frames=prepared.plan.num_frames,
        max_failed_videos=_allowed_failures(job, prepared),
        videos_failed=prepared.reading.num_refused_rows,
    )
    started = time.monotonic()
    try:
        if prepared.plan.units:
            _run_units(prepared, progress.add)
    except (ConfigError, WeightsError, EngineError):
        if not withdraw_run(prepared, record, progress):
            finish_run(prepared, record, progress)
        raise
    except BaseException:
        finish_run(prepared, record, progress)
        raise
    finish_run(prepared, record, progress)
    print(_summary(prepared, progress, time.monotonic() - started), flush=True)
    return _exit_code(job, prepared, progress)


def _run_units(prepared: Prepared, on_receipt: Callable[[Receipt], None]) -> None:
    job, units = prepared.job, prepared.plan.units
    if job.runner == "local":
        from pipeline.engine.local import run_local

        run_local(prepared.settings, units, on_receipt=on_receipt)
        return
    from pipeline.cluster.dataflow import PoolSize, ray_session, run_on_ray

    pool = PoolSize(
        num_actors=min(job.num_actors, len(units)),
        calls_per_actor=job.videos_per_actor,
        cpus_per_actor=job.cpus_per_actor,
        gpus_per_actor=job.gpus_per_actor,
    )
    with ray_session(pool, device=job.device) as fitted:
        run_on_ray(
            prepared.settings,
            units,
            fitted,
            on_receipt=on_receipt,
            max_unit_attempts=job.max_unit_attempts,
            no_progress_seconds=job.no_progress_hours * 3600,
        )


def _allowed_failures(job: CorpusJob, prepared: Prepared) -> int | None:
    return None if job.max_errors is None else max_failures(job.max_errors, prepared.num_videos)


def _exit_code(job: CorpusJob, prepared: Prepared, progress: Progress) -> int:
    if not progress.videos_failed:
        return EXIT_OK
    if not progress.videos_ok and not prepared.num_committed_before:
        logger.error("every video failed; see the errors table of %s", prepared.store.root_uri)
        return EXIT_TOO_MANY_FAILURES
    return EXIT_PARTIAL if job.fail_on_partial else EXIT_OK


def _summary(prepared: Prepared, progress: Progress, seconds: float) -> str:
    lake = prepared.store.root_uri
    lines = [
        f"run {prepared.run_id}: {progress.videos_ok} videos committed, {progress.videos_failed} failed, "
        f"{prepared.num_committed_before} committed before",
        f"  {progress.frames:,} frames, {progress.rows:,} mask rows in {clock_text(seconds)} "
        f"({progress.frames / max(seconds, 1e-9):.1f} frames/s, start-up included)",
        f"  lake: {lake}",
    ]
    if progress.videos_failed:
        question = "SELECT video_id, stage, class, message FROM errors"
        lines.append(f'  why they failed: masklake query {shlex.quote(lake)} "{question}"')
    return "\n".join(lines)


@contextmanager
def _stopped_by_sigterm() -> Iterator[None]:
    """A cluster that takes the machine away ends a run as Ctrl-C does: what was committed is counted and stays."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _told(error: object, code: int) -> int:
    logger.error("%s", error) if logging.getLogger("pipeline").handlers else print(
        f"masklake: {error}", file=sys.stderr
    )
    return code
