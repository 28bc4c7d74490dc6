"""What every test shares: one torch thread, seeds that stay put, and where optional material lies."""

import logging
import os
import random
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import numpy as np
import pytest
import torch

torch.set_num_threads(1)

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """For the two processes of `make test`: a file's tests stay together, and so do all that start Ray.

    First of all hooks of this name: pytest-xdist reads the groups in its own.
    """
    for item in items:
        group = "ray" if item.get_closest_marker("cluster") else item.path.as_posix()
        item.add_marker(pytest.mark.xdist_group(group))


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
