"""What the motion encoders read of a forecast, against drawn motion; their tokens; their file."""

from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.errors import WeightsError
from pipeline.models.mask_decoding import DecoderPrompts
from pipeline.models.memory import MemorySelection
from pipeline.models.mosam_init import random_tracking_core
from pipeline.models.mosam_rows import TrackRows, TrackRules, track_and_choose
from pipeline.models.motion_camera import observe_frame
from pipeline.models.motion_config import FlowName, MotionConfig
from pipeline.models.motion_encoders import (
    MotionEncoderConfig,
    MotionEncoders,
    encoder_content,
    load_motion_encoders,
    motion_inputs,
    waves,
    with_motion_tokens,
)
from pipeline.models.motion_flow import build_flow
from pipeline.models.motion_forecast import MotionForecast, forecast
from pipeline.models.motion_state import ObjectMotion
from pipeline.models.motion_update import update
from pipeline.models.sam2_variants import Sam2Config
from pipeline.models.samwise_variants import ARCHITECTURES
from tests.models.drawn_motion import World, logits_of

SIZES = MotionEncoderConfig(d_model=32, width=16)
STEP = (6.0, -3.0)
WORLD = World(path=lambda t: (150 + STEP[0] * t, 120 + STEP[1] * t))


def drawn_forecast(flow_name: FlowName = "dis") -> MotionForecast:
    config = MotionConfig(flow=flow_name)
    flow, state, previous = build_flow(config), ObjectMotion(), None
    for time in (0, 1):
        drawn = WORLD.draw(time)
        previous = observe_frame(drawn.image, time, previous, [state], config, flow)
        if time == 0:
            logits = logits_of(drawn.mask, size=(64, 64))
            state = update(state, previous, None, logits_hw=logits, object_score=5.0, predicted_iou=0.9, config=config)
    return forecast(state, previous, config, flow)


def awake(seed: int = 0) -> MotionEncoders:
    """Encoders whose last layers are not zero."""
    torch.manual_seed(seed)
    encoders = MotionEncoders(SIZES)
    for parameter in encoders.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return encoders.eval()


@pytest.mark.parametrize("flow_name", ["dis", "none"])
def test_inputs_tell_where_the_object_is_and_how_it_moved(flow_name: FlowName) -> None:
    ahead = drawn_forecast(flow_name)
    inputs = motion_inputs([None, ahead, MotionForecast()], SIZES)
    assert inputs.points_RPF.shape == (3, 5, 6)
    assert inputs.crops_R4GG.shape == (3, 4, 16, 16)
    for row in (0, 2):
        assert not inputs.has_point_RP[row].any()
        assert not inputs.crops_R4GG[row].any()
    # The sprite is 69 x 49 px large, in a frame of 400 x 256, and moved by STEP.
    points, has_point = inputs.points_RPF[1].numpy(), inputs.has_point_RP[1].numpy()
    assert has_point.sum() >= 3
    mask = WORLD.draw(1).mask
    assert all(mask[int(y * 256), int(x * 400)] for x, y in points[has_point, :2])
    np.testing.assert_allclose(np.median(points[has_point, 2:4], axis=0), (STEP[0] / 69, STEP[1] / 49), atol=0.02)
    centre = (inputs.boxes_R4[1, :2] + inputs.boxes_R4[1, 2:]) / 2
    np.testing.assert_allclose(centre, (156 / 400, 117 / 256), atol=0.02)
    flow_x, flow_y, agrees, inside = inputs.crops_R4GG[1].numpy()
    np.testing.assert_allclose(np.median(flow_x[6:10, 6:10]), STEP[0] / 69, atol=0.03)
    np.testing.assert_allclose(np.median(flow_y[6:10, 6:10]), STEP[1] / 49, atol=0.03)
    assert agrees[6:10, 6:10].mean() == pytest.approx(1.0 if flow_name == "dis" else 0.0, abs=0.1)
    assert inside[6:10, 6:10].min() > 0.9
    assert inside[0].max() < 0.1


def test_tokens_are_silent_until_trained_and_then_depend_on_their_own_row_alone() -> None:
    inputs = motion_inputs([drawn_forecast(), None], SIZES)
    torch.manual_seed(0)
    assert not MotionEncoders(SIZES)(inputs).any()
    encoders = awake()
    tokens = encoders(inputs)
    assert tokens.shape == (2, 5 + 4, 32)
    alone = encoders(motion_inputs([drawn_forecast()], SIZES))
    torch.testing.assert_close(tokens[:1], alone)
    differs = (tokens[0] - tokens[1]).abs().amax(dim=-1) > 1e-3
    assert torch.equal(differs, torch.cat([inputs.has_point_RP[0], torch.ones(4, dtype=torch.bool)]))
    still = inputs.crops_R4GG.clone()
    still[:, :2] = 0
    moved = encoders(type(inputs)(**{**{f: getattr(inputs, f) for f in inputs.__slots__}, "crops_R4GG": still}))
    assert not torch.allclose(moved[0, 5:], tokens[0, 5:])
    torch.testing.assert_close(moved[0, :5], tokens[0, :5])


def test_motion_tokens_come_after_the_other_prompt_tokens() -> None:
    prompts = DecoderPrompts(sparse_RTD=torch.ones(2, 3, 32), dense_RDhw=torch.zeros(2, 32, 4, 4))
    joined = with_motion_tokens(prompts, torch.full((2, 9, 32), 2.0))
    assert joined.sparse_RTD.shape == (2, 12, 32)
    assert joined.sparse_RTD[:, :, 0].tolist() == [[1.0] * 3 + [2.0] * 9] * 2


def test_waves_are_sines_of_doubling_frequency() -> None:
    found = waves(torch.tensor([[0.25, 0.5]]))
    assert found.shape == (1, 24)
    np.testing.assert_allclose(found[0, :3], np.sin(np.pi * np.array([0.25, 0.5, 1.0])), atol=1e-6)
    np.testing.assert_allclose(found[0, 18:20], np.cos(np.pi * np.array([0.5, 1.0])), atol=1e-6)


def test_encoders_come_back_from_their_file_and_only_to_their_own_width(tmp_path: Path) -> None:
    encoders, path = awake(3), tmp_path / "motion_encoders.pt"
    torch.save(encoder_content(encoders), path)
    inputs = motion_inputs([drawn_forecast()], SIZES)
    torch.testing.assert_close(load_motion_encoders(path, d_model=32)(inputs), encoders(inputs))
    with pytest.raises(WeightsError, match="tokens of 32 channels, but this SAM2 has 256"):
        load_motion_encoders(path, d_model=256)
    torch.save({"model": {}}, path)
    with pytest.raises(WeightsError, match="not a checkpoint of motion encoders"):
        load_motion_encoders(path, d_model=32)


def test_tokens_reach_the_decoder_of_prompted_rows_and_of_no_other() -> None:
    core = random_tracking_core(Sam2Config.model_validate(ARCHITECTURES["mini"]["sam2"]), seed=0)
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        rows = TrackRows(
            features=core.encode_image(image).rows([0, 0]),
            selections=[MemorySelection()] * 2,
            forecasts=[drawn_forecast(), None],
            frame_sizes=[(256, 400)] * 2,
        )
        rules = TrackRules(num_points=5, arbitrates=False)
        plain, learned = (track_and_choose(core, rows, rules, encoders) for encoders in (None, awake()))
    assert learned.prompted == plain.prompted == [True, False]
    before, after = plain.output.low_res_logits_R1hw, learned.output.low_res_logits_R1hw
    assert (before[0] - after[0]).abs().max() > 1e-2
    assert torch.equal(before[1], after[1])
