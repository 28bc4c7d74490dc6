"""Staging: parts read by plain pyarrow and DuckDB, which know nothing of us, and what failures leave behind."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import duckdb
import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.encode import TrackAccumulator, encode_tick, frame_row
from pipeline.errors import StorageError
from pipeline.io.mask_files import StagedUnit
from pipeline.io.parts import PART_TABLES, PartLimits
from pipeline.io.spill import MAX_BUFFERED_ROWS
from pipeline.io.storage import Store, open_store
from schemas.commit import Part
from schemas.ids import SCHEMA_VERSION
from tests.drawn_lake import (
    LINEAGE,
    Drawing,
    DrawnVideo,
    add_video,
    context_of,
    drawn_confidence,
    drawn_mask,
    ticks_of,
)

LONG = DrawnVideo(video_id="long", stop=MAX_BUFFERED_ROWS + 90, num_objects=3)
SMALL_GROUPS = PartLimits(rows_per_group=700)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "lake")


@pytest.fixture
def drawing(store: Store, tmp_path: Path) -> Drawing:
    return Drawing(store=store, scratch=tmp_path / "scratch")


def staged_unit(drawing: Drawing, attempt_id: str = "attempt1") -> StagedUnit:
    return StagedUnit(drawing.store, "run1", "unit1", attempt_id, LINEAGE, drawing.scratch, drawing.limits)


def part_of(parts: tuple[Part, ...], table: str) -> Part:
    (part,) = (part for part in parts if part.table == table)
    return part


def local(store: Store, part: Part) -> str:
    return store.full_path(part.path)


def expected_keys(*videos: DrawnVideo) -> list[tuple[str, int, int]]:
    return sorted(
        (video.video_id, object_id, frame_index)
        for video in videos
        for object_id in range(1, video.num_objects + 1)
        for frame_index in video.frames
    )


def keys_of(table: pa.Table) -> list[tuple[str, int, int]]:
    return list(zip(*(table[name].to_pylist() for name in ("video_id", "object_id", "frame_index")), strict=True))


def test_rows_come_out_sorted_across_the_whole_part(drawing: Drawing) -> None:
    other = DrawnVideo(video_id="another", stop=30)
    parts = drawing.stage("unit1", "attempt1", [LONG, other]).parts
    masks = pq.read_table(local(drawing.store, part_of(parts, "masks")), partitioning=None)
    assert keys_of(masks) == expected_keys(LONG, other)
    for row in masks.slice(0, 90).to_pylist():
        assert row["area"] == drawn_mask(row["object_id"], row["frame_index"]).sum()
        assert row["confidence"] == drawn_confidence(row["object_id"], row["frame_index"])
    frames = pq.read_table(local(drawing.store, part_of(parts, "frames")), partitioning=None)
    assert frames["frame_index"].to_pylist() == [*other.frames, *LONG.frames]
    tracks = pq.read_table(local(drawing.store, part_of(parts, "tracks")), partitioning=None)
    assert tracks["object_id"].to_pylist() == [1, 2, 1, 2, 3]


def test_ranges_of_one_video_are_merged_object_by_object(drawing: Drawing) -> None:
    first, second = DrawnVideo(video_id="clip", stop=20), DrawnVideo(video_id="clip", start=20, stop=50)
    parts = drawing.stage("unit1", "attempt1", [second, first]).parts
    masks = pq.read_table(local(drawing.store, part_of(parts, "masks")), partitioning=None)
    assert keys_of(masks) == expected_keys(first, second)


def test_the_parts_have_the_tables_schemas_names_and_digests(drawing: Drawing) -> None:
    parts = drawing.stage("unit1", "attempt1", [LONG]).parts
    assert [part.table for part in parts] == list(PART_TABLES)
    for part in parts:
        path = Path(local(drawing.store, part))
        assert part.path.startswith(f"data/{part.table}/run=run1/bucket=")
        assert part.path.endswith("/unit1-attempt1-0000.parquet")
        assert hashlib.md5(path.read_bytes()).hexdigest() == part.md5
        assert path.stat().st_size == part.bytes
        with pq.ParquetFile(path) as file:
            assert file.metadata.num_rows == part.rows
            assert file.schema_arrow.remove_metadata().equals(PART_TABLES[part.table].schema)
            assert file.schema_arrow.field("video_id").metadata[b"doc"]


def test_lineage_and_layout_can_be_read_by_others(drawing: Drawing) -> None:
    part = part_of(drawing.stage("unit1", "attempt1", [LONG]).parts, "masks")
    rows = duckdb.execute(
        "SELECT decode(key), decode(value) FROM parquet_kv_metadata(?)", [local(drawing.store, part)]
    ).fetchall()
    told = dict(rows)
    names = {"run_id": "run1", "unit_id": "unit1", "attempt_id": "attempt1", "schema_version": SCHEMA_VERSION}
    assert {name: told.get(name) for name in (LINEAGE | names)} == LINEAGE | names
    with pq.ParquetFile(local(drawing.store, part)) as file:
        group = file.metadata.row_group(0)
        columns = {group.column(number).path_in_schema: group.column(number) for number in range(group.num_columns)}
        sorted_by = [group.column(column.column_index).path_in_schema for column in group.sorting_columns]
        assert sorted_by == ["run_id", "video_id", "object_id", "frame_index"]
        assert {column.compression for column in columns.values()} == {"ZSTD"}
        assert columns["frame_index"].has_column_index
        assert columns["rle"].has_offset_index
        assert not columns["rle"].is_stats_set
        assert columns["label"].has_dictionary_page
        assert not columns["rle"].has_dictionary_page


def test_duckdb_answers_from_a_part_alone(drawing: Drawing) -> None:
    part = part_of(drawing.stage("unit1", "attempt1", [LONG]).parts, "masks")
    answer = duckdb.execute(
        "SELECT count(*), count_if(present), sum(area), sum(bbox.w * bbox.h) FROM read_parquet(?)",
        [local(drawing.store, part)],
    ).fetchone()
    areas = [drawn_mask(object_id, frame).sum() for _, object_id, frame in expected_keys(LONG)]
    assert answer == (len(areas), np.count_nonzero(areas), sum(areas), sum(areas))


def test_row_groups_and_parts_end_at_their_limits(drawing: Drawing) -> None:
    tight = PartLimits(rows_per_group=700, bytes_per_part=4_000)
    drawing = Drawing(store=drawing.store, scratch=drawing.scratch, limits=tight)
    parts = [part for part in drawing.stage("unit1", "attempt1", [LONG]).parts if part.table == "masks"]
    assert len(parts) > 1
    assert [part.path[-12:-8] for part in parts] == [f"{number:04d}" for number in range(len(parts))]
    keys: list[tuple[str, int, int]] = []
    for part in parts:
        with pq.ParquetFile(local(drawing.store, part)) as file:
            assert all(
                file.metadata.row_group(number).num_rows <= 700 for number in range(file.metadata.num_row_groups)
            )
            keys += keys_of(file.read())
    assert keys == expected_keys(LONG)
    groups_by_bytes = PartLimits(bytes_per_group=60_000)
    by_bytes = Drawing(store=drawing.store, scratch=drawing.scratch, limits=groups_by_bytes)
    with pq.ParquetFile(
        local(drawing.store, part_of(by_bytes.stage("unit2", "attempt1", [LONG]).parts, "masks"))
    ) as file:
        assert file.metadata.num_row_groups > 3


def test_a_failed_video_of_a_pack_leaves_no_row(drawing: Drawing) -> None:
    kept, failed = DrawnVideo(video_id="kept"), DrawnVideo(video_id="failed")
    staged = staged_unit(drawing)
    for video in (failed, kept):
        item = staged.item(video.item_id)
        add_video(item, video, context_of(video, "run1", "unit1", "attempt1"))
        item.keep() if video is kept else item.drop()
    for part in staged.close():
        table = pq.read_table(local(drawing.store, part), partitioning=None)
        assert set(table["video_id"].to_pylist()) == {"kept"}


def test_a_unit_that_kept_nothing_has_no_parts(drawing: Drawing) -> None:
    staged = staged_unit(drawing)
    item = staged.item("item")
    add_video(item, DrawnVideo(video_id="clip"), context_of(DrawnVideo(video_id="clip"), "run1", "unit1", "attempt1"))
    item.drop()
    assert staged.close() == ()
    assert drawing.store.list() == []


def test_abort_leaves_nothing_on_scratch_or_in_the_store(drawing: Drawing, monkeypatch: pytest.MonkeyPatch) -> None:
    video = DrawnVideo(video_id="clip")
    uploads: list[str] = []
    upload = Store.upload

    def fails_on_the_second(store: Store, local_file: str, path: str) -> None:
        uploads.append(path)
        upload(store, local_file, path)  # the bytes arrive, the answer does not
        if len(uploads) == 2:
            raise StorageError("no answer")

    monkeypatch.setattr(Store, "upload", fails_on_the_second)
    staged = staged_unit(drawing)
    item = staged.item(video.item_id)
    add_video(item, video, context_of(video, "run1", "unit1", "attempt1"))
    item.keep()
    with pytest.raises(StorageError, match="no answer"), staged:
        staged.close()
    assert len(uploads) == 2
    assert drawing.store.list() == []
    assert list(drawing.scratch.iterdir()) == []


def test_two_attempts_at_a_unit_share_no_file(drawing: Drawing) -> None:
    video = DrawnVideo(video_id="clip")
    first = {part.path for part in drawing.stage("unit1", "attempt1", [video]).parts}
    second = {part.path for part in drawing.stage("unit1", "attempt2", [video]).parts}
    assert first.isdisjoint(second)


def test_scratch_is_empty_after_closing(drawing: Drawing) -> None:
    drawing.stage("unit1", "attempt1", [LONG])
    assert list(drawing.scratch.iterdir()) == []


def test_rows_of_another_unit_video_or_schema_are_refused(drawing: Drawing) -> None:
    video = DrawnVideo(video_id="clip")
    tick_masks = next(ticks_of(video))
    item = staged_unit(drawing).item("item")
    with pytest.raises(ValueError, match=r"attempt_id \['attempt9'\], expected 'attempt1' alone"):
        item.add_masks(encode_tick(tick_masks, context_of(video, "run1", "unit1", "attempt9")))
    context = context_of(video, "run1", "unit1", "attempt1")
    item.add_masks(encode_tick(tick_masks, context))
    with pytest.raises(ValueError, match="rows of frames: schema"):
        item.add_frames(encode_tick(tick_masks, context))
    other = context_of(DrawnVideo(video_id="other"), "run1", "unit1", "attempt1")
    with pytest.raises(ValueError, match=r"video_id \['other'\], expected 'clip' alone"):
        item.add_frames(frame_row(tick_masks, other))


@pytest.mark.parametrize("apart", [1, MAX_BUFFERED_ROWS])
def test_a_frame_that_comes_twice_is_refused(drawing: Drawing, apart: int) -> None:
    """Within what is sorted at once, and between two such."""
    video = DrawnVideo(video_id="clip", stop=apart + 1, num_objects=1)
    context = context_of(video, "run1", "unit1", "attempt1")
    ticks = list(ticks_of(video))
    staged = staged_unit(drawing)
    item = staged.item("item")
    for tick_masks in [*ticks, ticks[0]]:
        item.add_masks(encode_tick(tick_masks, context))

    def end() -> None:
        item.keep()
        staged.close()

    with pytest.raises(ValueError, match=r"frame_index 0 comes twice|frame 0 after"):
        end()


def test_items_end_once_and_units_close_once(drawing: Drawing) -> None:
    video = DrawnVideo(video_id="clip")
    staged = staged_unit(drawing)
    item = staged.item("item")
    with pytest.raises(ValueError, match="begun before"):
        staged.item("item")
    with pytest.raises(ValueError, match=r"neither kept nor dropped: \['item'\]"):
        staged.close()
    item.keep()
    rows = encode_tick(next(ticks_of(video)), context_of(video, "run1", "unit1", "attempt1"))
    with pytest.raises(ValueError, match="after it was kept or dropped"):
        item.add_masks(rows)
    staged.close()
    with pytest.raises(ValueError, match="closed twice"):
        staged.close()


def test_another_attempt_goes_on_from_saved_rows(drawing: Drawing) -> None:
    """Two saves, a death, and a second attempt that loads, adds the rest, and has all rows under its own name."""
    before, after = LONG.frames[:580], LONG.frames[580:]
    first = staged_unit(drawing, "attempt1").item(LONG.item_id)
    saves = []
    for tick_masks in ticks_of(LONG):
        if tick_masks.frame_index in (300, 580):
            saves.append(first.save(drawing.store, "_snapshots/run=run1/item"))
        if tick_masks.frame_index == 580:
            break
        first.add_masks(encode_tick(tick_masks, context_of(LONG, "run1", "unit1", "attempt1")))
        first.add_frames(frame_row(tick_masks, context_of(LONG, "run1", "unit1", "attempt1")))
    assert saves[1]["masks"][:1] == saves[0]["masks"]
    assert len(saves[1]["masks"]) == 2

    staged = staged_unit(drawing, "attempt2")
    second = staged.item(LONG.item_id)
    second.load(drawing.store, saves[1])
    assert second.num_rows("masks") == 3 * len(before)
    context = context_of(LONG, "run1", "unit1", "attempt2")
    for tick_masks in ticks_of(LONG):
        if tick_masks.frame_index in after:
            second.add_masks(encode_tick(tick_masks, context))
            second.add_frames(frame_row(tick_masks, context))
    second.keep()
    parts = staged.close()
    masks = pq.read_table(local(drawing.store, part_of(parts, "masks")), partitioning=None)
    assert keys_of(masks) == expected_keys(LONG)
    assert set(masks["attempt_id"].to_pylist()) == {"attempt2"}
    frames = pq.read_table(local(drawing.store, part_of(parts, "frames")), partitioning=None)
    assert frames["frame_index"].to_pylist() == list(LONG.frames)


def heavy_rows(num_frames: int) -> Iterator[tuple[pa.RecordBatch, pa.RecordBatch]]:
    """Three objects a frame with 2 KB of random bytes for an RLE each."""
    video = DrawnVideo(video_id="heavy", num_objects=3)
    context = context_of(video, "run1", "unit1", "attempt1")
    random = np.random.default_rng(0)
    (tick_masks, *_) = ticks_of(DrawnVideo(video_id="heavy", start=1, stop=2, num_objects=3))
    template, frame = encode_tick(tick_masks, context), frame_row(tick_masks, context)
    for frame_index in range(num_frames):
        rle = pa.array([random.bytes(2000) for _ in range(3)], pa.binary())
        rows = template.set_column(template.schema.get_field_index("rle"), template.schema.field("rle"), rle)
        number = rows.schema.get_field_index("frame_index")
        rows = rows.set_column(number, rows.schema.field(number), pa.array([frame_index] * 3, pa.int32()))
        number = frame.schema.get_field_index("frame_index")
        yield rows, frame.set_column(number, frame.schema.field(number), pa.array([frame_index], pa.int32()))


def test_memory_does_not_grow_with_the_video(drawing: Drawing) -> None:
    """12 MB of RLE a 2,000 frames; what is held is one buffer while staging, and one row group while closing."""
    drawing = Drawing(store=drawing.store, scratch=drawing.scratch, limits=PartLimits(bytes_per_group=2 * 2**20))
    staged = staged_unit(drawing)
    item = staged.item("item")
    tracks = TrackAccumulator(context_of(LONG, "run1", "unit1", "attempt1"))
    process = psutil.Process()
    held: list[int] = []
    resident: list[int] = []
    for number, (rows, frame) in enumerate(heavy_rows(2000)):
        item.add_masks(rows)
        item.add_frames(frame)
        tracks.add(rows)
        if number % 100 == 99:
            held.append(pa.total_allocated_bytes())
            resident.append(process.memory_info().rss)
    assert max(held) < held[0] + 5 * 2**20
    assert resident[-1] < resident[1] + 8 * 2**20
    item.keep()
    before = pa.default_memory_pool().max_memory()
    staged.close()
    assert pa.default_memory_pool().max_memory() < max(before, held[0] + 16 * 2**20)
