"""The real engine under faults: a video fails alone, nobody hangs, whoever leaves leaves nothing behind."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from pipeline.engine.engine import Engine, segment_video
from pipeline.engine.handle import SessionHandle
from pipeline.engine.runner import DeviceMemoryError
from pipeline.errors import EngineError, PromptError, SessionError
from pipeline.segmenter import Session
from pipeline.ticks import TickMasks
from tests.engine.driving import SIZE, Gate, after_first_step, drained, run_through
from tests.fakes import FakeOptions, FakeSegmenter, assert_same_masks, masks_alone, prompts_of, ticks_of

pytestmark = pytest.mark.timeout(30)


def test_a_poisoned_video_fails_alone_with_its_own_error(running: Callable[..., Engine]) -> None:
    engine = running(FakeSegmenter())
    videos = [(prompts_of(text), list(ticks_of(i, 9))) for i, text in enumerate(["a", "poison", "b"])]
    with ThreadPoolExecutor(3) as pool:
        futures = [pool.submit(lambda video: list(segment_video(engine, *video)), video) for video in videos]
        with pytest.raises(RuntimeError, match="poisoned"):
            futures[1].result()
        for i in (0, 2):
            assert_same_masks(futures[i].result(), masks_alone(FakeSegmenter(), *videos[i]))
    assert engine.statistics().open_sessions == 0


def test_a_video_that_runs_out_of_memory_fails_as_such(running: Callable[..., Engine]) -> None:
    engine = running()
    with pytest.raises(DeviceMemoryError):
        list(segment_video(engine, prompts_of("oom"), ticks_of(0, 4)))
    assert len(list(segment_video(engine, prompts_of("a"), ticks_of(0, 4)))) == 4


def test_masks_that_came_out_before_an_error_can_still_be_taken(running: Callable[..., Engine]) -> None:
    runs: list[str] = []

    def hook(stage: str, sessions: Sequence[Session]) -> None:
        runs.append(stage)
        if len(runs) > 4:
            raise RuntimeError("the fifth batch fails")

    engine = running(FakeSegmenter(FakeOptions(clip=1), hook), look_ahead_ticks=1, max_pending_ticks=5)
    handle = engine.open(prompts_of("a"), SIZE)
    masks: list[TickMasks] = []
    for tick in ticks_of(0, 2):
        handle.submit(tick)
        masks += handle.take()
    first, *later = list(ticks_of(0, 5))[2:]
    handle.submit(first)
    with pytest.raises(RuntimeError, match="fifth"):
        handle.take()
    assert [out.frame_index for out in masks] == [0, 1]
    with pytest.raises(RuntimeError, match="fifth"):
        handle.submit(later[0])


def test_a_refused_prompt_is_told_to_who_opened(running: Callable[..., Engine]) -> None:
    engine = running()
    with pytest.raises(PromptError, match="refuses"):
        engine.open(prompts_of("refuse"), SIZE)
    assert engine.statistics().open_sessions == 0


def test_a_method_that_gives_a_frame_twice_is_found_out(running: Callable[..., Engine]) -> None:
    with pytest.raises(EngineError, match=r"frame 0 came out; expected 1"):
        list(segment_video(running(), prompts_of("twice"), ticks_of(0, 6)))


def test_a_method_that_keeps_frames_to_itself_is_found_out(
    running: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = running()
    handle = engine.open(prompts_of("a"), SIZE)
    monkeypatch.setattr("tests.fakes.FakeSession.take", lambda session: [])
    for tick in ticks_of(0, 4):
        handle.submit(tick)
    handle.end()
    with pytest.raises(EngineError, match="4 frames never came out, the first of them 0"):
        handle.take()


def test_when_the_engine_thread_dies_everybody_is_told(running: Callable[..., Engine]) -> None:
    gate = Gate()
    engine = running(FakeSegmenter(FakeOptions(clip=1), gate.hook), max_sessions=3, max_pending_ticks=1)
    dying = engine.open(prompts_of("die"), SIZE)
    waiting = [engine.open(prompts_of("a"), SIZE) for _ in range(2)]
    for handle in (dying, *waiting):
        handle.submit(next(ticks_of(0, 1)))
    gate.reached.wait()
    tick_1, tick_2, tick_3 = list(ticks_of(0, 4))[1:]

    def submit_on(handle: SessionHandle) -> None:
        for tick in (tick_1, tick_2, tick_3):
            handle.submit(tick)

    actions: list[Callable[[], object]] = [
        lambda: submit_on(waiting[0]),
        waiting[1].take,
        dying.state_dict,
        lambda: engine.open(prompts_of("b"), SIZE),
    ]
    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(action) for action in actions]
        gate.opened.set()
        for future in futures:
            with pytest.raises(EngineError, match="SystemExit"):
                future.result()
    assert not engine.alive
    with pytest.raises(EngineError, match="died"):
        engine.open(prompts_of("c"), SIZE)


def test_shutdown_tells_who_waits_even_while_a_batch_hangs(running: Callable[..., Engine]) -> None:
    gate = Gate()
    engine = running(FakeSegmenter(FakeOptions(clip=1), gate.hook), max_sessions=1)
    handle = engine.open(prompts_of("a"), SIZE)
    handle.submit(next(ticks_of(0, 1)))
    gate.reached.wait()
    with ThreadPoolExecutor(3) as pool:
        taking = pool.submit(handle.take)
        opening = pool.submit(engine.open, prompts_of("b"), SIZE)
        stopping = pool.submit(engine.shutdown)
        for future in (taking, opening):
            with pytest.raises(EngineError, match="shut down"):
                future.result()
        assert not stopping.done()
        gate.opened.set()
        stopping.result()
    assert not engine.alive


def test_an_abandoned_video_makes_room_and_leaves_no_trace(running: Callable[..., Engine]) -> None:
    engine = running(max_sessions=1)
    abandoned = engine.open(prompts_of("a"), SIZE)
    for tick in ticks_of(0, 2):
        abandoned.submit(tick)
    abandoned.close()
    abandoned.close()
    video = (prompts_of("b"), list(ticks_of(1, 5)))
    assert_same_masks(list(segment_video(engine, *video)), masks_alone(FakeSegmenter(), *video))
    with pytest.raises(SessionError, match="closed"):
        abandoned.submit(next(ticks_of(0, 1)))
    assert engine.statistics().bytes_held == 0


def test_a_video_abandoned_inside_its_batch_disturbs_nobody(running: Callable[..., Engine]) -> None:
    handles: list[SessionHandle] = []
    hook = after_first_step(lambda: handles[0].close())
    segmenter = FakeSegmenter(FakeOptions(clip=1), hook)
    engine = running(segmenter)
    video = (prompts_of("b"), list(ticks_of(1, 5)))
    handles += [engine.open(prompts_of("a"), SIZE), engine.open(video[0], SIZE)]
    handles[0].submit(next(ticks_of(0, 1)))
    for tick in video[1]:
        handles[1].submit(tick)
    handles[1].end()
    assert_same_masks(drained(handles[1]), masks_alone(FakeSegmenter(FakeOptions(clip=1)), *video))


def test_leaving_a_generator_half_way_abandons_its_video(running: Callable[..., Engine]) -> None:
    engine = running(FakeSegmenter(FakeOptions(clip=1)), max_sessions=1)
    masks = segment_video(engine, prompts_of("a"), ticks_of(0, 50))
    assert next(masks).frame_index == 0
    masks.close()  # type: ignore[attr-defined]
    assert len(list(segment_video(engine, prompts_of("b"), ticks_of(0, 3)))) == 3


@pytest.mark.parametrize(
    "state",
    [{}, {"frame_size": [4], "due": []}, {"frame_size": [4, 6], "due": [], "last_frame_index": 0, "session": {}}],
)
def test_a_foreign_state_is_refused(running: Callable[..., Engine], state: dict[str, object]) -> None:
    with pytest.raises(SessionError):
        running().restore(state)


def test_a_late_frame_is_refused_and_the_video_goes_on(running: Callable[..., Engine]) -> None:
    video = (prompts_of("a"), list(ticks_of(0, 4)))
    handle = running().open(video[0], SIZE)
    handle.submit(video[1][0])
    with pytest.raises(SessionError, match="presentation order"):
        handle.submit(video[1][0])
    for tick in video[1][1:]:
        handle.submit(tick)
    handle.end()
    assert_same_masks(drained(handle), masks_alone(FakeSegmenter(), *video))


def test_a_video_that_outgrows_the_memory_limit_fails_and_the_smaller_one_goes_on(
    running: Callable[..., Engine],
) -> None:
    # One remembered frame of one object holds ballast + 8 bytes; memories are full after three frames.
    options = FakeOptions(clip=1, ballast=100_000)
    engine = running(FakeSegmenter(options), max_state_bytes=850_000)
    videos = [(prompts_of("a"), list(ticks_of(0, 9))), (prompts_of("b", "c", "d"), list(ticks_of(1, 9)))]
    first, second = (engine.open(prompts, SIZE) for prompts, _ in videos)
    with ThreadPoolExecutor(2) as pool:
        small, large = pool.submit(run_through, first, videos[0][1]), pool.submit(run_through, second, videos[1][1])
        with pytest.raises(EngineError, match="max_state_bytes") as caught:
            large.result()
        assert_same_masks(small.result(), masks_alone(FakeSegmenter(options), *videos[0]))
    assert isinstance(caught.value.retryable, bool)


def test_a_video_that_alone_outgrows_the_memory_limit_is_not_worth_a_retry(running: Callable[..., Engine]) -> None:
    engine = running(FakeSegmenter(FakeOptions(ballast=100_000)), max_state_bytes=150_000)
    with pytest.raises(EngineError, match="the 1 open sessions hold") as caught:
        list(segment_video(engine, prompts_of("a"), ticks_of(0, 9)))
    assert not caught.value.retryable


def test_a_method_that_breaks_its_buckets_is_found_out(running: Callable[..., Engine]) -> None:
    engine = running(FakeSegmenter(FakeOptions(track_bucket=2)))
    with pytest.raises(EngineError, match="the method is wrong"):
        list(segment_video(engine, prompts_of("a", "b", "c"), ticks_of(0, 4)))
