"""The main job with manifest, videos and lake in an object store."""

from pathlib import Path

import pytest

from jobs.refer_corpus import ReferCorpus
from pipeline.cli import main as masklake
from pipeline.cluster.job import EXIT_OK, main
from pipeline.io.storage import open_store
from pipeline.query import open_run
from pipeline.synth.clip import sample_clip
from pipeline.synth.corpus import write_corpus
from pipeline.synth.presets import clip_config


def run(root: str, *flags: str) -> int:
    arguments = ["--manifest", f"{root}/corpus/manifest.jsonl", "--output", f"{root}/lake", "--runner", "local"]
    return main(ReferCorpus, [*arguments, "--device", "cpu", "--quiet", *flags], prog="refer_corpus")


@pytest.fixture
def corpus(s3_root: str, tmp_path: Path) -> str:
    """A bucket with two videos and their manifest; returns its root."""
    config = clip_config("train").derive(num_frames=9, height=48, width=64)
    manifest = write_corpus([sample_clip(config, 12, "test", index) for index in range(2)], tmp_path)
    store = open_store(s3_root)
    for file in (manifest, *(tmp_path / "videos").iterdir()):
        store.upload(file, f"corpus/{file.relative_to(tmp_path).as_posix()}")
    return s3_root


def test_a_store_serves_videos_and_takes_the_lake(corpus: str, tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    assert run(corpus, "--scratch-dir", str(scratch)) == EXIT_OK
    with open_run(f"{corpus}/lake") as opened:
        assert opened.sql("SELECT count(*), count(DISTINCT video_id) FROM masks").fetchall() == [(2 * 9 * 3, 2)]
        etags = opened.sql("SELECT count(*) FROM commits WHERE input_etag IS NOT NULL AND input_bytes > 0").fetchall()
        assert etags == [(2,)]
    assert list(scratch.iterdir()) == [], "downloads and staging are gone"


def test_status_and_gc_read_the_store(corpus: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(corpus) == EXIT_OK
    open_store(f"{corpus}/lake").write_whole("data/masks/run=lake/bucket=00/stray-00-0000.parquet", b"left by a crash")
    for verb, flags in (("status", []), ("gc", ["--grace-hours", "0", "--delete"])):
        with pytest.raises(SystemExit) as exited:
            masklake([verb, f"{corpus}/lake", *flags])
        assert exited.value.code == 0
    assert "stray-00-0000" in capsys.readouterr().out
    assert not open_store(f"{corpus}/lake").exists("data/masks/run=lake/bucket=00/stray-00-0000.parquet")
    with open_run(f"{corpus}/lake") as opened:
        assert opened.sql("SELECT count(*) FROM masks").fetchall() == [(2 * 9 * 3,)]
