"""The Ray Data graph: one row a unit, a pool of stateful actors, receipts back; masks never travel."""

import logging
import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import ray
import ray.data
import ray.data.exceptions

from pipeline.cluster.unit_call import UnitCall, WorkerLost
from pipeline.engine.worker import WorkerSettings
from pipeline.errors import ConfigError, EngineError
from schemas.commit import Receipt
from schemas.work_unit import WorkUnit

logger = logging.getLogger(__name__)

MAX_BLOCKS = 20_000
"""Rows share a block beyond this many units: a block costs about 30 ms of scheduling."""

LOCAL_OBJECT_STORE_BYTES = 256 * 1024 * 1024
"""Receipts are a few hundred bytes; a local cluster need not claim a third of the machine's memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolSize:
    """How many actors, and what each reserves; gpus_per_actor None means "one where the cluster has GPUs"."""

    num_actors: int
    calls_per_actor: int
    cpus_per_actor: float
    gpus_per_actor: float | None


class UnitActor:
    """One actor of the pool: a worker with its model loaded, called by several threads at once."""

    def __init__(self, settings_json: str, max_unit_attempts: int) -> None:
        self._call = UnitCall(WorkerSettings.model_validate_json(settings_json), max_unit_attempts=max_unit_attempts)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        try:
            receipt = asdict(self._call(row["unit"]))
        except WorkerLost:
            logger.exception("this actor's device is lost; the process ends, so that Ray starts another")
            os._exit(1)
        return {**receipt, "errors": list(receipt["errors"])}


def run_on_ray(
    settings: WorkerSettings,
    units: Sequence[WorkUnit],
    pool: PoolSize,
    *,
    on_receipt: Callable[[Receipt], None],
    max_unit_attempts: int,
    no_progress_seconds: float,
) -> None:
    """Run all units and hand over each receipt as its unit ends.

    A killed actor is started anew and its units are run again from their beginning or last snapshot; what makes
    that safe is the commit, not Ray.

    Raises:
        EngineError: the dataflow itself failed (no actor could be started, no unit ended for no_progress_seconds).
    """
    context = ray.data.DataContext.get_current()
    # A unit may take longer than Ray's 30 minutes to give its one receipt.
    context.execution_no_progress_timeout_s = no_progress_seconds
    context.enable_progress_bars = False
    # Ray Data tells each graph it builds; a run's own lines say what a user asks.
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    rows = [{"unit": unit.to_json()} for unit in units]
    # from_items, not a Parquet read: Ray's Parquet reader merges tiny inputs into one block, hence onto one actor.
    receipts = ray.data.from_items(rows, override_num_blocks=min(len(rows), MAX_BLOCKS)).map(
        UnitActor,
        fn_constructor_args=(settings.model_dump_json(), max_unit_attempts),
        # Plain calls, not generators: Ray's one-thread guard does not cover generators, and async ones keep a whole
        # unit's output in memory.
        compute=ray.data.ActorPoolStrategy(
            size=pool.num_actors,
            max_concurrent_calls_per_actor=pool.calls_per_actor,
            max_tasks_in_flight_per_actor=pool.calls_per_actor,
            enable_true_multi_threading=True,
        ),
        num_cpus=pool.cpus_per_actor,
        num_gpus=pool.gpus_per_actor,
    )
    try:
        # No prefetch: a receipt is counted when it comes, not one batch later.
        for batch in receipts.iter_batches(batch_size=1, prefetch_batches=0, batch_format="pyarrow"):
            for row in batch.to_pylist():
                on_receipt(Receipt(**{**row, "errors": tuple(row["errors"])}))
    except (ray.exceptions.RayError, ray.data.exceptions.UserCodeException, RuntimeError) as error:
        raise EngineError(
            f"the Ray dataflow ended early: {type(error).__name__}: {error}. Committed units stay; run the same "
            "command again to go on."
        ) from error


@contextmanager
def ray_session(pool: PoolSize, *, device: str) -> Iterator[PoolSize]:
    """A connection to the cluster that RAY_ADDRESS names (as `ray job submit` sets it), or a Ray of our own.

    Yields the pool with its GPUs settled: on "auto" each actor reserves one where the cluster has any, since an actor
    that reserves none is shown none. A session that is already open is used and left open.

    Raises:
        ConfigError: a Ray of our own has not the GPUs that the pool reserves; nothing would ever start.
        EngineError: the cluster cannot be reached.
    """
    if ray.is_initialized():
        yield _with_gpus(pool, device)
        return
    _start(pool)
    try:
        fitted = _with_gpus(pool, device)
        _check_gpus(fitted)
        yield fitted
    finally:
        ray.shutdown()


def _with_gpus(pool: PoolSize, device: str) -> PoolSize:
    if pool.gpus_per_actor is not None:
        return pool
    wanted = device == "cuda" or (device == "auto" and ray.cluster_resources().get("GPU", 0) > 0)
    return replace(pool, gpus_per_actor=1.0 if wanted else 0.0)


def _check_gpus(pool: PoolSize) -> None:
    wanted = pool.num_actors * (pool.gpus_per_actor or 0.0)
    there = float(ray.cluster_resources().get("GPU", 0))
    if wanted <= there:
        return
    told = f"{pool.num_actors} actors reserve {wanted:g} GPUs and the cluster has {there:g}"
    if os.environ.get("RAY_ADDRESS"):
        logger.warning("%s: waiting for its autoscaler to bring more.", told)
        return
    raise ConfigError(f"{told}. Say --device cpu, fewer --num-actors, or a smaller --gpus-per-actor.")


def _start(pool: PoolSize) -> None:
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
    needed = math.ceil(pool.num_actors * pool.cpus_per_actor) + 1
    ray.init(
        address="local",
        num_cpus=max(os.cpu_count() or 1, needed),
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
