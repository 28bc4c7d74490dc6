"""Video semantic segmentation's six stages on the device: steps of several videos in one batch of fixed size.

Each batch is filled up to its bucket with copies of its first row: at a fixed batch size the neighbours change no bit
of a row. Labels, votes and painting take one frame at a time, alone.

Axes: R rows of a batch, O masklets, h w the mask logits' grid, H W the model's square or, where said, the frame.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor

from pipeline.models.image_encoding import ImageFeatures
from pipeline.models.letterbox import resize_frame, to_square
from pipeline.models.proposals import Proposals, click
from pipeline.models.sam2_core import Sam2Core
from pipeline.models.semantic_networks import SemanticMap, SemanticNetwork
from pipeline.models.tracking import memory_entries, track_rows
from pipeline.models.vss_discovery import Discovery
from pipeline.models.vss_frames import (
    ENCODE,
    LABEL,
    PAINT,
    PROPOSE,
    START,
    TRACK,
    FrameInFlight,
    FrameRules,
    FrameStep,
    Masklet,
    PendingFrame,
)
from pipeline.models.vss_painting import Painter
from pipeline.ticks import RGB

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRequest:
    """One video's part of a batch.

    Attributes:
        frame_size: (height, width) of the decoded frame.
    """

    flight: FrameInFlight
    step: FrameStep
    frame_size: tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class VssStages:
    """Runs batches and keeps nothing; `discovery` decides what masklets there are, `painter` takes their votes."""

    core: Sam2Core
    network: SemanticNetwork
    discovery: Discovery
    painter: Painter
    rules: FrameRules
    device: torch.device

    def run(self, stage: str, requests: Sequence[StepRequest]) -> list[FrameInFlight]:
        """Each request's frame with one more step done; all of one stage and group."""
        stages = {
            ENCODE: self._encode,
            LABEL: self._label,
            TRACK: self._track,
            PROPOSE: self._propose,
            START: self._start,
            PAINT: self._paint,
        }
        return stages[stage](requests)

    def _encode(self, requests: Sequence[StepRequest]) -> list[FrameInFlight]:
        side = self.core.config.image_size
        images = [resize_frame(_frame_of(request).images[RGB], (side, side)) for request in requests]
        square_BHW = to_square(images, num_rows=self.rules.buckets[ENCODE], image_size=side, device=self.device)
        features = self.core.encode_image(square_BHW)
        return [replace(request.flight, features=_cloned(features.rows([row]))) for row, request in enumerate(requests)]

    def _label(self, requests: Sequence[StepRequest]) -> list[FrameInFlight]:
        frames = _filled([_frame_of(request).images for request in requests], self.rules.buckets[LABEL])
        maps = self.network.predict(frames)[: len(requests)]
        own = [_own(one) for one in maps]
        return [
            self._with_points(replace(request.flight, semantic=one)) for request, one in zip(requests, own, strict=True)
        ]

    def _track(self, requests: Sequence[StepRequest]) -> list[FrameInFlight]:
        selections = _filled([s for r in requests for s in r.step.selections], self.rules.buckets[TRACK])
        output, memory_RChw = track_rows(self.core, self._features(requests, TRACK), selections)
        positions = [request.flight.position for request in requests for _ in request.step.places]
        entries = memory_entries(positions, output.rows(slice(0, len(positions))), memory_RChw)
        flights = []
        for request, rows in _places(requests):
            changed: dict[int, Masklet] = {}
            for place, row in zip(request.step.places, rows, strict=True):
                masklet, entry = request.flight.masklets[place], entries[row]
                assert masklet.bank is not None
                assert entry.logits_hw is not None
                bank = masklet.bank.copy()
                bank.add(replace(entry, logits_hw=None))
                bank.forget(self.rules.policy.horizon)
                changed[place] = replace(
                    masklet,
                    position=request.flight.position,
                    logits_hw=entry.logits_hw,
                    predicted_iou=entry.predicted_iou,
                    object_score=entry.object_score,
                    bank=bank,
                )
            flights.append(self._with_points(request.flight.with_masklets(changed)))
        return flights

    def _propose(self, requests: Sequence[StepRequest]) -> list[FrameInFlight]:
        points = [self.discovery.points[place] for request in requests for place in request.step.places]
        points_R2 = torch.tensor(_filled(points, self.rules.buckets[PROPOSE]), device=self.device)
        found = click(self.core, self._features(requests, PROPOSE), points_R2)
        per_point = len(found) // len(points_R2)
        flights = []
        for request, rows in _places(requests):
            part = Proposals(
                logits_Mhw=found.logits_Mhw[rows.start * per_point : rows.stop * per_point],
                predicted_iou_M=found.predicted_iou_M[rows.start * per_point : rows.stop * per_point].clone(),
            )
            # What is not believable is dropped batch by batch, so that 768 full maps are never held at once.
            flight = replace(
                request.flight,
                proposals=(*request.flight.proposals, self.discovery.believable(part)),
                num_asked=request.flight.num_asked + request.step.size,
            )
            is_last = flight.points is not None and flight.num_asked == len(flight.points)
            flights.append(self.discovery.settle(flight) if is_last else flight)
        return flights

    def _start(self, requests: Sequence[StepRequest]) -> list[FrameInFlight]:
        features = self._features(requests, START)
        masklets = [request.flight.masklets[place] for request in requests for place in request.step.places]
        logits = _filled([masklet.logits_hw for masklet in masklets], self.rules.buckets[START])
        logits_R1hw = torch.stack(logits).unsqueeze(1)
        output = self.core.take_mask(features, (self.core.enlarge(logits_R1hw) > 0).float())
        mask_R1HW = self.core.enlarge(output.low_res_logits_R1hw)
        memory = self.core.encode_memory(features, mask_R1HW, output.object_score_R1, is_mask_from_points=True)
        positions = [request.flight.position for request in requests for _ in request.step.places]
        entries = memory_entries(positions, output.rows(slice(0, len(positions))), memory, is_conditioning=True)
        flights = []
        for request, rows in _places(requests):
            changed: dict[int, Masklet] = {}
            for place, row in zip(request.step.places, rows, strict=True):
                changed[place] = self.discovery.started(request.flight.masklets[place], entries[row])
            flights.append(request.flight.with_masklets(changed))
        return flights

    def _paint(self, requests: Sequence[StepRequest]) -> list[FrameInFlight]:
        return [self.painter.next_frame(request.flight, request.frame_size) for request in requests]

    def _with_points(self, flight: FrameInFlight) -> FrameInFlight:
        """Decide where to look for new masks as soon as all masklets have come to this frame."""
        ready = flight.semantic is not None and flight.is_tracked(self.rules)
        return self.discovery.choose_points(flight) if ready and flight.points is None else flight

    def _features(self, requests: Sequence[StepRequest], stage: str) -> ImageFeatures:
        """A row of its frame's features for each place of each request, and copies of the first one."""
        parts = [request.flight.features for request in requests]
        joined = ImageFeatures.join([part for part in parts if part is not None])
        rows = [number for number, request in enumerate(requests) for _ in request.step.places]
        return _laid_out(joined.rows(_filled(rows, self.rules.buckets[stage])))


def _frame_of(request: StepRequest) -> PendingFrame:
    frame = request.flight.frame
    assert frame is not None, "the end of a video is painted only"
    return frame


def _places(requests: Sequence[StepRequest]) -> Iterator[tuple[StepRequest, range]]:
    """Where in the batch each request's rows stand."""
    start = 0
    for request in requests:
        stop = start + request.step.size
        yield request, range(start, stop)
        start = stop


def _filled(rows: Sequence[T], size: int) -> list[T]:
    """The rows and as many copies of the first as are missing."""
    return [*rows, *[rows[0]] * (size - len(rows))]


def _laid_out(features: ImageFeatures) -> ImageFeatures:
    """Rows that lie alike wherever they come from: picking may change the layout, and a convolution's last bits."""
    fine, middle, coarse = (
        x.contiguous(memory_format=torch.channels_last) for x in (*features.high_res, features.map_BDhw)
    )
    return ImageFeatures(high_res=(fine, middle), map_BDhw=coarse, pos_BDhw=features.pos_BDhw)


def _cloned(features: ImageFeatures) -> ImageFeatures:
    """A copy: a view would keep the whole batch, other videos' frames included."""
    fine, middle, coarse = (x.clone() for x in (*features.high_res, features.map_BDhw))
    return ImageFeatures(high_res=(fine, middle), map_BDhw=coarse, pos_BDhw=features.pos_BDhw[:1])


def _own(one: SemanticMap) -> SemanticMap:
    """A copy, for the same reason."""
    probabilities: Tensor | None = one.probabilities_CHW
    return SemanticMap(
        labels_HW=one.labels_HW.clone(), probabilities_CHW=None if probabilities is None else probabilities.clone()
    )
