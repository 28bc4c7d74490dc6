"""What a session of 128 masklets at 512 px holds: `python -m tests.bench.bench_masklets`.

Random weights with SAM2's own memory sizes (64 channels, seven memories of 32 x 32 cells) in a narrow decoder, so that
a frame takes seconds. The status is 1 if the session held a gibibyte or more, or did not follow all 128.
"""

import platform
import resource
import sys
import time

import numpy as np
import torch

from pipeline.code_version import code_version
from pipeline.methods.sam2_vss import Sam2VssConfig, Sam2VssSegmenter
from pipeline.models.mosam_init import random_tracking_core
from pipeline.models.proposals import ProposalConfig
from pipeline.models.sam2_variants import Sam2Config, predictor_config
from pipeline.models.samwise_variants import ARCHITECTURES
from pipeline.models.semantic_networks import LABELS, LabelsOfTheTick
from pipeline.segmenter import step
from pipeline.ticks import RGB, Tick

NUM_MASKLETS, SIDE, HEIGHT, WIDTH, NUM_FRAMES = 128, 512, 384, 512, 9
MOST_BYTES = 1 << 30
CPU = torch.device("cpu")
SIZES = {"image_size": SIDE, "d_model": 64, "mem_dim": 64, "num_memory_layers": 1, "num_maskmem": 7}


def main() -> int:
    """Run the frames, print what was held after each."""
    torch.set_num_threads(1)
    print(f"machine {platform.machine()}, torch {torch.__version__}, commit {code_version()}")
    config = Sam2Config.model_validate({**ARCHITECTURES["mini"]["sam2"], **SIZES})
    core = random_tracking_core(predictor_config(config), seed=2)
    loose = ProposalConfig(
        min_predicted_iou=0.0,
        min_stability=0.0,
        max_box_iou=1.0,
        max_mask_iou=1.0,
        min_area=0.0,
        max_area=1.0,
        max_masklets=NUM_MASKLETS,
    )
    settings = Sam2VssConfig(network=LABELS, proposals=loose, report="masklets")
    segmenter = Sam2VssSegmenter(settings, core.eval(), LabelsOfTheTick(class_names=("one", "two"), device=CPU), CPU)
    session, held, followed = segmenter.open((), (HEIGHT, WIDTH)), [], []
    draws = np.random.default_rng(0)
    for frame in range(NUM_FRAMES):
        images = {
            RGB: draws.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8),
            LABELS: np.repeat(draws.integers(0, 2, (HEIGHT, WIDTH, 1), dtype=np.uint8), 3, axis=2),
        }
        started = time.process_time()
        (out,) = step(segmenter, [session], [Tick(frame_index=frame, pts_us=frame, images=images)])[0]
        held.append(session.state_bytes())
        followed.append(len(out.objects))
        seconds = time.process_time() - started
        print(f"frame {frame}: {followed[-1]} masklets, {held[-1] / 2**20:.1f} MiB held, {seconds:.1f} s", flush=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"most held {max(held) / 2**20:.1f} MiB, the process at most {peak:.0f} MiB")
    return 0 if max(held) < MOST_BYTES and min(followed) == NUM_MASKLETS else 1


if __name__ == "__main__":
    sys.exit(main())
