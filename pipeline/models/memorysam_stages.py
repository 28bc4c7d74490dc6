"""MemorySAM's two stages on the device: scenes of several sessions in one batch of fixed size."""

# Axes: M modalities, R rows (one modality of one scene), K classes, h w the tensor's own grid, H W the model's square,
# y x the decoded frame.

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import torch

from pipeline.models.image_encoding import ImageFeatures
from pipeline.models.memory import MemoryEntry
from pipeline.models.memorysam_input import ModalityImage, to_square
from pipeline.models.memorysam_network import MemorySamNetwork, memory_entries
from pipeline.models.memorysam_scene import ENCODE, SceneFrame, SceneInFlight, SceneStep
from pipeline.models.semantic_heads import ClassRegion, class_regions, contributions, enlarge_logits, fuse_modalities

T = TypeVar("T")

STRIDE = 4
"""Pixels of the model's square per cell of the class logits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SceneRequest:
    """One session's part of a batch.

    Attributes:
        scene, step: what is done and what comes next.
        frame: the tick's images.
        inner_size: (h, w) of the frame inside the square.
        frame_size: (y, x) of the decoded frame.
    """

    scene: SceneInFlight
    step: SceneStep
    frame: SceneFrame
    inner_size: tuple[int, int]
    frame_size: tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class SceneLabels:
    """What a scene that is done gives.

    Attributes:
        regions: of every class that wins somewhere.
        contributions: one share per modality, or None where nobody asked.
    """

    regions: tuple[ClassRegion, ...]
    contributions: tuple[float, ...] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class MemorySamStages:
    """Runs batches; chooses nothing and keeps nothing.

    Each batch is filled up to its bucket with copies of its first row: at a fixed batch size the neighbours
    change no bit of a row.

    Attributes:
        images_per_encode, rows_per_track: batch sizes.
        num_classes: logits beyond these classes are cut off.
        use_memory: a modality reads those before it.
        report_contributions: tell what each modality changes.
    """

    network: MemorySamNetwork
    device: torch.device
    images_per_encode: int
    rows_per_track: int
    num_classes: int
    use_memory: bool
    report_contributions: bool

    def run(self, stage: str, requests: Sequence[SceneRequest]) -> list[tuple[SceneInFlight, SceneLabels | None]]:
        """Each request's scene with one more step done, and its labels if it is done."""
        if stage == ENCODE:
            return [(scene, None) for scene in self._encode(requests)]
        scenes = self._track(requests)
        is_last = requests[0].step.is_last
        return [
            (scene, self._labels(scene, request) if is_last else None)
            for scene, request in zip(scenes, requests, strict=True)
        ]

    def _encode(self, requests: Sequence[SceneRequest]) -> list[SceneInFlight]:
        images: list[ModalityImage] = []
        names: list[str] = []
        for request in requests:
            chosen = slice(request.step.places.start, request.step.places.stop)
            images += request.frame.images_hw3[chosen]
            names += request.frame.modalities[chosen]
        square = to_square(
            images,
            names,
            num_rows=self.images_per_encode,
            image_size=self.network.architecture.sam2.image_size,
            device=self.device,
        )
        features = self.network.encode(square)
        # Each modality by itself: the batch's memory is given back when the last scene lets go of its own rows.
        return [
            request.scene.after_encoding(tuple(_owned(features, row) for row in rows))
            for request, rows in _places(requests)
        ]

    def _track(self, requests: Sequence[SceneRequest]) -> list[SceneInFlight]:
        place, num_rows = requests[0].step.places.start, len(requests)
        joined = ImageFeatures.join([request.scene.features[place] for request in requests])
        rows = _filled(list(range(num_rows)), self.rows_per_track)
        features = _laid_out(joined.rows(rows))
        output = self.network.segment(features, [requests[row].scene.entries for row in rows])
        scores = output.object_score_R1[:num_rows, 0].float().tolist()
        if requests[0].step.is_last or not self.use_memory:
            entries: list[MemoryEntry | None] = [None] * num_rows
        else:
            memory_RChw = self.network.remember(features, output)
            entries = [_owned_entry(e) for e in memory_entries(output, memory_RChw, place=place)[:num_rows]]
        return [
            request.scene.after_segmenting(output.logits_RKhw[row].clone(), scores[row], entries[row])
            for row, request in enumerate(requests)
        ]

    def _labels(self, scene: SceneInFlight, request: SceneRequest) -> SceneLabels:
        """The fused label map at the frame's own size; each scene alone, since frames differ in size."""
        logits_MKhw = torch.stack([logits[: self.num_classes] for logits in scene.logits_Khw])
        side = self.network.architecture.sam2.image_size
        height, width = request.inner_size
        fused_1KHW = enlarge_logits(fuse_modalities(logits_MKhw[:, None]), (side, side))[..., :height, :width]
        if (height, width) != request.frame_size:
            fused_1KHW = enlarge_logits(fused_1KHW, request.frame_size)
        shares = None
        if self.report_contributions:
            cells_y, cells_x = -(-height // STRIDE), -(-width // STRIDE)
            shares = tuple(contributions(logits_MKhw[..., :cells_y, :cells_x]))
        return SceneLabels(regions=tuple(class_regions(fused_1KHW[0])), contributions=shares)


def _owned(features: ImageFeatures, row: int) -> ImageFeatures:
    part = features.rows([row])
    fine, middle, coarse = (x.clone() for x in (*part.high_res, part.map_BDhw))
    return ImageFeatures(high_res=(fine, middle), map_BDhw=coarse, pos_BDhw=part.pos_BDhw)


def _owned_entry(entry: MemoryEntry) -> MemoryEntry:
    """Its tensors cloned: views would keep the whole batch, other scenes' rows included."""
    assert entry.features_Chw is not None
    return replace(entry, pointer_D=entry.pointer_D.clone(), features_Chw=entry.features_Chw.clone())


def _laid_out(features: ImageFeatures) -> ImageFeatures:
    """The same maps, channels last: picking may or may not change the layout, and last bits depend on it."""
    fine, middle, coarse = (
        x.contiguous(memory_format=torch.channels_last) for x in (*features.high_res, features.map_BDhw)
    )
    return ImageFeatures(high_res=(fine, middle), map_BDhw=coarse, pos_BDhw=features.pos_BDhw)


def _places(requests: Sequence[SceneRequest]) -> Iterator[tuple[SceneRequest, range]]:
    """Where in the batch each request's rows stand."""
    start = 0
    for request in requests:
        stop = start + len(request.step.places)
        yield request, range(start, stop)
        start = stop


def _filled(rows: Sequence[T], size: int) -> list[T]:
    """The rows and as many copies of the first as are missing."""
    return [*rows, *[rows[0]] * (size - len(rows))]
