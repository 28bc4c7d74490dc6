"""Faults of a manifest: each told where it is, all of them at once, none in silence."""

import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import ManifestError, StorageError
from pipeline.io.manifest import read_manifest
from pipeline.io.storage import open_store
from tests.io.test_manifest import as_jsonl, read_lines


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"stride": 0}, r"stride: 0: expected greater than or equal to 1"),
        ({"stride": True}, r"stride: True: expected a number"),
        ({"stride": "two"}, r"stride: 'two': expected a valid integer"),
        ({"start_frame": -1}, r"start_frame: -1: expected greater than or equal to 0"),
        ({"start_frame": 2**70}, r"start_frame: \d+: expected less than"),
        ({"start_frame": 5, "end_frame": 5}, r"end_frame: 5: expected more than start_frame 5; the range is half-open"),
        ({"max_side": 15}, r"max_side: 15: expected greater than or equal to 16"),
        ({"fps": 0}, r"fps: 0: expected greater than 0"),
        ({"video_id": ""}, r"video_id: ''"),
        ({"video_uri": 3}, r"video_uri: 3: expected a valid string"),
        ({"video_uri": "s3:/b/k"}, r"video_uri: .*two slashes"),
        ({"video_uri": "s4://b/k"}, r"video_uri: 's4://b/k': unknown scheme\. Known: .*memory, s3\."),
        ({"modalities": {"rgb": "x"}}, r"modalities.rgb: rgb is the video itself"),
        ({"modalities": {"depth": ""}}, r"modalities.depth: URI ''"),
        ({"modalities": {"aolp": "a.npy|"}}, r"modalities.aolp: URI ''"),
        ({"modalities": {"aolp": "a.npy|s4://b/k"}}, r"modalities.aolp: 'a.npy\|s4://b/k': unknown scheme"),
        ({"modality_order": ["rgb", "depth"]}, r"modality_order\[1\]: 'depth' is no modality of the row"),
        (
            {"modalities": {"depth": "d"}, "modality_order": ["depth", "depth"]},
            r"modality_order\[1\]: 'depth' is there twice",
        ),
        ({"crop": [0, 0, 32, 48]}, r"crop: given for plain video"),
        ({"modality_order": ["rgb"], "crop": [8, 0, 20, 48]}, r"crop: \[8, 0, 20, 48\]: expected .* at least 16"),
        ({"modality_order": ["rgb"], "crop": [0, 0, 32]}, r"crop\[3\]: missing"),
        ({"expressions": "a dog"}, r"expressions: 'a dog': expected a valid list"),
        ({"expressions": ["x", "  "]}, r"expressions\[1\]: empty"),
        ({"expressions": ["x", 3]}, r"expressions\[1\]: 3: expected"),
        ({"expressions": [{"txt": "x"}]}, r"expressions\[0\]\.txt: unknown key\. Did you mean 'text'"),
        (
            {"expressions": ["x", {"id": "0", "text": "y"}]},
            r"expressions\[1\]\.id: '0' is also the id of expressions\[0\]",
        ),
        ({"expressions": [{"text": "it runs", "motion_words": ["walks"]}]}, r"motion_words: 'walks' is not a word of"),
        ({"prompts": [{"object_id": 1, "frame": 0}]}, r"prompts\[0\]: neither points, box nor mask_rle"),
        ({"prompts": [{"object_id": 0, "frame": 0, "box": [0, 0, 1, 1]}]}, r"prompts\[0\]\.object_id: 0: expected"),
        ({"prompts": [{"object_id": 1, "box": [0, 0, 1, 1]}]}, r"prompts\[0\]\.frame: missing"),
        (
            {"prompts": [{"object_id": 1, "frame": 0, "points": [[1, 2, 0]]}]},
            r"points\[0\]: sign 0: expected 1 .*or -1",
        ),
        ({"prompts": [{"object_id": 1, "frame": 0, "points": [[1, 2]]}]}, r"prompts\[0\]\.points\[0\]\[2\]: missing"),
        ({"prompts": [{"object_id": 1, "frame": 0, "box": [5, 0, 5, 9]}]}, r"prompts\[0\]\.box: .*x1 > x0 and y1 > y0"),
        (
            {"prompts": [{"object_id": 1, "frame": 0, "mask_rle": {"size": [0, 3], "counts": "x"}}]},
            r"mask_rle: expected",
        ),
        (
            {"prompts": [{"object_id": 1, "frame": 0, "mask_rle": {"size": [2, 3], "counts": [6]}}]},
            r"mask_rle: expected",
        ),
        (
            {"prompts": [{"object_id": 1, "frame": 3, "box": [0, 0, 1, 1]}], "stride": 2},
            r"prompts\[0\]\.frame: 3 is not among the frames read: \[0, end\), every 2",
        ),
        (
            {"prompts": [{"object_id": 1, "frame": 9, "box": [0, 0, 1, 1]}], "end_frame": 9},
            r"prompts\[0\]\.frame: 9 is not among the frames read: \[0, 9\)",
        ),
        (
            {
                "prompts": [
                    {"object_id": 1, "frame": 0, "box": [0, 0, 1, 1]},
                    {"object_id": 1, "frame": 0, "box": [0, 0, 2, 2]},
                ]
            },
            r"prompts\[1\]: object 1 is shown on frame 0 twice",
        ),
        ({"tags": {"a": ["nested"]}}, r"tags\.a: \['nested'\]: expected a valid string"),
        ({"expresions": ["x"]}, r"expresions: unknown column\. Did you mean 'expressions'"),
    ],
)
def test_a_bad_value_is_told_by_line_and_column(tmp_path: Path, columns: dict[str, Any], said: str) -> None:
    good = '{"video_uri": "good.mp4", "video_id": "good"}'
    reading = read_lines(tmp_path, good, json.dumps({"video_uri": "bad.mp4", **columns}))
    assert [item.video_id for item in reading.items] == ["good"]
    assert reading.num_refused_rows == 1
    assert any(re.match(f"line 2, .*{said}", str(problem)) for problem in reading.refused), reading.refused


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
@pytest.mark.parametrize("where", ['"fps": {}', '"prompts": [{{"object_id": 1, "frame": 0, "points": [[{}, 1, 1]]}}]'])
def test_what_is_no_finite_number_is_refused(tmp_path: Path, number: str, where: str) -> None:
    reading = read_lines(tmp_path, '{"video_uri": "a.mp4", ' + where.format(number) + "}")
    assert reading.items == ()
    assert reading.refused[0].line == 1


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{'video_uri': 'a'}", "not JSON"),
        ('["a.mp4"]', "a JSON list, expected an object"),
        ('{"video_uri": "a", "video_uri": "b"}', "key 'video_uri' is there twice"),
        ("{}", "video_uri: missing"),
    ],
)
def test_a_line_that_is_no_row_is_refused_alone(tmp_path: Path, line: str, said: str) -> None:
    reading = read_lines(tmp_path, '{"video_uri": "a.mp4"}', line)
    assert len(reading.items) == 1
    assert said in str(reading.refused[0])
    assert reading.refused[0].line == 2


def test_every_problem_of_a_row_is_told_with_the_names_it_is_known_by(tmp_path: Path) -> None:
    row = {"video_uri": "a.mp4", "video_id": "a", "stride": 0, "max_side": 1, "start_frame": -3}
    reading = read_lines(tmp_path, json.dumps(row))
    assert {problem.column for problem in reading.refused} == {"stride", "max_side", "start_frame"}
    assert {(problem.video_id, problem.video_uri) for problem in reading.refused} == {("a", "a.mp4")}
    assert reading.num_refused_rows == 1


@pytest.mark.parametrize(("needs", "column"), [("expressions", "expressions"), ("prompts", "prompts")])
def test_a_row_without_what_the_job_needs_is_refused(tmp_path: Path, needs: str, column: str) -> None:
    reading = read_lines(tmp_path, '{"video_uri": "a.mp4"}', needs=needs)
    assert [problem.column for problem in reading.refused] == [column]
    assert read_lines(tmp_path, '{"video_uri": "a.mp4"}', needs="nothing").refused == ()


def test_strict_refuses_the_manifest_and_lists_all_bad_rows(tmp_path: Path) -> None:
    rows = ['{"video_uri": "a.mp4", "stride": 0}', "nonsense", '{"video_uri": "b.mp4"}']
    with pytest.raises(ManifestError) as caught:
        read_lines(tmp_path, *rows, strict=True)
    assert [line.partition(", ")[2].partition(":")[0] for line in str(caught.value).splitlines()] == [
        "line 1, stride",
        "line 2",
    ]


def test_all_repeated_ids_are_listed_with_their_lines(tmp_path: Path) -> None:
    rows = [{"video_uri": f"{folder}/{name}.mp4"} for folder in "xyz" for name in ("a", "b")][:5]
    rows.append({"video_uri": "w.mp4", "video_id": "b"})
    rows += [{"video_uri": "same.mp4", "start_frame": 0, "end_frame": 5}, {"video_uri": "same.mp4", "start_frame": 5}]
    with pytest.raises(ManifestError) as caught:
        read_manifest(as_jsonl(rows, tmp_path), needs="nothing")
    first, second, third = str(caught.value).splitlines()
    assert "lines 1, 3, 5: video_id 'a' is there 3 times. Files of one name in several folders: give each row" in first
    assert "lines 2, 4, 6: video_id 'b' is there 3 times. Give each row its own" in second
    assert (
        "lines 7, 8: video_id 'same' is there 2 times. Give each row its own, also where the rows are ranges" in third
    )


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("m.csv", b"video_uri,strid\na,1\n", r"unknown column 'strid'\. Did you mean 'stride'"),
        ("m.csv", b"video_id,dataset\na,1\n", r"no column video_uri"),
        ("m.csv", b"video_uri,stride,stride\na,1,1\n", r"column 'stride' is there twice"),
        ("m.csv", b'video_uri,expressions\na.mp4,"unclosed\nb.mp4,x\n', r"m\.csv, line 2: not CSV: .*double quotes"),
        ("m.csv", b'video_uri,expressions\na.mp4,ok\nb.mp4,"closed" early\n', r"m\.csv, line 3: not CSV"),
        ("m.csv", b"video_uri,expressions\na.mp4,caf\xe9\n", r"line 2: byte 31 of the file is not UTF-8 \(0xe9\)"),
        ("m.csv", b"", "no rows"),
        ("m.csv", b"video_uri\n", "no rows"),
        ("m.jsonl", b"\n\n", "no rows"),
        ("m.jsonl", b'\xef\xbb\xbf{"video_uri": "\xff"}\n', r"line 1: byte 18 of the file is not UTF-8 \(0xff\)"),
        ("m.jsonl", '{"video_uri": "a"}'.encode("utf-16"), "is UTF-16"),
        ("m.parquet", b"PAR1 not really", "not a Parquet file"),
        ("m.txt", b"a.mp4\n", r"unsupported suffix '\.txt'.*\.csv, \.jsonl, \.ndjson, \.parquet"),
        ("m", b"a.mp4\n", r"unsupported suffix ''"),
    ],
)
def test_a_manifest_that_is_wrong_as_a_whole_says_why(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ManifestError, match=said) as caught:
        read_manifest(tmp_path / name, needs="nothing")
    assert str(tmp_path / name) in str(caught.value)


def test_all_problems_of_a_header_are_told_at_once(tmp_path: Path) -> None:
    pq.write_table(pa.table({"uri": ["a"], "dataset": ["b"], "expression": ["c"]}), tmp_path / "m.parquet")
    with pytest.raises(ManifestError) as caught:
        read_manifest(tmp_path / "m.parquet", needs="nothing")
    assert [line.rpartition("m.parquet: ")[2][:22] for line in str(caught.value).splitlines()] == [
        "unknown column 'uri'. ",
        "unknown column 'expres",
        "no column video_uri, t",
    ]


def test_what_stands_in_a_manifests_place_is_named(tmp_path: Path, s3_root: str) -> None:
    (tmp_path / "folder.csv").mkdir()
    for uri, said in (
        (tmp_path, "a directory is not a manifest"),
        (tmp_path / "folder.csv", "a directory is not a manifest"),
        (f"{tmp_path}/*.mp4", "a pattern is not a manifest"),
        (tmp_path / "absent.csv", r"absent\.csv: no such file"),
        (f"{s3_root}/absent.jsonl", r"absent\.jsonl: no such file"),
        ("s3://no-such-bucket/m.jsonl", "no such file"),
    ):
        with pytest.raises(ManifestError, match=said):
            read_manifest(uri, needs="nothing")


def test_a_store_lost_halfway_is_not_a_short_manifest(s3_root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from s3fs.core import S3File

    def lost(*_: object) -> bytes:
        raise ConnectionResetError("reset by peer")

    open_store(s3_root).write_whole("m.jsonl", b'{"video_uri": "a.mp4"}\n' * 10)
    monkeypatch.setattr(S3File, "_fetch_range", lost)
    with pytest.raises(StorageError, match=r"m\.jsonl.*reset by peer") as caught:
        read_manifest(f"{s3_root}/m.jsonl", needs="nothing")
    assert caught.value.retryable
