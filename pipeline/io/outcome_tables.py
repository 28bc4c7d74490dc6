"""Outcomes as Arrow tables: commits, errors and run records in the columns of their schemas."""

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

import pyarrow as pa

from schemas.commit import COMMITS, Commit
from schemas.error_table import ERRORS, ErrorRecord
from schemas.run import RUNS, RunRecord


def commit_rows(commits: Iterable[Commit]) -> pa.Table:
    """One row per committed video or range, in schema COMMITS."""
    shared = ("run_id", "unit_id", "attempt_id", "config_hash", "committed_at")
    rows = [
        {**asdict(item), **{name: getattr(commit, name) for name in shared}}
        for commit in commits
        for item in commit.items
    ]
    return _table(rows, COMMITS)


def error_rows(errors: Iterable[ErrorRecord]) -> pa.Table:
    """One row per failure, in schema ERRORS."""
    return _table([{**asdict(error), "class": error.error_class} for error in errors], ERRORS)


def run_rows(records: Iterable[RunRecord]) -> pa.Table:
    """One row per run, in schema RUNS."""
    return _table([asdict(record) for record in records], RUNS)


def _table(rows: list[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    columns = []
    for field in schema:
        values = [row[field.name] for row in rows]
        if pa.types.is_timestamp(field.type):
            values = [None if seconds is None else round(seconds * 1e6) for seconds in values]
        columns.append(pa.array(values, field.type))
    return pa.table(columns, schema=schema)
