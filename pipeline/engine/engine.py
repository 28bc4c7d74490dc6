"""Engine: many threads feed sessions, one thread owns the device, batches what they wait for, and hands masks back."""

import functools
import itertools
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import torch

from pipeline.engine.handle import SessionHandle
from pipeline.engine.runner import let_go_of_frames, run_batch
from pipeline.engine.scheduler import Batch, choose_batch
from pipeline.engine.session_table import LiveSession, SessionTable
from pipeline.engine.statistics import EngineStatistics, RunningStatistics
from pipeline.engine.switchboard import Switchboard
from pipeline.errors import EngineError, SessionError
from pipeline.segmenter import Segmenter, Session, State
from pipeline.ticks import Prompt, Tick, TickMasks

logger = logging.getLogger(__name__)


class Engine:
    """Continuous batching over sessions that join and leave at any tick.

    `segmenter` and its sessions are called by the engine's own thread only. A video's thread gets a `SessionHandle`
    from `open`, and drives it alone.

    Args:
        segmenter: any registered method, or another object with the same protocol.
        max_sessions: live sessions; `open` waits while there are as many.
        max_pending_ticks: submitted ticks of one session that it has not been given yet; `submit` waits beyond.
        max_state_bytes: what all sessions may hold together (state, queued frames, masks not yet taken), None for no
            limit. `open` waits while another session would not fit; a session that outgrows the limit later fails
            with EngineError (the largest one first).
        look_ahead_ticks: ticks that a session is given at once, if they have been submitted, when it has nothing to
            do: their images may then share an encoder batch.
        torch_threads: threads of torch's CPU operators in the engine thread; None leaves torch's own choice.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        *,
        max_sessions: int = 8,
        max_pending_ticks: int = 4,
        max_state_bytes: int | None = None,
        look_ahead_ticks: int = 2,
        torch_threads: int | None = None,
    ) -> None:
        if max_pending_ticks < 1 or look_ahead_ticks < 1:
            raise ValueError(
                f"max_pending_ticks {max_pending_ticks}, look_ahead_ticks {look_ahead_ticks}: expected >= 1."
            )
        self._segmenter = segmenter
        self._buckets = dict(segmenter.buckets)
        self._max_pending_ticks = max_pending_ticks
        self._look_ahead_ticks = look_ahead_ticks
        self._torch_threads = torch_threads
        self._table = SessionTable(max_sessions=max_sessions, max_state_bytes=max_state_bytes)
        self._statistics = RunningStatistics(self._buckets)
        self._switchboard = Switchboard()
        self._openings: deque[_Opening] = deque()
        self._thread = threading.Thread(target=self._run_until_stopped, name="masklake-engine", daemon=True)
        self._thread.start()

    def open(self, prompts: Sequence[Prompt], frame_size: tuple[int, int]) -> SessionHandle:
        """Begin a video of frames (height, width); waits until the engine has room for it.

        Raises:
            PromptError: a prompt cannot be used.
            EngineError: the engine has stopped.
        """
        begin = functools.partial(self._segmenter.open, list(prompts), frame_size)
        return self._admitted(_Opening(begin=begin, frame_size=frame_size))

    def restore(self, state: State) -> SessionHandle:
        """Go on with a session from what `SessionHandle.state_dict` gave; waits as `open` does.

        Raises:
            SessionError: the state is not one of this method and config.
            EngineError: the engine has stopped.
        """
        try:
            height, width = (int(side) for side in state["frame_size"])
            opening = _Opening(
                begin=functools.partial(self._segmenter.restore, state["session"]),
                frame_size=(height, width),
                due=tuple(int(frame_index) for frame_index in state["due"]),
                last_frame_index=int(state["last_frame_index"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise SessionError(f"not a state of this engine's sessions: {type(error).__name__}: {error}.") from error
        return self._admitted(opening)

    def statistics(self) -> EngineStatistics:
        """Counts since the start, and what is queued now."""
        with self._switchboard.lock:
            return self._statistics.snapshot(self._table.live())

    @property
    def alive(self) -> bool:
        """Whether videos can still be begun: False after `shutdown`, and after the device was lost."""
        with self._switchboard.lock:
            return self._switchboard.running

    def shutdown(self) -> None:
        """Stop: whoever waits gets EngineError at once; returns when the running batch has ended. May be repeated."""
        with self._switchboard.lock:
            self._switchboard.stop()
            for live in self._table.live():
                live.notify()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.shutdown()

    def _admitted(self, opening: "_Opening") -> SessionHandle:
        switchboard = self._switchboard
        try:
            with switchboard.lock:
                self._openings.append(opening)
                switchboard.tell()
                while opening.handle is None and opening.error is None:
                    switchboard.check_running()
                    switchboard.openings_changed.wait()
        except BaseException:
            with switchboard.lock:
                opening.is_wanted = False
            if opening.handle is not None:
                opening.handle.close()
            raise
        if opening.error is not None:
            raise opening.error
        assert opening.handle is not None
        return opening.handle

    def _run_until_stopped(self) -> None:
        if self._torch_threads is not None:
            torch.set_num_threads(self._torch_threads)
        death: BaseException | None = None
        try:
            with torch.inference_mode():
                self._serve()
        # SystemExit too: it would end this thread only, and leave everybody else waiting.
        except BaseException as error:
            logger.exception("the engine thread died")
            let_go_of_frames(error)
            death = error
        with self._switchboard.lock:
            if death is not None:
                self._switchboard.died(death)
            self._openings.clear()
            for live in self._table.live():
                self._drop(live)

    def _serve(self) -> None:
        ran = False
        while self._switchboard.wait_for_news(keep_going=ran):
            self._admit()
            for live in self._table.live():
                if live.work is None:
                    self._guarded(live, self._feed)
            batch = choose_batch(self._table.waiting(), self._buckets, now=self._table.clock)
            if batch is not None:
                self._run(batch)
            self._settle()
            ran = batch is not None

    def _admit(self) -> None:
        """Begin sessions, first come first served, while there is room."""
        while (opening := self._next_opening()) is not None:
            live: LiveSession | None = None
            try:
                live = self._begin(opening)
            except Exception as error:
                let_go_of_frames(error)
                opening.error = error
            with self._switchboard.lock:
                if live is not None:
                    opening.handle = SessionHandle(self._switchboard, live, max_pending_ticks=self._max_pending_ticks)
                    live.closed = not opening.is_wanted
                self._switchboard.openings_changed.notify_all()

    def _next_opening(self) -> "_Opening | None":
        with self._switchboard.lock:
            while self._openings and not self._openings[0].is_wanted:
                self._openings.popleft()
            return self._openings.popleft() if self._openings and self._table.admits() else None

    def _begin(self, opening: "_Opening") -> LiveSession:
        session = opening.begin()
        with self._switchboard.lock:
            live = self._table.add(session, opening.frame_size)
            live.due.extend(opening.due)
            live.last_frame_index = opening.last_frame_index
        # A restored session may hold work, and must not look quiet before it has been asked.
        self._guarded(live, self._note_progress)
        live.quiet = live.work is None
        return live

    def _guarded(self, live: LiveSession, action: Callable[[LiveSession], None]) -> None:
        """Do something with one session; an error ends that session only."""
        if live.session is None or live.closed:
            return
        try:
            action(live)
        except Exception as error:
            self._fail(live, error)

    def _feed(self, live: LiveSession) -> None:
        """Give a session that has nothing to do its next ticks, until it has, and `look_ahead_ticks` in all."""
        pushed = 0
        while live.work is None or pushed < self._look_ahead_ticks:
            with self._switchboard.lock:
                tick = live.next_tick()
                live.notify()
            if tick is None:
                break
            _session_of(live).push(tick)
            pushed += 1
            self._note_progress(live)
        with self._switchboard.lock:
            is_over = live.ended and not live.submitted
        if is_over and live.work is None:
            self._end(live)

    def _end(self, live: LiveSession) -> None:
        """Let a session that has been given everything finish, and note when it has."""
        if not live.end_told:
            live.end_told = True
            _session_of(live).end()
            self._note_progress(live)
        if live.work is None:
            with self._switchboard.lock:
                live.completed()

    def _note_progress(self, live: LiveSession) -> None:
        """Read off a session what came out, what it wants and what it holds."""
        session = _session_of(live)
        masks, work, state_bytes = session.take(), session.next_work(), session.state_bytes()
        if work is not None and not 1 <= work.size <= self._buckets.get(work.stage, 0):
            raise _final(
                EngineError(f"{work}: the method's buckets are {self._buckets}. Report it: the method is wrong.")
            )
        with self._switchboard.lock:
            live.came_out(masks)
            self._statistics.frames += len(masks)
            self._table.note_work(live, work)
            self._table.note_bytes(live, state_bytes)
            if masks:
                live.notify()

    def _run(self, batch: Batch) -> None:
        lives = [self._table.get(session_id) for session_id in batch.session_ids]
        sessions = {live.session_id: _session_of(live) for live in lives}
        rows = {live.session_id: live.work.size for live in lives if live.work is not None}
        outcome = run_batch(self._segmenter, batch.stage, sessions, rows)
        with self._switchboard.lock:
            self._table.note_batch(batch)
            self._statistics.note_batch(batch, sum(outcome.device_seconds.values()))
            for live in lives:
                live.device_seconds += outcome.device_seconds[live.session_id]
        for live in lives:
            error = outcome.errors.get(live.session_id)
            if error is None:
                self._guarded(live, self._note_progress)
            else:
                self._fail(live, error)

    def _settle(self) -> None:
        """Let go of sessions that are over, take snapshots, wake whoever waits for what has changed, and evict."""
        for live in self._table.live():
            with self._switchboard.lock:
                if live.closed or live.complete:
                    self._drop(live)
                    continue
                was_quiet = live.quiet
                live.quiet = live.work is None and not live.submitted and not live.ended
                if live.quiet and not was_quiet:
                    live.notify()
            if live.quiet and live.state_wanted and live.state is None:
                self._guarded(live, self._take_state)
        self._evict()

    def _evict(self) -> None:
        with self._switchboard.lock:
            largest = self._table.over_limit()
            num_sessions, bytes_held = len(self._table.live()), self._table.bytes_held()
        if largest is None:
            return
        error = EngineError(
            f"the {num_sessions} open sessions hold {bytes_held} bytes, more than max_state_bytes; this one, the "
            f"largest, holds {largest.bytes_held}. Run fewer videos at once, ask for fewer objects, or raise the limit."
        )
        self._fail(largest, error if num_sessions > 1 else _final(error))

    def _take_state(self, live: LiveSession) -> None:
        state: State = {
            "session": _session_of(live).state_dict(),
            "due": list(live.due),
            "last_frame_index": live.last_frame_index,
            "frame_size": list(live.frame_size),
        }
        with self._switchboard.lock:
            live.state = state
            live.notify()

    def _fail(self, live: LiveSession, error: Exception) -> None:
        let_go_of_frames(error)
        with self._switchboard.lock:
            live.error = error
            self._drop(live)

    def _drop(self, live: LiveSession) -> None:
        self._table.remove(live)
        live.notify()
        self._switchboard.tell()  # somebody may wait for the room


def segment_video(engine: Engine, prompts: Sequence[Prompt], ticks: Iterable[Tick]) -> Iterator[TickMasks]:
    """The masks of one video, frame by frame, reading no further ahead than the engine takes.

    Args:
        ticks: all of one size, in presentation order; read from the thread that iterates over the masks.

    Raises:
        PromptError: a prompt cannot be used.
        SessionError, EngineError: see `SessionHandle`.
    """
    remaining = iter(ticks)
    first = next(remaining, None)
    if first is None:
        return
    height, width = next(iter(first.images.values())).shape[:2]
    with engine.open(prompts, (height, width)) as handle:
        for tick in itertools.chain([first], remaining):
            handle.submit(tick)
            yield from handle.take(block=False)
        handle.end()
        while masks := handle.take():
            yield from masks


@dataclass(slots=True, kw_only=True, eq=False)
class _Opening:
    """A session that somebody waits to begin."""

    begin: Callable[[], Session]
    frame_size: tuple[int, int]
    due: tuple[int, ...] = ()
    last_frame_index: int = -1
    is_wanted: bool = True
    handle: SessionHandle | None = None
    error: Exception | None = None


def _session_of(live: LiveSession) -> Session:
    assert live.session is not None, "a session that was let go is never chosen"
    return live.session


def _final(error: EngineError) -> EngineError:
    error.retryable = False
    return error
