"""How the toy core draws an object: what memory says, colour against colour, and what prompts name; then its parts."""

# Axes: D code channels packed into the model's, T prompt tokens, V views of the object, h w the logits' grid.

from collections.abc import Sequence

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

CODE = 27
"""Channels of the colour code: three soft bins on each of three axes."""
VIEWS = 8
"""Frames of which the object's look is known while decoding."""
SHARE = (VIEWS + 1) * CODE
"""Channel of a cell's share of object, after the codes."""
FINE_POWER, EVIDENCE = 3.0, 3.5
"""Weight of a pixel's own colour against what its cell reads from memory, and the most it can say."""
PRIOR = 6.0
"""The least that memory and prompts together can say of a pixel; the most is half of it, less than its own colour."""
SHARPNESS = 1.5
PRESENT_FROM = 0.6
"""Probability times likeness of what was found, from which on the object counts as in view."""
BOX_IN, BOX_OUT, POINT_IN, POINT_OUT = 2.0, -4.0, 3.0, -1.0
"""What prompts add to the logits inside and outside of themselves."""
POINT_REACH = 6.0
"""Reach of a point in cells of the logits' grid."""
MIN_AREA = 12
"""Cells of the logits' grid below which nothing counts as an object."""
OTHER_LOGIT = -4.0
"""Logit of components that a candidate leaves out."""


def candidates(pix_Dhw: Tensor, fine_Dhw: Tensor, sparse_TD: Tensor, dense_Dhw: Tensor) -> tuple[Tensor, Tensor]:
    """Logits (3, h, w) and object score of one row."""
    shift_hw = _prompt_shift(sparse_TD, fine_Dhw.shape[1:]) + 0.5 * F.pixel_shuffle(dense_Dhw[:16], 4)[0].clamp(-8, 8)
    codes_VD = pix_Dhw[:SHARE, 0, 0].view(VIEWS + 1, CODE)
    has_memory = bool(pix_Dhw[SHARE, 0, 0] >= 0)
    if has_memory:
        share_hw = F.interpolate(pix_Dhw[None, SHARE : SHARE + 1], size=fine_Dhw.shape[1:], mode="bilinear")[0, 0]
        prior_hw = torch.log((share_hw + 1e-3) / (1 - share_hw + 1e-3)) + _on_what_is_named(shift_hw, fine_Dhw)
        logits_hw = prior_hw.clamp(-PRIOR, PRIOR / 2) + _evidence(fine_Dhw, codes_VD[1:], codes_VD[0])
    else:
        logits_hw = _first_logits(fine_Dhw, sparse_TD, shift_hw)
    logits_hw = (SHARPNESS * logits_hw).clamp(-12, 12)
    parts = _parts(logits_hw)
    if not parts:
        return torch.stack([logits_hw] * 3), torch.tensor(-4.0)
    only = [torch.where(part, logits_hw, logits_hw.clamp(max=OTHER_LOGIT)) for part in parts[:2]]
    second_hw = only[1] if len(only) > 1 else logits_hw - 1
    found = logits_hw[parts[0]].sigmoid().mean()
    if has_memory:
        found = found * (codes_VD[1:] @ F.normalize(fine_Dhw[:, parts[0]].mean(1), dim=0)).max()
    return torch.stack([only[0], logits_hw, second_hw]), 20 * (found - PRESENT_FROM)


def _on_what_is_named(shift_hw: Tensor, fine_Dhw: Tensor) -> Tensor:
    """A prompt's shift, its positive part only as far as a pixel stands out from the rest as the prompt's inside does.

    SAM's decoder follows outlines: a loose box or a click near a rim does not spill over what lies behind the object.
    """
    inside_hw = shift_hw > 0
    if not inside_hw.any():
        return shift_hw
    names_hw = (_contrast(fine_Dhw, inside_hw) / EVIDENCE).clamp(min=0)
    return shift_hw.clamp(max=0) + shift_hw.clamp(min=0) * names_hw


def _contrast(fine_Dhw: Tensor, inside_hw: Tensor) -> Tensor:
    """How much better each pixel's colour fits the mean inside of a region than the mean outside, (h, w)."""
    codes_2D = F.normalize(torch.stack([fine_Dhw[:, inside_hw].mean(1), fine_Dhw[:, ~inside_hw].mean(1)]), dim=1)
    return _evidence(fine_Dhw, codes_2D[:1], codes_2D[1])


def _evidence(fine_Dhw: Tensor, views_VD: Tensor, other_D: Tensor) -> Tensor:
    """How much better each pixel's colour fits one of the object's views than the background, (h, w)."""
    fits_hw = torch.einsum("dhw,vd->vhw", fine_Dhw, views_VD).amax(dim=0).clamp(min=0) + 0.05
    others_hw = torch.einsum("dhw,d->hw", fine_Dhw, other_D).clamp(min=0) + 0.05
    return (FINE_POWER * torch.log(fits_hw / others_hw)).clamp(-EVIDENCE, EVIDENCE)


def _first_logits(fine_Dhw: Tensor, sparse_TD: Tensor, shift_hw: Tensor) -> Tensor:
    """Without memory: colours within the prompt against colours outside; a click's own connected part."""
    height, width = fine_Dhw.shape[1:]
    label_T = sparse_TD[:, 2]
    inside_hw = shift_hw > 0
    if not inside_hw.any():
        return torch.full((height, width), -6.0)
    logits_hw = _contrast(fine_Dhw, inside_hw)
    if (label_T == 2).any():
        return logits_hw + shift_hw
    clicks = (sparse_TD[label_T == 1, :2] * torch.tensor([width, height])).long()
    closed = cv2.morphologyEx((logits_hw > 0).numpy().astype(np.uint8), cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8))
    _, part = cv2.connectedComponents(closed)
    own = {int(part[y, x]) for x, y in clicks.tolist()} - {0}
    return torch.where(torch.from_numpy(np.isin(part, list(own))), logits_hw.abs() + 1, logits_hw.clamp(max=-2))


def _prompt_shift(sparse_TD: Tensor, size: Sequence[int]) -> Tensor:
    """What points and box add to the logits, (h, w); 0 without prompts."""
    height, width = size
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    shift_hw = torch.zeros(height, width)
    at = [(tx * width, ty * height, int(label)) for tx, ty, label in sparse_TD[:, :3].tolist()]
    corners = {label: (px, py) for px, py, label in at if label in (2, 3)}
    if corners:
        (x0, y0), (x1, y1) = corners[2], corners[3]
        shift_hw += torch.where((x >= x0) & (x <= x1) & (y >= y0) & (y <= y1), BOX_IN, BOX_OUT)
    near = {sign: torch.zeros(height, width) for sign in (0, 1)}
    for px, py, label in at:
        if label in near:
            bump = torch.exp(-((x - px) ** 2 + (y - py) ** 2) / (2 * POINT_REACH**2))
            near[label] = torch.maximum(near[label], bump)
    if near[1].any():
        shift_hw += POINT_OUT + (POINT_IN - POINT_OUT) * near[1]
    return shift_hw - POINT_IN * near[0]


def _parts(logits_hw: Tensor) -> list[Tensor]:
    """Connected parts above zero that are large enough, by summed probability, the strongest first."""
    count, part = cv2.connectedComponents((logits_hw > 0).numpy().astype(np.uint8), connectivity=8)
    area = np.bincount(part.ravel(), minlength=count)
    weight = np.bincount(part.ravel(), weights=logits_hw.sigmoid().double().numpy().ravel(), minlength=count)
    order = [n for n in np.argsort(-weight[1:], kind="stable") + 1 if area[n] >= MIN_AREA]
    return [torch.from_numpy(part == n) for n in order]
