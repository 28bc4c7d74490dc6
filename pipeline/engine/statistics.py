"""How well the device was used: batches, rows and fill of each stage, frames, and what is queued now."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from pipeline.engine.scheduler import Batch
from pipeline.engine.session_table import LiveSession


@dataclass(frozen=True, slots=True, kw_only=True)
class StageStatistics:
    """Batches of one stage since the start; `mean_fill` is rows over places, 0..1, and 0 before the first batch."""

    batches: int
    rows: int
    mean_fill: float


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineStatistics:
    """Counts since the engine started.

    Attributes:
        frames: ticks that came out of sessions.
        device_seconds: time in `Segmenter.run`, on the host's clock.
        open_sessions, queued_ticks, bytes_held: now; queued ticks are submitted and not yet given to a session.
    """

    batches: int
    rows: int
    frames: int
    mean_fill: float
    device_seconds: float
    open_sessions: int
    queued_ticks: int
    bytes_held: int
    stages: Mapping[str, StageStatistics]


@dataclass(slots=True)
class RunningStatistics:
    """The counters behind `EngineStatistics`; `buckets` is stage name to rows per batch."""

    buckets: Mapping[str, int]
    frames: int = 0
    device_seconds: float = 0.0
    batches: dict[str, int] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)

    def note_batch(self, batch: Batch, device_seconds: float) -> None:
        self.batches[batch.stage] = self.batches.get(batch.stage, 0) + 1
        self.rows[batch.stage] = self.rows.get(batch.stage, 0) + batch.rows
        self.device_seconds += device_seconds

    def snapshot(self, open_sessions: Iterable[LiveSession]) -> EngineStatistics:
        live = list(open_sessions)
        places = sum(self.batches.get(stage, 0) * size for stage, size in self.buckets.items())
        rows = sum(self.rows.values())
        return EngineStatistics(
            batches=sum(self.batches.values()),
            rows=rows,
            frames=self.frames,
            mean_fill=rows / places if places else 0.0,
            device_seconds=self.device_seconds,
            open_sessions=len(live),
            queued_ticks=sum(len(session.submitted) for session in live),
            bytes_held=sum(session.bytes_held for session in live),
            stages={stage: self._of_stage(stage) for stage in self.buckets},
        )

    def _of_stage(self, stage: str) -> StageStatistics:
        batches, rows = self.batches.get(stage, 0), self.rows.get(stage, 0)
        fill = rows / (batches * self.buckets[stage]) if batches else 0.0
        return StageStatistics(batches=batches, rows=rows, mean_fill=fill)
