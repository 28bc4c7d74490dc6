"""Every kind of bad input ends in its documented exit code or errors row, and the good videos are committed."""

import os
import shlex
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from jobs.refer_corpus import ReferCorpus
from pipeline.cluster.job import EXIT_OK, EXIT_PARTIAL, EXIT_TOO_MANY_FAILURES, main
from pipeline.errors import DecodeError
from pipeline.io.inputs import open_input
from pipeline.query import open_run
from tests.e2e.bad_inputs import BAD_COMMANDS, BAD_VIDEOS, NO_PERMISSION, BadCommand, BadVideo, write_bad_manifest


def run(*flags: str) -> int:
    return main(ReferCorpus, [*flags, "--runner", "local", "--device", "cpu", "--quiet"], prog="refer_corpus")


@pytest.fixture(scope="module")
def bad_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[int, Path]:
    """Exit code and lake of a run over every bad video at once."""
    folder = tmp_path_factory.mktemp("bad")
    lake = folder / "lake"
    return run("--manifest", str(write_bad_manifest(folder)), "--output", str(lake)), lake


@pytest.fixture(scope="module")
def errors(bad_run: tuple[int, Path]) -> Iterator[pd.DataFrame]:
    with open_run(bad_run[1]) as opened:
        yield opened.sql("SELECT * FROM errors").df().set_index("video_id", drop=False)


def test_the_run_goes_on_to_its_end_and_says_so(bad_run: tuple[int, Path]) -> None:
    assert bad_run[0] == EXIT_OK
    with open_run(bad_run[1]) as opened:
        videos = opened.sql("SELECT video_id, count(*) FROM masks GROUP BY 1 ORDER BY 1").fetchall()
    assert videos == [("good_first", 12), ("good_last", 12)]


@pytest.mark.parametrize("bad", BAD_VIDEOS, ids=lambda bad: bad.name)
def test_a_bad_video_is_one_row_with_stage_class_and_message(bad: BadVideo, errors: pd.DataFrame) -> None:
    row = errors.loc[bad.name]
    assert isinstance(row, pd.Series), "one row"
    assert (row["stage"], row["class"]) == (bad.stage, bad.error_class), row["message"]
    assert bad.told in row["message"]
    assert not row["retryable"]


def test_a_line_that_is_no_json_is_told_by_its_number(errors: pd.DataFrame) -> None:
    row = errors[errors["video_id"].isna()]
    assert list(row["line"]) == [4]
    assert len(errors) == len(BAD_VIDEOS) + 1


def test_a_failed_video_leaves_no_row_of_any_table(bad_run: tuple[int, Path]) -> None:
    with open_run(bad_run[1]) as opened:
        for table in ("masks", "tracks", "frames", "commits"):
            videos = opened.sql(f"SELECT DISTINCT video_id FROM {table} ORDER BY 1").fetchall()
            assert videos == [("good_first",), ("good_last",)], table


def test_a_row_with_two_problems_is_one_failed_video(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    manifest, lake = tmp_path / "two.jsonl", tmp_path / "it's a lake" / "run"
    manifest.write_text('{"video_uri": "a.mp4", "expressions": ["x"], "stride": 0, "colour": 1}\n')
    run("--manifest", str(manifest), "--output", str(lake), "--max-errors", "1")
    told = capfd.readouterr().out
    assert "0 videos committed, 1 failed" in told
    assert shlex.quote(str(lake)) in told, "the command to copy names the lake as a shell reads it"


def test_partial_success_is_told_by_the_exit_code_when_asked_for(tmp_path: Path) -> None:
    manifest = write_bad_manifest(tmp_path)
    flags = ["--manifest", str(manifest), "--output", str(tmp_path / "lake")]
    assert run(*flags, "--fail-on-partial") == EXIT_PARTIAL
    assert run(*flags, "--fail-on-partial") == EXIT_PARTIAL, "bad rows are bad again; the rest is not run again"
    assert run(*flags, "--overwrite", "--max-errors", "3") == EXIT_TOO_MANY_FAILURES


@pytest.mark.parametrize("bad", BAD_COMMANDS, ids=lambda bad: bad.name)
def test_a_bad_command_is_refused_before_anything_is_written(
    bad: BadCommand, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    lake = tmp_path / "lake"
    flags = bad.make(tmp_path)
    if "--output" not in flags:
        flags = [*flags, "--output", str(lake)]
    try:
        code = run(*flags)
    except SystemExit as exited:
        code = int(exited.code or 0)
    told = capfd.readouterr()
    assert code == bad.code, told.err
    assert bad.told in told.err + told.out
    assert not lake.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="gives up superuser rights, which this user does not have")
def test_a_video_without_permission_is_refused_as_such(tmp_path: Path) -> None:
    row = NO_PERMISSION.make(tmp_path)
    for folder in (tmp_path, *tmp_path.parents):
        if folder.owner() == "root" and folder.is_relative_to(Path(os.environ.get("TMPDIR", "/tmp"))):
            folder.chmod(folder.stat().st_mode | 0o011)
    os.seteuid(65534)
    try:
        with pytest.raises(DecodeError, match=NO_PERMISSION.told), open_input(str(tmp_path / row["video_uri"])):
            pass
    finally:
        os.seteuid(0)
