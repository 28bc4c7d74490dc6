"""Training jobs: what all of them can be told, and data-parallel workers under Ray Train or none."""

import logging
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, Literal, TypeVar

import ray
import ray.train
from pyarrow.fs import FSSpecHandler, PyFileSystem
from pydantic import BaseModel, ConfigDict, Field
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from ray.util.queue import Queue

from pipeline.cluster.config import parse_job
from pipeline.cluster.dataflow import PoolSize, ray_session
from pipeline.cluster.job import EXIT_CRASH, EXIT_INTERRUPTED, EXIT_NO_WEIGHTS, EXIT_OK, EXIT_USAGE
from pipeline.cluster.logs import set_up_logging
from pipeline.errors import ConfigError, EngineError, MasklakeError, WeightsError
from pipeline.io.storage import Store, open_store
from pipeline.training.checkpoints import has_checkpoint
from pipeline.training.workers import Workers
from schemas.ids import new_attempt_id

logger = logging.getLogger(__name__)

SettingsT = TypeVar("SettingsT", bound=BaseModel)
JobT = TypeVar("JobT", bound="TrainJob")


class TrainJob(BaseModel):
    """Options that every training job shares. Subclasses add data, first weights and the recipe."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    output: str
    """Folder or store URI for checkpoints/, logs/ (TensorBoard) and model/, which other jobs take as --model."""
    resume: bool = False
    """Go on from the output's latest checkpoint, if there is one. Without it an output that has one is refused."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the model runs. "cuda" without CUDA is an error, never a silent CPU run."""
    runner: Literal["ray", "local"] = "local"
    """Ray Train's workers, or this process."""
    num_workers: Annotated[int, Field(ge=1)] = 1
    """Data-parallel workers (runner ray); the batch size is over all of them."""
    cpus_per_worker: Annotated[float, Field(gt=0)] = 1.0
    """CPUs that one worker reserves."""
    gpus_per_worker: Annotated[float, Field(ge=0)] | None = None
    """GPUs that one worker reserves; by default 1 where the cluster has any and the device is not "cpu", else 0."""
    max_restarts: Annotated[int, Field(ge=0)] = 2
    """How often Ray starts the workers anew after one died; they go on from the latest checkpoint."""
    offline: bool = False
    """Take weights from this machine and mirrors only; never ask a hub."""
    trust_unpinned: bool = False
    """Accept weights whose hash nobody has pinned yet, and pin what came."""
    num_threads: Annotated[int, Field(ge=0)] = 2
    """Threads per worker that read clips ahead of time."""
    torch_threads: Annotated[int, Field(ge=1)] | None = None
    """Threads of torch's operators on a CPU; by default torch's own choice here, 1 under Ray."""
    log_json: bool = False
    """Log lines as JSON."""
    quiet: bool = False
    """Only warnings and errors."""

    def run(self) -> int:
        """Train, and return the exit code.

        Raises:
            MasklakeError: what a user can act on.
        """
        raise TypeError(f"{type(self).__name__} does not say how it trains")


def main(read_job: Callable[[], TrainJob]) -> int:
    """Read the job, run it, return the exit code; errors a user can act on end in one message on stderr."""
    try:
        job = read_job()
        set_up_logging(as_json=job.log_json, quiet=job.quiet)
        return job.run()
    except ConfigError as error:
        return _told(error, EXIT_USAGE)
    except WeightsError as error:
        return _told(error, EXIT_NO_WEIGHTS)
    except MasklakeError as error:
        return _told(error, EXIT_CRASH)
    except KeyboardInterrupt:
        return _told("interrupted; go on from the latest checkpoint with --resume.", EXIT_INTERRUPTED)


def parse_train_job(job_class: type[JobT], arguments: Sequence[str], *, prog: str) -> JobT:
    """A training job from flags and YAML files, by the rules of the corpus jobs; raises as `parse_job` does."""
    parse: Any = parse_job
    job: JobT = parse(job_class, arguments, prog=prog)
    return job


def run_workers(target: Callable[[SettingsT, Workers], object], settings: SettingsT, job: TrainJob) -> int:
    """Call the target in this process, or once per worker of Ray Train; returns EXIT_OK.

    Args:
        target: a module's function, which the workers import. A worker that died is started anew with the same
            settings, so it must go on from its checkpoints.

    Raises:
        ConfigError: several workers without Ray, or an output that only this process can see.
        EngineError: Ray could not start the workers, or they failed more often than allowed.
        MasklakeError: what the target raised.
    """
    if job.runner == "local":
        if job.num_workers > 1:
            raise ConfigError(f"num_workers {job.num_workers} with runner 'local': use runner 'ray'.")
        target(settings, Workers())
        return EXIT_OK
    if job.output.startswith("memory://"):
        raise ConfigError(f"output {job.output!r} is in this process alone; Ray's workers need a folder or a store.")
    pool = PoolSize(
        num_actors=job.num_workers,
        calls_per_actor=1,
        cpus_per_actor=job.cpus_per_worker,
        gpus_per_actor=job.gpus_per_worker,
    )
    with ray_session(pool, device=job.device) as fitted:
        _train_on_ray(target, settings, job, fitted)
    return EXIT_OK


def refuse_unless_resuming(job: TrainJob) -> None:
    """Raise ConfigError if the output holds a training and the job was not told to go on with it.

    Asked before workers start: those that Ray starts anew always resume.
    """
    store = open_store(job.output)
    if not job.resume and has_checkpoint(store):
        raise ConfigError(f"{store.root_uri} holds a training already. Say --resume, or name another output.")


def raise_cause(error: Exception) -> None:
    """Raise what a worker raised if that is a domain error, else an EngineError."""
    for cause in getattr(error, "worker_failures", {}).values():
        if isinstance(cause, MasklakeError):
            raise cause from error
    raise EngineError(
        f"training under Ray ended early: {type(error).__name__}: {error}. Checkpoints stay; go on with --resume."
    ) from error


def _train_on_ray(
    target: Callable[[SettingsT, Workers], object], settings: SettingsT, job: TrainJob, pool: PoolSize
) -> None:
    gpus = pool.gpus_per_actor or 0.0
    with _told_lines() as lines, _ray_train_folder(open_store(job.output)) as run_config:
        trainer = TorchTrainer(
            _run_target,
            train_loop_config={"target": target, "settings": settings, "lines": lines},
            scaling_config=ScalingConfig(
                num_workers=pool.num_actors,
                use_gpu=gpus > 0,
                resources_per_worker={"CPU": pool.cpus_per_actor, **({"GPU": gpus} if gpus else {})},
            ),
            run_config=RunConfig(**run_config, failure_config=FailureConfig(max_failures=job.max_restarts)),
        )
        try:
            trainer.fit()
        except (ray.exceptions.RayError, ray.train.TrainingFailedError, RuntimeError) as error:
            raise_cause(error)


def _run_target(config: dict[str, Any]) -> None:
    """What each worker of Ray Train calls; the process group is there already."""
    context = ray.train.get_context()
    workers = Workers(rank=context.get_world_rank(), num_workers=context.get_world_size())
    logger = logging.getLogger("pipeline")
    handler = _LineSender(config["lines"], level=logging.INFO if workers.is_first else logging.WARNING)
    logger.handlers[:] = [handler]
    logger.setLevel(logging.INFO)
    config["target"](config["settings"], workers)


@contextmanager
def _ray_train_folder(store: Store) -> Iterator[dict[str, Any]]:
    """Where Ray Train keeps its own notes, below the output since every node must see them; gone afterwards."""
    folder = f"_ray_train/{new_attempt_id()}"
    arguments: dict[str, Any] = {"name": "run", "storage_path": store.full_path(folder)}
    if not store.is_local:
        arguments["storage_filesystem"] = PyFileSystem(FSSpecHandler(store.filesystem))
    try:
        yield arguments
    finally:
        store.delete([file.path for file in store.list(folder)])
        if store.is_local:
            shutil.rmtree(store.full_path("_ray_train"), ignore_errors=True)


class _LineSender(logging.Handler):
    """Sends a worker's log lines to the driver; Ray itself would mix them with everything else it prints."""

    def __init__(self, lines: Queue, *, level: int) -> None:
        super().__init__(level)
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        # Not awaited: training does not wait for its log.
        self._lines.actor.put_nowait.remote((record.name, record.levelno, record.getMessage()))


@contextmanager
def _told_lines() -> Iterator[Queue]:
    """A queue whose lines are logged in this process as they come."""
    lines = Queue(actor_options={"num_cpus": 0})
    is_over = threading.Event()

    def tell() -> None:
        while True:
            last_round = is_over.is_set()
            while lines.size():
                name, level, message = lines.get()
                logging.getLogger(name).log(level, "%s", message)
            if last_round:
                return
            is_over.wait(0.5)

    teller = threading.Thread(target=tell, name="training-log", daemon=True)
    teller.start()
    try:
        yield lines
    finally:
        is_over.set()
        teller.join()
        lines.shutdown()


def _told(error: object, code: int) -> int:
    logger.error("%s", error) if logging.getLogger("pipeline").handlers else print(f"masklake: {error}", flush=True)
    return code
