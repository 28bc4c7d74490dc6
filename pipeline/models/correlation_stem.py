"""Motion stem: how well each place of a frame matches its neighbourhood in the frames before and after."""

# Axes: F frames of one or more clips, T frames of a clip, C stem channels, S shifts, K output channels, h w stride-4
# grid, H W image.

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

RADIUS = 2
"""Cells of the stride-4 grid that something may move between neighbouring frames: 8 px."""

STEM_WIDTH = 24
LOCAL_MEAN_SIDE = 5
FIRST_SCALE = 8.0
"""Of the cosines at the start of training; learnt."""

SHIFTS = tuple((dy, dx) for dy in range(-RADIUS, RADIUS + 1) for dx in range(-RADIUS, RADIUS + 1))


class MotionStem(nn.Module):
    """Local cost volumes between neighbouring frames, and what they say of motion.

    Attention over frames alone does not find motion: without these volumes the right one of two look-alikes that
    differ in motion only is chosen by chance. A departure from SAMWISE; cost volumes as in PWC-Net (Sun et al.,
    CVPR 2018, section 3).

    Args:
        width: K.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, STEM_WIDTH, 7, stride=4, padding=3)
        self.scale = nn.Parameter(torch.tensor(FIRST_SCALE))
        self.read = nn.Sequential(
            nn.Conv2d(2 * len(SHIFTS), 2 * width, 1), nn.GELU(), nn.Conv2d(2 * width, width, 3, padding=1)
        )

    def describe(self, images_F3HW: Tensor) -> Tensor:
        """Unit vectors per place, (F, C, h, w): a patch against its surroundings, so brightness alone says nothing."""
        patch_FChw = self.embed(images_F3HW)
        side = LOCAL_MEAN_SIDE
        around = F.avg_pool2d(patch_FChw, side, stride=1, padding=side // 2, count_include_pad=False)
        return F.normalize(patch_FChw - around, dim=1)

    def forward(self, described_FChw: Tensor, *, num_frames: int) -> Tensor:
        """Motion features (F, K, h, w).

        Args:
            described_FChw: from `describe`; frames of a clip are neighbours.
            num_frames: T. Before the first frame and after the last one nothing matches.
        """
        size = described_FChw.shape[1:]
        clips = described_FChw.view(-1, num_frames, *size)
        earlier, later = clips[:, :-1].flatten(0, 1), clips[:, 1:].flatten(0, 1)
        forward = correlate(earlier, later)
        forward = forward.view(clips.shape[0], num_frames - 1, *forward.shape[1:])
        backward = seen_from_target(forward)
        nothing = forward.new_zeros(clips.shape[0], 1, *forward.shape[2:])
        volumes = torch.cat(
            [torch.cat([forward, nothing], dim=1), torch.cat([nothing, backward], dim=1)], dim=2
        ).flatten(0, 1)
        return cast(Tensor, self.read(self.scale * volumes))


def correlate(one_FChw: Tensor, other_FChw: Tensor) -> Tensor:
    """Dot products of each place of one map with the places around it in another: (F, S, h, w), S as in SHIFTS."""
    return cast(Tensor, _Correlation.apply(one_FChw, other_FChw))


def seen_from_target(forward_BTShw: Tensor) -> Tensor:
    """The same products indexed by the later frame's places: [.., s, p] becomes the match of p with p + s before."""
    height, width = forward_BTShw.shape[-2:]
    padded = F.pad(forward_BTShw, (RADIUS,) * 4)
    slices = []
    for dy, dx in SHIFTS:
        opposite = SHIFTS.index((-dy, -dx))
        top, left = RADIUS + dy, RADIUS + dx
        slices.append(padded[:, :, opposite, top : top + height, left : left + width])
    return torch.stack(slices, dim=2)


class _Correlation(torch.autograd.Function):
    """The products with their own backward pass.

    It keeps the two maps only; 25 products under autograd would keep 25 copies and cost a third of
    a training step.
    """

    @staticmethod
    def forward(ctx: Any, one_FChw: Tensor, other_FChw: Tensor) -> Tensor:
        ctx.save_for_backward(one_FChw, other_FChw)
        padded = F.pad(other_FChw, (RADIUS,) * 4)
        return torch.stack([(one_FChw * view).sum(dim=1) for view in _views(padded, one_FChw)], dim=1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        one_FChw, other_FChw = ctx.saved_tensors
        (gradient_FShw,) = gradients
        padded = F.pad(other_FChw, (RADIUS,) * 4)
        to_one, to_padded = torch.zeros_like(one_FChw), torch.zeros_like(padded)
        pairs = zip(_views(padded, one_FChw), _views(to_padded, one_FChw), strict=True)
        for shift, (view, target) in enumerate(pairs):
            part_F1hw = gradient_FShw[:, shift : shift + 1]
            to_one.addcmul_(part_F1hw, view)
            target.addcmul_(part_F1hw, one_FChw)
        height, width = one_FChw.shape[-2:]
        return to_one, to_padded[..., RADIUS : RADIUS + height, RADIUS : RADIUS + width]


def _views(padded: Tensor, like: Tensor) -> list[Tensor]:
    height, width = like.shape[-2:]
    return [padded[..., RADIUS + dy : RADIUS + dy + height, RADIUS + dx : RADIUS + dx + width] for dy, dx in SHIFTS]
