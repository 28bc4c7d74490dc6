"""Workers and driver are killed during a run; run again, every row is there once and no video is of two attempts."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from pipeline.query import open_run
from pipeline.synth.clip import sample_clip
from pipeline.synth.corpus import write_corpus
from pipeline.synth.presets import clip_config

ROOT = Path(__file__).resolve().parents[2]
NUM_VIDEOS = 10
NUM_FRAMES = 24

pytestmark = [pytest.mark.slow, pytest.mark.cluster, pytest.mark.timeout(560)]


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    config = clip_config("train").derive(num_frames=NUM_FRAMES, height=96, width=128)
    clips = [sample_clip(config, seed=5, split="test", index=index) for index in range(NUM_VIDEOS)]
    return write_corpus(clips, folder)


def start_run(manifest: Path, lake: Path, *, num_actors: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "jobs/refer_corpus.py", "--manifest", str(manifest), "--output", str(lake)]
    command += ["--num-actors", str(num_actors), "--videos-per-actor", "2", "--cpus-per-actor", "0.5"]
    return subprocess.Popen(command, cwd=ROOT, env={**os.environ, "RAY_USAGE_STATS_ENABLED": "0"})


def actors_of(driver: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """The pool's processes among the driver's descendants: Ray titles them by their class."""
    found = []
    for process in psutil.Process(driver.pid).children(recursive=True):
        try:
            if "UnitActor" in " ".join(process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


def num_commits(lake: Path) -> int:
    return len(list((lake / "_commits").rglob("*.json")))


def until(condition: object, driver: subprocess.Popen[bytes], seconds: float = 240.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, "waited too long"
        assert driver.poll() is None, f"the run ended early with {driver.returncode}"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def lake(manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake whose run lost three workers and its driver, and was then run to the end by another number of them."""
    lake = tmp_path_factory.mktemp("lake") / "killed"
    driver = start_run(manifest, lake, num_actors=2)
    try:
        killed: set[int] = set()
        for kills in range(3):
            until(lambda kills=kills: num_commits(lake) > kills, driver)
            until(lambda: {actor.pid for actor in actors_of(driver)} - killed, driver)
            victim = next(actor for actor in actors_of(driver) if actor.pid not in killed)
            killed.add(victim.pid)
            victim.send_signal(signal.SIGKILL)
        settled = num_commits(lake)
        until(lambda: num_commits(lake) > settled, driver)
        assert num_commits(lake) < NUM_VIDEOS, "the driver was to be killed before the end"
    finally:
        driver.kill()
        driver.wait(30)
    again = start_run(manifest, lake, num_actors=1)
    assert again.wait(180) == 0
    return lake


def test_every_row_is_there_once(lake: Path) -> None:
    counts = open_run(str(lake)).sql(
        "SELECT count(*), count(DISTINCT (video_id, object_id, frame_index)), count(DISTINCT video_id) FROM masks"
    )
    expected = open_run(str(lake)).sql("SELECT sum(frames * objects) FROM commits").fetchall()[0]
    assert counts.fetchall()[0] == (expected[0], expected[0], NUM_VIDEOS)
    frames = open_run(str(lake)).sql("SELECT min(n), max(n) FROM (SELECT count(*) n FROM frames GROUP BY video_id)")
    assert frames.fetchall()[0] == (NUM_FRAMES, NUM_FRAMES)


def test_no_video_is_mixed_from_two_attempts(lake: Path) -> None:
    attempts = open_run(str(lake)).sql(
        "SELECT max(n) FROM (SELECT count(DISTINCT attempt_id) n FROM masks GROUP BY video_id)"
    )
    assert attempts.fetchall()[0] == (1,)


def test_nothing_failed_and_what_the_killed_left_is_garbage(lake: Path) -> None:
    from pipeline.io.gc import collect_garbage
    from pipeline.io.storage import open_store

    assert open_run(str(lake)).sql("SELECT count(*) FROM errors").fetchall()[0] == (0,)
    before = open_run(str(lake)).sql("SELECT count(*) FROM masks").fetchall()[0]
    collect_garbage(open_store(str(lake)), grace_seconds=0, dry_run=False)
    assert open_run(str(lake)).sql("SELECT count(*) FROM masks").fetchall()[0] == before
    listed = {part.name for part in (lake / "data").rglob("*.parquet")}
    named = open_run(str(lake)).sql("SELECT DISTINCT unit_id FROM commits").df()["unit_id"]
    assert {name.split("-")[0] for name in listed} == set(named)
