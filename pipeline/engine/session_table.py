"""The open sessions: what each has submitted, waits for, has finished and holds in bytes; admits and evicts."""

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from pipeline.engine.scheduler import Batch, Waiting
from pipeline.errors import EngineError, SessionError
from pipeline.segmenter import Session, State, Work
from pipeline.ticks import Tick, TickMasks


@dataclass(slots=True, kw_only=True, eq=False)
class LiveSession:
    """One session as the engine keeps it. Only the engine thread touches `session` and `work`.

    Attributes:
        frame_size: (height, width) of every frame.
        last_frame_index: of the last tick submitted; -1 before the first.
        submitted: ticks that the session has not been given yet.
        due: frame indices submitted that have not come out yet, in order.
        finished: masks that nobody has taken yet.
        waiting_since: see `Waiting`.
        rows_served: rows run for it, lifted after it was idle to what the others had been served meanwhile.
        last_ran: the clock after its last batch; -1 before.
        state_bytes: what the session said it holds; queued_bytes: submitted ticks and finished masks.
        ended: no more ticks will come; end_told: the session knows; complete: all came out.
        closed: nobody wants the rest.
        quiet: nothing can come out without another submit or end.
        state_wanted, state: a snapshot that the caller waits for.
        error: what ended the session.
        notify: wakes the caller.
    """

    session_id: int
    session: Session | None
    frame_size: tuple[int, int]
    last_frame_index: int = -1
    submitted: deque[Tick] = field(default_factory=deque)
    due: deque[int] = field(default_factory=deque)
    finished: deque[TickMasks] = field(default_factory=deque)
    work: Work | None = None
    waiting_since: int = 0
    rows_served: int = 0
    last_ran: int = -1
    state_bytes: int = 0
    queued_bytes: int = 0
    device_seconds: float = 0.0
    ended: bool = False
    end_told: bool = False
    complete: bool = False
    closed: bool = False
    quiet: bool = True
    state_wanted: bool = False
    state: State | None = None
    error: Exception | None = None
    notify: Callable[[], None] = lambda: None

    @property
    def bytes_held(self) -> int:
        return self.state_bytes + self.queued_bytes

    def submit(self, tick: Tick) -> None:
        """Queue a tick. Raises SessionError if it is out of order, of another size, or comes after the end."""
        if self.ended:
            raise SessionError(f"frame {tick.frame_index}: submitted after end(). Open a new session.")
        if tick.frame_index <= self.last_frame_index:
            raise SessionError(
                f"frame {tick.frame_index}: submitted after frame {self.last_frame_index}. "
                "Submit the frames of a video in presentation order, each once."
            )
        sizes = {name: image.shape[:2] for name, image in tick.images.items()}
        if any(size != self.frame_size for size in sizes.values()):
            raise SessionError(
                f"frame {tick.frame_index}: (height, width) {sizes}; the session was opened for {self.frame_size}. "
                "Resize the frames, or open a session for each size."
            )
        self.last_frame_index = tick.frame_index
        self.due.append(tick.frame_index)
        self.submitted.append(tick)
        self.queued_bytes += tick_bytes(tick)
        self.quiet = False

    def end(self) -> None:
        """Let the session end once it has been given all that was submitted."""
        if not self.ended:
            self.ended = True
            self.quiet = False

    def close(self) -> None:
        """Let go of what the caller would have taken."""
        self.closed = True
        self.take_finished()

    def next_tick(self) -> Tick | None:
        """The next tick to push into the session; None when none is queued."""
        if not self.submitted:
            return None
        tick = self.submitted.popleft()
        self.queued_bytes -= tick_bytes(tick)
        return tick

    def came_out(self, masks: Iterable[TickMasks]) -> None:
        """Keep finished masks for the caller.

        Raises:
            EngineError: a frame came out twice, out of order, or was never submitted.
        """
        for tick_masks in masks:
            expected = self.due[0] if self.due else None
            if tick_masks.frame_index != expected:
                raise _broken_order(f"frame {tick_masks.frame_index} came out; expected {expected}")
            self.due.popleft()
            self.finished.append(tick_masks)
            self.queued_bytes += masks_bytes(tick_masks)

    def take_finished(self) -> list[TickMasks]:
        """Hand over what has come out since the last call."""
        masks = list(self.finished)
        self.finished.clear()
        self.queued_bytes -= sum(map(masks_bytes, masks))
        return masks

    def completed(self) -> None:
        """Note that the session has been worked off. Raises EngineError if some frames never came out."""
        if self.due:
            raise _broken_order(f"{len(self.due)} frames never came out, the first of them {self.due[0]}")
        self.complete = True


class SessionTable:
    """Who is open. Knows no threads, no tensors and no wall clock.

    Attributes:
        clock: batches run so far.
    """

    def __init__(self, *, max_sessions: int, max_state_bytes: int | None) -> None:
        if max_sessions < 1:
            raise ValueError(f"max_sessions {max_sessions}: expected >= 1.")
        if max_state_bytes is not None and max_state_bytes < 1:
            raise ValueError(f"max_state_bytes {max_state_bytes}: expected >= 1, or None for no limit.")
        self._max_sessions = max_sessions
        self._max_state_bytes = max_state_bytes
        self._live: dict[int, LiveSession] = {}
        self._next_id = 0
        self._largest_bytes = 0
        self._rows_in_service = 0
        self.clock = 0

    def live(self) -> list[LiveSession]:
        """Open sessions, in order of admission."""
        return list(self._live.values())

    def get(self, session_id: int) -> LiveSession:
        return self._live[session_id]

    def bytes_held(self) -> int:
        return sum(live.bytes_held for live in self._live.values())

    def admits(self) -> bool:
        """Whether one more session may begin; it is expected to grow as large as the largest so far."""
        if len(self._live) >= self._max_sessions:
            return False
        if self._max_state_bytes is None or not self._live:
            return True
        return self.bytes_held() + self._largest_bytes <= self._max_state_bytes

    def add(self, session: Session, frame_size: tuple[int, int]) -> LiveSession:
        """Let a session in; ask `admits` before."""
        live = LiveSession(session_id=self._next_id, session=session, frame_size=frame_size)
        self._next_id += 1
        self._live[live.session_id] = live
        return live

    def remove(self, live: LiveSession) -> None:
        """Forget a session and let go of what it holds, besides finished masks."""
        self._live.pop(live.session_id, None)
        live.session = None
        live.work = None
        while live.next_tick() is not None:
            pass

    def note_bytes(self, live: LiveSession, state_bytes: int) -> None:
        live.state_bytes = state_bytes
        self._largest_bytes = max(self._largest_bytes, live.bytes_held)

    def over_limit(self) -> LiveSession | None:
        """Who must go because the sessions together hold too much: the largest, of equal ones the youngest."""
        if self._max_state_bytes is None or self.bytes_held() <= self._max_state_bytes:
            return None
        return max(self._live.values(), key=lambda live: (live.bytes_held, live.session_id))

    def note_work(self, live: LiveSession, work: Work | None) -> None:
        """Record what a session wants next. A work keeps its age while further ticks only enlarge it."""
        if work is not None and live.work is None:
            live.waiting_since = self.clock
            if live.last_ran != self.clock:
                # It was idle, and has no claim on the rows that the others were given meanwhile: the start tag of
                # start-time fair queueing (Goyal, Vin and Cheng, SIGCOMM 1996).
                live.rows_served = max(live.rows_served, self._rows_in_service)
        live.work = work

    def waiting(self) -> list[Waiting]:
        """What the scheduler chooses from."""
        return [
            Waiting(
                session_id=live.session_id,
                work=live.work,
                waiting_since=live.waiting_since,
                rows_served=live.rows_served,
            )
            for live in self._live.values()
            if live.work is not None and not live.closed
        ]

    def note_batch(self, batch: Batch) -> None:
        """Advance the clock by a batch that was run, and charge its sessions."""
        ran = [self._live[session_id] for session_id in batch.session_ids]
        self._rows_in_service = max(self._rows_in_service, min(live.rows_served for live in ran))
        self.clock += 1
        for live in ran:
            live.rows_served += 0 if live.work is None else live.work.size
            live.last_ran = self.clock
            live.work = None


def tick_bytes(tick: Tick) -> int:
    return sum(image.nbytes for image in tick.images.values())


def masks_bytes(masks: TickMasks) -> int:
    return sum(entry.mask.nbytes for entry in masks.objects)


def _broken_order(what: str) -> EngineError:
    error = EngineError(f"{what}. The method broke the law that each frame comes out once and in order; report it.")
    error.retryable = False
    return error
