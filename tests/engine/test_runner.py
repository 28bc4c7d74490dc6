"""Running a batch that fails: who is at fault fails alone, memory that ran out gets one more try."""

import itertools
from collections.abc import Sequence

import pytest
import torch

from pipeline.engine.runner import DeviceMemoryError, is_out_of_memory, let_go_of_frames, run_batch
from pipeline.errors import EngineError
from pipeline.segmenter import Session
from tests.fakes import FakeSegmenter, FakeSession, Hook, prompts_of, ticks_of

pytestmark = pytest.mark.timeout(30)


def ready(segmenter: FakeSegmenter, text: str, seed: int) -> FakeSession:
    session = segmenter.open(prompts_of(text), (4, 6))
    for tick in ticks_of(seed, 1):
        session.push(tick)
    return session


def failing(errors: Sequence[Exception | None]) -> Hook:
    """Raises these one after the other, one per call."""
    remaining = iter(errors)

    def hook(stage: str, sessions: Sequence[Session]) -> None:
        error = next(remaining, None)
        if error is not None:
            raise error

    return hook


def test_time_is_shared_out_by_rows() -> None:
    segmenter = FakeSegmenter()
    sessions: dict[int, Session] = {0: ready(segmenter, "a", 0), 1: ready(segmenter, "b", 1)}
    seconds = itertools.count(step=8.0)
    outcome = run_batch(segmenter, "encode", sessions, {0: 1, 1: 3}, clock=lambda: next(seconds))
    assert outcome.errors == {}
    assert outcome.device_seconds == {0: 2.0, 1: 6.0}


def test_only_the_poisoned_session_fails_and_the_others_have_done_their_work() -> None:
    segmenter = FakeSegmenter()
    sessions = {i: ready(segmenter, text, i) for i, text in enumerate(["a", "poison", "b"])}
    outcome = run_batch(segmenter, "encode", sessions, {0: 1, 1: 1, 2: 1})
    assert {i: str(error) for i, error in outcome.errors.items()} == {1: "the fake was poisoned"}
    assert [len(session.clip) for session in sessions.values()] == [1, 0, 1]
    assert set(outcome.device_seconds) == {0, 1, 2}


def test_an_error_that_does_not_come_again_fails_nobody() -> None:
    segmenter = FakeSegmenter(hook=failing([RuntimeError("once")]))
    sessions = {0: ready(segmenter, "a", 0), 1: ready(segmenter, "b", 1)}
    outcome = run_batch(segmenter, "encode", sessions, {0: 1, 1: 1})
    assert outcome.errors == {}
    assert [len(session.clip) for session in sessions.values()] == [1, 1]


def test_a_single_session_that_fails_is_not_run_again() -> None:
    segmenter = FakeSegmenter(hook=failing([RuntimeError("first"), RuntimeError("second")]))
    outcome = run_batch(segmenter, "encode", {5: ready(segmenter, "a", 0)}, {5: 1})
    assert str(outcome.errors[5]) == "first"


@pytest.mark.parametrize("num_sessions", [1, 3])
def test_memory_that_runs_out_once_costs_nobody(num_sessions: int) -> None:
    segmenter = FakeSegmenter(hook=failing([torch.OutOfMemoryError("CUDA out of memory")]))
    sessions = {i: ready(segmenter, "a", i) for i in range(num_sessions)}
    outcome = run_batch(segmenter, "encode", sessions, dict.fromkeys(sessions, 1))
    assert outcome.errors == {}
    assert [len(session.clip) for session in sessions.values()] == [1] * num_sessions


def test_a_session_that_runs_out_of_memory_alone_and_again_fails_with_what_to_do() -> None:
    segmenter = FakeSegmenter()
    sessions = {i: ready(segmenter, text, i) for i, text in enumerate(["a", "oom"])}
    outcome = run_batch(segmenter, "encode", sessions, {0: 1, 1: 1})
    assert list(outcome.errors) == [1]
    error = outcome.errors[1]
    assert isinstance(error, DeviceMemoryError)
    assert error.retryable
    assert "max_side" in str(error)
    assert len(sessions[0].clip) == 1


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("x"), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"), True),
        (RuntimeError("shape mismatch"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_what_counts_as_out_of_memory(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) is expected


def test_a_lost_device_is_an_engine_error_and_nobodys_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def lost() -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", lost)
    segmenter = FakeSegmenter(hook=failing([RuntimeError("CUDA error: device-side assert triggered")]))
    with pytest.raises(EngineError, match="no longer answers") as caught:
        run_batch(segmenter, "encode", {0: ready(segmenter, "a", 0)}, {0: 1})
    assert caught.value.retryable


def test_an_error_keeps_no_tensors_of_the_frames_it_passed() -> None:
    def allocate() -> None:
        large = torch.zeros(3)
        raise RuntimeError(f"failed with {large.shape}")

    try:
        allocate()
    except RuntimeError as error:
        caught = error
    frame = caught.__traceback__.tb_next.tb_frame if caught.__traceback__ and caught.__traceback__.tb_next else None
    assert frame is not None
    assert "large" in frame.f_locals
    let_go_of_frames(caught)
    assert "large" not in frame.f_locals
