"""One video of a unit: open, decode, submit, take masks, encode rows, stage them; every failure knows its stage."""

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from pipeline.decode.video import VideoStream
from pipeline.encode import RowContext, TrackAccumulator, encode_tick, frame_row
from pipeline.engine.engine import Engine
from pipeline.engine.handle import SessionHandle
from pipeline.engine.prompts import prompts_of
from pipeline.engine.snapshots import Snapshot, SnapshotUnusable, rows_folder, write_snapshot
from pipeline.engine.video_source import VideoLimits, VideoSource, open_source
from pipeline.errors import MasklakeError, PromptError
from pipeline.io.mask_files import StagedItem
from pipeline.io.storage import Store
from pipeline.ticks import Tick, TickMasks
from schemas.commit import CommittedItem
from schemas.work_unit import WorkItem

logger = logging.getLogger(__name__)

_MAX_INFER_US = 2**31 - 1


class VideoFailed(Exception):
    """A video failed at a stage (one of `schemas.error_table.STAGES`); the cause is the error itself."""

    def __init__(self, stage: str, error: Exception) -> None:
        super().__init__(f"{stage}: {type(error).__name__}: {error}")
        self.stage = "prompt" if isinstance(error, PromptError) else stage
        self.error = error


class VideoRun:
    """Works off one item into its `StagedItem`; `run` is called once.

    Args:
        context: what the rows have in common.
        staged: where they go; the caller keeps or drops it.
    """

    def __init__(
        self,
        engine: Engine,
        store: Store,
        item: WorkItem,
        context: RowContext,
        staged: StagedItem,
        limits: VideoLimits,
    ) -> None:
        self._engine, self._store, self._item, self._limits = engine, store, item, limits
        self._context, self._staged = context, staged
        self._tracks = TrackAccumulator(context)
        self._frames = 0
        self._last_frame_index = -1
        self._earlier_device_seconds = 0.0
        self._seconds_told = 0.0
        self._read_flags: dict[int, tuple[str, ...]] = {}

    def run(self, snapshot: Snapshot | None = None) -> CommittedItem:
        """Stage the whole video, or the rest of it after a snapshot.

        Raises:
            VideoFailed: with stage and cause.
            SnapshotUnusable: nothing but `staged` was touched; start over with a new one and no snapshot.
        """
        with ExitStack() as stack:
            with failing_at("open"):
                source = stack.enter_context(open_source(self._item, self._limits))
            handle = None if snapshot is None else stack.enter_context(self._restore(snapshot, source))
            with failing_at("decode"):
                ticks = stack.enter_context(source.decode(after_frame=self._last_frame_index))
            if handle is None:
                with failing_at("segment"):
                    prompts = prompts_of(self._item.queries)
                    handle = stack.enter_context(self._engine.open(prompts, (ticks.height, ticks.width)))
            self._stream(ticks, handle, source)
            device_seconds = self._earlier_device_seconds + handle.device_seconds
        with failing_at("stage"):
            self._staged.add_tracks(self._tracks.rows())
        return self._committed(source, device_seconds)

    def _stream(self, ticks: VideoStream, handle: SessionHandle, source: VideoSource) -> None:
        since_snapshot = 0
        while True:
            with failing_at("decode"):
                tick = next(ticks, None)
            if tick is None:
                break
            if tick.frame_index <= self._last_frame_index:
                continue
            masks = self._submit(tick, handle)
            self._last_frame_index = tick.frame_index
            self._keep(masks, handle)
            since_snapshot += 1
            if since_snapshot == self._limits.snapshot_frames:
                self._save(handle, source)
                since_snapshot = 0
        with failing_at("segment"):
            handle.end()
        while masks := self._next_masks(handle):
            self._keep(masks, handle)

    def _submit(self, tick: Tick, handle: SessionHandle) -> list[TickMasks]:
        """Give the session a frame; one that reading left out goes to the frames table at once, without masks."""
        if not tick.images:
            self._stage_skipped(tick)
            return []
        if tick.flags:
            self._read_flags[tick.frame_index] = tick.flags
        with failing_at("segment"):
            handle.submit(tick)
            return handle.take(block=False)

    def _stage_skipped(self, tick: Tick) -> None:
        nothing = TickMasks(
            frame_index=tick.frame_index, pts_us=tick.pts_us, height=0, width=0, objects=(), flags=tick.flags
        )
        with failing_at("encode"):
            frame = frame_row(nothing, self._context, infer_us=0)
        with failing_at("stage"):
            self._staged.add_frames(frame)

    def _next_masks(self, handle: SessionHandle) -> list[TickMasks]:
        with failing_at("segment"):
            return handle.take()

    def _keep(self, masks: list[TickMasks], handle: SessionHandle) -> None:
        """Stage rows of frames that came out."""
        if not masks:
            return
        seconds = handle.device_seconds
        infer_us = min(_MAX_INFER_US, round((seconds - self._seconds_told) / len(masks) * 1e6))
        self._seconds_told = seconds
        for tick_masks in masks:
            with failing_at("encode"):
                read_flags = self._read_flags.pop(tick_masks.frame_index, ())
                rows = encode_tick(tick_masks, self._context)
                frame = frame_row(tick_masks, self._context, infer_us=infer_us, read_flags=read_flags)
                self._tracks.add(rows)
            with failing_at("stage"):
                self._staged.add_masks(rows)
                self._staged.add_frames(frame)
        self._frames += len(masks)

    def _save(self, handle: SessionHandle, source: VideoSource) -> None:
        """Write a snapshot as of the last frame submitted. The video goes on if the store will not take it."""
        with failing_at("segment"):
            state = handle.state_dict()
            masks = handle.take(block=False)
        self._keep(masks, handle)
        context = self._context
        try:
            snapshot = Snapshot(
                unit_id=context.unit_id,
                item_id=self._staged.item_id,
                input_etag=source.etag,
                last_frame_index=self._last_frame_index,
                frames=self._frames,
                device_seconds=self._earlier_device_seconds + handle.device_seconds,
                session=state,
                read_flags=[(frame_index, list(flags)) for frame_index, flags in self._read_flags.items()],
                tracks=self._tracks.state_dict(),
                saved=self._staged.save(self._store, rows_folder(context.run_id, context.unit_id)),
            )
            write_snapshot(self._store, context.run_id, snapshot)
        except MasklakeError as error:
            logger.warning(
                "video %s: no snapshot at frame %d: %s",
                context.video_id,
                self._last_frame_index,
                error,
                extra=self._names,
            )

    def _restore(self, snapshot: Snapshot, source: VideoSource) -> SessionHandle:
        if snapshot.input_etag != source.etag:
            raise SnapshotUnusable(f"the input is {source.etag} now, it was {snapshot.input_etag}")
        try:
            self._tracks.load_state_dict(dict(snapshot.tracks))
            self._staged.load(self._store, snapshot.saved)
            handle = self._engine.restore(snapshot.session)
        # A damaged state may fail in any way; the video can be run from its start.
        except Exception as error:
            raise SnapshotUnusable(f"{type(error).__name__}: {error}") from error
        self._read_flags = {frame_index: tuple(flags) for frame_index, flags in snapshot.read_flags}
        self._frames = snapshot.frames
        self._last_frame_index = snapshot.last_frame_index
        self._earlier_device_seconds = snapshot.device_seconds
        logger.info(
            "video %s: going on after frame %d", self._context.video_id, self._last_frame_index, extra=self._names
        )
        return handle

    def _committed(self, source: VideoSource, device_seconds: float) -> CommittedItem:
        item = self._item
        return CommittedItem(
            item_id=self._staged.item_id,
            video_id=item.video_id,
            video_uri=item.video_uri,
            range_start=item.start_frame,
            range_end=item.end_frame,
            frames=self._frames,
            objects=len(item.queries),
            rows=self._staged.num_rows("masks"),
            input_etag=source.etag,
            input_bytes=source.bytes,
            device_seconds=device_seconds,
        )

    @property
    def _names(self) -> dict[str, str]:
        return {"unit_id": self._context.unit_id, "video_id": self._context.video_id}


@contextmanager
def failing_at(stage: str) -> Iterator[None]:
    """Turn any error of the block into VideoFailed at this stage; KeyboardInterrupt and the like pass."""
    try:
        yield
    except VideoFailed:
        raise
    except Exception as error:
        raise VideoFailed(stage, error) from error
