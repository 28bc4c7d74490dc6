"""Configs check themselves, and presets are configs."""

import pytest
from pydantic import ValidationError

from pipeline.synth.clip import sample_clip
from pipeline.synth.config import ClipConfig
from pipeline.synth.presets import PRESETS, SUITES, TRAIN, clip_config


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"hight": 64}, "hight"),
        ({"height": 16}, "greater than or equal to 32"),
        ({"twin_fraction": 1.5}, "less than or equal to 1"),
        ({"min_objects": 5}, "min_objects 5 is above max_objects 4"),
        ({"min_objects": 1, "max_objects": 1}, "A twin needs max_objects >= 2"),
        ({"min_objects": 1}, "needs min_objects >= 2"),
        ({"speed_px": (5.0, 2.0)}, "expected \\(slowest, fastest\\)"),
        ({"late_fraction": 0.6, "blink_fraction": 0.5}, "an object has one life"),
        ({"motions": ("zigzag",)}, "No motion of"),
        ({"motions": ("spin",), "shapes": ("disc", "star")}, "shapes \\['disc'\\]"),
        ({"num_frames": 600}, "lower speed_px or keep to motions"),
        ({"colours": ("pink",)}, "Input should be 'red'"),
    ],
)
def test_a_config_that_cannot_be_met_is_refused(changes: dict[str, object], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        TRAIN.derive(**changes)


def test_deriving_changes_what_it_says_and_nothing_else() -> None:
    wider = TRAIN.derive(width=200)
    assert wider.width == 200
    assert wider.derive(width=TRAIN.width) == TRAIN
    assert ClipConfig.model_validate_json(wider.model_dump_json()) == wider


def test_presets_are_found_by_name() -> None:
    assert clip_config("train") is TRAIN
    assert set(SUITES) < set(PRESETS)
    with pytest.raises(ValueError, match="Unknown preset 'trian'; expected one of train, demo"):
        clip_config("trian")


@pytest.mark.parametrize("name", SUITES)
def test_every_suite_can_be_drawn_in_every_split(name: str) -> None:
    for split in ("train", "valid", "test", "heldout"):
        clip = sample_clip(SUITES[name], 1, split, 0)
        assert clip.video_id == f"{name}_{split}_1_000000"
