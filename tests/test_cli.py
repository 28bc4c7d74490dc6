"""The verbs that read tables: what they print can be read back, and a wrong place is told."""

import csv
import io
import json
from pathlib import Path

import pytest

from pipeline.cli import main as masklake
from pipeline.io.storage import open_store
from pipeline.masks import rle
from tests.drawn_lake import HEIGHT, WIDTH, Drawing, DrawnVideo, drawn_mask


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    drawing = Drawing(store=open_store(tmp_path / "lake"), scratch=tmp_path / "scratch")
    drawing.commit("unit1", "attempt1", [DrawnVideo(video_id="zoë", stop=6)])
    return tmp_path / "lake"


def code_of(*arguments: str) -> int | str | None:
    with pytest.raises(SystemExit) as exited:
        masklake(arguments)
    return exited.value.code


@pytest.mark.parametrize("form", ["csv", "json"])
def test_masks_survive_being_printed_as_text(lake: Path, form: str, capsys: pytest.CaptureFixture[str]) -> None:
    query = "SELECT video_id, object_id, frame_index, rle FROM masks WHERE present"
    assert code_of("query", str(lake), query, "--format", form) == 0
    printed = capsys.readouterr().out
    rows = (
        [json.loads(line) for line in printed.splitlines()] if form == "json" else csv.DictReader(io.StringIO(printed))
    )
    decoded = [
        (
            row["video_id"],
            int(row["object_id"]),
            int(row["frame_index"]),
            rle.decode(row["rle"].encode(), HEIGHT, WIDTH),
        )
        for row in rows
    ]
    assert decoded
    for video_id, object_id, frame_index, mask in decoded:
        assert video_id == "zoë"
        assert (mask == drawn_mask(object_id, frame_index)).all(), (object_id, frame_index)


def test_no_sql_is_told(lake: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(" \n"))
    assert code_of("query", str(lake)) == 2
    assert "no SQL" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["status", "gc"])
def test_a_place_that_is_no_lake_is_told(verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert code_of(verb, str(tmp_path / "elsewhere")) == 2
    assert "Expected the root of" in capsys.readouterr().err


def test_gc_of_a_lake_without_garbage_is_fine(lake: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert code_of("gc", str(lake)) == 0
    assert "0 files in no commit" in capsys.readouterr().out
