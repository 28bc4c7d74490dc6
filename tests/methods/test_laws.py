"""The laws of Session and Segmenter, for every registered method."""

import io
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode

from pipeline.errors import SessionError
from pipeline.segmenter import Session, State, work_off
from pipeline.ticks import Tick, TickMasks
from tests.methods.law_cases import METHODS, Shuffler, Video, alone, assert_same_masks, mini_segmenter

VIDEOS = (
    Video(seed=1, num_frames=11, num_objects=1, height=48, width=72),
    Video(seed=2, num_frames=19, num_objects=3, height=40, width=56, stride=3),
    Video(seed=3, num_frames=5, num_objects=2, height=60, width=44),
    Video(seed=4, num_frames=17, num_objects=2, height=48, width=72),
)
SHORT = Video(seed=5, num_frames=10, num_objects=2, height=36, width=52)
CHECKED_PLACES = (0, 1, 4, 7, SHORT.num_frames)
"""Ticks after whose batches a copy goes on: the first, the next, those that fill a window or a clip, and the end."""

pytestmark = pytest.mark.parametrize("method", METHODS)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_interleaved_videos_give_the_masks_of_each_alone_bit_for_bit(method: str, seed: int) -> None:
    shuffler = Shuffler(method, VIDEOS, seed)
    for taken, video in zip(shuffler.run(), VIDEOS, strict=True):
        assert_same_masks(taken, alone(method, video))
    assert shuffler.num_shared > 0, "no batch was shared, so nothing was shown"


def test_each_tick_comes_out_once_in_order_at_its_own_size(method: str) -> None:
    for video in VIDEOS:
        taken = alone(method, video)
        assert [tick.frame_index for tick in taken] == [tick.frame_index for tick in video.ticks(method)]
        assert [tick.pts_us for tick in taken] == [tick.pts_us for tick in video.ticks(method)]
        for tick in taken:
            assert (tick.height, tick.width) == (video.height, video.width)
            object_ids = [found.object_id for found in tick.objects]
            assert object_ids == sorted(set(object_ids))
            for found in tick.objects:
                assert found.mask.shape == (video.height, video.width)
                assert found.mask.dtype == np.bool_
                assert 0 <= found.confidence <= 1


def test_a_video_of_no_ticks_gives_nothing(method: str) -> None:
    session = SHORT.open(method)
    session.end()
    work_off(mini_segmenter(method), session)
    assert session.take() == []


def test_masks_are_neither_all_empty_nor_all_full(method: str) -> None:
    shares = [found.mask.mean() for tick in alone(method, VIDEOS[0]) for found in tick.objects]
    assert 0.01 < np.mean(shares) < 0.99, "laws checked on such masks would show nothing"


def test_a_session_restored_at_any_tick_goes_on_as_if_nothing_had_happened(method: str) -> None:
    wanted, segmenter, ticks = alone(method, SHORT), mini_segmenter(method), SHORT.ticks(method)
    session, taken = SHORT.open(method), []
    for place, tick in enumerate([*ticks, None]):
        copy = segmenter.restore(_through_a_file(session.state_dict()))
        for coming in ticks[place:]:
            copy.push(coming)
            work_off(segmenter, copy)
        assert_same_masks(taken + _rest(method, copy), wanted)
        _push_or_end(session, tick)
        work_off(segmenter, session)
        taken += session.take()
    assert_same_masks(taken, wanted)


def test_a_session_restored_after_any_batch_goes_on_as_if_nothing_had_happened(method: str) -> None:
    wanted, segmenter = alone(method, SHORT), mini_segmenter(method)
    session, taken = SHORT.open(method), []
    for place, tick in enumerate([*SHORT.ticks(method), None]):
        _push_or_end(session, tick)
        while (work := session.next_work()) is not None:
            segmenter.run(work.stage, [session])
            if place in CHECKED_PLACES:
                _check_continuation(method, session, taken, tick, wanted)
        taken += session.take()


def test_taking_the_state_disturbs_nothing(method: str) -> None:
    session, segmenter, taken = SHORT.open(method), mini_segmenter(method), []
    for tick in [*SHORT.ticks(method), None]:
        _push_or_end(session, tick)
        while (work := session.next_work()) is not None:
            session.state_dict()
            segmenter.run(work.stage, [session])
        session.state_dict()
        taken += session.take()
    assert_same_masks(taken, alone(method, SHORT))


@pytest.mark.parametrize("share_done", [0.0, 0.5, 0.97])
def test_a_batch_that_fails_leaves_every_session_as_it_was(method: str, share_done: float) -> None:
    """Fails at the first, a middle and a late tensor operation of every batch; two sessions where they fit."""
    expected = alone(method, SHORT)  # first: it fills what later runs of the same process find made
    segmenter, num_calls = mini_segmenter(method), list(_calls_per_batch(method))
    sessions, taken = [SHORT.open(method), SHORT.open(method)], [list[TickMasks](), list[TickMasks]()]
    num_shared = 0
    for tick in [*SHORT.ticks(method), None]:
        for session in sessions:
            _push_or_end(session, tick)
        while (batch := _next_batch(method, sessions)) is not None:
            works = [session.next_work() for session in sessions]
            num_shared += len(batch) > 1
            stage = batch[0].next_work().stage  # type: ignore[union-attr]
            calls = num_calls.pop(0)
            if calls:  # a stage may do without tensors
                with pytest.raises(_InjectedError), _FailAt(int(share_done * (calls - 1))):
                    segmenter.run(stage, batch)
            assert [session.next_work() for session in sessions] == works
            assert [session.take() for session in sessions] == [[], []]
            # Alone, as the engine does after a failure.
            for session in batch:
                segmenter.run(stage, [session])
        for ours, session in zip(taken, sessions, strict=True):
            ours += session.take()
    assert num_shared > 0
    for ours in taken:
        assert_same_masks(ours, expected)


def test_what_a_session_holds_does_not_grow_with_the_video(method: str) -> None:
    video = Video(seed=6, num_frames=72, num_objects=1, height=36, width=52)
    session, segmenter, held = video.open(method), mini_segmenter(method), []
    for tick in video.ticks(method):
        session.push(tick)
        work_off(segmenter, session)
        session.take()
        held.append(session.state_bytes())
    half = len(held) // 2
    assert max(held[half:]) <= max(held[:half])
    assert min(held) > 0


def test_works_fit_their_buckets_and_name_known_stages(method: str) -> None:
    session, segmenter = VIDEOS[1].open(method), mini_segmenter(method)
    for tick in [*VIDEOS[1].ticks(method), None]:
        _push_or_end(session, tick)
        while (work := session.next_work()) is not None:
            assert 1 <= work.size <= segmenter.buckets[work.stage]
            assert hash(work.group) == hash(work.group)
            segmenter.run(work.stage, [session])


def test_frames_out_of_order_are_refused_and_change_nothing(method: str) -> None:
    session, ticks = SHORT.open(method), SHORT.ticks(method)
    session.push(ticks[0])
    session.push(ticks[2])
    for tick in (ticks[0], ticks[1], ticks[2]):
        with pytest.raises(SessionError, match="frame"):
            session.push(tick)
    session.push(ticks[3])
    assert [tick.frame_index for tick in _rest(method, session)] == [0, 2, 3]


def test_a_frame_after_the_end_is_refused(method: str) -> None:
    session, ticks = SHORT.open(method), SHORT.ticks(method)
    session.push(ticks[0])
    session.end()
    with pytest.raises(SessionError, match="end"):
        session.push(ticks[1])


def test_a_frame_of_another_size_is_refused(method: str) -> None:
    with pytest.raises(SessionError, match="expected"):
        SHORT.open(method).push(VIDEOS[1].ticks(method)[0])


def test_a_state_of_another_method_is_refused(method: str) -> None:
    with pytest.raises(SessionError):
        mini_segmenter(method).restore({"fingerprint": {"method": "some other"}})


def test_a_batch_larger_than_its_bucket_is_refused(method: str) -> None:
    segmenter = mini_segmenter(method)
    sessions = [SHORT.open(method) for _ in range(1 + max(segmenter.buckets.values()))]
    for session in sessions:
        for tick in SHORT.ticks(method):
            session.push(tick)
    work = sessions[0].next_work()
    assert work is not None
    with pytest.raises(ValueError, match=work.stage):
        segmenter.run(work.stage, sessions)


def test_a_stage_that_the_session_does_not_want_is_refused(method: str) -> None:
    session, segmenter = SHORT.open(method), mini_segmenter(method)
    for stage in segmenter.buckets:
        with pytest.raises(SessionError):
            segmenter.run(stage, [session])


class _InjectedError(RuntimeError):
    pass


class _FailAt(TorchFunctionMode):
    """Raises at the n-th tensor operation; counts them if n is None."""

    def __init__(self, number: int | None) -> None:
        super().__init__()
        self.number = number
        self.num_calls = 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if self.num_calls == self.number:
            raise _InjectedError(f"operation {self.number}")
        self.num_calls += 1
        return func(*args, **(kwargs or {}))


@cache
def _calls_per_batch(method: str) -> tuple[int, ...]:
    """Tensor operations of each batch when two sessions share what they can and nothing fails."""
    segmenter, sessions, counts = mini_segmenter(method), [SHORT.open(method), SHORT.open(method)], []
    for tick in [*SHORT.ticks(method), None]:
        for session in sessions:
            _push_or_end(session, tick)
        while (batch := _next_batch(method, sessions)) is not None:
            with _FailAt(None) as counter:
                segmenter.run(batch[0].next_work().stage, batch)  # type: ignore[union-attr]
            counts.append(counter.num_calls)
    return tuple(counts)


def _next_batch(method: str, sessions: list[Session]) -> list[Session] | None:
    """The first session that wants work, and the other one if it wants the same and there is room."""
    wanting = [session for session in sessions if session.next_work() is not None]
    works = [work for session in wanting if (work := session.next_work()) is not None]
    if not works:
        return None
    alike = len({(work.stage, work.group) for work in works}) == 1
    fits = sum(work.size for work in works) <= mini_segmenter(method).buckets[works[0].stage]
    return wanting if alike and fits else wanting[:1]


def _check_continuation(
    method: str, session: Session, taken: list[TickMasks], last: Tick | None, wanted: Sequence[TickMasks]
) -> None:
    """A copy, made from the state by way of a file, gives what is still to come."""
    copy = mini_segmenter(method).restore(_through_a_file(session.state_dict()))
    if last is not None:
        for tick in SHORT.ticks(method):
            if tick.frame_index > last.frame_index:
                copy.push(tick)
    assert_same_masks(taken + _rest(method, copy), wanted)


def _push_or_end(session: Session, tick: Tick | None) -> None:
    if tick is None:
        session.end()
    else:
        session.push(tick)


def _rest(method: str, session: Session) -> list[TickMasks]:
    session.end()
    work_off(mini_segmenter(method), session)
    return session.take()


def _through_a_file(state: State) -> State:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    loaded: State = torch.load(file, weights_only=True)
    return loaded
