"""The feature cache of the masklet classifier on Ray Data: one row a range of videos, a pool of actors with SAM2."""

import pickle
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import ray.data
import ray.data.exceptions

from pipeline.cluster.dataflow import PoolSize, ray_session
from pipeline.cluster.train import TrainJob
from pipeline.errors import EngineError, MasklakeError
from pipeline.io.weights import resolve_model
from pipeline.training.masklet_cache import BuildParts, CacheSettings, CacheWriter


class CacheActor:
    """One actor of the pool; writes parts straight to the store, so that vectors never travel through Ray.

    An error that a user can act on comes back as a value, pickled in "error": of one that is raised, Ray leaves a text.
    """

    def __init__(self, settings_json: str) -> None:
        self._settings = CacheSettings.model_validate_json(settings_json)
        self._writer: CacheWriter | None = None

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        try:
            self._writer = self._writer or CacheWriter(self._settings)
            return {**self._writer.write(row["first"], row["stop"]), "error": b""}
        except MasklakeError as error:
            return {"path": "", "rows": 0, "error": pickle.dumps(error)}


def build_on_ray(job: TrainJob) -> BuildParts:
    """What writes a cache's parts with as many actors as the job has workers.

    Raises what `CacheWriter` raises, be it in an actor; EngineError where Ray itself fails.
    """

    def build(settings: CacheSettings, parts: Sequence[tuple[int, int]]) -> Iterator[Mapping[str, Any]]:
        # A model that is not there is told before any actor starts.
        resolve_model(settings.model, offline=settings.offline or None, trust_unpinned=settings.trust_unpinned)
        pool = PoolSize(
            num_actors=min(job.num_workers, len(parts)),
            calls_per_actor=1,
            cpus_per_actor=job.cpus_per_worker,
            gpus_per_actor=job.gpus_per_worker,
        )
        with ray_session(pool, device=job.device) as fitted:
            yield from _written(settings, parts, fitted)

    return build


def _written(settings: CacheSettings, parts: Sequence[tuple[int, int]], pool: PoolSize) -> Iterator[Mapping[str, Any]]:
    """Path and number of rows of each part, as the actors finish them."""
    ray.data.DataContext.get_current().enable_progress_bars = False
    rows = [{"first": first, "stop": stop} for first, stop in parts]
    written = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
        CacheActor,
        fn_constructor_args=[settings.model_dump_json()],
        num_cpus=pool.cpus_per_actor,
        num_gpus=pool.gpus_per_actor or 0,
        compute=ray.data.ActorPoolStrategy(size=pool.num_actors),
    )
    try:
        for part in written.iter_rows():
            if part["error"]:
                raise pickle.loads(part["error"])
            yield {"path": part["path"], "rows": part["rows"]}
    except (ray.exceptions.RayError, ray.data.exceptions.UserCodeException, RuntimeError) as error:
        raise EngineError(
            f"the feature cache under Ray ended early: {type(error).__name__}: {error}. Run the same command again."
        ) from error
