"""One Ray for all tests of this folder that need one: starting and ending it takes longer than most of them."""

from collections.abc import Iterator

import pytest

from pipeline.cluster.dataflow import PoolSize, ray_session


@pytest.fixture(scope="package")
def ray_of_our_own() -> Iterator[None]:
    """An open session with room for two workers of one CPU each, as a job opens it."""
    pool = PoolSize(num_actors=2, calls_per_actor=1, cpus_per_actor=1.0, gpus_per_actor=0.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        with ray_session(pool, device="cpu"):
            yield
