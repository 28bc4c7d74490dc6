"""One scene of multimodal training, and what a data set must offer to give scenes."""

# Axes: y x an image as stored.

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.models.memorysam_input import ModalityImage

Labels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True)
class MultimodalSample:
    """One scene.

    Attributes:
        sample_id: names data set, scene and frame, for error messages.
        images: modality to uint8 or float32 (y, x, 3), all of one size.
        labels: (y, x), class ids, IGNORED_LABEL where unknown.
    """

    sample_id: str
    images: Mapping[str, ModalityImage]
    labels: Labels

    def __post_init__(self) -> None:
        sizes = {name: image.shape for name, image in self.images.items()}
        if any(shape != (*self.labels.shape, 3) for shape in sizes.values()):
            raise ValueError(f"{self.sample_id}: labels {self.labels.shape}, images {sizes}; expected one size.")


class MultimodalSource(Protocol):
    """A data set as a function from an item's number to a scene."""

    @property
    def num_items(self) -> int | None:
        """Items of one epoch; None for a source without end."""
        ...

    def draw(self, item: int, modalities: Sequence[str]) -> MultimodalSample:
        """The item's scene at its own size with these modalities.

        Raises:
            ConfigError: the source has no such modality.
            DecodeError: a picture cannot be read.
        """
        ...
