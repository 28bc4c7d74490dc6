"""Worker: a callable for one device: one unit in, its rows staged and committed whole, one small receipt out."""

import logging
import os
import socket
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field

from pipeline.decode.bundle_options import BundleOptions
from pipeline.decode.options import BadPts
from pipeline.encode import RowContext
from pipeline.engine.engine import Engine
from pipeline.engine.load_model import build_segmenter, load_model
from pipeline.engine.snapshots import Snapshot, SnapshotUnusable, delete_snapshot, read_snapshot, warn_unusable
from pipeline.engine.statistics import EngineStatistics
from pipeline.engine.video_run import VideoFailed, VideoRun, failing_at
from pipeline.engine.video_source import VideoLimits
from pipeline.errors import CommitConflict, ConfigError, EngineError, MasklakeError
from pipeline.io.commit_log import commit_unit, record_failure
from pipeline.io.inputs import MAX_SCRATCH_BYTES
from pipeline.io.mask_files import StagedUnit
from pipeline.io.storage import open_store
from pipeline.io.weights import resolve_model
from pipeline.io.weights_folders import resolve_folders
from pipeline.segmenter import Segmenter
from schemas.commit import Commit, CommittedItem, Part, Receipt
from schemas.error_table import ErrorRecord
from schemas.ids import new_attempt_id
from schemas.work_unit import WorkItem, WorkUnit

logger = logging.getLogger(__name__)

Positive = Annotated[int, Field(ge=1)]


class WorkerSettings(BaseModel):
    """All that a worker is built from; travels as JSON to wherever the device is.

    Attributes:
        lake: root URI of the lake.
        method: name in SEGMENTERS; method_config: its config, as plain values.
        model, tokenizer, offline, trust_unpinned: see `pipeline.io.weights`.
        seed: of untrained weights.
        device: "auto" takes CUDA if there is one; "cuda" without CUDA is an error.
        max_videos: live videos; as many threads may call the worker at once.
        max_pending_ticks, max_state_bytes: see `Engine`.
        torch_threads: threads of torch's operators on the CPU, in the whole process; 1 keeps videos from crowding
            each other out.
        read_ahead_frames: decoded frames per video that may wait for the engine.
        on_bad_pts: what to do with a frame without a usable time: "error" or "drop".
        scratch_dir: local folder for downloads and staging; None for the system's.
        max_scratch_bytes: larger remote videos are read by ranges instead of downloaded.
        snapshot_frames: frames between two snapshots of a unit of one video; None for none.
        bundle: how modalities are brought together; None where the method reads rgb only.
        folders: role to name of further networks, each found on this machine before the model is built.
        lineage: for the parts' metadata: model, weights_sha256, code_version, config_hash, ...
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    lake: str
    method: str
    method_config: Mapping[str, Any] = Field(default_factory=dict)
    model: str = "tiny"
    tokenizer: str | None = None
    offline: bool = False
    trust_unpinned: bool = False
    seed: int = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    max_videos: Positive = 4
    max_pending_ticks: Positive = 8
    max_state_bytes: Positive | None = None
    torch_threads: Positive | None = 1
    read_ahead_frames: Annotated[int, Field(ge=0)] = 4
    on_bad_pts: BadPts = "error"
    scratch_dir: str | None = None
    max_scratch_bytes: Positive = MAX_SCRATCH_BYTES
    snapshot_frames: Positive | None = None
    bundle: BundleOptions | None = None
    folders: Mapping[str, str] = Field(default_factory=dict)
    lineage: Mapping[str, str] = Field(default_factory=dict)


class Worker:
    """One model on one device. Built once per process; up to `max_videos` threads call it at once.

    Args:
        segmenter: instead of loading the model that the settings name.

    Raises:
        ConfigError: the method is unknown or its config refused, or there is no such device.
        WeightsError: the model cannot be found or loaded.
    """

    def __init__(self, settings: WorkerSettings, *, segmenter: Segmenter | None = None) -> None:
        self.settings = settings
        self._store = open_store(settings.lake)
        if settings.torch_threads is not None:
            torch.set_num_threads(settings.torch_threads)
        segmenter = segmenter or _segmenter_of(settings)
        # Methods that give classes name them; those that do not have no such attribute.
        self._class_names: Mapping[int, str] = dict(getattr(segmenter, "class_names", {}))
        self._engine = Engine(
            segmenter,
            max_sessions=settings.max_videos,
            max_pending_ticks=settings.max_pending_ticks,
            max_state_bytes=settings.max_state_bytes,
            torch_threads=settings.torch_threads,
        )
        self._closed = threading.Event()
        self._name = f"{socket.gethostname()}:{os.getpid()}"
        self._scratch_dir = settings.scratch_dir or tempfile.gettempdir()
        self._limits = VideoLimits(
            scratch_dir=self._scratch_dir,
            max_scratch_bytes=settings.max_scratch_bytes,
            read_ahead_frames=settings.read_ahead_frames,
            on_bad_pts=settings.on_bad_pts,
            snapshot_frames=settings.snapshot_frames,
            bundle=settings.bundle,
        )

    def __call__(self, unit_json: str) -> Receipt:
        """Work off a unit: stage its rows, commit them by one write; a video that fails becomes a recorded error.

        Raises:
            ConfigError: the unit is of another method.
            EngineError: the worker was closed, or had lost its device, so that nothing is known of the unit.
            StorageError: not even the failure could be recorded.
        """
        unit = WorkUnit.from_json(unit_json)
        if unit.method != self.settings.method:
            raise ConfigError(f"unit of method {unit.method!r}; this worker runs {self.settings.method!r}.")
        if not self.alive:
            raise EngineError(f"worker {self._name} has stopped. Start another process; the unit can be run there.")
        unit_id, started = unit.unit_id, time.monotonic()
        snapshot = self._find_snapshot(unit, unit_id)
        if snapshot is not None:
            try:
                return self._attempt(unit, unit_id, started, snapshot)
            except SnapshotUnusable as error:
                warn_unusable(unit_id, str(error))
        return self._attempt(unit, unit_id, started, None)

    @property
    def alive(self) -> bool:
        """Whether further units can be run; False after `close` and after the device was lost."""
        return self._engine.alive

    def statistics(self) -> EngineStatistics:
        """How well the device is used."""
        return self._engine.statistics()

    def close(self) -> None:
        """Stop. Units that are running are abandoned: neither committed nor recorded; only their snapshots stay."""
        self._closed.set()
        self._engine.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _find_snapshot(self, unit: WorkUnit, unit_id: str) -> Snapshot | None:
        if self.settings.snapshot_frames is None or len(unit.items) != 1:
            return None
        return read_snapshot(self._store, unit.run_id, unit_id, unit.items[0].item_id)

    def _attempt(self, unit: WorkUnit, unit_id: str, started: float, snapshot: Snapshot | None) -> Receipt:
        attempt = _Attempt(
            unit=unit,
            unit_id=unit_id,
            attempt_id=new_attempt_id(),
            started=started,
            worker=self._name,
            class_names=self._class_names,
        )
        with StagedUnit(
            self._store, unit.run_id, unit_id, attempt.attempt_id, self.settings.lineage, self._scratch_dir
        ) as staged:
            done: list[CommittedItem] = []
            errors: list[ErrorRecord] = []
            for item in unit.items:
                outcome = self._run_item(item, attempt, staged, snapshot)
                (done if isinstance(outcome, CommittedItem) else errors).append(outcome)  # type: ignore[arg-type]
            receipt = self._settle(attempt, staged, done, errors)
        if self.settings.snapshot_frames is not None and not any(error.retryable for error in errors):
            delete_snapshot(self._store, unit.run_id, unit_id)
        return receipt

    def _run_item(
        self, item: WorkItem, attempt: "_Attempt", staged: StagedUnit, snapshot: Snapshot | None
    ) -> CommittedItem | ErrorRecord:
        """One video of the unit; whatever goes wrong with it is told in a record, and the others go on."""
        self._check_not_closed()
        names = {"unit_id": attempt.unit_id, "video_id": item.video_id}
        try:
            done = self._run_video(item, attempt, staged, snapshot)
        except VideoFailed as failure:
            self._check_not_closed()
            logger.warning("video %s failed: %s", item.video_id, failure, extra=names, exc_info=_trace_of(failure))
            return attempt.error_of(item, failure.stage, failure.error)
        logger.info("video %s: %d frames, %d rows", item.video_id, done.frames, done.rows, extra=names)
        return done

    def _run_video(
        self, item: WorkItem, attempt: "_Attempt", staged: StagedUnit, snapshot: Snapshot | None
    ) -> CommittedItem:
        with failing_at("stage"):
            staged_item = staged.item(item.item_id)
        limits = self._limits if len(attempt.unit.items) == 1 else self._limits.without_snapshots()
        try:
            run = VideoRun(self._engine, self._store, item, attempt.context_of(item), staged_item, limits)
            done = run.run(snapshot)
            with failing_at("stage"):
                staged_item.keep()
            return done
        except VideoFailed:
            staged_item.drop()
            raise

    def _check_not_closed(self) -> None:
        if self._closed.is_set():
            raise EngineError("the worker was closed; the unit was abandoned, uncommitted. Run it again.")

    def _settle(
        self, attempt: "_Attempt", staged: StagedUnit, done: Sequence[CommittedItem], errors: list[ErrorRecord]
    ) -> Receipt:
        """Make what succeeded visible, or record that nothing did; `errors` grows by what fails here."""
        if not done:
            return self._record_failure(attempt, errors)
        try:
            stage = "stage"
            parts = staged.close()
            stage = "commit"
            commit = attempt.commit(done, parts, errors)
            standing = commit_unit(self._store, commit)
        except Exception as error:
            # A PUT that failed may still arrive: the parts that it would name stay, and are garbage if it does not.
            if stage == "stage" or isinstance(error, CommitConflict):
                staged.abort()
            logger.warning("unit %s failed: %s", attempt.unit_id, error, extra={"unit_id": attempt.unit_id})
            finished = {item.item_id for item in done}
            items = [item for item in attempt.unit.items if item.item_id in finished]
            errors += [attempt.error_of(item, stage, error) for item in items]
            return self._record_failure(attempt, errors)
        if standing.attempt_id != attempt.attempt_id:
            logger.info("unit %s: attempt %s came first", attempt.unit_id, standing.attempt_id)
            staged.abort()
            return attempt.receipt("skipped", done=(), parts=(), errors=())
        return attempt.receipt("committed", done=done, parts=parts, errors=errors)

    def _record_failure(self, attempt: "_Attempt", errors: Sequence[ErrorRecord]) -> Receipt:
        record_failure(self._store, attempt.unit.run_id, attempt.unit_id, errors)
        return attempt.receipt("failed", done=(), parts=(), errors=errors)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Attempt:
    """One attempt at one unit, and the records that are made of it."""

    unit: WorkUnit
    unit_id: str
    attempt_id: str
    started: float
    worker: str
    class_names: Mapping[int, str]

    def context_of(self, item: WorkItem) -> RowContext:
        return RowContext(
            run_id=self.unit.run_id,
            dataset=item.dataset,
            video_id=item.video_id,
            unit_id=self.unit_id,
            attempt_id=self.attempt_id,
            queries={query.object_id: query for query in item.queries},
            class_names=self.class_names,
        )

    def error_of(self, item: WorkItem, stage: str, error: Exception) -> ErrorRecord:
        now = time.time()
        return ErrorRecord(
            run_id=self.unit.run_id,
            unit_id=self.unit_id,
            video_id=item.video_id,
            video_uri=item.video_uri,
            stage=stage,
            error_class=type(error).__name__,
            message=str(error) or repr(error),
            retryable=_is_retryable(error),
            line=item.line,
            first_at=now,
            last_at=now,
            item_id=item.item_id,
        )

    def commit(self, done: Sequence[CommittedItem], parts: Sequence[Part], errors: Sequence[ErrorRecord]) -> Commit:
        return Commit(
            run_id=self.unit.run_id,
            unit_id=self.unit_id,
            attempt_id=self.attempt_id,
            config_hash=self.unit.config_hash,
            items=tuple(done),
            parts=tuple(parts),
            errors=tuple(errors),
            wall_seconds=time.monotonic() - self.started,
            committed_at=time.time(),
        )

    def receipt(
        self,
        status: str,
        *,
        done: Sequence[CommittedItem],
        parts: Sequence[Part],
        errors: Sequence[ErrorRecord],
    ) -> Receipt:
        return Receipt(
            unit_id=self.unit_id,
            attempt_id=self.attempt_id,
            status=status,
            videos_ok=len(done),
            videos_failed=len(errors),
            frames=sum(item.frames for item in done),
            rows=sum(item.rows for item in done),
            bytes=sum(part.bytes for part in parts),
            wall_seconds=time.monotonic() - self.started,
            device_seconds=sum(item.device_seconds for item in done),
            worker=self.worker,
            errors=tuple(f"{error.video_id}: {error.error_class}: {error.message}" for error in errors),
        )


def _segmenter_of(settings: WorkerSettings) -> Segmenter:
    resolved = resolve_model(
        settings.model,
        # None, not False: the environment may forbid the net although the settings do not.
        offline=settings.offline or None,
        trust_unpinned=settings.trust_unpinned,
        tokenizer_dir=settings.tokenizer,
    )
    folders = resolve_folders(
        settings.folders, offline=settings.offline or None, trust_unpinned=settings.trust_unpinned
    )
    model = replace(
        load_model(resolved, seed=settings.seed), folders={role: str(found.path) for role, found in folders.items()}
    )
    return build_segmenter(settings.method, settings.method_config, model, settings.device)


def _is_retryable(error: Exception) -> bool:
    """Whether the same input may succeed later without a change."""
    if isinstance(error, MasklakeError):
        return error.retryable
    return isinstance(error, MemoryError | OSError | torch.OutOfMemoryError)


def _trace_of(failure: VideoFailed) -> BaseException | None:
    """The traceback, for errors that are nobody's known failure."""
    return None if isinstance(failure.error, MasklakeError) else failure.error
