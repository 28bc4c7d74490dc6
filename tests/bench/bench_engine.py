"""Engine against loop: many videos batched by the engine, and the same videos one after the other, in one run.

    python -m tests.bench.bench_engine --model mini --videos 8 --frames 24

The loop runs SAMWISE with batches of its own size (one clip, one expression, one row), which is its best: nothing is
padded. The engine runs it with batches that hold several videos.
"""

import argparse
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import torch

from pipeline.code_version import code_version
from pipeline.engine.engine import Engine, segment_video
from pipeline.engine.load_model import chosen_device
from pipeline.engine.statistics import EngineStatistics
from pipeline.methods import samwise
from pipeline.segmenter import Segmenter, finish, step
from pipeline.ticks import RGB, Prompt, Tick, TickMasks

SIZE = (72, 128)

Video = tuple[list[Prompt], list[Tick]]
Result = TypeVar("Result")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="bench_engine", description=__doc__)
    parser.add_argument("--model", choices=["mini", "tiny"], default="mini")
    parser.add_argument("--videos", type=int, default=8)
    parser.add_argument("--frames", type=int, default=24)
    parser.add_argument("--objects", type=int, default=1)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    device = chosen_device(options.device)
    loop, batched = segmenters(options.model, options.videos * options.objects, device)
    videos = [video_of(seed, options.frames, options.objects) for seed in range(options.videos)]
    warm_up = [video_of(99, 8, options.objects)]
    list(run_loop(loop, warm_up)), run_engine(batched, warm_up)
    seconds: dict[str, list[float]] = {"loop": [], "engine": []}
    for _ in range(options.repeats):
        alone = timed(seconds["loop"], lambda: list(run_loop(loop, videos)))
        together, used = timed(seconds["engine"], lambda: run_engine(batched, videos))
    num_frames = options.videos * options.frames
    print(
        f"machine   {platform.machine()}, {os.cpu_count()} cores, {device_name(device)}, "
        f"torch {torch.__version__}, 1 thread"
    )
    print(f"commit    {code_version()}")
    print(
        f"work      samwise {options.model}, {options.videos} videos x {options.frames} frames x "
        f"{options.objects} objects"
    )
    for name, times in seconds.items():
        print(f"{name:9} {num_frames / statistics.median(times):8.1f} frames/s (median of {len(times)})")
    ratios = [one / other for one, other in zip(seconds["loop"], seconds["engine"], strict=True)]
    print(f"ratio     {statistics.median(ratios):8.2f} (each repeat: {', '.join(f'{ratio:.2f}' for ratio in ratios)})")
    print(f"fill      {told(used)}")
    print(f"masks     {differing(alone, together)} of their pixels differ")
    return 0


def segmenters(model: str, num_rows: int, device: str) -> tuple[Segmenter, Segmenter]:
    """The same weights twice: with batches of one video's size, and with batches for all rows of all videos."""
    config, spec = getattr(samwise, model)()
    one = config.model_copy(
        update={"frames_per_encode": config.clip_length, "expressions_per_fuse": 1, "rows_per_decode": 1}
    )
    rows = min(8, num_rows)
    many = config.model_copy(
        update={
            "frames_per_encode": 2 * config.clip_length,
            "expressions_per_fuse": min(4, rows),
            "rows_per_decode": rows,
        }
    )
    return samwise.build_segmenter(one, spec, device), samwise.build_segmenter(many, spec, device)


def video_of(seed: int, num_frames: int, num_objects: int) -> Video:
    """Noise that moves; every video asks the same sentences, so that their expressions may share batches."""
    random = np.random.default_rng(seed)
    noise = random.integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    ticks = [
        Tick(frame_index=i, pts_us=i * 40_000, images={RGB: np.roll(noise, 2 * i, axis=1)}) for i in range(num_frames)
    ]
    return samwise.example_prompts(num_objects, SIZE), ticks


def run_loop(segmenter: Segmenter, videos: Sequence[Video]) -> Iterator[list[TickMasks]]:
    """One session at a time."""
    with torch.inference_mode():
        for prompts, ticks in videos:
            session = segmenter.open(prompts, SIZE)
            masks = [out for tick in ticks for out in step(segmenter, [session], [tick])[0]]
            yield masks + finish(segmenter, session)


def run_engine(segmenter: Segmenter, videos: Sequence[Video]) -> tuple[list[list[TickMasks]], EngineStatistics]:
    """A thread per video beside the engine's."""
    with (
        Engine(segmenter, max_sessions=len(videos), max_pending_ticks=8, torch_threads=1) as engine,
        ThreadPoolExecutor(len(videos)) as pool,
    ):
        masks = list(pool.map(lambda video: list(segment_video(engine, *video)), videos))
        return masks, engine.statistics()


def timed(seconds: list[float], action: Callable[[], Result]) -> Result:
    started = time.perf_counter()
    result = action()
    seconds.append(time.perf_counter() - started)
    return result


def told(used: EngineStatistics) -> str:
    stages = (f"{name} {stage.rows}/{stage.batches} rows/batches" for name, stage in used.stages.items())
    return f"{used.mean_fill:.2f} of all places; {', '.join(stages)}"


def differing(alone: Sequence[Sequence[TickMasks]], together: Sequence[Sequence[TickMasks]]) -> str:
    different = total = 0
    for one, other in zip(alone, together, strict=True):
        for first, second in zip(one, other, strict=True):
            for mask, twin in zip(first.objects, second.objects, strict=True):
                different += int((mask.mask != twin.mask).sum())
                total += mask.mask.size
    return f"{different} of {total}"


def device_name(device: str) -> str:
    return torch.cuda.get_device_name() if device.startswith("cuda") else "no GPU"


if __name__ == "__main__":
    sys.exit(main())
