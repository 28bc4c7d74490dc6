"""TickMasks to rows: masks and frames as they come, tracks from running sums at the end."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.masks import rle
from pipeline.masks.geometry import bounding_box
from pipeline.ticks import ObjectMask, TickMasks
from schemas.frame_table import FRAMES
from schemas.mask_table import MASKS
from schemas.track_table import LOW_CONFIDENCE, MIN_LOW_CONF_FRAMES, TRACKS
from schemas.work_unit import Query

Row = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class RowContext:
    """What all rows of one video have in common, and what its objects were asked by.

    Attributes:
        queries: object_id to query; objects that are not in it were asked for by nobody (proposals, class regions).
        class_names: class_id to the label of objects that have no expression.
    """

    run_id: str
    dataset: str | None
    video_id: str
    unit_id: str
    attempt_id: str
    queries: Mapping[int, Query]
    class_names: Mapping[int, str] = field(default_factory=dict)

    def names_of(self, object_id: int, class_id: int | None) -> tuple[str | None, str | None]:
        """(query_id, label) of an object."""
        query = self.queries.get(object_id)
        text = query.text if query else None
        class_name = self.class_names.get(class_id) if class_id is not None else None
        return (query.query_id if query else None), (text if text is not None else class_name)


def encode_tick(tick_masks: TickMasks, context: RowContext) -> pa.RecordBatch:
    """Rows of the masks table for one frame, in schema MASKS: one per object, also where it is absent.

    Raises:
        ValueError: a mask is not bool (height, width), an object comes twice, or a confidence is not in 0..1.
    """
    _check_objects(tick_masks, context.video_id)
    shared = {
        "run_id": context.run_id,
        "dataset": context.dataset,
        "video_id": context.video_id,
        "unit_id": context.unit_id,
        "frame_index": tick_masks.frame_index,
        "pts_us": tick_masks.pts_us,
        "height": tick_masks.height,
        "width": tick_masks.width,
        "attempt_id": context.attempt_id,
    }
    return _batch([shared | _mask_columns(seen, context) for seen in tick_masks.objects], MASKS)


def frame_row(
    tick_masks: TickMasks,
    context: RowContext,
    *,
    decode_ok: bool = True,
    is_key: bool | None = None,
    infer_us: int | None = None,
    read_flags: Sequence[str] = (),
) -> pa.RecordBatch:
    """The frame's one row of the frames table, in schema FRAMES, whose column docs tell of the arguments.

    Args:
        read_flags: what reading told of the frame, beside what the method told.
    """
    row = {
        "run_id": context.run_id,
        "video_id": context.video_id,
        "frame_index": tick_masks.frame_index,
        "pts_us": tick_masks.pts_us,
        "n_objects": sum(bool(seen.mask.any()) for seen in tick_masks.objects),
        "decode_ok": decode_ok,
        "is_key": is_key,
        "infer_us": infer_us,
        "flags": [*tick_masks.flags, *read_flags],
    }
    return _batch([row], FRAMES)


class TrackAccumulator:
    """Running sums over one video's rows, from which its tracks rows are made at the end.

    Bytes held do not grow with the video, but for one pair of frame numbers per stretch of low confidence.
    """

    def __init__(self, context: RowContext) -> None:
        self._context = context
        self._tracks: dict[int, _Track] = {}

    def add(self, mask_rows: pa.RecordBatch) -> None:
        """Take in what `encode_tick` made of the next frame."""
        for row in mask_rows.select(_TRACK_INPUTS).to_pylist():
            self._tracks.setdefault(row["object_id"], _Track()).add(row)

    def state_dict(self) -> Row:
        """All that was taken in so far, for a snapshot: nested dicts and lists of arrays, numbers, None."""
        return {str(object_id): asdict(track) for object_id, track in self._tracks.items()}

    def load_state_dict(self, state: Row) -> None:
        """Go on from a snapshot, in place of what was taken in."""
        self._tracks = {int(object_id): _Track.from_state(track) for object_id, track in state.items()}

    def rows(self, merged_from: Mapping[int, Sequence[int]] | None = None) -> pa.RecordBatch:
        """One row per object, in schema TRACKS, by object_id.

        Args:
            merged_from: object_id to the ids of the masklets that the method joined into it.
        """
        merged_from = merged_from or {}
        rows = []
        for object_id, track in sorted(self._tracks.items()):
            class_id = track.class_id()
            query_id, label = self._context.names_of(object_id, class_id)
            rows.append(
                {
                    "run_id": self._context.run_id,
                    "video_id": self._context.video_id,
                    "object_id": object_id,
                    "query_id": query_id,
                    "label": label,
                    "class_id": class_id,
                    "source": source_of(self._context.queries.get(object_id)),
                    "merged_from": list(merged_from.get(object_id, ())),
                    **track.columns(),
                }
            )
        return _batch(rows, TRACKS)


def source_of(query: Query | None) -> str:
    """What an object was asked by, one of SOURCES; an expression comes before a box or clicks given with it."""
    if query is None:
        return "method"
    if query.text is not None:
        return "text"
    if query.mask_rle is not None:
        return "mask"
    return "box" if query.box is not None else "points"


_TRACK_INPUTS = ["object_id", "class_id", "frame_index", "present", "confidence", "area", "bbox", "height", "width"]

_CONFIDENCE_BINS = 1000


@dataclass(slots=True)
class _Confidence:
    """Running sums over every frame of one object; the histogram stands for the values, each within 0.001."""

    num_frames: int = 0
    total: float = 0.0
    least: float = 1.0
    histogram: NDArray[np.uint32] = field(default_factory=lambda: np.zeros(_CONFIDENCE_BINS, np.uint32))
    low_runs: list[tuple[int, int]] = field(default_factory=list)
    low_frames: int = 0
    low_start: int = 0
    low_end: int = 0

    def add(self, confidence: float, frame_index: int) -> None:
        self.num_frames += 1
        self.total += confidence
        self.least = min(self.least, confidence)
        self.histogram[min(int(confidence * _CONFIDENCE_BINS), _CONFIDENCE_BINS - 1)] += 1
        if confidence >= LOW_CONFIDENCE:
            self.low_runs = self.all_low_runs()
            self.low_frames = 0
            return
        if self.low_frames == 0:
            self.low_start = frame_index
        self.low_end = frame_index + 1
        self.low_frames += 1

    def all_low_runs(self) -> list[tuple[int, int]]:
        """The runs that ended, and the one that goes on if it is long enough."""
        if self.low_frames < MIN_LOW_CONF_FRAMES:
            return self.low_runs
        return [*self.low_runs, (self.low_start, self.low_end)]

    def tenth(self) -> float:
        """Middle of the bin that holds the smallest value which at least a tenth of the frames do not exceed."""
        reached = np.cumsum(self.histogram) * 10 >= self.num_frames
        return max((int(np.argmax(reached)) + 0.5) / _CONFIDENCE_BINS, self.least)


@dataclass(slots=True)
class _Sight:
    """Running sums over the frames on which one object is in view."""

    num_present: int = 0
    first_frame: int | None = None
    last_frame: int | None = None
    out_of_view: bool = False
    has_gap: bool = False
    touches_border: bool = False
    area_total: int = 0
    area_min: int | None = None
    area_max: int | None = None

    def add(self, row: Row) -> None:
        if not row["present"]:
            self.out_of_view = True
            return
        self.has_gap |= self.out_of_view and self.num_present > 0
        self.out_of_view = False
        self.num_present += 1
        self.first_frame = row["frame_index"] if self.first_frame is None else self.first_frame
        self.last_frame = row["frame_index"]
        area, box = row["area"], row["bbox"]
        self.area_total += area
        self.area_min = area if self.area_min is None else min(self.area_min, area)
        self.area_max = area if self.area_max is None else max(self.area_max, area)
        right, bottom = box["x"] + box["w"], box["y"] + box["h"]
        self.touches_border |= 0 in (box["x"], box["y"]) or right == row["width"] or bottom == row["height"]

    def flags(self) -> list[str]:
        holding = {
            "has_gap": self.has_gap,
            "never_present": self.num_present == 0,
            "touches_border": self.touches_border,
        }
        return [name for name, holds in holding.items() if holds]


@dataclass(slots=True)
class _Track:
    """All running sums of one object."""

    confidence: _Confidence = field(default_factory=_Confidence)
    sight: _Sight = field(default_factory=_Sight)
    classes: dict[int, int] = field(default_factory=dict)

    @classmethod
    def from_state(cls, state: Row) -> "_Track":
        confidence = _Confidence(**state["confidence"])
        confidence.histogram = confidence.histogram.copy()
        confidence.low_runs = [(start, end) for start, end in confidence.low_runs]
        return cls(confidence, _Sight(**state["sight"]), dict(state["classes"]))

    def add(self, row: Row) -> None:
        self.confidence.add(row["confidence"], row["frame_index"])
        self.sight.add(row)
        if (class_id := row["class_id"]) is not None:
            self.classes[class_id] = self.classes.get(class_id, 0) + 1

    def class_id(self) -> int | None:
        """The class given most often, the smaller of two given equally often."""
        return min(self.classes, key=lambda name: (-self.classes[name], name), default=None)

    def columns(self) -> Row:
        confidence, sight = self.confidence, self.sight
        return {
            "first_frame": sight.first_frame,
            "last_frame": sight.last_frame,
            "n_frames": confidence.num_frames,
            "n_present": sight.num_present,
            "confidence_mean": confidence.total / confidence.num_frames,
            "confidence_min": confidence.least,
            "confidence_p10": confidence.tenth(),
            "low_conf_runs": [{"start": start, "end": end} for start, end in confidence.all_low_runs()],
            "area_mean": sight.area_total / sight.num_present if sight.num_present else None,
            "area_min": sight.area_min,
            "area_max": sight.area_max,
            "flags": sight.flags(),
        }


def _mask_columns(seen: ObjectMask, context: RowContext) -> Row:
    """The columns that differ between the objects of a frame."""
    box = bounding_box(seen.mask)
    query_id, label = context.names_of(seen.object_id, seen.class_id)
    return {
        "object_id": seen.object_id,
        "query_id": query_id,
        "label": label,
        "class_id": seen.class_id,
        "present": box is not None,
        "confidence": seen.confidence,
        "object_score": seen.object_score,
        "predicted_iou": seen.predicted_iou,
        "stability": seen.stability,
        "area": int(np.count_nonzero(seen.mask)),
        "bbox": box and {"x": box.left, "y": box.top, "w": box.width, "h": box.height},
        "rle": box and rle.encode(seen.mask, box),
        "trace": None if seen.trace is None else asdict(seen.trace),
    }


def _check_objects(tick_masks: TickMasks, video_id: str) -> None:
    where = f"video {video_id!r}, frame {tick_masks.frame_index}"
    ids = [seen.object_id for seen in tick_masks.objects]
    if len(set(ids)) != len(ids):
        raise ValueError(f"{where}: objects {ids}, expected each object once.")
    for seen in tick_masks.objects:
        size = (tick_masks.height, tick_masks.width)
        if seen.mask.shape != size:
            raise ValueError(
                f"{where}, object {seen.object_id}: mask of shape {seen.mask.shape}, expected {size} (height, width). "
                "Give masks at the decoded frame's size."
            )
        if not 0 <= seen.confidence <= 1:  # also refuses NaN
            raise ValueError(f"{where}, object {seen.object_id}: confidence {seen.confidence}, expected 0 to 1.")


def _batch(rows: list[Row], schema: pa.Schema) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist(rows, schema=schema)
