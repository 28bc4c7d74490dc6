"""Garbage collection: what no commit names goes, what any commit names stays, and doubt keeps everything."""

import os
from pathlib import Path

import pytest

from pipeline.errors import StorageError
from pipeline.io.commit_log import compact_commits
from pipeline.io.gc import collect_garbage
from pipeline.io.storage import Store, open_store
from tests.drawn_lake import Drawing, DrawnVideo

CLIP = DrawnVideo(video_id="clip", stop=5)
HOUR = 3600.0
NOW = 1e9


@pytest.fixture
def drawing(tmp_path: Path) -> Drawing:
    return Drawing(store=open_store(tmp_path / "lake"), scratch=tmp_path / "scratch")


def paths_of(store: Store, prefix: str = "data") -> set[str]:
    return {file.path for file in store.list(prefix)}


def set_age(store: Store, seconds: float) -> None:
    for path in paths_of(store):
        os.utime(store.full_path(path), (NOW - seconds, NOW - seconds))


def test_parts_of_attempts_that_died_or_came_second_are_removed(drawing: Drawing) -> None:
    kept = {part.path for part in drawing.commit("unit1", "attempt1", [CLIP]).parts}
    died = {part.path for part in drawing.stage("unit2", "attempt1", [CLIP]).parts}
    second = drawing.stage("unit1", "attempt2", [CLIP])
    assert drawing.commit("unit1", "attempt3", [CLIP]).attempt_id == "attempt1"
    set_age(drawing.store, 2 * HOUR)
    report = collect_garbage(drawing.store, grace_seconds=HOUR, dry_run=False, clock=lambda: NOW)
    assert paths_of(drawing.store) == kept
    assert {file.path for file in report.garbage} >= died | {part.path for part in second.parts}
    assert (len(report.garbage), report.num_kept, report.num_young, report.removed) == (9, 3, 0, True)
    assert "9 files in no commit removed" in report.render()


def test_a_dry_run_tells_and_removes_nothing(drawing: Drawing) -> None:
    drawing.stage("unit1", "attempt1", [CLIP])
    set_age(drawing.store, 2 * HOUR)
    before = paths_of(drawing.store)
    report = collect_garbage(drawing.store, grace_seconds=HOUR, dry_run=True, clock=lambda: NOW)
    assert paths_of(drawing.store) == before == {file.path for file in report.garbage}
    assert report.garbage_bytes == sum(file.bytes for file in drawing.store.list("data"))
    assert "could be removed" in report.render()


def test_young_parts_may_still_be_committed(drawing: Drawing) -> None:
    drawing.stage("unit1", "attempt1", [CLIP])
    set_age(drawing.store, HOUR / 2)
    report = collect_garbage(drawing.store, grace_seconds=HOUR, dry_run=False, clock=lambda: NOW)
    assert (report.garbage, report.num_young) == ((), 3)
    assert len(paths_of(drawing.store)) == 3


def test_parts_named_in_folded_commits_stay(drawing: Drawing) -> None:
    drawing.commit("unit1", "attempt1", [CLIP])
    compact_commits(drawing.store, "run1", min_commits=1)
    set_age(drawing.store, 2 * HOUR)
    assert collect_garbage(drawing.store, grace_seconds=HOUR, dry_run=False, clock=lambda: NOW).garbage == ()


def test_parts_whose_rows_are_all_hidden_stay(drawing: Drawing) -> None:
    drawing.commit("unit1", "attempt1", [CLIP], committed_at=1.0)
    drawing.commit("unit2", "attempt1", [CLIP], committed_at=2.0)
    set_age(drawing.store, 2 * HOUR)
    assert collect_garbage(drawing.store, grace_seconds=HOUR, dry_run=False, clock=lambda: NOW).garbage == ()


def test_other_runs_are_judged_by_their_own_commits(drawing: Drawing) -> None:
    other = Drawing(store=drawing.store, scratch=drawing.scratch, run_id="run2")
    kept = {part.path for unit in (drawing, other) for part in unit.commit("unit1", "attempt1", [CLIP]).parts}
    set_age(drawing.store, 2 * HOUR)
    collect_garbage(drawing.store, grace_seconds=HOUR, dry_run=False, clock=lambda: NOW)
    assert paths_of(drawing.store) == kept


def test_a_commit_that_cannot_be_read_stops_everything(drawing: Drawing) -> None:
    drawing.stage("unit1", "attempt1", [CLIP])
    drawing.store.write_whole("_commits/run=run1/unit2.json", b"{")
    set_age(drawing.store, 2 * HOUR)
    before = paths_of(drawing.store)
    with pytest.raises(StorageError, match="damaged"):
        collect_garbage(drawing.store, grace_seconds=HOUR, dry_run=False, clock=lambda: NOW)
    assert paths_of(drawing.store) == before


def test_a_commit_that_lands_while_files_are_listed_is_respected(
    drawing: Drawing, monkeypatch: pytest.MonkeyPatch
) -> None:
    staged = drawing.stage("unit1", "attempt1", [CLIP])
    set_age(drawing.store, 2 * HOUR)
    list_abandoned = Store.list_abandoned

    def then_commit(self: Store, prefix: str = "") -> object:
        drawing.store.write_whole("_commits/run=run1/unit1.json", staged.to_json().encode())
        return list_abandoned(self, prefix)

    monkeypatch.setattr(Store, "list_abandoned", then_commit)
    report = collect_garbage(drawing.store, grace_seconds=HOUR, dry_run=False, clock=lambda: NOW)
    assert (report.garbage, report.num_kept) == ((), 3)


def test_half_written_files_are_garbage_once_they_are_old(drawing: Drawing) -> None:
    drawing.commit("unit1", "attempt1", [CLIP])
    folder = Path(drawing.store.full_path("data/masks/run=run1"))
    half = folder / ".x.parquet.masklake-tmp-0123"
    half.write_bytes(b"PAR1")
    os.utime(half, (NOW - 2 * HOUR, NOW - 2 * HOUR))
    report = collect_garbage(drawing.store, grace_seconds=HOUR, dry_run=False, clock=lambda: NOW)
    assert not half.exists()
    assert len(report.garbage) == 1
