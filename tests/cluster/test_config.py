"""Flags and YAML of a job: one class, unknown names refused with the nearest known one."""

from pathlib import Path

import pytest
from pydantic import BaseModel, ConfigDict

from pipeline.cluster.config import CorpusJob, flag_names, max_failures, parse_job, parse_shard, read_config_file
from pipeline.errors import ConfigError

REQUIRED = ["--manifest", "m.jsonl", "--output", "lake"]


class Inner(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    threshold: float = 0.5
    words: tuple[str, ...] = ()


class Job(CorpusJob):
    inner: Inner = Inner()


def parse(*arguments: str) -> Job:
    return parse_job(Job, arguments, prog="job")


def write(folder: Path, text: str) -> str:
    path = folder / "job.yaml"
    path.write_text(text)
    return str(path)


def test_flags_override_the_file_and_the_file_overrides_defaults(tmp_path: Path) -> None:
    path = write(tmp_path, "manifest: from_file.jsonl\nnum_actors: 3\ninner:\n  threshold: 0.25\n  words: [a, b]\n")
    job = parse("--config", path, "--output", "lake", "--num-actors", "5")
    assert (job.manifest, job.output, job.num_actors) == ("from_file.jsonl", "lake", 5)
    assert job.inner == Inner(threshold=0.25, words=("a", "b"))
    assert job.videos_per_actor == Job.model_fields["videos_per_actor"].default


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["--manifset", "m"], "--manifest"),
        (["--inner.treshold", "0.1"], "--inner.threshold"),
        (["--no-strickt"], "--strict"),
    ],
)
def test_an_unknown_flag_is_refused_with_the_nearest_known_one(arguments: list[str], hint: str) -> None:
    with pytest.raises(ConfigError, match=f"Did you mean {hint}"):
        parse(*REQUIRED, *arguments)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("outptu: x", "unknown option outptu. Did you mean output"),
        ("inner: {treshold: 1}", "inner.treshold. Did you mean inner.threshold"),
        ("num_actors: 0", "num_actors"),
        ("- a list", "expected option names"),
        ("a: [", "job.yaml"),
    ],
)
def test_a_bad_config_file_is_refused_with_the_reason(tmp_path: Path, text: str, hint: str) -> None:
    with pytest.raises(ConfigError, match=hint.replace(".", r"\.")):
        read_config_file(Job, write(tmp_path, text))


def test_a_missing_required_flag_ends_in_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exited:
        parse("--manifest", "m.jsonl")
    assert exited.value.code == 2
    assert "--output" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["3/3", "-1/2", "1", "a/b", "1/0"])
def test_a_shard_that_cannot_be_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected i/n"):
        parse_shard(text)


@pytest.mark.parametrize(
    ("text", "videos", "allowed"), [("20", 1000, 20), ("1%", 1000, 10), ("0", 5, 0), ("50%", 3, 1)]
)
def test_max_errors_is_a_count_or_a_share(text: str, videos: int, allowed: int) -> None:
    assert max_failures(text, videos) == allowed


@pytest.mark.parametrize("text", ["-1", "101%", "1.5", "many"])
def test_max_errors_that_is_neither_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected a count"):
        max_failures(text, 10)


def test_every_option_says_what_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse("--help")
    shown = " ".join(capsys.readouterr().out.split())
    assert all(f"--{name}" in shown for name in flag_names(Job))
