"""`ray job submit --working-dir . -- python jobs/refer_corpus.py ...` against a head node of our own."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.query import open_run
from pipeline.synth.clip import sample_clip
from pipeline.synth.corpus import write_corpus
from pipeline.synth.presets import clip_config

ROOT = Path(__file__).resolve().parents[2]
RAY = str(Path(sys.executable).with_name("ray"))

pytestmark = [pytest.mark.slow, pytest.mark.cluster, pytest.mark.timeout(280)]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def is_listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="module")
def bare_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The working directory as it travels: the sources alone, nothing of them installed."""
    tree = tmp_path_factory.mktemp("bare")
    for package in ("jobs", "pipeline", "schemas"):
        shutil.copytree(ROOT / package, tree / package, ignore=shutil.ignore_patterns("__pycache__"))
    return tree


@pytest.fixture(scope="module")
def head_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Environment of a client of a head node that asks for a token."""
    home = tmp_path_factory.mktemp("home")
    # Unix socket paths are limited to 107 bytes, which pytest's own folders come close to.
    sockets = Path(tempfile.gettempdir()) / f"masklake-ray-{os.getpid()}"
    dashboard = free_port()
    # The installed package would hide a working directory that lacks a file.
    env = {**os.environ, "HOME": str(home), "PYTHONNOUSERSITE": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    env |= {"RAY_AUTH_MODE": "token"}
    env.pop("RAY_ADDRESS", None)
    subprocess.run([RAY, "get-auth-token", "--generate"], env=env, check=True, stdout=subprocess.DEVNULL)
    command = [RAY, "start", "--head", "--block", f"--port={free_port()}", "--num-cpus=3", f"--temp-dir={sockets}"]
    command += [f"--dashboard-port={dashboard}", "--include-dashboard=true", "--object-store-memory=200000000"]
    command += [f"--ray-client-server-port={free_port()}", f"--dashboard-agent-listen-port={free_port()}"]
    head = subprocess.Popen(command, env=env, start_new_session=True)
    try:
        deadline = time.monotonic() + 120
        while not is_listening(dashboard):
            assert time.monotonic() < deadline, "the head node's dashboard did not come up"
            assert head.poll() is None, "the head node ended"
            time.sleep(0.5)
        yield {**env, "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{dashboard}"}
    finally:
        # Everything the head started is in its process group; nothing of it holds what a test needs.
        os.killpg(head.pid, signal.SIGKILL)
        head.wait(30)
        shutil.rmtree(sockets, ignore_errors=True)


def submit(env: dict[str, str], tree: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Submit and wait for the job's end; Ray says "please try again later" until the head node's agent is up."""
    address = env["RAY_API_SERVER_ADDRESS"]
    command = [RAY, "job", "submit", f"--address={address}", "--working-dir", str(tree), "--", sys.executable]
    deadline = time.monotonic() + 120
    while True:
        done = subprocess.run(
            [*command, "jobs/refer_corpus.py", *arguments],
            env=env,
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
        if "No available agent" not in done.stdout + done.stderr or time.monotonic() > deadline:
            return done
        time.sleep(2)


def test_a_submitted_job_fills_the_lake_and_its_exit_code_tells(
    head_node: dict[str, str], bare_tree: Path, tmp_path: Path
) -> None:
    config = clip_config("train").derive(num_frames=10, height=64, width=96)
    clips = [sample_clip(config, seed=3, split="test", index=index) for index in range(2)]
    manifest = write_corpus(clips, tmp_path / "corpus")
    lake = tmp_path / "lake"
    done = submit(head_node, bare_tree, "--manifest", str(manifest), "--output", str(lake))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 videos committed" in done.stdout
    rows = open_run(str(lake)).sql("SELECT count(*), count(DISTINCT video_id) FROM masks").fetchall()[0]
    assert rows == (2 * 10 * 3, 2)

    refused = submit(head_node, bare_tree, "--manifest", str(tmp_path / "none.jsonl"), "--output", str(lake))
    assert refused.returncode == 1  # Ray folds every exit code but 0 to 1
    assert "none.jsonl" in refused.stdout
