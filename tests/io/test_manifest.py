"""Manifests read and validated: the same rows in three encodings, every fault told where it is."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import ManifestError
from pipeline.io.manifest import ManifestReading, read_manifest, write_manifest
from pipeline.io.storage import open_store
from schemas.manifest import MANIFEST, MANIFEST_COLUMNS
from schemas.work_unit import Query, WorkItem, WorkUnit

ROWS: list[dict[str, Any]] = [
    {
        "video_uri": "v/dog.mp4",
        "dataset": "pets",
        "expressions": [
            {"text": "the dog, jumping"},
            {"id": "e7", "text": 'a "brown" dog', "motion_words": []},
            {"text": "le chien qui court", "motion_words": ["court"]},
        ],
        "start_frame": 10,
        "end_frame": 50,
        "stride": 5,
        "max_side": 480,
        "tags": {"split": "train", "shard": "3"},
    },
    {
        "video_uri": "s3://lake/cats/cat.mp4",
        "video_id": "cat/1",
        "prompts": [
            {"object_id": 4, "frame": 0, "points": [[10.5, 20, 1], [3, 4, -1]], "box": [1, 2, 30, 40.5]},
            {"object_id": 2, "id": "left", "frame": 6, "mask_rle": {"size": [2, 3], "counts": "06"}},
        ],
        "modalities": {"depth": "d/cat", "event": "/abs/event"},
        "fps": 12.5,
    },
]


def as_jsonl(rows: Sequence[Mapping[str, Any]], folder: Path) -> Path:
    path = folder / "m.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def as_csv(rows: Sequence[Mapping[str, Any]], folder: Path) -> Path:
    import csv

    path = folder / "m.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, MANIFEST_COLUMNS, restval="")
        writer.writeheader()
        for row in rows:
            writer.writerow({k: json.dumps(v) if isinstance(v, list | dict) else v for k, v in row.items()})
    return path


def as_parquet(rows: Sequence[Mapping[str, Any]], folder: Path) -> Path:
    path = folder / "m.parquet"
    arrow_rows = [{k: list(v.items()) if k in ("tags", "modalities") else v for k, v in row.items()} for row in rows]
    for row in arrow_rows:
        row["expressions"] = [{"text": e} if isinstance(e, str) else e for e in row.get("expressions", [])]
    pq.write_table(pa.Table.from_pylist(arrow_rows, schema=MANIFEST), path)
    return path


def read_lines(folder: Path, *lines: str, **options: Any) -> ManifestReading:
    path = folder / "m.jsonl"
    path.write_text("".join(f"{line}\n" for line in lines))
    return read_manifest(path, **{"needs": "nothing", **options})


def read_one(folder: Path, **columns: Any) -> WorkItem:
    reading = read_lines(folder, json.dumps({"video_uri": "a.mp4", **columns}), needs="expressions")
    assert reading.refused == ()
    return reading.items[0]


def test_a_row_becomes_a_work_item_with_all_that_it_says(tmp_path: Path) -> None:
    dog, cat = (
        read_manifest(as_jsonl([row], tmp_path), needs=needs).items[0]  # type: ignore[arg-type]
        for row, needs in zip(ROWS, ("expressions", "prompts"), strict=True)
    )
    assert dog == WorkItem(
        video_id="dog",
        video_uri=str(tmp_path / "v/dog.mp4"),
        queries=(
            Query(object_id=1, query_id="0", text="the dog, jumping"),
            Query(object_id=2, query_id="e7", text='a "brown" dog', motion_words=()),
            Query(object_id=3, query_id="2", text="le chien qui court", motion_words=("court",)),
        ),
        dataset="pets",
        start_frame=10,
        end_frame=50,
        stride=5,
        max_side=480,
        tags={"split": "train", "shard": "3"},
        line=1,
    )
    assert cat == WorkItem(
        video_id="cat/1",
        video_uri="s3://lake/cats/cat.mp4",
        queries=(
            Query(object_id=4, query_id="0", frame_index=0, points=((10.5, 20, 1), (3, 4, -1)), box=(1, 2, 30, 40.5)),
            Query(object_id=2, query_id="left", frame_index=6, mask_rle={"size": [2, 3], "counts": "06"}),
        ),
        fps=12.5,
        modalities={"depth": str(tmp_path / "d/cat"), "event": "/abs/event"},
        modality_order=("rgb", "depth", "event"),
        line=1,
    )


@pytest.mark.parametrize("needs", ["expressions", "prompts", "nothing"])
@pytest.mark.parametrize("encode", [as_csv, as_parquet])
def test_csv_and_parquet_say_the_same_as_jsonl(
    encode: Callable[[Sequence[Mapping[str, Any]], Path], Path], needs: Any, tmp_path: Path
) -> None:
    rows = [{**ROWS[0], "prompts": [{"object_id": 1, "frame": 10, "points": [[1, 2, 1]]}]}, ROWS[1]]
    rows[1] = {**rows[1], "expressions": ["a | cat", "[sic] a cat"]}
    expected = read_manifest(as_jsonl(rows, tmp_path), needs=needs)
    reading = read_manifest(encode(rows, tmp_path), needs=needs)
    assert reading.refused == expected.refused == ()
    assert [item.item_id for item in reading.items] == [item.item_id for item in expected.items]
    assert [item.tags for item in reading.items] == [item.tags for item in expected.items]
    assert reading.digest != expected.digest


def test_parquet_may_hold_plain_texts_and_nested_values_as_json(tmp_path: Path) -> None:
    columns = {"video_uri": ["a.mp4", "b.mp4"], "expressions": [["x", "y"], ["z"]], "tags": ['{"k": 1}', None]}
    pq.write_table(pa.table({**columns, "stride": pa.array([2.0, None])}), tmp_path / "m.parquet")
    reading = read_manifest(tmp_path / "m.parquet", needs="expressions")
    assert [[query.text for query in item.queries] for item in reading.items] == [["x", "y"], ["z"]]
    assert [(item.tags, item.stride, item.line) for item in reading.items] == [({"k": "1"}, 2, 1), ({}, 1, 2)]


def test_items_survive_the_trip_to_a_worker(tmp_path: Path) -> None:
    items = read_manifest(as_jsonl([ROWS[1]], tmp_path), needs="prompts").items
    unit = WorkUnit(run_id="r", method="mosam", config_hash="0", items=items)
    assert WorkUnit.from_json(unit.to_json()).unit_id == unit.unit_id


def test_jobs_share_a_manifest_and_take_the_queries_they_need(tmp_path: Path) -> None:
    row = {"video_uri": "a.mp4", "expressions": ["x"], "prompts": [{"object_id": 9, "frame": 0, "box": [0, 0, 1, 1]}]}
    path = as_jsonl([row], tmp_path)
    assert [q.object_id for q in read_manifest(path, needs="expressions").items[0].queries] == [1]
    assert [q.object_id for q in read_manifest(path, needs="prompts").items[0].queries] == [9]
    assert read_manifest(path, needs="nothing").items[0].queries == ()


def test_csv_takes_expressions_apart_at_bars(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("video_uri,expressions,stride\na.mp4,the dog| a cat,\nb.mp4,one,2.0\n")
    reading = read_manifest(tmp_path / "m.csv", needs="expressions")
    assert [[query.text for query in item.queries] for item in reading.items] == [["the dog", "a cat"], ["one"]]
    assert [(item.stride, item.line) for item in reading.items] == [(1, 2), (2, 3)]


def test_lines_are_counted_through_quoted_line_breaks_and_blank_lines(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text('video_uri,expressions\na.mp4,"one\nline"\n\nb.mp4,x\nc.mp4,x,too many\n')
    reading = read_manifest(tmp_path / "m.csv", needs="expressions")
    assert [(item.video_id, item.line) for item in reading.items] == [("a", 2), ("b", 5)]
    assert [str(problem) for problem in reading.refused] == [
        "line 6: 3 cells, but the header has 2; a cell with a comma needs double quotes."
    ]
    assert [item.line for item in read_lines(tmp_path, "", '{"video_uri": "a"}', "", '{"video_uri": "b"}').items] == [
        2,
        4,
    ]


def test_a_byte_order_mark_is_none_of_the_first_column(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_bytes(b"\xef\xbb\xbfvideo_uri\r\na.mp4\r\n")
    assert read_manifest(tmp_path / "m.csv", needs="nothing").items[0].video_id == "a"
    (tmp_path / "m.jsonl").write_bytes(b'\xef\xbb\xbf{"video_uri": "a.mp4"}\n')
    assert read_manifest(tmp_path / "m.jsonl", needs="nothing").items[0].video_id == "a"


@pytest.mark.parametrize("kind", ["memory", "s3"])
def test_relative_uris_start_from_a_manifest_in_a_store(kind: str, request: pytest.FixtureRequest) -> None:
    store = open_store(request.getfixturevalue(f"{kind}_root"))
    store.write_whole("lists/m.jsonl", b'{"video_uri": "../v/a.mp4", "modalities": {"depth": "d.mp4"}}\n')
    reading = read_manifest(store.uri("lists/m.jsonl"), needs="nothing")
    assert reading.items[0].video_uri == store.uri("v/a.mp4")
    assert reading.items[0].modalities == {"depth": store.uri("lists/d.mp4")}


def test_ids_may_be_numbers_and_tags_too(tmp_path: Path) -> None:
    item = read_one(tmp_path, video_id=7, expressions=[{"id": 3, "text": "x"}], tags={"n": 3, "ok": True, "none": None})
    assert (item.video_id, item.queries[0].query_id) == ("7", "3")
    assert item.tags == {"n": "3", "ok": "true"}


def test_expressions_are_kept_verbatim(tmp_path: Path) -> None:
    assert read_one(tmp_path, expressions=["  The DOG  "]).queries[0].text == "  The DOG  "


def test_modalities_keep_their_order_in_every_encoding(tmp_path: Path) -> None:
    modalities = {"lidar": "l.png", "depth": "d.png", "aolp": "sin.npy|/abs/cos.npy|sin.npy"}
    rows = [
        {"video_uri": "a.png", "modalities": modalities, "crop": [8, 0, 48, 32]},
        {"video_uri": "b.png", "modalities": modalities, "modality_order": ["depth", "rgb"]},
        {"video_uri": "c.png", "modality_order": ["rgb"]},
        {"video_uri": "d.png"},
    ]
    sine = tmp_path / "sin.npy"
    for path in (as_jsonl(rows, tmp_path), as_csv(rows, tmp_path), as_parquet(rows, tmp_path)):
        items = read_manifest(path, needs="nothing", strict=True).items
        orders = [("rgb", "lidar", "depth", "aolp"), ("depth", "rgb"), ("rgb",), ()]
        assert [item.modality_order for item in items] == orders
        assert [item.crop for item in items] == [(8, 0, 48, 32), None, None, None]
        assert items[0].modalities["aolp"] == f"{sine}|/abs/cos.npy|{sine}"
        unit = WorkUnit(run_id="r", method="m", config_hash="c", items=items)
        back = WorkUnit.from_json(unit.to_json())
        assert back == unit
        assert back.unit_id == unit.unit_id


def test_the_digest_is_that_of_the_bytes(tmp_path: Path) -> None:
    import hashlib

    for path in (as_jsonl(ROWS, tmp_path), as_csv(ROWS, tmp_path), as_parquet(ROWS, tmp_path)):
        expected = hashlib.sha256(path.read_bytes()).hexdigest()[:32]
        assert read_manifest(path, needs="nothing").digest == expected


def test_an_expression_longer_than_csvs_own_limit_is_read(tmp_path: Path) -> None:
    counts = "0" * 200_000
    prompt = {"object_id": 1, "frame": 0, "mask_rle": {"size": [500, 800], "counts": counts}}
    path = as_csv([{"video_uri": "a.mp4", "prompts": [prompt]}], tmp_path)
    mask = read_manifest(path, needs="prompts").items[0].queries[0].mask_rle
    assert mask is not None
    assert mask["counts"] == counts


def test_a_written_manifest_is_read_back(tmp_path: Path, memory_root: str) -> None:
    write_manifest([{**row, "fps": None} for row in ROWS], f"{memory_root}/m.jsonl")
    write_manifest(ROWS, tmp_path / "m.jsonl")
    assert [json.loads(line) for line in (tmp_path / "m.jsonl").read_text().splitlines()] == ROWS
    reading = read_manifest(tmp_path / "m.jsonl", needs="nothing")
    assert [item.video_id for item in reading.items] == ["dog", "cat/1"]
    assert [item.fps for item in read_manifest(f"{memory_root}/m.jsonl", needs="nothing").items] == [None, None]
    with pytest.raises(ManifestError, match=r"row 1: [\s\S]*stride"):
        write_manifest([{"video_uri": "a", "stride": 0}], tmp_path / "bad.jsonl")
    with pytest.raises(ManifestError, match=r"written as \.jsonl"):
        write_manifest([], tmp_path / "m.csv")
    assert os.listdir(tmp_path) == ["m.jsonl"]


def test_the_documented_columns_are_those_that_rows_may_have() -> None:
    from pipeline.io.manifest_columns import ManifestRow

    assert set(ManifestRow.model_fields) == set(MANIFEST_COLUMNS)
    assert all(field.metadata[b"doc"] for field in MANIFEST)
