"""A table of detections joins the manifest's prompts; a bad row is refused by itself."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import ManifestError
from pipeline.io.detections import DetectionOptions, read_detections
from pipeline.io.manifest import read_manifest

HEADER = "video_id,frame,object_id,x0,y0,x1,y1,score\n"
ROWS = ["a,3,2,1,2,11,12,0.9", "a,0,1,5,5,9,9,0.8", "a,4,2,2,2,12,12,0.9", "a,5,3,0,0,4,4,0.1", "b,0,1,1,1,2,2,"]


def table(folder: Path, rows: list[str], header: str = HEADER) -> str:
    path = folder / "detections.csv"
    path.write_text(header + "\n".join(rows))
    return str(path)


def manifest(folder: Path, *lines: str) -> Path:
    path = folder / "manifest.jsonl"
    path.write_text("\n".join(lines))
    return path


def test_boxes_become_prompts_beside_those_of_the_manifest(tmp_path: Path) -> None:
    where = manifest(
        tmp_path,
        '{"video_uri": "a.mp4", "prompts": [{"object_id": 7, "frame": 1, "points": [[1, 2, 1]]}]}',
        '{"video_uri": "folder/other.mp4", "video_id": "b"}',
    )
    found = read_detections(DetectionOptions(uri=table(tmp_path, ROWS), min_score=0.5))
    reading = read_manifest(where, needs="prompts", detections=found)
    assert not reading.refused
    asked = {item.video_id: [(q.object_id, q.frame_index, q.box) for q in item.queries] for item in reading.items}
    assert asked == {"a": [(7, 1, None), (1, 0, (5, 5, 9, 9)), (2, 3, (1, 2, 11, 12))], "b": [(1, 0, (1, 1, 2, 2))]}
    assert reading.digest != read_manifest(where, needs="nothing").digest, "other detections are another input"


def test_all_detections_prompt_where_they_were_made_if_asked(tmp_path: Path) -> None:
    found = read_detections(DetectionOptions(uri=table(tmp_path, ROWS), use="all"))
    assert [(p["object_id"], p["frame"]) for p in found.prompts["a"]] == [(1, 0), (2, 3), (2, 4), (3, 5)]


def test_parquet_says_the_same(tmp_path: Path) -> None:
    columns = {"video_id": ["a", "a"], "frame": [0, 2], "object_id": [1, 2], "x0": [1.0, 2.0], "y0": [1.0, 2.0]}
    pq.write_table(pa.table({**columns, "x1": [5.0, 6.0], "y1": [5.0, 6.0]}), tmp_path / "d.parquet")
    found = read_detections(DetectionOptions(uri=str(tmp_path / "d.parquet")))
    assert [p["box"] for p in found.prompts["a"]] == [[1, 1, 5, 5], [2, 2, 6, 6]]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("a,1,1,9,2,3,12,0.9", r"detections, line 3: box \[9.0, 2.0, 3.0, 12.0\]: expected x1 > x0"),
        ("a,1,1,nan,2,3,12,0.9", "detections, line 3, x0: 'nan'"),
        ("a,-1,1,1,2,3,12,0.9", "detections, line 3, frame: '-1'"),
        ("a,1,0,1,2,3,12,0.9", "detections, line 3, object_id: '0'"),
        ("c,1,1,1,2,3,12,0.9", "detections, line 3, video_id: 'c' is no video of the manifest"),
    ],
)
def test_a_bad_row_is_refused_by_itself(tmp_path: Path, row: str, said: str) -> None:
    where = manifest(tmp_path, '{"video_uri": "a.mp4"}')
    found = read_detections(DetectionOptions(uri=table(tmp_path, [ROWS[1], row])))
    reading = read_manifest(where, needs="prompts", detections=found)
    (problem,) = reading.refused
    with pytest.raises(AssertionError, match=said):
        raise AssertionError(str(problem))
    assert [item.video_id for item in reading.items] == ["a"]
    assert reading.num_refused_rows == 0, "no row of the manifest was refused"


def test_a_table_that_is_wrong_as_a_whole_says_why(tmp_path: Path) -> None:
    for name, content, said in (
        ("d.csv", "video_id,frame,object_id,x0,y0,x1\n", "no column 'y1'"),
        ("d.csv", HEADER.replace("score", "scor"), "unknown column 'scor'"),
        ("d.txt", HEADER, "unsupported suffix"),
        ("d.parquet", "no", "not a Parquet file"),
    ):
        (tmp_path / name).write_text(content)
        with pytest.raises(ManifestError, match=said):
            read_detections(DetectionOptions(uri=str(tmp_path / name)))
    with pytest.raises(ManifestError, match="no such file"):
        read_detections(DetectionOptions(uri=str(tmp_path / "none.csv")))
