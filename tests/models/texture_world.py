"""Pictures of patches of four textures, each patch a masklet whose class is known, through a small random SAM2."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.models.letterbox import resize_frame, to_square
from pipeline.models.memory import MemoryBank, MemoryEntry
from pipeline.models.mosam_model import load_tracking_core
from pipeline.models.sam2_core import Sam2Core
from pipeline.models.samwise_variants import ARCHITECTURES
from pipeline.models.vss_classes import masklet_views
from pipeline.models.vss_frames import FrameInFlight, Masklet, PendingFrame, VideoMemory
from pipeline.segmenter import ModelSpec
from pipeline.ticks import RGB

TEXTURES = ("flat", "across", "down", "checks")
HEIGHT, WIDTH = 96, 144
ROWS, COLUMNS = 2, 3
SIDE = 128

Picture = NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True)
class Patches:
    """A picture and the texture of each of its patches, row by row."""

    picture: Picture
    classes: tuple[int, ...]


def texture_core() -> Sam2Core:
    """A random SAM2 of 128 px: 8 x 8 cells of embedding."""
    spec = ModelSpec(name="mini", architecture=ARCHITECTURES["mini"], tensors=None)
    return load_tracking_core(spec, image_size=SIDE).eval()


def draw_patches(random: np.random.Generator, *, noise: float = 0.0) -> Patches:
    """Patches in random colours; `noise` is that of pixels, in 255ths."""
    height, width = HEIGHT // ROWS, WIDTH // COLUMNS
    y, x = np.mgrid[:height, :width]
    patterns = (np.zeros((height, width), int), y // 4 % 2, x // 4 % 2, (x // 4 + y // 4) % 2)
    classes = random.integers(len(TEXTURES), size=ROWS * COLUMNS)
    picture = np.zeros((HEIGHT, WIDTH, 3))
    for place, class_id in enumerate(classes):
        top, left = place // COLUMNS * height, place % COLUMNS * width
        dark = random.integers(0, 70, 3)
        colours = np.stack([dark, dark + random.integers(120, 180)])
        picture[top : top + height, left : left + width] = colours[patterns[class_id]]
    picture += random.normal(0, noise, picture.shape)
    return Patches(picture=picture.clip(0, 255).astype(np.uint8), classes=tuple(map(int, classes)))


def flight_of(core: Sam2Core, patches: Patches, *, position: int = 0, object_score: float = 5.0) -> FrameInFlight:
    """A frame whose masklets 1, 2, ... are the patches, as the stages leave it to be painted."""
    square = to_square([resize_frame(patches.picture, (SIDE, SIDE))], num_rows=1, image_size=SIDE, device=core.device)
    with torch.inference_mode():
        features = core.encode_image(square)
    grid, masklets = SIDE // 4, []
    for place in range(len(patches.classes)):
        logits = torch.full((grid, grid), -6.0)
        rows, columns = (np.linspace(0, grid, n + 1).astype(int) for n in (ROWS, COLUMNS))
        row, column = divmod(place, COLUMNS)
        logits[rows[row] : rows[row + 1], columns[column] : columns[column + 1]] = 6.0
        bank = MemoryBank()
        bank.add(
            MemoryEntry(
                frame_index=position,
                pointer_D=torch.zeros(core.config.d_model),
                features_Chw=None,
                object_score=object_score,
                predicted_iou=0.9,
            )
        )
        masklets.append(
            Masklet(
                masklet_id=place + 1,
                position=position,
                logits_hw=logits,
                predicted_iou=0.9,
                object_score=object_score,
                bank=bank,
            )
        )
    return FrameInFlight(
        memory=VideoMemory(position=position),
        frame=PendingFrame(frame_index=position, pts_us=position, images={RGB: patches.picture}),
        is_key=position == 0,
        masklets=tuple(masklets),
        polls={},
        next_id=len(masklets) + 1,
        uncovered_at_key=0.0,
        grey_hw=None,
        features=features,
    )


def vectors_of(core: Sam2Core, patches: Patches) -> NDArray[np.float32]:
    """The feature vectors of all patches, (O, D)."""
    found: NDArray[np.float32] = masklet_views(flight_of(core, patches)).features_OD.numpy()
    return found
