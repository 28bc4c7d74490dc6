"""Motion prompts made from the truth: where they point, what they leave out, and that the decoder hears of them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import pipeline.training.forecast_prompts as forecasts
from pipeline.models.mosam_rows import motion_prompts
from pipeline.models.motion_forecast import MotionPrompt
from pipeline.models.text_free_core import TextFreeCore
from pipeline.training.forecast_prompts import ForecastPrompts, forecast_prompts
from pipeline.training.rollout import PromptedObjects, track_through
from tests.training.small_tiny import small_network

HEIGHT, WIDTH = 40, 64


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """No errors, and all parts of a prompt."""
    for name in ("_SCATTER", "_FAR_OFF_SHARE", "_PART_SHARE"):
        monkeypatch.setattr(forecasts, name, 0.0)


def rectangle(left: int, top: int, *, width: int = 10, height: int = 8) -> NDArray[np.bool_]:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[max(top, 0) : top + height, max(left, 0) : left + width] = True
    return mask


def told(masks: Sequence[NDArray[np.bool_]], *, share: float = 1.0, seed: int = 0) -> Sequence[ForecastPrompts | None]:
    targets = torch.from_numpy(np.stack(masks))[None]
    return forecast_prompts(targets, generator=np.random.default_rng(seed), share=share)


def test_the_last_mask_is_moved_as_the_object_moved(exact: None) -> None:
    first, second, third = told([rectangle(5 + 4 * frame, 10 + frame) for frame in range(3)])
    assert first is None
    for frame, found in ((1, second), (2, third)):
        assert found is not None
        # A box of 10 x 8, grown by a tenth of its sides, half on each side.
        corners = [[4.5 + 4 * frame, 9.6 + frame], [15.5 + 4 * frame, 18.4 + frame]]
        np.testing.assert_allclose(found.points_BP2[0, :2], corners, atol=1e-5)
        assert found.labels_BP[0, :2].tolist() == [2, 3]
        points = found.points_BP2[0, 2:][found.labels_BP[0, 2:] == 1]
        assert 1 <= len(points) <= 5
        inside = rectangle(5 + 4 * frame, 10 + frame)
        assert all(inside[int(y), int(x)] for x, y in points.tolist())
        assert set(found.labels_BP[0, 2:].tolist()) <= {1, -1}


def test_a_hidden_object_is_foretold_where_it_was_going(exact: None) -> None:
    gone = np.zeros((HEIGHT, WIDTH), bool)
    found = told([rectangle(5, 10), rectangle(8, 10), gone, gone])[3]
    assert found is not None
    np.testing.assert_allclose(found.points_BP2[0, :2], [[13.5, 9.6], [24.5, 18.4]], atol=1e-5)


def test_what_was_never_seen_or_leaves_the_frame_is_not_foretold(exact: None) -> None:
    gone = np.zeros((HEIGHT, WIDTH), bool)
    assert told([gone, rectangle(5, 10)])[1] is None
    leaving = told([rectangle(40, 10), rectangle(52, 10), gone])
    assert leaving[1] is not None
    assert leaving[2] is None, "12 px further its place lies outside of the 64"


def test_a_share_of_frames_is_told_and_errors_are_as_large_as_said() -> None:
    masks = [rectangle(20, 10)] * 400
    found = told(masks, share=0.8)
    assert 0.74 < np.mean([one is not None for one in found[1:]]) < 0.86
    boxes = [one.points_BP2[0, :2].mean(0) for one in found if one is not None and one.labels_BP[0, 0] == 2]
    off = np.linalg.norm(np.stack(boxes) - [25, 14], axis=1) / np.sqrt(80)
    assert 0.03 < np.median(off) < 0.12
    assert 0.01 < (off > 0.3).mean() < 0.1
    parts = [(one.labels_BP[0, 0] == 2, (one.labels_BP[0, 2:] == 1).any()) for one in found if one is not None]
    assert {(bool(box), bool(points)) for box, points in parts} == {(True, True), (True, False), (False, True)}


def test_the_layout_is_that_of_inference(exact: None) -> None:
    """The same box and points through `motion_prompts` give the decoder the same tokens."""
    found = told([rectangle(5, 10), rectangle(9, 11)])[1]
    assert found is not None
    core: Any = TextFreeCore(small_network())
    side = core.config.image_size
    (x0, y0), (x1, y1) = found.points_BP2[0, :2].tolist()
    points_P2 = found.points_BP2[0, 2:][found.labels_BP[0, 2:] == 1].numpy()
    prompt = MotionPrompt(points_P2=points_P2, box=(x0, y0, x1, y1), logits_hw=None)
    asked = motion_prompts(core, [prompt], [(side, side)], num_points=forecasts.NUM_POINTS)
    ours = core.encode_prompts(1, points_RP2=found.points_BP2, labels_RP=found.labels_BP)
    torch.testing.assert_close(asked.sparse_RTD, ours.sparse_RTD)


def test_frames_that_are_told_answer_otherwise_and_others_as_before() -> None:
    core = TextFreeCore(small_network()).eval()
    images = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    targets = torch.zeros(1, 3, 64, 64, dtype=torch.bool)
    for frame in range(3):
        targets[0, frame, 20:40, 10 + 8 * frame : 30 + 8 * frame] = True
    objects = PromptedObjects(clip_B=(0,), targets_BTHW=targets, mask_B1HW=targets[:, :1].float())
    found = forecast_prompts(targets, generator=np.random.default_rng(0), share=1.0)
    with torch.no_grad():
        plain = track_through(core, images, objects, num_frames=3)
        last = track_through(core, images, objects, num_frames=3, forecasts=[None, None, found[2]])
    assert torch.equal(plain.logits_RKHW[0], last.logits_RKHW[0])
    assert not torch.allclose(plain.logits_RKHW[1], last.logits_RKHW[1])
