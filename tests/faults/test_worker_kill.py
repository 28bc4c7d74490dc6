"""A worker's process is killed outright, and one whose video is ten times as long needs no more memory."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.engine.worker import Worker
from pipeline.io.commit_log import read_errors
from pipeline.io.storage import open_store
from schemas.work_unit import WorkItem
from tests.engine.lakes import (
    RUN_ID,
    assert_rows_are,
    commits_in,
    expected_masks,
    files_in,
    item_of,
    rows_in,
    settings_of,
    unit_of,
    write_video,
)
from tests.fakes import FakeSegmenter

pytestmark = [pytest.mark.slow, pytest.mark.timeout(200)]

ROOT = Path(__file__).resolve().parents[2]

WORKER_THAT_IS_KILLED = """
import os, signal, sys
from pipeline.engine.worker import Worker, WorkerSettings
from tests.fakes import FakeSegmenter

settings, unit_json, stop_at = WorkerSettings.model_validate_json(sys.argv[1]), sys.argv[2], int(sys.argv[3])

def hook(stage, sessions):
    if any(session.last_frame_index >= stop_at for session in sessions):
        os.kill(os.getpid(), signal.SIGKILL)

Worker(settings, segmenter=FakeSegmenter(hook=hook))(unit_json)
"""

WORKER_THAT_TELLS_ITS_MEMORY = """
import sys
from pathlib import Path
from pipeline.engine.worker import Worker, WorkerSettings
from tests.fakes import FakeSegmenter

settings, unit_json = WorkerSettings.model_validate_json(sys.argv[1]), sys.argv[2]
with Worker(settings, segmenter=FakeSegmenter()) as worker:
    receipt = worker(unit_json)
(peak,) = [line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:")]
print(receipt.status, receipt.frames, peak)
"""


def run_script(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", script, *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("snapshot_frames", [None, 10])
def test_a_killed_worker_leaves_nothing_visible_and_the_next_one_finishes_its_unit(
    tmp_path: Path, snapshot_frames: int | None
) -> None:
    lake = tmp_path / "lake"
    item: WorkItem = item_of(write_video(tmp_path / "a.mp4", 60), "a")
    settings = settings_of(lake, snapshot_frames=snapshot_frames)
    killed = run_script(WORKER_THAT_IS_KILLED, settings.model_dump_json(), unit_of(item).to_json(), "45")
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert commits_in(lake) == ()
    assert read_errors(open_store(lake), RUN_ID) == ()
    segmenter = FakeSegmenter()
    with Worker(settings, segmenter=segmenter) as worker:
        receipt = worker(unit_of(item).to_json())
    assert (receipt.status, receipt.frames) == ("committed", 60)
    encoded = sum(rows for stage, rows in segmenter.batches if stage == "encode")
    assert encoded == 60 if snapshot_frames is None else encoded <= 30
    assert_rows_are(rows_in(lake), item, expected_masks(item))
    assert files_in(lake, "_snapshots") == []


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of a process is read from /proc")
def test_a_video_ten_times_as_long_takes_no_more_memory(tmp_path: Path) -> None:
    peaks: dict[int, int] = {}
    for num_frames in (200, 2000):
        lake = tmp_path / f"lake{num_frames}"
        unit = unit_of(item_of(write_video(tmp_path / f"v{num_frames}.mp4", num_frames, size=(96, 160)), "a", "b"))
        done = run_script(WORKER_THAT_TELLS_ITS_MEMORY, settings_of(lake).model_dump_json(), unit.to_json())
        assert done.returncode == 0, done.stderr
        status, frames, peak_kib = done.stdout.split()
        assert (status, int(frames)) == ("committed", num_frames)
        peaks[num_frames] = int(peak_kib) * 1024
    # Frames alone would be 92 MB more, their masks 61 MB.
    assert peaks[2000] - peaks[200] < 64 * 2**20
