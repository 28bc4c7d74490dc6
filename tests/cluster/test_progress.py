"""Progress from receipts: totals, ETA by frames, and giving up."""

import pytest

from pipeline.cluster.progress import Progress, TooManyFailures, clock_text
from schemas.commit import Receipt


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def receipt(*, frames: int = 10, failed: int = 0) -> Receipt:
    return Receipt(
        unit_id="u",
        attempt_id="a",
        status="committed",
        videos_ok=1 - failed,
        videos_failed=failed,
        frames=frames,
        rows=3 * frames,
        bytes=100,
        wall_seconds=1.0,
        device_seconds=0.5,
        worker="w",
        errors=("v: DecodeError: gone",) * failed,
    )


def test_the_line_tells_rate_and_time_left_by_frames() -> None:
    clock = Clock()
    progress = Progress(num_units=4, num_frames=100, clock=clock)
    clock.now += 5.0
    progress.add(receipt(frames=20))
    # 20 of 100 frames in 5 s: 4 frames/s and 20 s to go.
    assert progress.line() == "1/4 units, 20 frames, 4.0 frames/s, ETA 0:20, 0 failed"


def test_without_frame_counts_the_time_left_goes_by_units() -> None:
    clock = Clock()
    progress = Progress(num_units=3, clock=clock)
    clock.now += 60.0
    progress.add(receipt())
    assert "ETA 2:00" in progress.line()


def test_a_run_gives_up_at_the_first_failure_beyond_the_allowed() -> None:
    progress = Progress(num_units=9, max_failed_videos=1, clock=Clock())
    progress.add(receipt(failed=1))
    with pytest.raises(TooManyFailures, match="2 videos failed, more than the 1 allowed"):
        progress.add(receipt(failed=1))
    assert progress.failures == ["v: DecodeError: gone"] * 2


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (61.2, "1:01"), (3725, "1:02:05")])
def test_clock_text(seconds: float, text: str) -> None:
    assert clock_text(seconds) == text
