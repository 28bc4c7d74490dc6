"""Parts read by DuckDB from a disk, memory and S3, through names that SQL and globs could trip over."""

from pathlib import Path

import duckdb
import pytest

from pipeline.errors import StorageError
from pipeline.io.part_files import PartFiles
from pipeline.io.storage import Store, open_store
from pipeline.query import open_run
from tests.drawn_lake import Drawing, DrawnVideo, drawn_mask

CLIP, OTHER = DrawnVideo(video_id="clip"), DrawnVideo(video_id="it's [1]*", num_objects=3)


@pytest.fixture
def drawing(root: str, tmp_path: Path) -> Drawing:
    return Drawing(store=open_store(root + "/it's [a]*"), scratch=tmp_path / "scratch")


def test_committed_rows_are_read_from_any_store(drawing: Drawing) -> None:
    drawing.commit("unit1", "attempt1", [CLIP], committed_at=1.0)
    drawing.commit("unit2", "attempt1", [CLIP, OTHER], committed_at=2.0)  # "clip" is hidden here
    with open_run(drawing.store.root_uri) as run:
        rows = run.sql("SELECT video_id, object_id, frame_index, area FROM masks ORDER BY ALL").fetchall()
        assert rows == sorted(
            (video.video_id, object_id, frame, drawn_mask(object_id, frame).sum())
            for video in (CLIP, OTHER)
            for object_id in range(1, video.num_objects + 1)
            for frame in video.frames
        )
        assert run.sql("SELECT count(*) FROM frames").fetchall() == [(40,)]
        assert run.sql("SELECT DISTINCT attempt_id, unit_id FROM masks WHERE video_id = 'clip'").fetchall() == [
            ("attempt1", "unit1")
        ]
        for chunk in run.masks(OTHER.video_id, object_id=2):
            drawn = [drawn_mask(2, frame) for frame in chunk.frame_index]
            assert (chunk.masks == drawn).all()


def test_planning_opens_no_part_and_one_video_opens_its_own(drawing: Drawing, monkeypatch: pytest.MonkeyPatch) -> None:
    if drawing.store.is_local:
        pytest.skip("DuckDB opens local files by itself")
    drawing.commit("unit1", "attempt1", [CLIP])
    drawing.commit("unit2", "attempt1", [OTHER])
    opened: list[str] = []
    open_file = PartFiles.open

    def watched(self: PartFiles, path: str, *arguments: object, **options: object) -> object:
        opened.append(path.rpartition("/")[2])
        return open_file(self, path, *arguments, **options)

    monkeypatch.setattr(PartFiles, "open", watched)
    with open_run(drawing.store.root_uri) as run:
        assert "area" in run.sql("SELECT * FROM masks").columns
        run.refresh()
        assert opened == []
        assert sum(len(chunk.masks) for chunk in run.masks("clip")) == 40
        assert {name.partition("-")[0] for name in opened} == {"unit1"}


def test_a_part_costs_few_requests(s3_root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Footer, columns and masks of a small part come in one block; nothing is asked before."""
    drawing = Drawing(store=open_store(s3_root), scratch=tmp_path / "scratch")
    drawing.commit("unit1", "attempt1", [CLIP])
    calls: list[str] = []
    client = drawing.store.filesystem
    call = type(client)._call_s3

    async def counted(self: object, method: str, *arguments: object, **options: object) -> object:
        calls.append(method)
        return await call(self, method, *arguments, **options)

    with open_run(s3_root) as run:
        monkeypatch.setattr(type(client), "_call_s3", counted)
        ((num_bytes,),) = run.sql("SELECT sum(octet_length(rle)) FROM masks").fetchall()
        assert num_bytes > 100
    assert set(calls) == {"get_object"}
    assert len(calls) <= 3


def test_parts_are_only_read_and_only_those_that_are_committed(memory_root: str, tmp_path: Path) -> None:
    drawing = Drawing(store=open_store(memory_root), scratch=tmp_path / "scratch")
    commit = drawing.commit("unit1", "attempt1", [CLIP])
    files = PartFiles(drawing.store, commit.parts)
    path = commit.parts[0].path
    assert files.info(f"masklake://{path}")["size"] == commit.parts[0].bytes
    with pytest.raises(PermissionError, match="committed parts are never changed"):
        files.open(f"masklake://{path}", "wb")
    with pytest.raises(FileNotFoundError, match="no committed part"):
        files.open("masklake://data/other.parquet")
    with duckdb.connect() as connection:
        connection.register_filesystem(files)
        with pytest.raises(duckdb.IOException, match="other"):
            connection.sql("SELECT * FROM read_parquet('masklake://data/other.parquet')")


def test_a_part_that_is_gone_is_told_by_name(drawing: Drawing) -> None:
    commit = drawing.commit("unit1", "attempt1", [CLIP])
    drawing.store.delete([part.path for part in commit.parts])

    def read() -> None:
        with open_run(drawing.store.root_uri) as run:
            run.sql("SELECT sum(area) FROM masks").fetchall()

    with pytest.raises((StorageError, duckdb.Error), match="unit1-attempt1-0000"):
        read()


def test_stores_stay_as_they_are_when_they_are_read(drawing: Drawing) -> None:
    drawing.commit("unit1", "attempt1", [CLIP])
    before: list[object] = list(Store.list(drawing.store))
    with open_run(drawing.store.root_uri) as run:
        run.sql("FROM masks").fetchall()
    assert list(drawing.store.list()) == before
