"""Feature vectors of masklets with their true classes, found by SAM2 on labelled videos and kept as Parquet."""

# Axes: O masklets, N vectors, D numbers of a vector, C classes, H W pixels.

import io
import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from pipeline.engine.load_model import chosen_device, load_model
from pipeline.errors import ConfigError
from pipeline.io.storage import Store, open_store
from pipeline.io.weights import resolve_model
from pipeline.methods.sam2_vss import Sam2VssConfig, Sam2VssSegmenter
from pipeline.models.masklet_features import FeatureSchema
from pipeline.models.mosam_model import load_tracking_core
from pipeline.models.proposals import ProposalConfig
from pipeline.models.vss_classes import NoLabels, masklet_views
from pipeline.models.vss_frames import FrameInFlight, Poll
from pipeline.models.vss_polls import FrameMasks
from pipeline.models.vss_votes import NO_CLASS, Verdicts
from pipeline.segmenter import finish, step
from pipeline.ticks import RGB, Tick
from pipeline.training.semantic_sources import VOID, LabelledVideo, Labels, open_source

logger = logging.getLogger(__name__)

FOLDER = "cache"
INDEX = f"{FOLDER}/cache.json"
VIDEOS_PER_PART = 8

Vector = NDArray[np.float32]


class CacheSettings(BaseModel):
    """What the vectors are of; travels as JSON.

    Attributes:
        data: see `pipeline.training.semantic_sources.open_source`.
        output: store URI or folder; the vectors go to its folder `cache`.
        model: SAM2 by registry name, path or URI; a SAMWISE gives the SAM2 inside it.
        image_size: side of its square, instead of its own.
        num_videos: of the source, from its first; None for all, which an endless source refuses.
        window: frames after which masks are looked for anew.
        proposals: which masks are proposed.
        min_purity: share of a masklet's pixels that its class must have; else it is "mixed".
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: str = "streets"
    output: str
    model: str = "tiny"
    image_size: int | None = Field(default=None, ge=32)
    num_videos: int | None = Field(default=200, ge=1)
    window: int = Field(default=32, ge=2)
    proposals: ProposalConfig = ProposalConfig()
    min_purity: float = Field(default=0.7, ge=0, le=1)
    seed: int = Field(default=0, ge=0, lt=1 << 32)
    offline: bool = False
    trust_unpinned: bool = False
    device: str = "auto"


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskletVectors:
    """A cache in memory.

    Attributes:
        features_ND: float32.
        classes_N: class ids, C for "mixed".
        areas_N: share of the frame.
    """

    class_names: tuple[str, ...]
    schema: FeatureSchema
    features_ND: Vector
    classes_N: NDArray[np.int64]
    areas_N: Vector


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """Takes down what a classifier would see, and gives no masklet a class; an `Opinions`."""

    heard: list[tuple[FrameMasks, Vector, int]] = field(default_factory=list)
    revotes_shared_frame: bool = False
    fill_px: int = 0

    def begun(self, polls: Mapping[int, Poll]) -> dict[int, Poll]:
        return dict(polls)

    def polled(self, polls: Mapping[int, Poll], masks: FrameMasks, flight: FrameInFlight) -> dict[int, Poll]:
        if masks.ids:
            assert flight.frame is not None
            self.heard.append((masks, masklet_views(flight).features_OD.cpu().numpy(), flight.frame.frame_index))
        nothing = torch.zeros(0, dtype=torch.float64)
        return {number: Poll(votes_C=nothing, probability_C=nothing) for number in masks.ids}

    def verdicts(self, polls: Mapping[int, Poll], ids: Sequence[int]) -> tuple[Verdicts, dict[int, Poll]]:
        none_O, zero_O = torch.full((len(ids),), NO_CLASS), torch.zeros(len(ids), dtype=torch.float64)
        return Verdicts(winner_O=none_O, painted_O=none_O, purity_O=zero_O, margin_O=zero_O), dict(polls)


class CacheWriter:
    """Writes parts of a cache; holds a SAM2, so that one process builds it once.

    Raises:
        ConfigError, WeightsError: the settings do not go together, or something they name is not there.
    """

    def __init__(self, settings: CacheSettings) -> None:
        self.settings = settings
        self._source = open_source(settings.data, seed=settings.seed)
        resolved = resolve_model(
            settings.model, offline=settings.offline or None, trust_unpinned=settings.trust_unpinned
        )
        core = load_tracking_core(load_model(resolved, seed=settings.seed), image_size=settings.image_size)
        self.schema = FeatureSchema.of(core)
        device = torch.device(chosen_device(settings.device))
        self._listener = Listener()
        self._segmenter = Sam2VssSegmenter(
            Sam2VssConfig(window=settings.window, proposals=settings.proposals),
            core.to(device).eval(),
            NoLabels(class_names=self._source.class_names, device=device),
            device,
            self._listener,
        )

    def write(self, first: int, stop: int) -> dict[str, Any]:
        """Vectors of the videos first .. stop - 1 as one part: its path and number of rows."""
        class_names = self._source.class_names
        batches = [self.rows(self._source.video(number)) for number in range(first, stop)]
        table = pa.Table.from_batches(batches, schema=arrow_schema(self.schema, class_names))
        buffer = io.BytesIO()
        pq.write_table(table, buffer, compression="zstd")
        path = f"{FOLDER}/part-{first:07d}.parquet"
        open_store(self.settings.output).write_whole(path, buffer.getvalue())
        return {"path": path, "rows": table.num_rows}

    def rows(self, video: LabelledVideo) -> pa.RecordBatch:
        """One row per masklet and frame of a video, of masklets that lie on known pixels."""
        self._listener.heard.clear()
        session = self._segmenter.open((), video.frames[0].labels.shape)
        for number, frame in enumerate(video.frames):
            step(self._segmenter, [session], [Tick(frame_index=number, pts_us=number, images={RGB: frame.rgb})])
        finish(self._segmenter, session)
        columns: dict[str, list[Any]] = {name: [] for name in _COLUMNS}
        for masks, features_OD, number in self._listener.heard:
            found = true_classes(
                masks.masks_OHW,
                video.frames[number].labels,
                num_classes=len(self._source.class_names),
                min_purity=self.settings.min_purity,
            )
            for row, (class_id, purity, area) in enumerate(found):
                if class_id is not None:
                    values = (video.video_id, number, masks.ids[row], class_id, purity, area, features_OD[row])
                    for name, value in zip(_COLUMNS, values, strict=True):
                        columns[name].append(value)
        schema = arrow_schema(self.schema, self._source.class_names)
        return pa.RecordBatch.from_arrays([_array(columns[field.name], field.type) for field in schema], schema=schema)


_COLUMNS = ("video_id", "frame_index", "masklet_id", "class_id", "purity", "area", "features")


def true_classes(
    masks_OHW: Tensor, labels: Labels, *, num_classes: int, min_purity: float
) -> list[tuple[int | None, float, float]]:
    """Per masklet its class, its share of the masklet's known pixels, and the masklet's share of the frame.

    The class is C, "mixed", where the share is below `min_purity`, and None where no pixel is known.
    """
    found: list[tuple[int | None, float, float]] = []
    for mask in masks_OHW.cpu().numpy():
        known = labels[mask & (labels != VOID)]
        if not known.size:
            found.append((None, 0.0, float(mask.mean())))
            continue
        counts = np.bincount(known, minlength=num_classes)
        purity = float(counts.max() / known.size)
        found.append((int(counts.argmax()) if purity >= min_purity else num_classes, purity, float(mask.mean())))
    return found


def arrow_schema(features: FeatureSchema, class_names: Sequence[str]) -> pa.Schema:
    """Columns of a part, with the feature schema and the class list in its metadata."""
    return pa.schema(
        [
            ("video_id", pa.string()),
            ("frame_index", pa.int32()),
            ("masklet_id", pa.int32()),
            ("class_id", pa.int16()),
            ("purity", pa.float32()),
            ("area", pa.float32()),
            ("features", pa.list_(pa.float32(), features.size)),
        ],
        metadata={"features": features.model_dump_json(), "class_names": json.dumps(list(class_names))},
    )


def parts_of(settings: CacheSettings) -> list[tuple[int, int]]:
    """Ranges of videos, one per part.

    Raises:
        ConfigError: the source has no end and nobody says how many videos to read.
    """
    there = open_source(settings.data, seed=settings.seed).num_videos
    wanted = there if settings.num_videos is None else settings.num_videos
    if wanted is None:
        raise ConfigError(f"data {settings.data!r} has no end: say num_videos.")
    total = wanted if there is None else min(there, wanted)
    return [(first, min(first + VIDEOS_PER_PART, total)) for first in range(0, total, VIDEOS_PER_PART)]


BuildParts = Callable[[CacheSettings, Sequence[tuple[int, int]]], Iterable[Mapping[str, Any]]]
"""Writes parts somewhere, in any order, and gives the path and number of rows of each."""


def build_here(settings: CacheSettings, parts: Sequence[tuple[int, int]]) -> Iterable[Mapping[str, Any]]:
    """Write the parts in this process, one after the other."""
    writer = CacheWriter(settings)
    for number, (first, stop) in enumerate(parts, start=1):
        yield writer.write(first, stop)
        logger.info("feature cache: part %d of %d", number, len(parts))


def ensure_cache(settings: CacheSettings, build: BuildParts = build_here) -> None:
    """Build the cache unless it is there whole; its index is written last.

    Raises:
        ConfigError: a cache of other settings is there.
    """
    store, recipe = open_store(settings.output), _recipe(settings)
    if store.exists(INDEX):
        then = json.loads(store.read_bytes(INDEX))["recipe"]
        differ = sorted(key for key in {*then, *recipe} if then.get(key) != recipe.get(key))
        if differ:
            raise ConfigError(
                f"{store.uri(FOLDER)} holds a feature cache of other settings ({', '.join(differ)} differ). "
                "Take the old settings, or name another output."
            )
        return
    written = sorted(build(settings, parts_of(settings)), key=lambda part: str(part["path"]))
    if not sum(part["rows"] for part in written):
        raise ConfigError(
            f"data {settings.data!r}: SAM2 {settings.model!r} found no masklet on known pixels. Is it trained? Lower "
            "proposals.min_predicted_iou and min_stability to see what it proposes."
        )
    index = {"recipe": recipe, "parts": [dict(part) for part in written]}
    store.write_whole(INDEX, json.dumps(index, indent=1).encode())


def read_cache(store: Store) -> MaskletVectors:
    """All vectors of a cache that is whole."""
    index = json.loads(store.read_bytes(INDEX))
    tables = [pq.read_table(io.BytesIO(store.read_bytes(part["path"]))) for part in index["parts"]]
    told = {(table.schema.metadata[b"features"], table.schema.metadata[b"class_names"]) for table in tables}
    if len(told) != 1:
        raise ConfigError(f"{store.uri(FOLDER)}: parts of {len(told)} schemas or class lists. Build the cache anew.")
    ((features, class_names),) = told
    table = pa.concat_tables(tables).combine_chunks()
    schema = FeatureSchema.model_validate_json(features)
    flat = table["features"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return MaskletVectors(
        class_names=tuple(json.loads(class_names)),
        schema=schema,
        features_ND=np.ascontiguousarray(flat.reshape(-1, schema.size)),
        classes_N=table["class_id"].to_numpy().astype(np.int64),
        areas_N=table["area"].to_numpy().astype(np.float32),
    )


def _recipe(settings: CacheSettings) -> dict[str, Any]:
    return settings.model_dump(mode="json", exclude={"output", "device", "offline", "trust_unpinned"})


def _array(values: list[Any], kind: pa.DataType) -> pa.Array:
    if not pa.types.is_fixed_size_list(kind):
        return pa.array(values, kind)
    flat = np.concatenate(values) if values else np.zeros(0, np.float32)
    return pa.FixedSizeListArray.from_arrays(pa.array(flat, pa.float32()), kind.list_size)
