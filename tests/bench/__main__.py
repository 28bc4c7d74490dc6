"""`make bench`: every benchmark, one after the other; each prints ratios against a named opponent in one run."""

import sys

from tests.bench import bench_engine, bench_motion, bench_tracker

BENCHES = {
    "engine v one video after the other (SAMWISE mini, 8 videos)": lambda: bench_engine.main([]),
    "our tracker v SAM2VideoPredictor (small random SAM2, 3 objects)": lambda: bench_tracker.main(),
    "motion-guided prompting: ms per object on one core": lambda: bench_motion.main(),
}

if __name__ == "__main__":
    codes = []
    for title, bench in BENCHES.items():
        print(f"\n== {title}", flush=True)
        codes.append(bench())
    sys.exit(max(codes))
