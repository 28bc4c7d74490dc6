"""Outcomes as tables: every column of a schema is filled from its record, times included."""

from dataclasses import replace
from datetime import UTC, datetime

from pipeline.io.outcome_tables import commit_rows, error_rows, run_rows
from schemas.commit import COMMITS
from schemas.error_table import ERRORS
from schemas.run import RUNS
from tests.drawn_lake import DrawnVideo, committed_item
from tests.io.test_commit_log import a_commit, a_run, an_error


def test_a_commit_gives_a_row_per_video() -> None:
    item = committed_item(DrawnVideo(video_id="clip"))
    commits = commit_rows([a_commit(items=(item, replace(item, video_id="other", range_end=None)), committed_at=1.5)])
    assert commits.schema.equals(COMMITS)
    rows = commits.to_pylist()
    assert [(row["video_id"], row["range_end"]) for row in rows] == [("clip", 20), ("other", None)]
    assert {(row["unit_id"], row["attempt_id"], row["frames"], row["rows"]) for row in rows} == {
        ("unit1", "attempt1", 20, 40)
    }
    assert rows[0]["committed_at"] == datetime(1970, 1, 1, 0, 0, 1, 500_000, tzinfo=UTC)


def test_an_error_keeps_its_class_and_item() -> None:
    errors = error_rows([an_error()])
    assert errors.schema.equals(ERRORS)
    (row,) = errors.to_pylist()
    assert (row["class"], row["item_id"], row["message"]) == ("DecodeError", "item1", "no frames")
    assert row["last_at"] == datetime(1970, 1, 1, 0, 0, 10, tzinfo=UTC)


def test_a_run_that_goes_on_has_no_end() -> None:
    runs = run_rows([a_run()])
    assert runs.schema.equals(RUNS)
    (row,) = runs.to_pylist()
    assert (row["started"], row["finished"]) == (datetime(1970, 1, 1, 0, 1, 40, tzinfo=UTC), None)


def test_nothing_gives_empty_tables_with_all_columns() -> None:
    tables = [(commit_rows([]), COMMITS), (error_rows([]), ERRORS), (run_rows([]), RUNS)]
    assert all(table.num_rows == 0 and table.schema.equals(schema) for table, schema in tables)
