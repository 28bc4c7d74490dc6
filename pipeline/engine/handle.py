"""SessionHandle: how the thread of one video submits ticks to the engine and takes masks from it."""

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

from pipeline.engine.session_table import LiveSession
from pipeline.engine.switchboard import Switchboard
from pipeline.errors import SessionError
from pipeline.segmenter import State
from pipeline.ticks import Tick, TickMasks


class SessionHandle:
    """One video in an engine; one thread drives it. Leaving its `with` block abandons what has not come out.

    Every method raises the error that ended the session (only this one: other sessions go on), and EngineError once
    the engine has stopped. Masks wait in the engine until they are taken, so `take` between submits.
    """

    def __init__(self, switchboard: Switchboard, live: LiveSession, *, max_pending_ticks: int) -> None:
        self._switchboard = switchboard
        self._live = live
        self._max_pending_ticks = max_pending_ticks
        self._changed = threading.Condition(switchboard.lock)
        live.notify = self._changed.notify_all

    def submit(self, tick: Tick) -> None:
        """Queue the next tick; waits while `max_pending_ticks` are queued.

        Raises:
            SessionError: frame_index is not after the last one, a frame has another size, or the end was told.
        """
        with self._switchboard.lock:
            self._wait_while(lambda: len(self._live.submitted) >= self._max_pending_ticks)
            self._live.submit(tick)
            self._switchboard.tell()

    def end(self) -> None:
        """No more ticks will come: what lags behind can come out."""
        with self._switchboard.lock:
            self._check()
            self._live.end()
            self._switchboard.tell()

    def take(self, *, block: bool = True) -> list[TickMasks]:
        """The masks that have come out since the last call, in order.

        With `block`, waits until there are some, or until none can come without another submit or `end`; so after
        `end` an empty list means that every tick has come out.
        """
        with self._switchboard.lock:
            while True:
                masks = self._live.take_finished()
                if masks:
                    self._switchboard.tell()  # there may be room now for a session that waits
                if masks or self._live.complete:
                    return masks
                self._check()
                if not block or self._live.quiet:
                    return []
                self._changed.wait()

    def state_dict(self) -> State:
        """Everything needed to go on with `Engine.restore`; waits until what was submitted has been worked off.

        Masks that had come out by then are not part of it: `take` them before the next submit and keep them with it.
        """
        with self._switchboard.lock:
            self._check()
            if self._live.ended:
                raise SessionError("state_dict() after end(): there is nothing to go on with. Take it before end().")
            self._live.state_wanted = True
            self._switchboard.tell()
            try:
                self._wait_while(lambda: self._live.state is None)
                return self._live.state or {}
            finally:
                self._live.state, self._live.state_wanted = None, False

    def close(self) -> None:
        """Abandon the session, at any time; waits for nobody, and may be repeated."""
        with self._switchboard.lock:
            self._live.close()
            self._switchboard.tell()
            self._changed.notify_all()

    @property
    def device_seconds(self) -> float:
        """Device time of the session's batches so far, its share of each by rows."""
        with self._switchboard.lock:
            return self._live.device_seconds

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _wait_while(self, is_so: Callable[[], bool]) -> None:
        self._check()
        while is_so():
            self._changed.wait()
            self._check()

    def _check(self) -> None:
        if self._live.error is not None:
            raise self._live.error
        if self._live.closed:
            raise SessionError("the session was closed. Open a new one.")
        if not self._live.complete:
            self._switchboard.check_running()
