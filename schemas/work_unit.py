"""Work units: videos (or a range, or a pack of short ones) under one method config; hashed to their names."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from schemas.ids import content_digest


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """One object or expression asked of a video.

    Attributes:
        object_id: >= 1, the masklet's name within the video.
        query_id: the caller's name of the expression; its position ("0", "1", ...) when not given.
        text: the expression, verbatim; None for geometric prompts.
        motion_words: words of `text` that tell motion; None when the manifest does not say.
        frame_index: source frame of points, box or mask.
        points: (x, y, sign) with sign +1 or -1, pixels of the decoded frame.
        box: (x0, y0, x1, y1), pixels of the decoded frame.
        mask_rle: COCO RLE {"size": [h, w], "counts": str}.
    """

    object_id: int
    query_id: str
    text: str | None = None
    motion_words: tuple[str, ...] | None = None
    frame_index: int | None = None
    points: tuple[tuple[float, float, int], ...] = ()
    box: tuple[float, float, float, float] | None = None
    mask_rle: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkItem:
    """One video, or the range [start_frame, end_frame) of one, with what is asked of it.

    Attributes:
        video_uri: absolute: a local path, a `scheme://` URI, or either of a directory of frames.
        start_frame, end_frame: source frames, half-open; end None means "to the end".
        stride: every stride-th source frame from start_frame on.
        max_side: longest side of decoded frames in pixels, None for the source's size.
        fps: frames per second of a directory of frames; ignored for videos.
        modalities: modality name to URI, besides rgb; several URIs with "|" between them are stacked as channels.
        modality_order: what a method sees, in this order; empty where the item is plain video.
        crop: (x0, y0, x1, y1) in source pixels of rgb, None for the whole picture.
        tags: the caller's join keys, carried through untouched.
        line: line of the manifest it came from, 1-based; not part of the name.
    """

    video_id: str
    video_uri: str
    queries: tuple[Query, ...]
    dataset: str | None = None
    start_frame: int = 0
    end_frame: int | None = None
    stride: int = 1
    max_side: int | None = None
    fps: float | None = None
    modalities: Mapping[str, str] = field(default_factory=dict)
    modality_order: tuple[str, ...] = ()
    crop: tuple[int, int, int, int] | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    line: int | None = None

    @property
    def item_id(self) -> str:
        """Digest of all that decides the item's masks, besides the method config."""
        content = asdict(self)
        for name in ("line", "tags", "dataset"):
            del content[name]
        for name in ("modality_order", "crop"):  # plain video is named without them
            if not content[name]:
                del content[name]
        return content_digest(content)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkUnit:
    """What is done whole or not at all: items under one method config.

    Attributes:
        run_id: the run that asks for it; not part of the name.
        method: name in the registry of segmenters.
        config_hash: digest of the method config, the weights and the decode options.
        items: in the order in which they are worked off.
    """

    run_id: str
    method: str
    config_hash: str
    items: tuple[WorkItem, ...]

    @property
    def unit_id(self) -> str:
        return content_digest([self.method, self.config_hash, [item.item_id for item in self.items]])

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "WorkUnit":
        record = json.loads(text)
        return cls(**{**record, "items": tuple(work_item_from_record(item) for item in record["items"])})


def work_item_from_record(record: Mapping[str, Any]) -> WorkItem:
    """The item whose `dataclasses.asdict` went through JSON."""
    crop = record.get("crop")
    return WorkItem(
        **{
            **record,
            "queries": tuple(_query_from_record(query) for query in record["queries"]),
            "modality_order": tuple(record.get("modality_order", ())),
            "crop": None if crop is None else tuple(crop),
        }
    )


def _query_from_record(record: Mapping[str, Any]) -> Query:
    words, box = record["motion_words"], record["box"]
    return Query(
        **{
            **record,
            "motion_words": None if words is None else tuple(words),
            "points": tuple((x, y, int(sign)) for x, y, sign in record["points"]),
            "box": None if box is None else tuple(box),
        }
    )
