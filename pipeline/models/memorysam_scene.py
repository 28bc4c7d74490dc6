"""One scene on its way through MemorySAM, as a value: encoded modalities, what each left behind, class logits."""

# Axes: M modalities, K classes, h w the stride-4 grid.

from collections.abc import Hashable
from dataclasses import dataclass, replace
from typing import Self

from torch import Tensor

from pipeline.models.image_encoding import ImageFeatures
from pipeline.models.memory import MemoryEntry
from pipeline.models.memorysam_input import ModalityImage

ENCODE, TRACK = "encode", "track"


@dataclass(frozen=True, slots=True, kw_only=True)
class SceneFrame:
    """A tick as the session keeps it until it is done.

    Attributes:
        modalities: names, in the order of the memory.
        images_hw3: of the same order, resized.
    """

    frame_index: int
    pts_us: int
    modalities: tuple[str, ...]
    images_hw3: tuple[ModalityImage, ...]

    def num_bytes(self) -> int:
        return sum(image.nbytes for image in self.images_hw3)


@dataclass(frozen=True, slots=True, kw_only=True)
class SceneStep:
    """What a scene wants next.

    Attributes:
        stage: ENCODE some modalities, or TRACK one.
        places: of the modalities, in the order of the memory.
        is_last: after it the scene is done; nothing needs to be remembered.
    """

    stage: str
    places: range
    is_last: bool = False

    @property
    def group(self) -> Hashable:
        """TRACK: rows of equally many memories, all or none of which leave one."""
        return None if self.stage == ENCODE else (self.places.start, self.is_last)


@dataclass(frozen=True, slots=True, kw_only=True)
class SceneInFlight:
    """A scene between two batches.

    Attributes:
        num_modalities: M.
        features: one row per modality encoded so far.
        entries: what the modalities segmented so far left behind; empty where no one reads it.
        logits_Khw, object_scores: of the modalities segmented so far.
    """

    num_modalities: int
    features: tuple[ImageFeatures, ...] = ()
    entries: tuple[MemoryEntry, ...] = ()
    logits_Khw: tuple[Tensor, ...] = ()
    object_scores: tuple[float, ...] = ()

    def next_step(self, *, images_per_encode: int) -> SceneStep | None:
        """None when every modality is segmented."""
        encoded, segmented = len(self.features), len(self.logits_Khw)
        if encoded < self.num_modalities:
            return SceneStep(stage=ENCODE, places=range(encoded, min(self.num_modalities, encoded + images_per_encode)))
        if segmented < self.num_modalities:
            is_last = segmented + 1 == self.num_modalities
            return SceneStep(stage=TRACK, places=range(segmented, segmented + 1), is_last=is_last)
        return None

    def after_encoding(self, features: tuple[ImageFeatures, ...]) -> Self:
        """The scene with more modalities encoded."""
        return replace(self, features=self.features + features)

    def after_segmenting(self, logits_Khw: Tensor, object_score: float, entry: MemoryEntry | None) -> Self:
        """The scene with one more modality segmented."""
        return replace(
            self,
            logits_Khw=(*self.logits_Khw, logits_Khw),
            object_scores=(*self.object_scores, object_score),
            entries=self.entries if entry is None else (*self.entries, entry),
        )

    def num_bytes(self) -> int:
        """Bytes of the tensors held."""
        tensors = [x for part in self.features for x in (*part.high_res, part.map_BDhw)] + [*self.logits_Khw]
        return sum(x.numel() * x.element_size() for x in tensors) + sum(entry.num_bytes() for entry in self.entries)
