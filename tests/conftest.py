"""What every test shares: one torch thread, seeds that stay put, and where optional material lies."""

import logging
import os
import random
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# Ray gives its workers a niceness of 15: beside anything else on the machine their tests would wait for minutes.
os.environ.setdefault("RAY_worker_niceness", "0")

import numpy as np
import pytest
import torch

torch.set_num_threads(1)

TESTS = Path(__file__).resolve().parent
SHARED = TESTS.parents[1] / "shared"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that start Ray come first: they take minutes, and begun last they would leave the other process idle."""
    items.sort(key=lambda item: item.get_closest_marker("cluster") is None)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """For the two processes of `make test` (--dist loadscope): a file's tests in one, and all that start Ray in one.

    Not by marks and --dist loadgroup: pytest-xdist 3.8 writes the group into a test's id, which pytest 9.2 makes anew,
    so that every test is dealt out by itself and each process sets up the fixtures of the same files.
    """
    if config.getvalue("dist") != "loadscope":
        return None
    from xdist.scheduler import LoadScopeScheduling

    class FilesAndRayTogether(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return scope_of(nodeid)

    return FilesAndRayTogether(config, log)


def scope_of(nodeid: str) -> str:
    """What one process runs as a whole: the test's file, or "ray" for all files marked as using it."""
    file = nodeid.partition("::")[0]
    return "ray" if _uses_ray(file) else file


@cache
def _uses_ray(file: str) -> bool:
    return "pytest.mark.cluster" in (TESTS.parent / file).read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def golden_dir() -> Path:
    """Golden vectors of the published code; a clone without them skips the test."""
    directory = SHARED / "golden"
    if not directory.is_dir():
        pytest.skip("golden vectors lie beside the project, not in this clone")
    return directory


@pytest.fixture(scope="session")
def clips_dir() -> Path:
    """Three real videos; a clone without them skips the test."""
    directory = SHARED / "clips"
    if not directory.is_dir():
        pytest.skip("real clips lie beside the project, not in this clone")
    return directory


@pytest.fixture(autouse=True)
def _random_state_does_not_leak() -> Iterator[None]:
    """Each test begins at the same seeds, and leaves the generators as it found them."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    yield
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])


@pytest.fixture(autouse=True)
def _log_set_up_does_not_leak() -> Iterator[None]:
    """A job sets up its process's log; the next test finds it as it was."""
    loggers = [logging.getLogger(name) for name in ("pipeline", "jobs")]
    before = [(logger, logger.level, logger.propagate, list(logger.handlers)) for logger in loggers]
    yield
    for logger, level, propagate, handlers in before:
        logger.setLevel(level)
        logger.propagate = propagate
        logger.handlers[:] = handlers
