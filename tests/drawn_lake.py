"""Lakes whose every row is known: rectangles that move by a rule, staged and committed as a worker would."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pipeline.encode import RowContext, TrackAccumulator, encode_tick, frame_row
from pipeline.io.commit_log import commit_unit
from pipeline.io.mask_files import StagedItem, StagedUnit
from pipeline.io.parts import PartLimits
from pipeline.io.storage import Store
from pipeline.ticks import Mask, ObjectMask, TickMasks
from schemas.commit import Commit, CommittedItem
from schemas.work_unit import Query

HEIGHT, WIDTH = 24, 40
US_PER_FRAME = 40_000
LINEAGE = {
    "method": "drawn",
    "model": "rectangles",
    "weights_sha256": "0" * 64,
    "code_version": "0.0",
    "config_hash": "config",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawnVideo:
    """A video of frames [start, stop) in steps of stride, with rectangles that `drawn_mask` tells."""

    video_id: str
    start: int = 0
    stop: int = 20
    stride: int = 1
    num_objects: int = 2

    @property
    def item_id(self) -> str:
        return f"{self.video_id}-{self.start}-{self.stop}-{self.stride}-{self.num_objects}"

    @property
    def frames(self) -> range:
        return range(self.start, self.stop, self.stride)


def drawn_mask(object_id: int, frame_index: int) -> Mask:
    """A rectangle that walks to the right; away on every frame whose number plus the object's divides by 7."""
    mask = np.zeros((HEIGHT, WIDTH), np.bool_)
    if (frame_index + object_id) % 7:
        left = (3 * object_id + frame_index) % (WIDTH - 8)
        mask[object_id : object_id + 9, left : left + 5 + object_id] = True
    return mask


def drawn_confidence(object_id: int, frame_index: int) -> float:
    """Eighths from 0 to 7/8 (exact in float32), low for twelve frames out of thirty."""
    return ((frame_index + object_id) % 3 + (0 if (frame_index + 5 * object_id) % 30 < 12 else 5)) / 8


def ticks_of(video: DrawnVideo) -> Iterator[TickMasks]:
    """What a method would give for a drawn video."""
    for frame_index in video.frames:
        yield TickMasks(
            frame_index=frame_index,
            pts_us=frame_index * US_PER_FRAME,
            height=HEIGHT,
            width=WIDTH,
            objects=tuple(
                ObjectMask(
                    object_id=object_id,
                    mask=drawn_mask(object_id, frame_index),
                    confidence=drawn_confidence(object_id, frame_index),
                    object_score=float(frame_index - object_id),
                )
                for object_id in range(1, video.num_objects + 1)
            ),
            flags=("memory_reset",) if frame_index % 10 == 0 else (),
        )


def context_of(video: DrawnVideo, run_id: str, unit_id: str, attempt_id: str) -> RowContext:
    """Queries "q1", "q2", ... with a text each."""
    queries = {
        object_id: Query(object_id=object_id, query_id=f"q{object_id}", text=f"rectangle {object_id}'s")
        for object_id in range(1, video.num_objects + 1)
    }
    return RowContext(
        run_id=run_id,
        dataset="drawn",
        video_id=video.video_id,
        unit_id=unit_id,
        attempt_id=attempt_id,
        queries=queries,
    )


def add_video(item: StagedItem, video: DrawnVideo, context: RowContext) -> None:
    """Encode and stage a whole video, frame by frame."""
    tracks = TrackAccumulator(context)
    for tick_masks in ticks_of(video):
        rows = encode_tick(tick_masks, context)
        item.add_masks(rows)
        item.add_frames(frame_row(tick_masks, context))
        tracks.add(rows)
    item.add_tracks(tracks.rows())


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawing:
    """How drawn units are committed."""

    store: Store
    scratch: Path
    run_id: str = "run1"
    config_hash: str = "config"
    limits: PartLimits = field(default_factory=PartLimits)

    def stage(self, unit_id: str, attempt_id: str, videos: Sequence[DrawnVideo], committed_at: float = 1.0) -> Commit:
        """Parts in the store, and the commit that would make them visible."""
        staged = StagedUnit(self.store, self.run_id, unit_id, attempt_id, LINEAGE, self.scratch, self.limits)
        for video in videos:
            item = staged.item(video.item_id)
            add_video(item, video, context_of(video, self.run_id, unit_id, attempt_id))
            item.keep()
        return Commit(
            run_id=self.run_id,
            unit_id=unit_id,
            attempt_id=attempt_id,
            config_hash=self.config_hash,
            items=tuple(committed_item(video) for video in videos),
            parts=staged.close(),
            errors=(),
            wall_seconds=1.0,
            committed_at=committed_at,
        )

    def commit(self, unit_id: str, attempt_id: str, videos: Sequence[DrawnVideo], committed_at: float = 1.0) -> Commit:
        """Stage and commit; the commit that stands."""
        return commit_unit(self.store, self.stage(unit_id, attempt_id, videos, committed_at))


def committed_item(video: DrawnVideo) -> CommittedItem:
    return CommittedItem(
        item_id=video.item_id,
        video_id=video.video_id,
        video_uri=f"/videos/{video.video_id}.mp4",
        range_start=video.start,
        range_end=video.stop,
        frames=len(video.frames),
        objects=video.num_objects,
        rows=len(video.frames) * video.num_objects,
        input_etag=None,
        input_bytes=1000,
        device_seconds=0.5,
    )
