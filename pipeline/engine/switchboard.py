"""What caller threads and the engine thread share: one lock, news for the engine thread, and why it stopped."""

import threading

from pipeline.errors import EngineError


class Switchboard:
    """One lock for all shared state. Handles wait on conditions of their own, made over the same lock."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.openings_changed = threading.Condition(self.lock)
        self._wake = threading.Condition(self.lock)
        self._news = False
        self._stopping = False
        self._death: BaseException | None = None

    def tell(self) -> None:
        """Let the engine thread look again; the lock is held."""
        self._news = True
        self._wake.notify_all()

    def wait_for_news(self, *, keep_going: bool) -> bool:
        """Engine thread: sleep until there is something to do; False when it must stop."""
        with self.lock:
            while not (keep_going or self._news or self._stopping):
                self._wake.wait()
            self._news = False
            return not self._stopping

    def stop(self) -> None:
        """Ask the engine thread to stop; the lock is held."""
        self._stopping = True
        self._wake.notify_all()
        self.openings_changed.notify_all()

    def died(self, death: BaseException) -> None:
        """Note what ended the engine thread; the lock is held."""
        self._death = death
        self.stop()

    @property
    def running(self) -> bool:
        return not self._stopping

    def check_running(self) -> None:
        """Raise EngineError, a new one for each caller, if the engine has stopped; the lock is held."""
        if self._death is not None:
            raise EngineError(
                f"the engine died: {type(self._death).__name__}: {self._death}. Start another; the videos that were "
                "running can be tried again."
            ) from self._death
        if self._stopping:
            raise EngineError("the engine was shut down. Start another; videos that were running can be tried again.")
