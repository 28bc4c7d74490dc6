"""How tests drive engines: threads of videos, a gate before the batches, and all that still comes out."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from pipeline.engine.engine import Engine, segment_video
from pipeline.engine.handle import SessionHandle
from pipeline.segmenter import Session
from pipeline.ticks import Prompt, Tick, TickMasks
from tests.fakes import Hook

SIZE = (4, 6)
"""(height, width) of the fakes' frames."""


class Gate:
    """Holds every batch until it is opened, and says when the first one has come."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.opened = threading.Event()

    def hook(self, stage: str, sessions: Sequence[Session]) -> None:
        self.reached.set()
        self.opened.wait()


def after_first_step(action: Callable[[], None]) -> Hook:
    """A hook that acts once, in the first batch."""
    remaining = [action]

    def hook(stage: str, sessions: Sequence[Session]) -> None:
        if remaining:
            remaining.pop()()

    return hook


def in_threads(engine: Engine, videos: Sequence[tuple[list[Prompt], list[Tick]]]) -> list[list[TickMasks]]:
    """Every video in a thread of its own."""
    with ThreadPoolExecutor(len(videos)) as pool:
        return list(pool.map(lambda video: list(segment_video(engine, *video)), videos))


def run_through(handle: SessionHandle, ticks: Sequence[Tick]) -> list[TickMasks]:
    masks: list[TickMasks] = []
    for tick in ticks:
        handle.submit(tick)
        masks += handle.take(block=False)
    handle.end()
    return masks + drained(handle)


def drained(handle: SessionHandle) -> list[TickMasks]:
    """All that still comes out of an ended session."""
    masks: list[TickMasks] = []
    while some := handle.take():
        masks += some
    return masks
