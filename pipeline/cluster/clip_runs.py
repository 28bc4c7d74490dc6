"""Runs generated clips through an engine, several sessions at once, and measures what comes out."""

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from pipeline.engine.engine import Engine, segment_video
from pipeline.evaluate.tiny_clips import ClipCase
from pipeline.segmenter import Segmenter
from pipeline.ticks import TickMasks

T = TypeVar("T")

NUM_SESSIONS = 8
"""Clips that are in the engine at once: enough to fill its batches, few enough to stay within 100 MB."""


def run_cases(
    segmenter: Segmenter,
    cases: Iterable[ClipCase],
    measure: Callable[[ClipCase, list[TickMasks]], T],
    *,
    window: int | None = None,
    num_sessions: int = NUM_SESSIONS,
) -> list[T]:
    """What `measure` makes of each case, in their order; the engine decides what shares a batch.

    Args:
        cases: drawn one at a time, as sessions become free.
        window: frames after which everything remembered of a clip is let go, by a new session; None for never.

    Raises:
        MasklakeError: a session failed; the others are given up.
    """
    remaining = enumerate(cases)
    lock = threading.Lock()
    measured: dict[int, T] = {}

    def work_off(engine: Engine) -> None:
        while True:
            with lock:
                place, case = next(remaining, (-1, None))
            if case is None:
                return
            measured[place] = measure(case, list(_masks_of(engine, case, window)))

    with (
        Engine(segmenter, max_sessions=num_sessions, torch_threads=1) as engine,
        ThreadPoolExecutor(num_sessions, thread_name_prefix="masklake-clip") as pool,
    ):
        try:
            running = [pool.submit(work_off, engine) for _ in range(num_sessions)]
            for future in wait(running, return_when=FIRST_EXCEPTION).done:
                future.result()
        except BaseException:
            # Before the pool waits for its threads: they wait for the engine.
            engine.shutdown()
            raise
    return [measured[place] for place in range(len(measured))]


def masks_by_object(case: ClipCase, masks: Sequence[TickMasks]) -> dict[int, NDArray[np.bool_]]:
    """object_id to bool (T, H, W), from all ticks of a case in order."""
    found: dict[int, list[NDArray[np.bool_]]] = {prompt.object_id: [] for prompt in case.prompts}
    for tick in masks:
        for thing in tick.objects:
            found[thing.object_id].append(thing.mask)
    return {object_id: np.stack(frames) for object_id, frames in found.items()}


def _masks_of(engine: Engine, case: ClipCase, window: int | None) -> Iterator[TickMasks]:
    ticks = case.ticks()
    length = window or len(ticks)
    for start in range(0, len(ticks), length):
        yield from segment_video(engine, case.prompts, ticks[start : start + length])
