"""The Ray Data graph: one row a unit, a pool of stateful actors, receipts back; masks never travel."""

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ray
import ray.data

from pipeline.cluster.unit_call import UnitCall
from pipeline.engine.worker import WorkerSettings
from pipeline.errors import EngineError
from schemas.commit import Receipt
from schemas.work_unit import WorkUnit

logger = logging.getLogger(__name__)

MAX_BLOCKS = 20_000
"""Rows share a block beyond this many units: a block costs about 30 ms of scheduling."""

LOCAL_OBJECT_STORE_BYTES = 256 * 1024 * 1024
"""Receipts are a few hundred bytes; a local cluster need not claim a third of the machine's memory."""


class UnitActor:
    """One actor of the pool: a worker with its model loaded, called by several threads at once."""

    def __init__(self, settings_json: str, max_unit_attempts: int) -> None:
        self._call = UnitCall(WorkerSettings.model_validate_json(settings_json), max_unit_attempts=max_unit_attempts)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        receipt = asdict(self._call(row["unit"]))
        return {**receipt, "errors": list(receipt["errors"])}


def run_on_ray(
    settings: WorkerSettings,
    units: Sequence[WorkUnit],
    *,
    num_actors: int,
    calls_per_actor: int,
    cpus_per_actor: float,
    gpus_per_actor: float,
    max_unit_attempts: int,
    no_progress_seconds: float,
) -> Iterator[Receipt]:
    """Receipts of all units, in the order in which they end.

    A killed actor is started anew and its units are run again from their beginning or last snapshot; what makes
    that safe is the commit, not Ray.

    Raises:
        EngineError: the dataflow itself failed (no actor could be started, no unit ended for no_progress_seconds).
    """
    context = ray.data.DataContext.get_current()
    # A unit may take longer than Ray's 30 minutes to give its one receipt.
    context.execution_no_progress_timeout_s = no_progress_seconds
    context.enable_progress_bars = False
    rows = [{"unit": unit.to_json()} for unit in units]
    # from_items, not a Parquet read: Ray's Parquet reader merges tiny inputs into one block, hence onto one actor.
    receipts = ray.data.from_items(rows, override_num_blocks=min(len(rows), MAX_BLOCKS)).map(
        UnitActor,
        fn_constructor_args=(settings.model_dump_json(), max_unit_attempts),
        # Plain calls, not generators: Ray's one-thread guard does not cover generators, and async ones keep a whole
        # unit's output in memory.
        compute=ray.data.ActorPoolStrategy(
            size=num_actors,
            max_concurrent_calls_per_actor=calls_per_actor,
            max_tasks_in_flight_per_actor=calls_per_actor,
            enable_true_multi_threading=True,
        ),
        num_cpus=cpus_per_actor,
        num_gpus=gpus_per_actor,
    )
    try:
        for row in receipts.iter_rows():
            yield Receipt(**{**row, "errors": tuple(row["errors"])})
    except (ray.exceptions.RayError, RuntimeError) as error:
        raise EngineError(
            f"the Ray dataflow ended early: {type(error).__name__}: {error}. Committed units stay; run the same "
            "command again to go on."
        ) from error


@contextmanager
def ray_session(*, num_actors: int, cpus_per_actor: float, gpus_per_actor: float) -> Iterator[None]:
    """A connection to the cluster that RAY_ADDRESS names (as `ray job submit` sets it), or a Ray of our own.

    A session that is already open is used and left open.
    """
    if ray.is_initialized():
        yield
        return
    _start(num_actors * cpus_per_actor, num_actors * gpus_per_actor)
    try:
        yield
    finally:
        ray.shutdown()


def _start(num_cpus: float, num_gpus: float) -> None:
    quiet = {"log_to_driver": False, "logging_level": logging.WARNING}
    address = os.environ.get("RAY_ADDRESS")
    if address:
        _present_auth_token()
        try:
            ray.init(**quiet)
        except (ConnectionError, RuntimeError) as error:
            raise EngineError(
                f"RAY_ADDRESS={address}: {error} A cluster with token authentication wants RAY_AUTH_MODE=token and "
                "its token in RAY_AUTH_TOKEN or ~/.ray/auth_token."
            ) from error
        return
    # Logical CPUs: the pool must fit beside Ray Data's own tasks also on a machine with few cores.
    ray.init(
        address="local",
        num_cpus=max(os.cpu_count() or 1, int(num_cpus) + 1),
        num_gpus=num_gpus or None,
        include_dashboard=False,
        object_store_memory=LOCAL_OBJECT_STORE_BYTES,
        **quiet,
    )


def _present_auth_token() -> None:
    """Ray 2.60 clusters ask for a token by default, but a driver shows it only when told to."""
    has_token = "RAY_AUTH_TOKEN" in os.environ or (Path.home() / ".ray" / "auth_token").is_file()
    if "RAY_AUTH_MODE" not in os.environ and has_token:
        os.environ["RAY_AUTH_MODE"] = "token"
        logger.info("RAY_AUTH_MODE=token: an auth token is at hand and the cluster may ask for it")
