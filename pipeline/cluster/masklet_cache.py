"""The feature cache of the masklet classifier on Ray Data: one row a range of videos, a pool of actors with SAM2."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import ray.data
import ray.data.exceptions

from pipeline.cluster.dataflow import PoolSize, ray_session
from pipeline.cluster.train import TrainJob, raise_cause
from pipeline.errors import MasklakeError
from pipeline.training.masklet_cache import BuildParts, CacheSettings, CacheWriter


class CacheActor:
    """One actor of the pool; writes parts straight to the store, so that vectors never travel through Ray."""

    def __init__(self, settings_json: str) -> None:
        self._writer = CacheWriter(CacheSettings.model_validate_json(settings_json))

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        return self._writer.write(row["first"], row["stop"])


def build_on_ray(job: TrainJob) -> BuildParts:
    """What writes a cache's parts with as many actors as the job has workers."""

    def build(settings: CacheSettings, parts: Sequence[tuple[int, int]]) -> Iterator[Mapping[str, Any]]:
        pool = PoolSize(
            num_actors=min(job.num_workers, len(parts)),
            calls_per_actor=1,
            cpus_per_actor=job.cpus_per_worker,
            gpus_per_actor=job.gpus_per_worker,
        )
        with ray_session(pool, device=job.device) as fitted:
            ray.data.DataContext.get_current().enable_progress_bars = False
            rows = [{"first": first, "stop": stop} for first, stop in parts]
            written = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
                CacheActor,
                fn_constructor_args=[settings.model_dump_json()],
                num_cpus=fitted.cpus_per_actor,
                num_gpus=fitted.gpus_per_actor or 0,
                compute=ray.data.ActorPoolStrategy(size=fitted.num_actors),
            )
            try:
                yield from written.iter_rows()
            except (ray.exceptions.RayError, ray.data.exceptions.UserCodeException, RuntimeError) as error:
                if isinstance(error.__cause__, MasklakeError):
                    raise error.__cause__ from error
                raise_cause(error)

    return build
