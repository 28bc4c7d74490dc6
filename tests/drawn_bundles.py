"""Writes small bundles whose every pixel is known: frame n of a modality shows n plus the modality's own thousand."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image as PillowImage

from tests.drawn_video import Encoding, Picture, draw_frame, write_pictures

HEIGHT, WIDTH = 32, 48
THOUSANDS = {"rgb": 0, "depth": 1000, "event": 2000, "lidar": 3000}

# Every picture a keyframe of its own, without colour subsampling: numbers and times survive whatever is asked.
LOSSLESS = Encoding(codec="ffv1", pix_fmt="yuv444p", fps=25)


def picture(modality: str, number: int, *, height: int = HEIGHT, width: int = WIDTH) -> Picture:
    return draw_frame(THOUSANDS[modality] + number, height, width)


def write_modality(
    root: Path,
    modality: str,
    kind: str,
    numbers: Iterable[int],
    *,
    encoding: Encoding = LOSSLESS,
    height: int = HEIGHT,
    width: int = WIDTH,
) -> str:
    """One modality as a "video", a "folder" of numbered names, an "array" series, or a single "image"; its path."""
    numbers = list(numbers)
    pictures = [picture(modality, number, height=height, width=width) for number in numbers]
    root.mkdir(parents=True, exist_ok=True)
    if kind == "video":
        path = root / f"{modality}.mkv"
        write_pictures(path, pictures, encoding=encoding)
    elif kind == "array":
        path = root / f"{modality}.npy"
        np.save(path, np.stack(pictures))
    elif kind == "image":
        path = root / f"{modality}.png"
        PillowImage.fromarray(pictures[0]).save(path)
    else:
        path = root / modality
        path.mkdir()
        for number, image in zip(numbers, pictures, strict=True):
            PillowImage.fromarray(image).save(path / f"{number:06d}_{modality}_front.png")
    return str(path)
