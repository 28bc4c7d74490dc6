"""Motion prompts in the decoder's own pixels, and which of the two decodes wins a row."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.models.image_encoding import ImageFeatures
from pipeline.models.memory import MemoryRead, MemorySelection
from pipeline.models.mosam_rows import TrackRows, TrackRules, motion_prompts, track_and_choose
from pipeline.models.motion_forecast import MotionForecast, MotionPrompt
from pipeline.models.sam2_core import Sam2Core
from tests.parity.random_sam2 import random_entry, random_images, random_sam2, tiny_config

SIDE = 64
SIZE = (40, 80)
RULES = TrackRules(num_points=3, arbitrates=True)


@pytest.fixture(scope="module")
def core() -> Sam2Core:
    return random_sam2(tiny_config(image_size=SIDE), object_score=8.0)


@pytest.fixture(scope="module")
def features(core: Sam2Core) -> ImageFeatures:
    with torch.inference_mode():
        return core.encode_image(random_images(core, 2))


def prompt(left: float, *, logits_hw: Any = None) -> MotionPrompt:
    points = np.array([[left + 5, 10], [left + 9, 20]], np.float32)
    return MotionPrompt(points_P2=points, box=(left, 5.0, left + 20, 25.0), logits_hw=logits_hw)


class Caught(Exception):
    pass


def asked(core: Sam2Core, prompts: list[MotionPrompt | None], sizes: list[tuple[int, int]]) -> dict[str, Any]:
    """What reaches the prompt encoder."""

    class Spy:
        config, device = core.config, core.device

        def encode_prompts(self, num_rows: int, **given: Any) -> Any:
            raise Caught(given)

    with pytest.raises(Caught) as caught:
        motion_prompts(Spy(), prompts, sizes, num_points=3)  # type: ignore[arg-type]
    found: dict[str, Any] = caught.value.args[0]
    return found


def test_box_and_points_are_stretched_as_the_frame_is_and_spare_places_are_no_points(core: Sam2Core) -> None:
    given = asked(core, [prompt(10), None], [SIZE, SIZE])
    # 80 x 40 (width x height) onto 64 x 64: x by 0.8, y by 1.6.
    np.testing.assert_allclose(given["points_RP2"][0], [[8, 8], [24, 40], [12, 16], [15.2, 32], [0, 0]], rtol=1e-6)
    assert given["labels_RP"].tolist() == [[2, 3, 1, 1, -1], [-1] * 5]
    moved = asked(core, [prompt(22)], [SIZE])
    np.testing.assert_allclose(moved["points_RP2"][0, :4, 0] - given["points_RP2"][0, :4, 0], 12 * 0.8, rtol=1e-5)
    other = asked(core, [prompt(10)], [(40, 40)])
    np.testing.assert_allclose(other["points_RP2"][0, 1], [30 * 1.6, 25 * 1.6], rtol=1e-6)


def rows(core: Sam2Core, features: ImageFeatures, forecasts: list[MotionForecast | None]) -> TrackRows:
    selection = MemorySelection(frames=(MemoryRead(entry=random_entry(core, 0), temporal_position=3),))
    return TrackRows(
        features=features.rows([0] * len(forecasts)),
        selections=[selection] * len(forecasts),
        forecasts=forecasts,
        frame_sizes=[SIZE] * len(forecasts),
    )


def test_without_forecasts_a_row_is_what_sam2_decodes(core: Sam2Core, features: ImageFeatures) -> None:
    batch = rows(core, features, [None, None])
    with torch.inference_mode():
        found = track_and_choose(core, batch, RULES)
        pix = core.attend(batch.features, batch.selections)
        plain = core.decode(pix, batch.features.high_res, core.encode_prompts(2), multimask=True)
    assert torch.equal(found.output.low_res_logits_R1hw, plain.low_res_logits_R1hw)
    assert torch.equal(found.output.object_pointer_RD, plain.object_pointer_RD)
    assert (found.prompted, found.kalman_ious) == ([False, False], [None, None])


def test_a_prompt_that_decides_gives_what_prompting_by_hand_gives_and_other_rows_stay(
    core: Sam2Core, features: ImageFeatures
) -> None:
    logits_hw = np.linspace(-6, 6, 256, dtype=np.float32).reshape(16, 16)
    forecasts = [
        MotionForecast(prompt=prompt(10, logits_hw=logits_hw)),
        MotionForecast(),
        MotionForecast(prompt=prompt(30)),
    ]
    batch = rows(core, features, [*forecasts])
    with torch.inference_mode():
        found = track_and_choose(core, batch, TrackRules(num_points=3, arbitrates=False))
        plain = track_and_choose(core, rows(core, features, [None] * 3), RULES)
        pix = core.attend(batch.features, batch.selections)
        xy = torch.tensor([[[8.0, 8], [24, 40], [12, 16], [15.2, 32], [0, 0]]])
        by_hand = core.encode_prompts(
            1,
            points_RP2=xy,
            labels_RP=torch.tensor([[2, 3, 1, 1, -1]]),
            mask_logits_R1hw=torch.from_numpy(logits_hw)[None, None],
        )
        fine, middle = (x[:1] for x in batch.features.high_res)
        expected = core.decode(pix[:1], (fine, middle), by_hand, multimask=True)
    assert found.prompted == [True, False, True]
    torch.testing.assert_close(found.output.low_res_logits_R1hw[:1], expected.low_res_logits_R1hw, atol=1e-4, rtol=1e-4)
    assert torch.equal(found.output.low_res_logits_R1hw[1], plain.output.low_res_logits_R1hw[1])
    assert not torch.allclose(found.output.low_res_logits_R1hw[2], plain.output.low_res_logits_R1hw[2], atol=1e-2)


class DrawnCandidates:
    """Another core, whose decoder offers three drawn masks: left, middle, right; better ones when prompted."""

    def __init__(self, core: Sam2Core, plain: tuple[float, ...], moved: tuple[float, ...]) -> None:
        self.inner, self.ious, self.calls = core, (plain, moved), 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def decode_candidates(self, *args: Any, **options: Any) -> Any:
        found = self.inner.decode_candidates(*args, **options)
        logits_RKhw = torch.full_like(found.logits_RKhw, -5.0)
        for k, left in enumerate((0, 6, 12)):
            logits_RKhw[:, k, :, left : left + 4] = 5.0
        ious = torch.tensor(self.ious[self.calls]).expand_as(found.predicted_iou_RK)
        self.calls += 1
        score_R1 = torch.full_like(found.object_score_R1, 3.0)
        return replace(found, logits_RKhw=logits_RKhw, predicted_iou_RK=ious, object_score_R1=score_R1)


@pytest.mark.parametrize(
    ("moved", "weight", "prompted", "place"),
    [
        ((0.1, 0.2, 0.95), 0.0, True, 2),  # the prompted decode has the best mask
        ((0.1, 0.2, 0.3), 0.0, False, 1),  # the unprompted one has
        ((0.1, 0.2, 0.95), 0.5, False, 0),  # 0.5 x 0.7 + 0.5 x 1 beats 0.5 x 0.95: the left box is expected
        ((0.8, 0.2, 0.95), 0.5, True, 0),
    ],
)
def test_arbitration_takes_the_best_of_all_candidates_and_the_expected_box_can_turn_it(
    core: Sam2Core, features: ImageFeatures, moved: tuple[float, ...], weight: float, prompted: bool, place: int
) -> None:
    drawn: Any = DrawnCandidates(core, (0.7, 0.9, 0.6), moved)
    left, middle = (0.0, 0.0, 20.0, 40.0), (30.0, 0.0, 50.0, 40.0)
    ahead = MotionForecast(prompt=prompt(10), kalman_box=middle, expected_box=left, expected_weight=weight)
    with torch.inference_mode():
        found = track_and_choose(drawn, rows(core, features, [ahead]), RULES)
    assert found.prompted == [prompted]
    assert float(found.output.predicted_iou_R) == pytest.approx((moved if prompted else (0.7, 0.9, 0.6))[place])
    inside = (found.output.low_res_logits_R1hw[0, 0] > 0).any(dim=0).nonzero().flatten().tolist()
    assert inside == list(range(6 * place, 6 * place + 4))
    assert found.kalman_ious[0] == pytest.approx(1.0 if place == 1 else 0.0, abs=0.1)


def test_a_lower_presence_threshold_keeps_masks_that_sam2_would_paint_out(features: ImageFeatures) -> None:
    faint = random_sam2(tiny_config(image_size=SIDE), object_score=-0.5)
    batch = rows(faint, features, [None] * 2)
    with torch.inference_mode():
        usual, lower = (
            track_and_choose(faint, batch, TrackRules(num_points=3, arbitrates=True, present_score=p))
            for p in (0, -100)
        )
    score = float(usual.output.object_score_R1[0])
    assert float(lower.output.object_score_R1[0]) == pytest.approx(score, abs=1e-4), "the score is told as it is"
    painted_out = (usual.output.low_res_logits_R1hw[0] == -1024).all()
    assert bool(painted_out) == (score <= 0)
    assert not (lower.output.low_res_logits_R1hw[0] == -1024).any()
