"""Runs units in this process, several at once on one worker, without Ray: for a GPU box, a laptop and tests."""

from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

from pipeline.engine.worker import Worker, WorkerSettings
from schemas.commit import Receipt
from schemas.work_unit import WorkUnit


def run_local(
    settings: WorkerSettings,
    units: Iterable[WorkUnit],
    *,
    on_receipt: Callable[[Receipt], None],
    worker: Worker | None = None,
) -> None:
    """Run units, `settings.max_videos` at once, and hand over each receipt as its unit ends, in the calling thread.

    Any error that ends the run, and Ctrl-C, abandons the units that are running: they are neither committed nor
    recorded, and a later run does them.

    Args:
        units: taken one by one, as there is room.
        on_receipt: may raise to end the run.
        worker: one that is ready; by default one is built from the settings. It is closed in the end.

    Raises:
        ConfigError, WeightsError: no worker could be built.
        EngineError: the device was lost.
        StorageError: an outcome could not be recorded.
    """
    with (
        worker or Worker(settings) as ready,
        ThreadPoolExecutor(settings.max_videos, thread_name_prefix="masklake-video") as pool,
    ):
        running: set[Future[Receipt]] = set()
        try:
            for unit in units:
                running.add(pool.submit(ready, unit.to_json()))
                if len(running) == settings.max_videos:
                    running = _hand_over(running, on_receipt)
            while running:
                running = _hand_over(running, on_receipt)
        except BaseException:
            # Before the pool waits for its threads: they wait for the engine.
            ready.close()
            raise


def _hand_over(running: set[Future[Receipt]], on_receipt: Callable[[Receipt], None]) -> set[Future[Receipt]]:
    """Wait until some units have ended; those that still run."""
    ended, going_on = wait(running, return_when=FIRST_COMPLETED)
    for future in ended:
        on_receipt(future.result())
    return going_on
