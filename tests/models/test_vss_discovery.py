"""Where new masklets are looked for and who joins; masklets moved by flow: known shifts, and their sign."""

from dataclasses import replace

import cv2
import numpy as np
import torch
from torch import Tensor

from pipeline.models.memory import MemoryBank
from pipeline.models.memory_policies import RecentFrames
from pipeline.models.motion_flow import DisFlow
from pipeline.models.proposals import ProposalConfig, Proposals, grid_points
from pipeline.models.vss_discovery import Discovery, grey_square, warp_logits
from pipeline.models.vss_frames import FrameInFlight, FrameRules, Masklet, PendingFrame, VideoMemory
from pipeline.models.vss_stitching import StitchConfig


def square(top: int, left: int, *, height: int = 24, width: int = 36) -> Tensor:
    logits = torch.full((1, height, width), -6.0)
    logits[0, top : top + 8, left : left + 10] = 6.0
    return logits


def iou(ours: Tensor, theirs: Tensor) -> float:
    return float(((ours > 0) & (theirs > 0)).sum() / ((ours > 0) | (theirs > 0)).sum())


def constant_flow(x: float, y: float, *, height: int = 48, width: int = 72) -> Tensor:
    return torch.tensor([x, y]).expand(height, width, 2).contiguous()


def test_masks_go_where_a_known_flow_takes_them_whatever_its_grid() -> None:
    # Flow is measured on a grid twice as fine, so 7 cells to the right are 14 of its pixels.
    moved = warp_logits(square(6, 10), constant_flow(-14.0, 6.0))
    assert iou(moved, square(3, 17)) == 1.0
    assert iou(warp_logits(square(6, 10), constant_flow(14.0, -6.0)), square(3, 17)) < 0.1


def test_what_comes_from_outside_the_frame_is_no_object() -> None:
    full = torch.full((1, 24, 36), 6.0)
    moved = warp_logits(full, constant_flow(-20.0, 0.0))
    assert (moved[0, :, 11:] > 0).all()
    assert (moved[0, :, :9] < -5).all()


def test_a_textured_picture_shifted_by_known_pixels_takes_its_mask_along() -> None:
    noise = np.random.default_rng(5).normal(size=(120, 180)).astype(np.float32)
    texture = cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 2.5), None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)
    before = np.repeat(texture[:, :, None], 3, axis=2)
    after = np.roll(before, (-4, 9), axis=(0, 1))
    greys = [grey_square(image, 96) for image in (before, after)]
    assert greys[0].shape == (96, 96)
    flow = torch.from_numpy(DisFlow()(greys[0], greys[1]))
    mask = torch.full((1, 24, 24), -6.0)
    mask[0, 8:16, 6:14] = 6.0
    wanted = np.full((96, 96), -6.0, np.float32)
    # 9 of 180 columns and 4 of 120 rows, on the 96 x 96 square.
    wanted[round(32 - 3.2) : round(64 - 3.2), round(24 + 4.8) : round(56 + 4.8)] = 6.0
    expected = torch.from_numpy(cv2.resize(wanted, (24, 24), interpolation=cv2.INTER_AREA))[None]
    moved = warp_logits(mask, flow)
    assert iou(moved, expected) > 0.8
    assert iou(moved, expected) > iou(mask, expected) + 0.2


GRID = 24


def filled(top: int, bottom: int, left: int, right: int) -> Tensor:
    logits = torch.full((GRID, GRID), -6.0)
    logits[top:bottom, left:right] = 6.0
    return logits


def masklet(masklet_id: int, logits: Tensor) -> Masklet:
    return Masklet(
        masklet_id=masklet_id, position=3, logits_hw=logits, predicted_iou=0.9, object_score=4.0, bank=MemoryBank()
    )


def discovery(**stitching: float) -> Discovery:
    rules = FrameRules(
        window=32, overlap=1, propagator="sam2", emit="causal", buckets={"propose": 64}, policy=RecentFrames()
    )
    return Discovery(
        points=tuple(grid_points(6)),
        proposals=ProposalConfig(min_area=0.0, max_masklets=4),
        stitching=StitchConfig(**stitching),
        rules=rules,
        grid=GRID,
        image_size=96,
        device=torch.device("cpu"),
    )


def flight(masklets: list[Masklet], *, position: int = 3, uncovered_at_key: float = 0.0) -> FrameInFlight:
    memory = VideoMemory(position=position, masklets=tuple(masklets), next_id=9, uncovered_at_key=uncovered_at_key)
    frame = PendingFrame(frame_index=position, pts_us=0, images={})
    return FrameInFlight.begin(memory, frame, discovery().rules)


LEFT, RIGHT = filled(0, 24, 0, 12), filled(0, 24, 12, 24)
UPPER_RIGHT, LOWER_RIGHT = filled(0, 12, 12, 24), filled(12, 24, 12, 24)


def test_a_frame_that_has_become_uncovered_is_searched_there_alone() -> None:
    part = flight([masklet(1, LEFT), masklet(2, UPPER_RIGHT)])
    chosen = discovery().choose_points(part).points
    assert chosen is not None
    points = grid_points(6)
    assert {points[place] for place in chosen} == {(x, y) for x, y in points if x > 0.5 and y > 0.5}


def test_a_frame_is_not_searched_when_it_is_covered_was_as_bare_before_or_is_full() -> None:
    assert discovery().choose_points(flight([masklet(1, LEFT), masklet(2, RIGHT)])).points == ()
    bare = flight([masklet(1, LEFT), masklet(2, UPPER_RIGHT)], uncovered_at_key=0.22)
    assert discovery().choose_points(bare).points == ()
    many = flight([masklet(number, UPPER_RIGHT) for number in range(1, 5)])
    assert discovery().choose_points(many).points == ()


def test_key_frames_are_searched_everywhere() -> None:
    for position in (0, 31):
        assert len(discovery().choose_points(flight([masklet(1, LEFT)], position=position)).points or ()) == 36


def test_what_is_found_beside_the_masklets_joins_them_and_repeats_do_not() -> None:
    old = [masklet(1, LEFT), masklet(2, UPPER_RIGHT)]
    found = Proposals(logits_Mhw=torch.stack([LOWER_RIGHT, LEFT + 1]), predicted_iou_M=torch.tensor([0.8, 0.95]))
    part = replace(flight(old), points=(0,), proposals=(found,), num_asked=1)
    after = discovery().settle(part)
    assert [one.masklet_id for one in after.masklets] == [1, 2, 9]
    assert after.masklets[0] is old[0]
    assert after.masklets[2].bank is None
    assert torch.equal(after.masklets[2].logits_hw, LOWER_RIGHT)
    assert (after.next_id, after.uncovered_at_key) == (10, 0.0)


def test_a_new_window_goes_on_with_the_new_masks_and_carries_what_nobody_found() -> None:
    old = [masklet(1, LEFT), masklet(2, UPPER_RIGHT), replace(masklet(3, LOWER_RIGHT), object_score=-1.0)]
    found = Proposals(
        logits_Mhw=torch.stack([filled(0, 24, 0, 11), filled(18, 24, 18, 24)]),
        predicted_iou_M=torch.tensor([0.8, 0.7]),
    )
    part = replace(flight(old, position=31), points=(0,), proposals=(found,), num_asked=1)
    after = discovery().settle(part)
    assert [one.masklet_id for one in after.masklets] == [1, 2, 9]
    assert [one.bank for one in after.masklets] == [None] * 3
    assert torch.equal(after.masklets[0].logits_hw, filled(0, 24, 0, 11))
    assert torch.equal(after.masklets[1].logits_hw, UPPER_RIGHT)


def test_too_many_masklets_leave_the_most_important_ones() -> None:
    boxes = [(0, 4, 0, 4), (6, 16, 0, 8), (0, 9, 12, 20), (18, 24, 0, 6), (12, 24, 14, 24), (18, 22, 8, 12)]
    found = Proposals(logits_Mhw=torch.stack([filled(*box) for box in boxes]), predicted_iou_M=torch.full((6,), 0.8))
    after = discovery().settle(replace(flight([], position=0), points=(0,), proposals=(found,), num_asked=1))
    kept = {int((one.logits_hw > 0).sum()) for one in after.masklets}
    assert kept == {80, 72, 36, 120}
    assert [one.masklet_id for one in after.masklets] == [9, 10, 11, 12]
