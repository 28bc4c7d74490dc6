"""Batches of generated clips with all that is known of them: every expression, every object, every word's truth."""

# Axes: C clips, T frames, F = C*T, E expressions of a clip, B = C*E, L tokens, N objects and the background (slot 0),
# H W image, h w the stride-8 grid.

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from pipeline.models.letterbox import MEAN, STD
from pipeline.models.text_encoder import PAD_ID
from pipeline.models.tokenizers import Tokenizer
from pipeline.synth.clip import Clip
from pipeline.synth.expressions import Expression
from pipeline.synth.world import COLOURS, MOTIONS, SHAPES, SIZES, TEXTURES

GRID_STRIDE = 8
MIN_COVERAGE = 0.5
"""Share of a stride-8 cell that one object must cover to own it."""

MOTION_WORD_WEIGHT, SHAPE_WORD_WEIGHT = 3.0, 2.0
_SHAPE_WORDS = frozenset({*SHAPES, *(f"{shape}s" for shape in SHAPES), "crosses"})


@dataclass(frozen=True, slots=True, kw_only=True)
class GroundedBatch:
    """Clips and their expressions, those of a clip adjacent.

    Attributes:
        images_F3HW: normalised; frames of a clip adjacent.
        token_ids_BL, keep_BL: padded at the end; keep is False at padding.
        motion_BL: weights of the words that tell motion, which sum to 1, or 0 where there are none.
        targets_BTHW: bool.
        objects_CTHW: uint8 ids, 0 for none.
        cells_CThw: int64 id of the object that owns a stride-8 cell, 0 for none.
        word_truth_BLN: int8, 1 true, 0 false, -1 not told, by object id; slot 0 and padding are -1.
        word_weight_BL: of a word's evidence loss.
        traits_CNK: int64 (colour, shape, size, motion, texture) of each object, slot 0 and missing objects 0.
        velocities_CTN2: pixels per frame.
        sample_ids: one per clip.
    """

    images_F3HW: Tensor
    token_ids_BL: Tensor
    keep_BL: Tensor
    motion_BL: Tensor
    targets_BTHW: Tensor
    objects_CTHW: Tensor
    cells_CThw: Tensor
    word_truth_BLN: Tensor
    word_weight_BL: Tensor
    traits_CNK: Tensor
    velocities_CTN2: Tensor
    sample_ids: tuple[str, ...]

    @property
    def num_clips(self) -> int:
        return self.objects_CTHW.shape[0]

    @property
    def num_frames(self) -> int:
        return self.objects_CTHW.shape[1]

    @property
    def num_expressions(self) -> int:
        """Per clip."""
        return self.token_ids_BL.shape[0] // self.num_clips

    def to(self, device: torch.device) -> "GroundedBatch":
        """The same batch on a device."""
        tensors = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "sample_ids"}
        moved: dict[str, Any] = {name: value.to(device, non_blocking=True) for name, value in tensors.items()}
        return GroundedBatch(**moved, sample_ids=self.sample_ids)

    def window(self, start: int, num_frames: int) -> "GroundedBatch":
        """The same clips, `num_frames` frames of them from `start` on."""
        frames = slice(start, start + num_frames)
        images = self.images_F3HW.view(self.num_clips, self.num_frames, *self.images_F3HW.shape[1:])
        return replace(
            self,
            images_F3HW=images[:, frames].flatten(0, 1),
            targets_BTHW=self.targets_BTHW[:, frames],
            objects_CTHW=self.objects_CTHW[:, frames],
            cells_CThw=self.cells_CThw[:, frames],
            velocities_CTN2=self.velocities_CTN2[:, frames],
        )


def grounded_batch(clips: Sequence[Clip], tokenizer: Tokenizer) -> GroundedBatch:
    """Clips of equal size, length and number of expressions, as tensors."""
    said = [(clip, expression) for clip in clips for expression in clip.expressions]
    token_ids = [tokenizer(expression.text).ids for _, expression in said]
    longest = max(map(len, token_ids))
    num_objects = max(clip.num_objects for clip in clips)
    words = [_words(expression, longest, num_objects) for _, expression in said]
    objects_CTHW = torch.from_numpy(np.stack([clip.labels for clip in clips]))
    return GroundedBatch(
        images_F3HW=_normalised(np.concatenate([clip.frames for clip in clips])),
        token_ids_BL=torch.tensor([[*ids, *[PAD_ID] * (longest - len(ids))] for ids in token_ids]),
        keep_BL=torch.tensor([[place < len(ids) for place in range(longest)] for ids in token_ids]),
        motion_BL=torch.from_numpy(np.stack([motion for motion, _, _ in words])),
        targets_BTHW=torch.from_numpy(np.stack([clip.expression_mask(expression) for clip, expression in said])),
        objects_CTHW=objects_CTHW,
        cells_CThw=cell_owners(objects_CTHW, num_objects=num_objects),
        word_truth_BLN=torch.from_numpy(np.stack([truth for _, truth, _ in words])),
        word_weight_BL=torch.from_numpy(np.stack([weight for _, _, weight in words])),
        traits_CNK=torch.from_numpy(np.stack([_traits(clip, num_objects) for clip in clips])),
        velocities_CTN2=torch.from_numpy(np.stack([_velocities(clip, num_objects) for clip in clips])),
        sample_ids=tuple(clip.video_id for clip in clips),
    )


def cell_owners(objects_CTHW: Tensor, *, num_objects: int) -> Tensor:
    """The object that covers at least half of each stride-8 cell, 0 where none does; int64 (C, T, h, w)."""
    flat = objects_CTHW.flatten(0, 1)
    shares = torch.stack(
        [F.avg_pool2d((flat == number).float(), GRID_STRIDE) for number in range(1, num_objects + 1)], dim=1
    )
    most, owner = shares.max(dim=1)
    owned = torch.where(most >= MIN_COVERAGE, owner + 1, 0)
    return owned.view(*objects_CTHW.shape[:2], *owned.shape[1:])


def _words(
    expression: Expression, longest: int, num_objects: int
) -> tuple[NDArray[np.float32], NDArray[np.int8], NDArray[np.float32]]:
    """Motion weights, truths and loss weights by token; token 0 begins the text, so word i is token i + 1."""
    motion = np.zeros(longest, dtype=np.float32)
    truth = np.full((longest, num_objects + 1), -1, dtype=np.int8)
    weight = np.ones(longest, dtype=np.float32)
    for place, (word, of_objects) in enumerate(zip(expression.words, expression.word_truth, strict=True), start=1):
        truth[place, 1 : len(of_objects) + 1] = of_objects
        if word in _SHAPE_WORDS:
            weight[place] = SHAPE_WORD_WEIGHT
    if expression.motion_word_positions:
        places = [position + 1 for position in expression.motion_word_positions]
        motion[places] = 1 / len(places)
        weight[places] = MOTION_WORD_WEIGHT
    return motion, truth, weight


def _traits(clip: Clip, num_objects: int) -> NDArray[np.int64]:
    traits = np.zeros((num_objects + 1, 5), dtype=np.int64)
    for thing in clip.truth.objects:
        traits[thing.object_id] = (
            COLOURS.index(thing.colour),
            SHAPES.index(thing.shape),
            SIZES.index(thing.size),
            MOTIONS.index(thing.motion),
            TEXTURES.index(thing.texture),
        )
    return traits


def _velocities(clip: Clip, num_objects: int) -> NDArray[np.float32]:
    velocities = np.zeros((clip.truth.num_frames, num_objects + 1, 2), dtype=np.float32)
    velocities[:, 1 : clip.num_objects + 1] = clip.truth.velocities_px
    return velocities


def _normalised(frames_FHW3: NDArray[np.uint8]) -> Tensor:
    pixels = torch.from_numpy(frames_FHW3).permute(0, 3, 1, 2).float() / 255
    return (pixels - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
