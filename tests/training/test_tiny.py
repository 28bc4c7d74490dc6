"""The tiny model's stages in a row: each begins where the one before ended, resumes exactly, and a model comes out."""

import json
import shutil
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from pipeline.errors import WeightsError
from pipeline.io.storage import open_store
from pipeline.io.weights import resolve_model
from pipeline.models.samwise_variants import ARCHITECTURES
from pipeline.training import checkpoints
from pipeline.training.tiny import (
    OBJECT_SCORE_BIAS,
    STAGES,
    StageName,
    TinyTraining,
    build_learner,
    stage_store,
    train_tiny,
)
from pipeline.training.workers import Workers
from tests.training.small_tiny import small_architecture, small_stages

NUM_STEPS = 2
ONCE: tuple[StageName, ...] = ("ripen", "sharpen", "guide", "choose", "keep", "tell", "pace", "hold", "firm", "heed")
"""Stages whose code and data another stage before them uses too: they need not be cut as well."""


@pytest.fixture(autouse=True)
def small_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """The small architecture goes by a name."""
    monkeypatch.setitem(ARCHITECTURES, "small_tiny", small_architecture().model_dump(mode="json"))


@pytest.fixture
def settings(tmp_path: Path) -> TinyTraining:
    """All stages in small."""
    stages = {name: stage.model_dump() for name, stage in small_stages(NUM_STEPS).items()}
    shifted = {"output": str(tmp_path / "whole"), "architecture": "small_tiny", "presence_shift": -0.4}
    return TinyTraining.model_validate({**shifted, **stages})


def test_stages_follow_each_other_resume_exactly_and_leave_a_model(settings: TinyTraining, tmp_path: Path) -> None:
    train_tiny(settings, Workers())
    cut = settings.model_copy(update={"output": str(tmp_path / "cut")})
    for stage in STAGES:
        if stage in ONCE:
            shutil.copytree(Path(settings.output) / stage, Path(cut.output) / stage)
            continue
        alone = cut.model_copy(update={"stages": (stage,)})
        train_tiny(alone, Workers(), stop_after=1)
        train_tiny(alone, Workers())
        assert _equal(_weights(settings, stage), _weights(cut, stage)), stage
    whole, resumed = (load_file(Path(s.output) / "model" / "tiny.safetensors") for s in (settings, cut))
    assert _equal(whole, resumed)
    assert all(tensor.dtype in (torch.float16, torch.int64) for tensor in whole.values())
    left = checkpoints.load_latest(stage_store(settings, STAGES[-1]))
    assert left is not None
    moved = {name: tensor for name, tensor in whole.items() if not torch.equal(tensor, _halved(left["model"][name]))}
    assert moved.keys() == {OBJECT_SCORE_BIAS}
    expected = left["model"][OBJECT_SCORE_BIAS] + settings.presence_shift
    torch.testing.assert_close(moved[OBJECT_SCORE_BIAS], expected.half(), rtol=0, atol=0)
    _check_each_stage_trained_its_own_part(settings)

    resolved = resolve_model(str(Path(settings.output) / "model"))
    assert resolved.trained
    assert resolved.architecture == json.loads(json.dumps(small_architecture().model_dump(mode="json")))


def _equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def _halved(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.half() if tensor.is_floating_point() else tensor


def _check_each_stage_trained_its_own_part(settings: TinyTraining) -> None:
    sharpen, detail, track, memory, contact, guide, choose = (_moved(settings, stage) for stage in STAGES[2:9])
    own = {"detail_stem.", "conditional_memory_encoder."}
    assert not _begins(sharpen, own)
    assert _begins(detail, own) == {"detail_stem."}
    assert _begins(track, {"sam.memory_attention.", "sam.sam_mask_decoder."}) == {
        "sam.memory_attention.",
        "sam.sam_mask_decoder.",
    }
    assert all(name.startswith("sam.") and not name.startswith("sam.image_encoder.") for name in track)
    assert _begins(memory, {"sam.memory_attention.", "grounding.", *own}) == {
        "sam.memory_attention.",
        "grounding.",
        "detail_stem.",
    }
    assert not _begins(contact | guide | choose, {"conditional_memory_encoder."})
    for moved in (guide, choose):
        assert _begins(moved, {"sam.memory_attention.", "sam.sam_mask_decoder.", "grounding."}) == {
            "sam.memory_attention.",
            "sam.sam_mask_decoder.",
            "grounding.",
        }
    siblings = {"keep", "tell", "pace", "hold", "firm", "heed"}
    assert settings.mixes.keys() == {*siblings, "cme"}
    trained = {stage: _moved_from_its_mean(settings, stage) for stage in settings.mixes}
    assert all(trained.values())
    assert all(name.startswith("conditional_memory_encoder.") for name in trained["cme"])
    for stage in siblings:
        assert not _begins(trained[stage], {"conditional_memory_encoder."})
        assert len(trained[stage]) < len(_weights(settings, stage)), "what it does not train is the mean"


@pytest.mark.parametrize(
    "shares",
    [
        {"choose": 0.6, "guide": 0.3},
        {"choose": 1.2, "guide": -0.2},
        {"choose": float("nan")},
        {"cme": 1.0},
        {"tell": 1.0},
        {},
    ],
)
def test_a_mean_of_stages_has_whole_shares_of_stages_before(shares: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="keep begins with"):
        TinyTraining.model_validate({"output": "unused", "mixes": {"keep": shares}})


def _moved_from_its_mean(settings: TinyTraining, stage: StageName) -> set[str]:
    """Tensors that a stage which begins with a mean of others left elsewhere."""
    parts = [(_weights(settings, name), share) for name, share in settings.mixes[stage].items()]
    moved = set()
    for name, tensor in _weights(settings, stage).items():
        first = parts[0][0][name]
        mean = sum(share * tensors[name] for tensors, share in parts) if tensor.is_floating_point() else first
        if not torch.allclose(tensor, torch.as_tensor(mean), rtol=1e-5, atol=1e-7):
            moved.add(name)
    return moved


def _moved(settings: TinyTraining, stage: StageName) -> set[str]:
    """Tensors that differ from the stage before."""
    before = STAGES[STAGES.index(stage) - 1]
    left, right = (_weights(settings, name) for name in (before, stage))
    return {name for name in right if not torch.equal(left[name], right[name])}


def _weights(settings: TinyTraining, stage: StageName) -> dict[str, torch.Tensor]:
    """What a stage left; ask when it has ended."""
    return _weights_in(settings.output, stage)


@cache
def _weights_in(output: str, stage: StageName) -> dict[str, torch.Tensor]:
    content = checkpoints.load_latest(open_store(f"{output}/{stage}"))
    assert content is not None
    weights: dict[str, torch.Tensor] = content["model"]
    return weights


def _begins(names: set[str], beginnings: set[str]) -> set[str]:
    """Those beginnings that some name has."""
    return {beginning for beginning in beginnings if any(name.startswith(beginning) for name in names)}


def test_a_stage_without_the_one_before_it_says_so(settings: TinyTraining) -> None:
    with pytest.raises(WeightsError, match="stage 'track' to go on from"):
        build_learner(settings, "memory")


def test_a_stage_that_was_cut_is_no_beginning(settings: TinyTraining) -> None:
    first = settings.model_copy(update={"stages": ("refer",)})
    train_tiny(first, Workers(), stop_after=1)
    with pytest.raises(WeightsError, match="stage 'refer' ended after 1 of 2 steps"):
        build_learner(settings, "ripen")
    train_tiny(first, Workers())
    build_learner(settings, "ripen").close()


def test_clips_drawn_ahead_are_those_drawn_in_time(settings: TinyTraining) -> None:
    ahead = build_learner(settings.model_copy(update={"num_threads": 2}), "refer")
    in_time = build_learner(settings, "refer")
    ahead.look_ahead(range(4))
    config = settings.refer.early_clips
    one, other = ahead.draw(config, range(4)), in_time.draw(config, range(4))
    ahead.close()
    np.testing.assert_array_equal(one.images_F3HW, other.images_F3HW)
    assert one.sample_ids == other.sample_ids
