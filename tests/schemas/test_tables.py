"""The tables as other tools see them: columns, types and documentation that readers of a lake rely on."""

import duckdb
import pyarrow as pa
import pytest

from schemas.commit import COMMITS
from schemas.error_table import ERRORS
from schemas.fields import doc_of
from schemas.frame_table import FRAMES, FRAMES_KEY
from schemas.mask_table import MASKS, MASKS_KEY
from schemas.run import RUNS
from schemas.track_table import TRACKS, TRACKS_KEY

TABLES = {"masks": MASKS, "tracks": TRACKS, "frames": FRAMES, "runs": RUNS, "commits": COMMITS, "errors": ERRORS}

# Written down a second time, on purpose: a change here breaks the readers of every lake, and asks for a new version.
IN_DUCKDB = {
    "masks": "run_id VARCHAR, dataset VARCHAR, video_id VARCHAR, unit_id VARCHAR, object_id INTEGER, query_id VARCHAR, "
    "label VARCHAR, class_id INTEGER, frame_index INTEGER, pts_us BIGINT, present BOOLEAN, confidence FLOAT, "
    "object_score FLOAT, predicted_iou FLOAT, stability FLOAT, area INTEGER, "
    "bbox STRUCT(x FLOAT, y FLOAT, w FLOAT, h FLOAT), height INTEGER, width INTEGER, rle BLOB, "
    "trace STRUCT(source VARCHAR, prompt_kind VARCHAR, memory_frames INTEGER[], kalman_iou FLOAT), attempt_id VARCHAR",
    "tracks": "run_id VARCHAR, video_id VARCHAR, object_id INTEGER, query_id VARCHAR, label VARCHAR, class_id INTEGER, "
    "source VARCHAR, first_frame INTEGER, last_frame INTEGER, n_frames INTEGER, n_present INTEGER, "
    "confidence_mean FLOAT, confidence_min FLOAT, confidence_p10 FLOAT, "
    'low_conf_runs STRUCT("start" INTEGER, "end" INTEGER)[], area_mean FLOAT, area_min INTEGER, area_max INTEGER, '
    "merged_from INTEGER[], flags VARCHAR[]",
    "frames": "run_id VARCHAR, video_id VARCHAR, frame_index INTEGER, pts_us BIGINT, n_objects INTEGER, "
    "decode_ok BOOLEAN, is_key BOOLEAN, infer_us INTEGER, flags VARCHAR[]",
}


@pytest.mark.parametrize("name", TABLES)
def test_every_column_says_what_it_means(name: str) -> None:
    for field in TABLES[name]:
        assert doc_of(field).endswith("."), field.name
        assert field.nullable


@pytest.mark.parametrize("name", IN_DUCKDB)
def test_duckdb_sees_the_agreed_columns_and_types(name: str) -> None:
    with duckdb.connect() as connection:
        table = connection.from_arrow(TABLES[name].empty_table())
        connection.execute(f"CREATE TABLE agreed ({IN_DUCKDB[name]})")
        agreed = connection.sql("SELECT * FROM agreed")
        assert (table.columns, table.types) == (agreed.columns, agreed.types)


def test_names_that_repeat_are_dictionaries_and_digests_are_not() -> None:
    repeated = {field.name for field in MASKS if pa.types.is_dictionary(field.type)}
    assert repeated == {"run_id", "dataset", "video_id", "unit_id", "query_id", "label"}
    assert all(MASKS.field(name).type == pa.dictionary(pa.int32(), pa.string()) for name in repeated)
    assert MASKS.field("attempt_id").type == pa.string()


@pytest.mark.parametrize(("schema", "key"), [(MASKS, MASKS_KEY), (TRACKS, TRACKS_KEY), (FRAMES, FRAMES_KEY)])
def test_the_key_is_made_of_columns(schema: pa.Schema, key: tuple[str, ...]) -> None:
    assert set(key) <= set(schema.names)


def test_null_and_range_are_told_where_they_matter() -> None:
    assert "0..1" in doc_of(MASKS.field("confidence"))
    assert "present = false" in doc_of(MASKS.field("confidence"))
    for name in ("rle", "bbox", "object_score", "predicted_iou", "stability", "class_id", "query_id", "dataset"):
        assert "null" in doc_of(MASKS.field(name)), name
