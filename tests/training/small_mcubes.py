"""A folder in MCubeS' layout with a few small scenes."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image as PilImage

HEIGHT, WIDTH = 40, 300
"""192 columns on the left are for nobody."""


def write_mcubes(root: Path, *, train: Sequence[str], test: Sequence[str], num_classes: int = 20) -> None:
    """Noise in every modality; labels are stripes of all classes under a row of 255."""
    for folder in ("polL_color", "NIR_warped", "GT", "polL_aolp_sin", "polL_aolp_cos", "polL_dolp", "list_folder"):
        (root / folder).mkdir(parents=True)
    for place, name in enumerate((*train, *test)):
        generator = np.random.default_rng([11, place])
        save(root, "polL_color", name, generator.integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8))
        infrared = generator.integers(0, 65535, (HEIGHT, WIDTH), dtype=np.uint16)
        save(root, "NIR_warped", name, infrared if place == 0 else (infrared >> 8).astype(np.uint8))
        labels = np.broadcast_to(np.arange(WIDTH) % num_classes, (HEIGHT, WIDTH)).astype(np.uint8)
        labels[0] = 255
        save(root, "GT", name, labels)
        for part in ("aolp_sin", "aolp_cos", "dolp"):
            np.save(root / f"polL_{part}" / f"{name}.npy", generator.normal(size=(HEIGHT, WIDTH)).astype(np.float32))
    for list_name, names in (("train.txt", train), ("test.txt", test)):
        (root / "list_folder" / list_name).write_text("".join(f"{name}\n" for name in names))


def save(root: Path, folder: str, name: str, pixels: np.ndarray) -> None:
    PilImage.fromarray(pixels).save(root / folder / f"{name}.png")
