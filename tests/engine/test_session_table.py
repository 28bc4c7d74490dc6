"""The table of open sessions: order of frames, admission by count and bytes, eviction, fair re-entry."""

import pytest

from pipeline.engine.scheduler import Batch
from pipeline.engine.session_table import LiveSession, SessionTable
from pipeline.errors import EngineError, SessionError
from pipeline.segmenter import Work
from pipeline.ticks import TickMasks
from tests.fakes import FakeOptions, FakeSession, prompts_of, ticks_of

pytestmark = pytest.mark.timeout(30)

SIZE = (4, 6)


def a_table(*, max_sessions: int = 8, max_state_bytes: int | None = None) -> SessionTable:
    return SessionTable(max_sessions=max_sessions, max_state_bytes=max_state_bytes)


def a_session(table: SessionTable) -> LiveSession:
    return table.add(FakeSession(prompts_of("a"), SIZE, FakeOptions()), SIZE)


def masks_of(frame_index: int) -> TickMasks:
    return TickMasks(frame_index=frame_index, pts_us=0, height=4, width=6, objects=())


def served(table: SessionTable, live: LiveSession, rows: int) -> None:
    table.note_work(live, Work(stage="track", group=0, size=rows))
    table.note_batch(Batch(stage="track", group=0, session_ids=(live.session_id,), rows=rows))


@pytest.mark.parametrize("options", [{"max_sessions": 0}, {"max_state_bytes": 0}])
def test_limits_below_one_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="expected >= 1"):
        a_table(**options)


def test_a_tick_is_refused_when_it_is_late_or_of_another_size_or_after_the_end() -> None:
    live = a_session(a_table())
    first, second = ticks_of(0, 2)
    (wider,) = ticks_of(0, 1, size=(4, 7))
    live.submit(second)
    with pytest.raises(SessionError, match=r"frame 0: submitted after frame 1"):
        live.submit(first)
    with pytest.raises(SessionError, match=r"frame 1: submitted after frame 1"):
        live.submit(second)
    later = type(wider)(frame_index=5, pts_us=0, images=wider.images)
    with pytest.raises(SessionError, match=r"\(4, 7\).*opened for \(4, 6\)"):
        live.submit(later)
    live.end()
    with pytest.raises(SessionError, match="after end"):
        live.submit(later)
    assert [tick.frame_index for tick in live.submitted] == [1]


@pytest.mark.parametrize(
    ("out", "told"),
    [([1], "frame 1 came out; expected 0"), ([0, 0], "frame 0 came out; expected 1"), ([0, 1, 2], "expected None")],
)
def test_a_frame_that_comes_out_late_twice_or_unasked_is_an_engine_error(out: list[int], told: str) -> None:
    live = a_session(a_table())
    for tick in ticks_of(0, 2):
        live.submit(tick)
    with pytest.raises(EngineError, match=told) as caught:
        live.came_out([masks_of(i) for i in out])
    assert not caught.value.retryable


def test_a_frame_that_never_comes_out_is_an_engine_error() -> None:
    live = a_session(a_table())
    for tick in ticks_of(0, 3):
        live.submit(tick)
    live.came_out([masks_of(0)])
    with pytest.raises(EngineError, match="2 frames never came out, the first of them 1"):
        live.completed()


def test_queued_bytes_rise_with_what_waits_and_fall_to_zero_with_it() -> None:
    live = a_session(a_table())
    for tick in ticks_of(0, 3):
        live.submit(tick)
    assert live.bytes_held == 3 * 4 * 6 * 3
    while live.next_tick() is not None:
        pass
    live.came_out([masks_of(0), masks_of(1)])
    assert [masks.frame_index for masks in live.take_finished()] == [0, 1]
    assert live.bytes_held == 0


def test_no_more_sessions_are_admitted_than_allowed() -> None:
    table = a_table(max_sessions=2)
    first = a_session(table)
    assert table.admits()
    a_session(table)
    assert not table.admits()
    table.remove(first)
    assert table.admits()


def test_a_session_is_admitted_only_if_one_as_large_as_the_largest_so_far_would_fit() -> None:
    table = a_table(max_state_bytes=1000)
    first = a_session(table)
    table.note_bytes(first, 400)
    assert table.admits()
    second = a_session(table)
    table.note_bytes(second, 350)
    assert not table.admits()
    table.note_bytes(first, 300)
    assert not table.admits(), "it was 400 bytes once and may be again"
    table.remove(first)
    assert table.admits()


def test_one_session_is_always_admitted() -> None:
    table = a_table(max_state_bytes=10)
    live = a_session(table)
    table.note_bytes(live, 10_000)
    table.remove(live)
    assert table.admits()


def test_the_largest_session_is_evicted_and_of_equal_ones_the_youngest() -> None:
    table = a_table(max_state_bytes=1000)
    sessions = [a_session(table) for _ in range(3)]
    for live, held in zip(sessions, (400, 200, 400), strict=True):
        table.note_bytes(live, held)
    assert table.over_limit() is None
    table.note_bytes(sessions[1], 201)
    assert table.over_limit() is sessions[2]
    table.note_bytes(sessions[0], 500)
    assert table.over_limit() is sessions[0]


def test_a_session_that_was_idle_or_is_new_claims_no_rows_for_the_past() -> None:
    table = a_table()
    busy, idle = a_session(table), a_session(table)
    for _ in range(10):
        served(table, busy, 4)
    assert busy.rows_served == 40
    table.note_work(idle, Work(stage="track", group=0, size=4))
    assert idle.rows_served == 36, "the rows that the busy one had before the batch that ran last"


def test_a_session_that_had_to_wait_keeps_its_claim() -> None:
    table = a_table()
    small, large = a_session(table), a_session(table)
    table.note_work(small, Work(stage="track", group=0, size=1))
    for _ in range(3):
        served(table, large, 8)
    table.note_batch(Batch(stage="track", group=0, session_ids=(small.session_id,), rows=1))
    table.note_work(small, Work(stage="track", group=0, size=1))
    assert (small.rows_served, large.rows_served) == (1, 24)


def test_a_work_keeps_its_age_when_further_ticks_enlarge_it() -> None:
    table = a_table()
    live, other = a_session(table), a_session(table)
    table.note_work(live, Work(stage="encode", group=0, size=1))
    served(table, other, 1)
    table.note_work(live, Work(stage="encode", group=0, size=2))
    (entry,) = table.waiting()
    assert (entry.waiting_since, entry.work.size, table.clock) == (0, 2, 1)


def test_removing_a_session_lets_go_of_all_but_its_finished_masks() -> None:
    table = a_table()
    live = a_session(table)
    for tick in ticks_of(0, 3):
        live.submit(tick)
    live.next_tick()
    live.came_out([masks_of(0)])
    table.remove(live)
    assert live.session is None
    assert not live.submitted
    assert [masks.frame_index for masks in live.take_finished()] == [0]
    assert table.live() == []
