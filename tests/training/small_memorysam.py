"""A small MemorySAM and scenes to train it on, in seconds on one core."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.models.memorysam_architecture import MemorySamArchitecture, named_architecture
from pipeline.ticks import Image
from pipeline.training.loop import LoopConfig
from pipeline.training.memorysam_augment import Augmentation
from pipeline.training.memorysam_recipes import MemorySamTraining
from pipeline.training.memorysam_scenes import MultimodalSample

NUM_CLASSES = 4
PLAIN = Augmentation(flip=0.0, jitter=0.0, blur=0.0, scale=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Quarters:
    """Scenes of four quarters, a class each; every modality tells them by other brightnesses, "blind" not at all."""

    num_items: int | None = None
    height: int = 48
    width: int = 64

    def draw(self, item: int, modalities: Sequence[str]) -> MultimodalSample:
        generator = np.random.default_rng([7, item])
        classes = generator.permutation(NUM_CLASSES).astype(np.uint8).reshape(2, 2)
        labels = np.kron(classes, np.ones((self.height // 2, self.width // 2), dtype=np.uint8))
        labels[0] = 255
        images = {name: self._image(name, labels, generator) for name in modalities}
        return MultimodalSample(sample_id=f"quarters:{item}", images=images, labels=labels)

    def _image(self, modality: str, labels: np.ndarray, generator: np.random.Generator) -> Image:
        noise = generator.integers(0, 20, (self.height, self.width, 3), dtype=np.uint8)
        if modality == "blind":
            return noise
        step = 50 if modality == "rgb" else 30
        return noise + (step * np.minimum(labels, NUM_CLASSES))[..., None].astype(np.uint8)


def mini() -> MemorySamArchitecture:
    """The smallest architecture with every part: 64 px, four classes, adapters of rank 2."""
    return named_architecture("mini")


def small_training(**changes: object) -> MemorySamTraining:
    """Two modalities, nothing random, everything trained."""
    loop = LoopConfig(num_steps=4, batch_size=2, learning_rate=1e-3, checkpoint_every=2)
    values = {
        "modalities": ("rgb", "depth"),
        "trained": "all",
        "dropout": False,
        "spmm": "masked",
        "augmentation": PLAIN,
        "loop": loop,
    }
    return MemorySamTraining.model_validate({**values, **changes})
