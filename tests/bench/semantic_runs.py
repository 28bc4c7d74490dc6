"""What the semantic bench runs and measures: label maps of a network, alone and refined, their scores and seconds.

Seconds are of this process's CPU (`time.process_time`) on one thread: other programs on the machine do not count.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.evaluate.semantic import SemanticScorer
from pipeline.evaluate.semantic_consistency import warp_consistency
from pipeline.evaluate.semantic_protocols import semantic_protocol
from pipeline.methods.sam2_vss import NETWORK, Sam2VssConfig, Sam2VssSegmenter, build_segmenter
from pipeline.models.motion_flow import DisFlow
from pipeline.models.proposals import ProposalConfig
from pipeline.models.semantic_checkpoints import load_network
from pipeline.models.vss_votes import VOID
from pipeline.segmenter import ModelSpec, work_off
from pipeline.synth.street import Street
from pipeline.synth.street_world import STREET_CLASSES
from pipeline.ticks import RGB, Tick

Labels = NDArray[np.uint8]

VARIANTS: dict[str, dict[str, Any]] = {
    "refined, frame vote": {"votes": {"scope": "frame"}},
    "refined, window, causal": {"votes": {"scope": "window"}},
    "refined, window, awaited": {"votes": {"scope": "window"}, "emit": "window"},
}
"""Settings of the method over its defaults and what was calibrated."""

ROWS_PER_BATCH = 16

COLUMNS = ("mIoU", "BmIoU", "VC8 st", "VC16 st", "VC8 of", "VC16 of", "warp", "fps")


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Scores of one variant over all streets, 0..1, and frames per second of it alone."""

    scores: Mapping[str, float]
    warp_consistency: float
    frames_per_second: float

    def columns(self) -> list[float]:
        """In the order of COLUMNS."""
        names = ("miou", "boundary_miou", "vc_strict_8", "vc_strict_16", "vc_official_8", "vc_official_16")
        return [*(self.scores[name] for name in names), self.warp_consistency, self.frames_per_second]

    def as_dict(self) -> dict[str, float]:
        return {
            **self.scores,
            "warp_consistency": self.warp_consistency,
            "frames_per_second": self.frames_per_second,
        }


def network_maps(folder: str, streets: Sequence[Street]) -> tuple[list[Labels], float]:
    """The network's own labels, (T, H, W) per street, and its seconds."""
    network = load_network(folder, torch.device("cpu"))
    maps, started = [], time.process_time()
    with torch.inference_mode():
        for street in streets:
            found = [network.predict([{RGB: image}])[0].labels_HW for image in street.rgb()]
            maps.append(torch.stack(found).numpy().astype(np.uint8))
    return maps, time.process_time() - started


def refined_maps(
    folder: str, spec: ModelSpec, streets: Sequence[Street], changes: Mapping[str, Any]
) -> tuple[list[Labels], float]:
    """The method's labels, network included, and its seconds."""
    segmenter = _segmenter(folder, spec, changes)
    maps, seconds = [], 0.0
    for street in streets:
        started = time.process_time()
        session = segmenter.open((), street.labels().shape[1:])
        for number, image in enumerate(street.rgb()):
            session.push(Tick(frame_index=number, pts_us=number, images={RGB: image}))
            work_off(segmenter, session)
        session.end()
        work_off(segmenter, session)
        out = session.take()
        seconds += time.process_time() - started
        labels = np.full(street.labels().shape, VOID, np.uint8)
        for tick in out:
            for region in tick.objects:
                labels[tick.frame_index][region.mask] = region.class_id
        maps.append(labels)
    return maps, seconds


def scored(streets: Sequence[Street], maps: Sequence[Labels], seconds: float) -> Measured:
    """Scores under the protocol "masklake"; flow for warp consistency is measured on the pictures."""
    scorer = SemanticScorer(protocol=semantic_protocol("masklake"), num_classes=len(STREET_CLASSES))
    warps: list[float] = []
    for street, labels in zip(streets, maps, strict=True):
        scorer.add_video(labels, street.labels())
        warps += _warp_consistencies(street, labels)
    frames = sum(len(labels) for labels in maps)
    scores = {name: np.nan if value is None else float(value) for name, value in scorer.scores().as_dict().items()}
    return Measured(
        scores=scores,
        warp_consistency=float(np.mean(warps)) if warps else np.nan,
        frames_per_second=frames / seconds,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Batching:
    """Seconds of the track stage on the same frames, one masklet a batch and many.

    Attributes:
        masklets: tracked on each frame but the first.
        one_by_one, batched: seconds a frame, the least of the rounds.
        state_bytes: the most that the session held between two frames.
    """

    masklets: int
    one_by_one: float
    batched: float
    state_bytes: int

    @property
    def ratio(self) -> float:
        """How many times as fast a batch is."""
        return self.one_by_one / self.batched

    def told(self) -> str:
        """One line."""
        return (
            f"{self.ratio:.2f} times as fast as one masklet at a time: {1e3 * self.batched:.0f} ms a frame in batches "
            f"of {ROWS_PER_BATCH} against {1e3 * self.one_by_one:.0f} ms, {self.masklets} masklets, "
            f"{self.state_bytes / 2**20:.1f} MiB of state"
        )


def batching(
    folder: str, spec: ModelSpec, street: Street, *, image_size: int | None, num_masklets: int = 48, num_frames: int = 6
) -> Batching:
    """The same masklets tracked over the same frames, one masklet a batch and `ROWS_PER_BATCH`; two rounds of each.

    What the model proposes is taken as it comes, believable or not: what is measured is the cost.
    """
    loose = ProposalConfig(
        min_predicted_iou=0.0, min_stability=0.0, max_box_iou=1.0, max_mask_iou=1.0, max_masklets=num_masklets
    )
    seconds: dict[int, list[float]] = {1: [], ROWS_PER_BATCH: []}
    masklets = state_bytes = 0
    for rows in (1, ROWS_PER_BATCH) * 2:
        segmenter = _segmenter(
            folder, spec, {"rows_per_track": rows, "proposals": loose, "report": "masklets", "image_size": image_size}
        )
        session, spent = segmenter.open((), street.labels().shape[1:]), 0.0
        for number, image in enumerate(street.rgb()[:num_frames]):
            session.push(Tick(frame_index=number, pts_us=number, images={RGB: image}))
            while (work := session.next_work()) is not None:
                started = time.process_time()
                segmenter.run(work.stage, [session])
                spent += (time.process_time() - started) * (work.stage == "track")
            (out,) = session.take()
            masklets, state_bytes = len(out.objects), max(state_bytes, session.state_bytes())
        seconds[rows].append(spent / (num_frames - 1))
    return Batching(
        masklets=masklets,
        one_by_one=min(seconds[1]),
        batched=min(seconds[ROWS_PER_BATCH]),
        state_bytes=state_bytes,
    )


def _segmenter(folder: str, spec: ModelSpec, changes: Mapping[str, Any]) -> Sam2VssSegmenter:
    config = Sam2VssConfig.model_validate({"network": folder, **changes})
    return build_segmenter(config, replace(spec, folders={NETWORK: folder}), "cpu")


def _warp_consistencies(street: Street, labels: Labels) -> list[float]:
    flow = DisFlow()
    greys = [cv2.cvtColor(frame.clean_rgb, cv2.COLOR_RGB2GRAY) for frame in street.frames]
    found = []
    for t in range(1, len(greys)):
        backward, forward = flow(greys[t - 1], greys[t]), flow(greys[t], greys[t - 1])
        share = warp_consistency(labels[t - 1], labels[t], backward, forward)
        if share is not None:
            found.append(share)
    return found
