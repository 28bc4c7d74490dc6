"""An engine that a test starts as it likes, and that leaves no thread behind."""

import threading
from collections.abc import Callable, Iterator

import pytest

from pipeline.engine.engine import Engine
from tests.fakes import FakeSegmenter


@pytest.fixture
def running() -> Iterator[Callable[..., Engine]]:
    """Starts engines, and leaves no thread behind."""
    before = set(threading.enumerate())
    engines: list[Engine] = []

    def start(segmenter: FakeSegmenter | None = None, **options: int) -> Engine:
        engines.append(Engine(segmenter or FakeSegmenter(), **options))
        return engines[-1]

    yield start
    for engine in engines:
        engine.shutdown()
    assert set(threading.enumerate()) <= before
