"""What the scheduler's patience costs: throughput of simulated runs, relative to the best patience of each case.

    python -m tests.bench.simulate_scheduler

Two-stage methods (encode a frame, track its objects) and three-stage ones (encode a clip, fuse it with expressions,
decode it frame by frame), 2 to 32 sessions, buckets of 2 to 32. A batch costs the same however full it is. No clock,
no device: the numbers are the same on every machine.
"""

import random
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.engine.scheduler import Waiting, choose_batch
from pipeline.segmenter import Work

CASES: list[tuple[dict[str, int], dict[str, int]]] = [
    ({"encode": 8, "track": 16}, {"encode": 8, "track": 16}),
    ({"encode": 4, "track": 8}, {"encode": 4, "track": 8}),
    ({"encode": 8, "track": 32}, {"encode": 3, "track": 20}),
    ({"encode": 8, "fuse": 2, "decode": 8}, {"encode": 8, "fuse": 4, "decode": 4}),
    ({"encode": 16, "fuse": 4, "decode": 8}, {"encode": 16, "fuse": 8, "decode": 4}),
]
"""Buckets, and what a batch of each stage costs."""

PATIENCES = {"1 per session": 1, "2 per session": 2, "4 per session": 4, "8 per session": 8, "no limit": 10**9}
CLIP = 8


@dataclass(slots=True)
class Video:
    """A simulated session: frames (or clips) left, objects, and where in a frame (or clip) it is."""

    left: int
    objects: int
    text_length: int
    step: int = 0
    remembered: int = 0
    since: int = 0
    served: int = 0

    def work(self, buckets: Mapping[str, int]) -> Work:
        stages = list(buckets)
        if self.step == 0:
            return Work(stage="encode", group=0, size=1 if len(stages) == 2 else min(CLIP, buckets["encode"]))
        if len(stages) == 3 and self.step == 1:
            return Work(stage="fuse", group=self.text_length, size=min(self.objects, buckets["fuse"]))
        return Work(stage=stages[-1], group=min(self.remembered, 7), size=min(self.objects, buckets[stages[-1]]))

    def advance(self, num_steps: int) -> None:
        self.remembered += self.step >= num_steps - CLIP
        self.step = (self.step + 1) % num_steps
        self.left -= self.step == 0


def throughput(
    buckets: Mapping[str, int], costs: Mapping[str, int], num_sessions: int, patience: int, seed: int
) -> float:
    """Frames (or clips) per unit of cost, over forty videos of unlike length."""
    random_of = random.Random(seed)
    coming = [
        Video(
            left=random_of.randint(3, 30), objects=random_of.choice([1, 1, 2, 3]), text_length=random_of.randint(6, 9)
        )
        for _ in range(40)
    ]
    num_done, num_steps = sum(video.left for video in coming), 2 if len(buckets) == 2 else 2 + CLIP
    live: dict[int, Video] = {}
    clock = cost = 0
    while coming or live:
        while coming and len(live) < num_sessions:
            live[clock * 100 + len(coming)] = coming.pop()
        waiting = [
            Waiting(session_id=i, work=video.work(buckets), waiting_since=video.since, rows_served=video.served)
            for i, video in live.items()
        ]
        batch = choose_batch(waiting, buckets, now=clock, patience_batches=patience * len(waiting))
        assert batch is not None
        clock, cost = clock + 1, cost + costs[batch.stage]
        for i in batch.session_ids:
            live[i].served += live[i].work(buckets).size
            live[i].since = clock
            live[i].advance(num_steps)
            if live[i].left == 0:
                del live[i]
    return num_done / cost


def main() -> int:
    shares: dict[str, list[float]] = {name: [] for name in PATIENCES}
    for buckets, costs in CASES:
        for num_sessions in (2, 4, 8, 16, 32):
            rates = {
                name: sum(throughput(buckets, costs, num_sessions, patience, seed) for seed in range(3))
                for name, patience in PATIENCES.items()
            }
            for name, rate in rates.items():
                shares[name].append(rate / max(rates.values()))
    for name, values in shares.items():
        print(f"{name:14} mean {sum(values) / len(values):.3f}, worst {min(values):.2f} of the best patience")
    return 0


if __name__ == "__main__":
    sys.exit(main())
