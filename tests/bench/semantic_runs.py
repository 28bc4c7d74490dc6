"""What the semantic bench runs and measures: label maps of a network, alone and refined, their scores and seconds."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
from pipeline.models.semantic_checkpoints import load_network
from pipeline.models.vss_votes import VOID, VoteRules
from pipeline.segmenter import ModelSpec, work_off
from pipeline.synth.street import Street
from pipeline.synth.street_world import STREET_CLASSES
from pipeline.ticks import RGB, Tick

Labels = NDArray[np.uint8]

VARIANTS: dict[str, dict[str, Any]] = {
    "refined, frame vote": {"votes": VoteRules(scope="frame")},
    "refined, window, causal": {"votes": VoteRules(scope="window")},
    "refined, window, awaited": {"votes": VoteRules(scope="window"), "emit": "window"},
}
"""Settings of the method over its defaults."""

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
    maps, started = [], time.perf_counter()
    with torch.inference_mode():
        for street in streets:
            found = [network.predict([{RGB: image}])[0].labels_HW for image in street.rgb()]
            maps.append(torch.stack(found).numpy().astype(np.uint8))
    return maps, time.perf_counter() - started


def refined_maps(
    folder: str, spec: ModelSpec, streets: Sequence[Street], changes: Mapping[str, Any]
) -> tuple[list[Labels], float]:
    """The method's labels, network included, and its seconds."""
    segmenter = _segmenter(folder, spec, changes)
    maps, seconds = [], 0.0
    for street in streets:
        started = time.perf_counter()
        session = segmenter.open((), street.labels().shape[1:])
        for number, image in enumerate(street.rgb()):
            session.push(Tick(frame_index=number, pts_us=number, images={RGB: image}))
            work_off(segmenter, session)
        session.end()
        work_off(segmenter, session)
        out = session.take()
        seconds += time.perf_counter() - started
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


def judge(table: Mapping[str, Measured]) -> list[tuple[str, bool, str]]:
    """What the method claims on this table: claim, whether it holds, and the numbers."""
    alone, frame, window = (
        table[name].scores for name in ("network alone", "refined, frame vote", "refined, window, awaited")
    )

    def claim(what: str, score: str, ours: Mapping[str, float], other: Mapping[str, float], *, strict: bool) -> Any:
        holds = ours[score] > other[score] if strict else ours[score] >= other[score]
        return what, bool(holds), f"{ours[score]:.4f} against {other[score]:.4f}"

    return [
        claim("refined beats unrefined in boundary mIoU", "boundary_miou", window, alone, strict=True),
        claim("refined beats unrefined in strict VC8", "vc_strict_8", window, alone, strict=True),
        claim("refined is not lower in mIoU", "miou", window, alone, strict=False),
        claim("window vote beats frame vote in strict VC8", "vc_strict_8", window, frame, strict=True),
        claim("window vote beats frame vote in strict VC16", "vc_strict_16", window, frame, strict=True),
    ]


def markdown(table: Mapping[str, Measured]) -> str:
    """The table for a README."""
    titles = ("mIoU", "boundary mIoU", "VC8 strict", "VC16 strict", "VC8 official", "VC16 official", "warp", "fps")
    lines = [f"| | {' | '.join(titles)} |", "|---|" + "---|" * len(titles)]
    for name, found in table.items():
        *scores, fps = found.columns()
        lines.append(f"| {name} | {' | '.join(f'{100 * score:.1f}' for score in scores)} | {fps:.1f} |")
    return "\n".join(lines)


def batch_ratio(spec: ModelSpec, folder: str, street: Street, *, num_frames: int = 8) -> float:
    """Seconds of the track stage with one masklet a batch, over those with batches of 16, on the same frames."""
    seconds = {}
    for rows in (1, 16):
        segmenter = _segmenter(folder, spec, {"rows_per_track": rows})
        session, spent = segmenter.open((), street.labels().shape[1:]), 0.0
        for number, image in enumerate(street.rgb()[:num_frames]):
            session.push(Tick(frame_index=number, pts_us=number, images={RGB: image}))
            while (work := session.next_work()) is not None:
                started = time.perf_counter()
                segmenter.run(work.stage, [session])
                spent += (time.perf_counter() - started) * (work.stage == "track")
        seconds[rows] = spent
    return seconds[1] / seconds[16] if seconds[16] else float("nan")


def _segmenter(folder: str, spec: ModelSpec, changes: Mapping[str, Any]) -> Sam2VssSegmenter:
    config = Sam2VssConfig.model_validate({"network": folder, **changes})
    model = ModelSpec(
        name=spec.name,
        architecture=spec.architecture,
        architecture_name=spec.architecture_name,
        tensors=spec.tensors,
        seed=spec.seed,
        folders={NETWORK: folder},
    )
    return build_segmenter(config, model, "cpu")


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
