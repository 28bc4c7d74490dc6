"""Progress of a run, from receipts: counts, frames/s, ETA, and when to give up."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from schemas.commit import Receipt

logger = logging.getLogger(__name__)


class TooManyFailures(Exception):
    """More videos failed than the job allows."""


@dataclass(slots=True, kw_only=True)
class Progress:
    """Running totals of one run's receipts.

    Attributes:
        num_units: units planned for this run.
        num_frames: frames planned, None when unknown.
        max_failed_videos: give up beyond this many; None for never.
        seconds_between_lines: at most one line per so many seconds.
    """

    num_units: int
    num_frames: int | None = None
    max_failed_videos: int | None = None
    seconds_between_lines: float = 30.0
    clock: Callable[[], float] = time.monotonic
    units: int = 0
    units_committed: int = 0
    videos_ok: int = 0
    videos_failed: int = 0
    frames: int = 0
    rows: int = 0
    bytes: int = 0
    device_seconds: float = 0.0
    failures: list[str] = field(default_factory=list)
    _started: float = field(init=False)
    _last_line: float = field(init=False)

    def __post_init__(self) -> None:
        self._started = self._last_line = self.clock()

    def add(self, receipt: Receipt) -> None:
        """Count a receipt; log a line when one is due.

        Raises:
            TooManyFailures: this receipt's failures exceed what the job allows.
        """
        self.units += 1
        self.units_committed += receipt.status == "committed"
        self.videos_ok += receipt.videos_ok
        self.videos_failed += receipt.videos_failed
        self.frames += receipt.frames
        self.rows += receipt.rows
        self.bytes += receipt.bytes
        self.device_seconds += receipt.device_seconds
        for message in receipt.errors:
            self.failures.append(message)
            logger.warning("failed: %s", message, extra={"unit_id": receipt.unit_id})
        now = self.clock()
        if now - self._last_line >= self.seconds_between_lines or self.units == self.num_units:
            self._last_line = now
            logger.info("%s", self.line())
        if self.max_failed_videos is not None and self.videos_failed > self.max_failed_videos:
            raise TooManyFailures(
                f"{self.videos_failed} videos failed, more than the {self.max_failed_videos} allowed by --max-errors. "
                "What was committed stays; see the errors table."
            )

    def line(self) -> str:
        """ "3/12 units, 410 frames, 38.2 frames/s, ETA 0:42, 1 failed"."""
        elapsed = max(self.clock() - self._started, 1e-9)
        return (
            f"{self.units}/{self.num_units} units, {self.frames:,} frames, {self.frames / elapsed:.1f} frames/s, "
            f"ETA {self._eta(elapsed)}, {self.videos_failed} failed"
        )

    def _eta(self, elapsed: float) -> str:
        done = self.frames / self.num_frames if self.num_frames else self.units / max(self.num_units, 1)
        return "unknown" if done <= 0 else clock_text(max(elapsed / min(done, 1.0) - elapsed, 0.0))


def clock_text(seconds: float) -> str:
    """Seconds as m:ss or h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
