"""Runs an iterator ahead of its reader in a thread, by a bounded number of items."""

import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class _End:
    error: BaseException | None


class ReadAhead(Generic[Item]):
    """At most `num_items` items wait, and one more is in the making; `stop` ends the thread wherever it is.

    The thread alone touches `items`, and calls `release` when it ends, whatever the reason.
    """

    def __init__(self, items: Iterator[Item], *, num_items: int, release: Callable[[], None], name: str) -> None:
        self._queue: queue.Queue[Item | _End] = queue.Queue(maxsize=num_items)
        self._stopped = threading.Event()
        # The thread must not hold this object: dropping it is how an abandoned reader ends the thread.
        arguments = (items, self._queue, self._stopped, release)
        self._thread = threading.Thread(target=_fill, args=arguments, name=f"read-ahead {name}", daemon=True)
        self._thread.start()

    def next(self) -> Item:
        """The next item.

        Raises:
            StopIteration: there is none.
            BaseException: what `items` raised, after the items before it.
        """
        item = self._queue.get()
        if not isinstance(item, _End):
            return item
        self._queue.put(item)
        if item.error is not None:
            raise item.error
        raise StopIteration

    def stop(self) -> None:
        """End the thread and wait for it; a read in progress is finished first."""
        self._stopped.set()
        # Room in the queue frees a thread that waits to put; it sees the flag before it would put again.
        while True:
            try:
                self._queue.get_nowait()
            except queue.Empty:
                break
        if threading.current_thread() is not self._thread:
            self._thread.join()


def _fill(
    items: Iterator[Item],
    waiting: "queue.Queue[Item | _End]",
    stopped: threading.Event,
    release: Callable[[], None],
) -> None:
    error: BaseException | None = None
    try:
        for item in items:
            if stopped.is_set():
                break
            waiting.put(item)
    except BaseException as caught:
        error = caught
    finally:
        release()
    if not stopped.is_set():
        waiting.put(_End(error))
