"""A worker's memory over a long tracked video: 2,000 frames, four objects, read from /proc as the video goes on."""

import os
import platform
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import av
import torch

from pipeline.code_version import code_version
from pipeline.engine.worker import Worker, WorkerSettings
from pipeline.methods.mosam import MosamConfig, MosamSegmenter, build_segmenter, mini
from pipeline.segmenter import Session, State
from pipeline.ticks import Prompt
from schemas.work_unit import Query, WorkItem, WorkUnit
from tests.bench.drawn_discs import DrawnDiscs

HEIGHT, WIDTH = 96, 144
NUM_FRAMES = 2000
FROM_FRAME, EVERY = 200, 200
MAX_GROWTH_BYTES = 32 * 2**20
STATUS = Path("/proc/self/status")


class Watched:
    """A segmenter that notes, before each batch, what its process and its video hold.

    Attributes:
        rss_bytes: resident bytes of the process, by the frame at which they were read.
        least_state_bytes: by stretch of `EVERY` frames, the fewest bytes that the session held: with the fewest frames
            waiting for their turn.
    """

    method = MosamSegmenter.method

    def __init__(self, inner: MosamSegmenter) -> None:
        self.inner = inner
        self.rss_bytes: dict[int, int] = {}
        self.least_state_bytes: dict[int, int] = {}

    @property
    def buckets(self) -> Mapping[str, int]:
        return self.inner.buckets

    def open(self, prompts: Sequence[Prompt], frame_size: tuple[int, int]) -> Session:
        return self.inner.open(prompts, frame_size)

    def restore(self, state: State) -> Session:
        return self.inner.restore(state)

    def run(self, stage: str, sessions: Sequence[Session]) -> None:
        self._note(sessions[0])
        self.inner.run(stage, sessions)

    def _note(self, session: Any) -> None:
        frame = session.next_request().job.frame.frame_index
        held, stretch = session.state_bytes(), frame // EVERY
        self.least_state_bytes[stretch] = min(held, self.least_state_bytes.get(stretch, held))
        if frame % EVERY == 0 or frame == NUM_FRAMES - 1:
            self.rss_bytes.setdefault(frame, resident_bytes())


def main(arguments: Sequence[str] = ()) -> int:
    """Print what was held on the way; the status is 1 if the process grew too much or the state was not constant."""
    torch.set_num_threads(1)
    _, model = mini()
    config = MosamConfig(frames_per_encode=1, rows_per_decode=4)
    watched = Watched(build_segmenter(config, model, "cpu"))
    print(f"machine   {platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, 1 thread")
    print(f"commit    {code_version()}")
    with tempfile.TemporaryDirectory() as folder:
        frames, rows = track(Path(folder), watched)
    print(f"work      mini model, {frames} frames of {HEIGHT} x {WIDTH}, {rows} mask rows")
    for frame, held in sorted(watched.rss_bytes.items()):
        print(f"frame {frame:5} process {held / 2**20:7.1f} MiB")
    states = [held for stretch, held in sorted(watched.least_state_bytes.items()) if stretch >= FROM_FRAME // EVERY]
    after = [held for frame, held in sorted(watched.rss_bytes.items()) if frame >= FROM_FRAME]
    growth = after[-1] - after[0]
    print(f"session   {min(states)} to {max(states)} bytes, the least of each {EVERY} frames from {FROM_FRAME} on")
    print(f"process   grew {growth / 2**20:.1f} MiB from frame {FROM_FRAME} to {NUM_FRAMES - 1}")
    is_flat = growth < MAX_GROWTH_BYTES and min(states) == max(states)
    print(f"target    < {MAX_GROWTH_BYTES >> 20} MiB and a constant state: {'met' if is_flat else 'missed'}")
    return int(not is_flat)


def track(folder: Path, watched: Watched) -> tuple[int, int]:
    """Frames and mask rows that a worker committed."""
    world = DrawnDiscs(height=HEIGHT, width=WIDTH)
    video = write_video(folder / "long.mp4", world)
    queries = tuple(
        Query(object_id=p.object_id, query_id=str(p.object_id), frame_index=0, points=((q.x, q.y, 1),))
        for p in world.prompts()
        for q in p.points
    )
    item = WorkItem(video_id="long", video_uri=str(video), queries=queries)
    unit = WorkUnit(run_id="memory", method="mosam", config_hash="memory", items=(item,))
    settings = WorkerSettings(lake=str(folder / "lake"), method="mosam", device="cpu", scratch_dir=str(folder))
    with Worker(settings, segmenter=watched) as worker:
        receipt = worker(unit.to_json())
    if receipt.status != "committed":
        raise SystemExit(f"the video failed: {receipt.errors}")
    return receipt.frames, receipt.rows


def write_video(file: Path, world: DrawnDiscs) -> Path:
    with av.open(str(file), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.height, stream.width, stream.pix_fmt = world.height, world.width, "yuv420p"
        for place in range(NUM_FRAMES):
            frame = av.VideoFrame.from_ndarray(world.frame(place)[0], format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return file


def resident_bytes() -> int:
    """Resident bytes of this process, as the kernel counts them."""
    lines = STATUS.read_text(encoding="ascii").splitlines()
    (kib,) = [line.split()[1] for line in lines if line.startswith("VmRSS:")]
    return int(kib) * 1024


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
