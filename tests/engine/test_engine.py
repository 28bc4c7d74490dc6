"""The real engine and its thread under many caller threads: equal masks, order, shared batches, states, fairness."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from pipeline.engine.engine import Engine, segment_video
from pipeline.segmenter import Session
from pipeline.ticks import TickMasks
from tests.engine.driving import SIZE, Gate, drained, in_threads, run_through
from tests.fakes import FakeOptions, FakeSegmenter, assert_same_masks, masks_alone, prompts_of, ticks_of

pytestmark = pytest.mark.timeout(30)


@pytest.mark.parametrize("clip", [1, 3])
def test_two_videos_interleaved_give_the_masks_of_each_alone(running: Callable[..., Engine], clip: int) -> None:
    options = FakeOptions(clip=clip)
    videos = [
        (prompts_of("a", "b"), list(ticks_of(1, 11))),
        (prompts_of("c"), list(ticks_of(2, 7, stride=3))),
    ]
    given = in_threads(running(FakeSegmenter(options)), videos)
    for masks, video in zip(given, videos, strict=True):
        assert_same_masks(masks, masks_alone(FakeSegmenter(options), *video))


def test_sixteen_videos_of_unlike_size_length_and_objects_give_the_masks_of_each_alone(
    running: Callable[..., Engine],
) -> None:
    options = FakeOptions(clip=2, encode_bucket=3, track_bucket=5)
    videos = [
        (prompts_of(*"abcde"[: 1 + i % 5]), list(ticks_of(i, 1 + 2 * i, size=SIZE if i % 3 else (5, 3))))
        for i in range(16)
    ]
    engine = running(FakeSegmenter(options), max_sessions=7, max_pending_ticks=2, look_ahead_ticks=3)
    given = in_threads(engine, videos)
    for masks, video in zip(given, videos, strict=True):
        assert_same_masks(masks, masks_alone(FakeSegmenter(options), *video))
    statistics = engine.statistics()
    assert statistics.frames == sum(len(ticks) for _, ticks in videos)
    assert (statistics.open_sessions, statistics.queued_ticks, statistics.bytes_held) == (0, 0, 0)


def test_one_thread_touches_the_segmenter(running: Callable[..., Engine]) -> None:
    segmenter = FakeSegmenter()
    engine = running(segmenter)
    in_threads(engine, [(prompts_of("a"), list(ticks_of(i, 5))) for i in range(4)])
    assert len(segmenter.threads) == 1
    assert threading.get_ident() not in segmenter.threads


def test_eight_videos_share_batches(running: Callable[..., Engine]) -> None:
    gate = Gate()
    segmenter = FakeSegmenter(FakeOptions(encode_bucket=8, track_bucket=8, clip=1), gate.hook)
    engine = running(segmenter, max_pending_ticks=6, look_ahead_ticks=1)
    videos = [(prompts_of("a"), list(ticks_of(i, 6))) for i in range(8)]
    handles = [engine.open(prompts, SIZE) for prompts, _ in videos]
    for handle, (_, ticks) in zip(handles, videos, strict=True):
        for tick in ticks:
            handle.submit(tick)
        handle.end()
    gate.opened.set()
    for handle, (prompts, ticks) in zip(handles, videos, strict=True):
        assert_same_masks(drained(handle), masks_alone(FakeSegmenter(FakeOptions(clip=1)), prompts, ticks))
    statistics = engine.statistics()
    assert statistics.rows == 8 * 6 * 2
    # The first video may have gone one frame ahead before the others came.
    assert statistics.rows / statistics.batches >= 4
    assert statistics.stages["encode"].mean_fill >= 0.5


def test_submit_waits_and_no_more_than_the_allowed_ticks_are_ever_queued(running: Callable[..., Engine]) -> None:
    gate = Gate()
    engine = running(FakeSegmenter(FakeOptions(clip=1), gate.hook), max_pending_ticks=3, look_ahead_ticks=2)
    video = (prompts_of("a"), list(ticks_of(0, 12)))
    handle = engine.open(video[0], SIZE)
    queued: list[int] = []
    accepted = threading.Semaphore(0)

    def submit_all() -> None:
        for tick in video[1]:
            handle.submit(tick)
            queued.append(engine.statistics().queued_ticks)
            accepted.release()
        handle.end()

    with ThreadPoolExecutor(1) as pool:
        submitting = pool.submit(submit_all)
        gate.reached.wait()
        # The session was given one or two, three are queued; the sixth or seventh submit is the one that waits.
        for _ in range(4):
            accepted.acquire()
        assert not submitting.done()
        assert len(queued) <= 5
        gate.opened.set()
        submitting.result()
    assert max(queued) <= 3
    assert_same_masks(drained(handle), masks_alone(FakeSegmenter(FakeOptions(clip=1)), *video))


def test_a_video_without_frames_gives_nothing(running: Callable[..., Engine]) -> None:
    assert list(segment_video(running(), prompts_of("a"), [])) == []


@pytest.mark.parametrize("num_before", [1, 4, 9])
def test_a_state_taken_among_other_running_videos_goes_on_in_another_engine(
    running: Callable[..., Engine], num_before: int
) -> None:
    engine, other = running(FakeSegmenter(FakeOptions(clip=4))), running(FakeSegmenter(FakeOptions(clip=4)))
    video = (prompts_of("a", "b"), list(ticks_of(3, 14, stride=2)))
    noise = [(prompts_of("c"), list(ticks_of(10 + i, 30))) for i in range(3)]
    with ThreadPoolExecutor(3) as pool:
        noisy = [pool.submit(lambda video: list(segment_video(engine, *video)), each) for each in noise]
        handle = engine.open(video[0], SIZE)
        masks: list[TickMasks] = []
        for tick in video[1][:num_before]:
            handle.submit(tick)
            masks += handle.take(block=False)
        state = handle.state_dict()
        masks += handle.take()
        handle.close()
        for future, each in zip(noisy, noise, strict=True):
            assert_same_masks(future.result(), masks_alone(FakeSegmenter(FakeOptions(clip=4)), *each))
    restored = other.restore(state)
    for tick in video[1][num_before:]:
        restored.submit(tick)
    restored.end()
    masks += drained(restored)
    assert_same_masks(masks, masks_alone(FakeSegmenter(FakeOptions(clip=4)), *video))


def test_taking_a_state_changes_nothing(running: Callable[..., Engine]) -> None:
    video = (prompts_of("a"), list(ticks_of(3, 10)))
    handle = running().open(video[0], SIZE)
    masks: list[TickMasks] = []
    for tick in video[1]:
        handle.submit(tick)
        handle.state_dict()
        masks += handle.take(block=False)
    handle.end()
    assert_same_masks(masks + drained(handle), masks_alone(FakeSegmenter(), *video))


def test_a_state_that_holds_work_is_worked_off_without_another_submit(running: Callable[..., Engine]) -> None:
    gate = Gate()
    engine = running(FakeSegmenter(FakeOptions(clip=1), gate.hook))
    session = FakeSegmenter(FakeOptions(clip=1)).open(prompts_of("a"), SIZE)
    session.push(next(ticks_of(0, 1)))
    state = {"session": session.state_dict(), "due": [0], "last_frame_index": 0, "frame_size": list(SIZE)}
    handle = engine.restore(state)
    with ThreadPoolExecutor(1) as pool:
        taking = pool.submit(handle.take)
        gate.reached.wait()
        gate.opened.set()
        assert [masks.frame_index for masks in taking.result()] == [0]


def test_open_waits_for_room_first_come_first_served(running: Callable[..., Engine]) -> None:
    engine = running(max_sessions=1)
    first = engine.open(prompts_of("a"), SIZE)
    with ThreadPoolExecutor(1) as pool:
        second = pool.submit(engine.open, prompts_of("b"), SIZE)
        for tick in ticks_of(0, 3):
            first.submit(tick)
        first.end()
        assert len(drained(first)) == 3
        handle = second.result()
    handle.end()
    assert handle.take() == []


def test_device_seconds_of_the_videos_add_up_to_the_engines(running: Callable[..., Engine]) -> None:
    engine = running()
    handles = [engine.open(prompts_of("a"), SIZE) for _ in range(3)]
    for handle in handles:
        run_through(handle, list(ticks_of(0, 5)))
    total = sum(handle.device_seconds for handle in handles)
    assert total == pytest.approx(engine.statistics().device_seconds)
    assert total > 0


def test_a_video_that_never_fills_a_bucket_is_not_starved_by_one_that_always_does(
    running: Callable[..., Engine],
) -> None:
    gate = Gate()
    frames: dict[int, int] = {1: 0, 4: 0}
    when_many_ended: list[int] = []

    def hook(stage: str, sessions: Sequence[Session]) -> None:
        gate.hook(stage, sessions)
        if stage == "track":
            for session in sessions:
                frames[len(session.memories)] += 1  # type: ignore[attr-defined]
        if frames[4] == 40:
            when_many_ended.append(frames[1])

    options = FakeOptions(clip=1, encode_bucket=1, track_bucket=4)
    engine = running(FakeSegmenter(options, hook), max_pending_ticks=40, look_ahead_ticks=1)
    handles = [engine.open(prompts_of(*texts), SIZE) for texts in ("a", "abcd")]
    for handle in handles:
        for tick in ticks_of(0, 40):
            handle.submit(tick)
        handle.end()
    gate.opened.set()
    assert [len(drained(handle)) for handle in handles] == [40, 40]
    # Of 9 batches (patience: 4 for each of 2 sessions) one at least is its own; a frame takes two.
    assert when_many_ended[0] >= 80 // 9 // 2


def test_taking_masks_makes_room_for_a_video_that_waits_for_it(running: Callable[..., Engine]) -> None:
    # 20 masks of 60 kB wait to be taken: a second video, expected to grow as large, would pass the limit.
    size = (200, 300)
    engine = running(FakeSegmenter(FakeOptions(clip=1)), max_state_bytes=2_000_000, max_pending_ticks=2)
    first = engine.open(prompts_of("a"), size)
    for tick in ticks_of(0, 20, size=size):
        first.submit(tick)
    first.state_dict()  # waits until all is worked off
    with ThreadPoolExecutor(1) as pool:
        second = pool.submit(engine.open, prompts_of("b"), size)
        with pytest.raises(TimeoutError):
            second.result(timeout=0.2)
        assert len(first.take()) == 20
        assert second.result().take() == []
