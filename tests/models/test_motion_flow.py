"""Dense flow points the right way, reaches fast objects when moved by the forecast, and is not believed when wrong."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torchvision.models import optical_flow

from pipeline.errors import WeightsError
from pipeline.models.motion_camera import to_grey
from pipeline.models.motion_config import MotionConfig
from pipeline.models.motion_flow import (
    DisFlow,
    Flow,
    FlowField,
    build_flow,
    farneback_flow,
    matched_shift,
    move_points,
    whole_frame_field,
    window_field,
)
from pipeline.models.motion_points import Floats, Grey
from pipeline.models.motion_warp import logits_box, shift_logits, warp_logits
from pipeline.ticks import Mask
from tests.models.drawn_motion import World, logits_of, mask_iou, texture

CONFIG = MotionConfig()
STEP = (7.0, -3.0)
SIZE = (256, 400)
GRID = (64, 96)
"""Of another aspect than the frame's, as a model's square is."""


def pictures(step: tuple[float, float], *, left: float = 150.0) -> tuple[Grey, Grey, Mask, Mask]:
    """Grey images and masks before and after the sprite's step."""
    world = World(path=lambda t: (left + step[0] * t, 120 + step[1] * t))
    drawn = [world.draw(t) for t in (0, 1)]
    first, second = (to_grey(frame.image, short_side_px=256) for frame in drawn)
    return first, second, drawn[0].mask, drawn[1].mask


def measured(
    step: tuple[float, float], shift_xy: tuple[float, float], *, left: float = 150.0
) -> tuple[FlowField, Floats, Mask]:
    """Flow of the sprite's crop moved by `shift_xy`, its logits before, its mask after."""
    first, second, before, after = pictures(step, left=left)
    box = logits_box(logits_of(before), SIZE)
    assert box is not None
    field = window_field(first, second, box, shift_xy, DisFlow(), CONFIG)
    assert field is not None
    return field, logits_of(before), after


@pytest.mark.parametrize("flow", [DisFlow(), DisFlow("ultrafast"), farneback_flow], ids=["dis", "quick", "farneback"])
def test_backward_flow_leads_from_the_current_image_to_the_previous(flow: Flow) -> None:
    scene = texture(96, 168, seed=4, smooth=3).clip(0, 255).astype(np.uint8)
    previous, current = scene[8:88, 4:144], scene[8 - 3 : 88 - 3, 4 + 7 : 144 + 7]
    measured_HW2 = flow(previous, current)
    assert measured_HW2.shape == (80, 140, 2)
    assert measured_HW2.dtype == np.float32
    np.testing.assert_allclose(np.median(measured_HW2[20:60, 20:120], axis=(0, 1)), (7, -3), atol=0.3)


@pytest.mark.parametrize("grid", [GRID, (128, 128), (256, 400)])
def test_warp_follows_the_sign_of_the_flow(grid: tuple[int, int]) -> None:
    first, second, before, after = pictures(STEP)
    x, y = STEP

    def known(sign: float) -> Flow:
        return lambda previous, _: np.full((*previous.shape, 2), (-sign * x, -sign * y), np.float32)

    def warped_iou(sign: float) -> float:
        # An endless plane in motion: forward flow is measured by swapping the images, so both signs cancel.
        calls = iter((known(sign), known(-sign)))
        field = whole_frame_field(first, second, lambda a, b: next(calls)(a, b), CONFIG)
        warp = warp_logits(logits_of(before, size=grid), field, SIZE, CONFIG)
        assert warp.agreement == pytest.approx(1.0)
        return mask_iou(warp.logits_hw > 0, logits_of(after, size=grid) > 0)

    assert warped_iou(1) > 0.95
    assert warped_iou(-1) < 0.7


def test_shifted_logits_are_the_moved_mask_and_out_of_view_beyond_the_frame() -> None:
    _, _, before, after = pictures((20.0, 12.0))
    moved = shift_logits(logits_of(before, size=GRID), (20.0, 12.0), SIZE, outside=-8.0)
    assert mask_iou(moved > 0, logits_of(after, size=GRID) > 0) > 0.95
    assert (shift_logits(np.ones(GRID, np.float32), (200.0, 0.0), SIZE, outside=-8.0)[:, :47] == -8).all()


def test_flow_on_the_moved_crop_reaches_what_flow_at_rest_does_not() -> None:
    fast = (46.0, -14.0)
    field, logits, after = measured(fast, (44.0, -11.0))
    warp = warp_logits(logits, field, SIZE, CONFIG)
    assert warp.is_believed(CONFIG)
    assert mask_iou(warp.logits_hw > 0, after) > 0.85
    middle = move_points(np.array([(150.0, 120.0)], np.float32), field)
    np.testing.assert_allclose(middle, [(196.0, 106.0)], atol=1.0)
    field, logits, after = measured(fast, (0.0, 0.0))
    warp = warp_logits(logits, field, SIZE, CONFIG)
    assert mask_iou(warp.logits_hw > 0, after) < 0.5
    assert not warp.is_believed(CONFIG)


def test_agreement_alone_would_believe_a_wrong_flow_that_correlation_refuses() -> None:
    field, logits, after = measured((12.0, 0.0), (0.0, 0.0), left=100.0)
    warp = warp_logits(logits, field, SIZE, CONFIG)
    assert mask_iou(warp.logits_hw > 0, after) < 0.65
    assert warp.agreement > 0.85
    assert warp.correlation is not None
    assert warp.correlation < 0.3


def test_where_directions_disagree_the_mask_prompt_says_nothing() -> None:
    first, second, before, _ = pictures((4.0, 2.0))
    covered = second.copy()
    covered[:, 150:] = texture(*SIZE, seed=50)[:, 150:].clip(0, 255).astype(np.uint8)
    box = logits_box(logits_of(before), SIZE)
    assert box is not None
    field = window_field(first, covered, box, (0.0, 0.0), DisFlow(), CONFIG)
    assert field is not None
    warp = warp_logits(logits_of(before), field, SIZE, CONFIG)
    zero = warp.logits_hw == 0
    assert zero[100:140, 160:185].mean() > 0.4
    assert zero[100:140, 125:140].mean() < 0.05


def test_the_objects_own_pixels_are_found_far_from_where_it_was_expected() -> None:
    first, second, before, _ = pictures((-58.0, 31.0))
    box = logits_box(logits_of(before), SIZE)
    assert box is not None
    found = matched_shift(first, second, before, box, (0.0, 0.0), reach_px=70.0, config=CONFIG)
    assert found is not None
    assert np.abs(np.array(found) - (-58, 31)).max() <= 2
    other = texture(*SIZE, seed=77).clip(0, 255).astype(np.uint8)
    assert matched_shift(first, other, before, box, (0.0, 0.0), reach_px=70.0, config=CONFIG) is None
    # It is 65.8 px away.
    near = matched_shift(first, second, before, box, (0.0, 0.0), reach_px=60.0, config=CONFIG)
    assert near is None or np.hypot(*near) <= 60


@pytest.mark.parametrize("step", [(21, -13), (-34, 9)])
def test_a_pattern_too_fine_for_half_the_size_is_found_to_the_pixel(step: tuple[int, int]) -> None:
    draws = np.random.default_rng(7)
    first, second = (np.full(SIZE, 120, np.uint8) for _ in range(2))
    coat = draws.integers(0, 256, (31, 43), np.uint8)
    first[100:131, 150:193] = coat
    second[100 + step[1] : 131 + step[1], 150 + step[0] : 193 + step[0]] = coat
    # One that is nearer, and alike at half the size alone.
    smooth = cv2.resize(cv2.resize(coat, (21, 15), interpolation=cv2.INTER_AREA), (43, 31))
    second[160:191, 140:183] = smooth
    mask = np.zeros(SIZE, np.bool_)
    mask[100:131, 150:193] = True
    found = matched_shift(first, second, mask, (150, 100, 193, 131), (0.0, 0.0), reach_px=80.0, config=CONFIG)
    assert found == step


def test_of_two_that_look_alike_the_nearer_is_meant_even_if_the_other_fits_a_little_better() -> None:
    first, near, before, at_near = pictures((-20.0, 8.0))
    _, far, _, at_far = pictures((52.0, -26.0))
    noise = np.random.default_rng(5).normal(0, 15, near.shape)
    spoilt = (near + noise).clip(0, 255).astype(np.uint8)
    both = np.where(at_far, far, np.where(at_near, spoilt, near))
    box = logits_box(logits_of(before), SIZE)
    assert box is not None

    def found(**changes: object) -> tuple[int, int] | None:
        config = CONFIG.model_copy(update=changes)
        return matched_shift(first, both, before, box, (0.0, 0.0), reach_px=70.0, config=config)

    assert found() == pytest.approx((-20, 8), abs=2)
    assert found(far_match_cost=0.0) == pytest.approx((52, -26), abs=2)


def test_an_object_expected_outside_the_frame_has_no_window() -> None:
    first, second, _, _ = pictures(STEP)
    assert window_field(first, second, (300.0, 100.0, 360.0, 150.0), (220.0, 0.0), DisFlow(), CONFIG) is None
    assert window_field(first, second, (370.0, 100.0, 400.0, 150.0), (10.0, 0.0), DisFlow(), CONFIG) is not None


def test_raft_reads_a_file_and_takes_any_size(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = optical_flow.raft_small(weights=None)
    torch.save(network.state_dict(), tmp_path / "raft.pth")
    flow = build_flow(MotionConfig(flow="raft_small", flow_weights=str(tmp_path / "raft.pth")))
    assert flow is not None
    first, second = (texture(61, 150, seed=seed).clip(0, 255).astype(np.uint8) for seed in (1, 2))
    found = flow(first, second)
    assert found.shape == (61, 150, 2)
    assert found.dtype == np.float32
    assert np.isfinite(found).all()
    images = torch.nn.functional.pad(
        torch.from_numpy(np.stack([second, first]))[:, None].float() / 127.5 - 1, [0, 2, 0, 67], mode="replicate"
    ).expand(-1, 3, -1, -1)
    with torch.inference_mode():
        straight = network.eval()(images[:1], images[1:])[-1][0, :, :61, :150].permute(1, 2, 0)
    np.testing.assert_allclose(found, straight, atol=1e-4)


def test_raft_without_its_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="flow_weights"):
        MotionConfig(flow="raft_large")
    with pytest.raises(WeightsError, match="not the weights of raft_small"):
        build_flow(MotionConfig(flow="raft_small", flow_weights=str(tmp_path / "missing.pth")))
    torch.save({"weight": torch.zeros(2)}, tmp_path / "other.pth")
    with pytest.raises(WeightsError, match="raft_small state dict"):
        build_flow(MotionConfig(flow="raft_small", flow_weights=str(tmp_path / "other.pth")))
    assert build_flow(MotionConfig(flow="none")) is None
