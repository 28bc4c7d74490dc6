"""SAM2 weights that learn streets: what is trained, that training goes on exactly, and that it learns."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from jobs.train_semantic import read_job
from pipeline.engine.load_model import load_model
from pipeline.errors import ConfigError
from pipeline.io.weights import resolve_model
from pipeline.models.mosam_model import load_tracking_core
from pipeline.models.samwise_checkpoint import checkpoint_tensors
from pipeline.models.text_free_core import TextFreeCore
from pipeline.synth.street import sample_street
from pipeline.synth.street_config import StreetConfig
from pipeline.training.loop import LoopConfig
from pipeline.training.street_masks import (
    MODEL_FILE,
    MasksSettings,
    MasksTraining,
    StreetPhase,
    build_learner,
    train_masks,
)
from pipeline.training.workers import Workers
from tests.parity.random_sam2 import random_sam2, tiny_config
from tests.training.small_tiny import small_architecture, small_loop, small_network

STREETS = StreetConfig(name="small_street", height=64, width=96)
ONE = StreetPhase(num_steps=2, num_frames=1, streets_per_step=2, objects_per_street=3, kinds=("point", "box"))
TWO = StreetPhase(num_steps=2, num_frames=2, streets_per_step=1, objects_per_street=3, kinds=("mask",))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A small SAMWISE with grounded fusion, random."""
    folder = tmp_path_factory.mktemp("small")
    save_file({k: v.clone() for k, v in checkpoint_tensors(small_network()).items()}, folder / "m.safetensors")
    card = {"checkpoint": "m.safetensors", "kind": "samwise", "architecture": small_architecture().model_dump()}
    (folder / "model.json").write_text(json.dumps(card, default=list))
    return str(folder)


def settings(output: Path, model: str, **loop: object) -> MasksSettings:
    changed = {**small_loop(4, 1).model_dump(), **loop}
    masks = MasksTraining(streets=STREETS, phases=(ONE, TWO), loop=LoopConfig.model_validate(changed))
    return MasksSettings(output=str(output), model=model, resume=True, trust_unpinned=True, device="cpu", masks=masks)


def test_training_goes_on_exactly_and_leaves_a_model_that_tracks(tmp_path: Path, model: str) -> None:
    train_masks(settings(tmp_path / "whole", model), Workers())
    cut = settings(tmp_path / "cut", model)
    train_masks(cut, Workers(), stop_after=1)
    train_masks(cut, Workers(), stop_after=3)
    train_masks(cut, Workers())
    whole, resumed = (load_file(tmp_path / name / "model" / MODEL_FILE) for name in ("whole", "cut"))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    before = load_file(Path(model) / "m.safetensors")
    assert whole.keys() == before.keys()
    changed = {name for name in whole if not torch.equal(whole[name], before[name].to(whole[name].dtype))}
    text = ("text_encoder.", "grounding.words.", "grounding.read_8.", "conditional_memory_encoder.")
    assert not [name for name in changed if name.startswith(text) or ".project_" in name]
    for part in ("sam.image_encoder.", "sam.memory_attention.", "sam.sam_mask_decoder.", "detail_stem.", "grounding."):
        assert [name for name in changed if name.startswith(part)], part
    core = load_tracking_core(load_model(resolve_model(str(tmp_path / "whole" / "model"), trust_unpinned=True)))
    assert isinstance(core, TextFreeCore)


def test_phases_take_their_steps_and_no_street_comes_twice(tmp_path: Path, model: str) -> None:
    masks = settings(tmp_path, model).masks
    found = [masks.phase(step) for step in range(6)]
    assert [phase for phase, _ in found] == [ONE, ONE, TWO, TWO, TWO, TWO]
    assert [first for _, first in found] == [0, 2, 4, 5, 6, 7]
    learner = build_learner(settings(tmp_path, model))
    names = [learner.losses(range(step, step + 1)).sample_ids for step in range(4)]
    expected = [[0, 1], [2, 3], [4], [5]]
    frames = [1, 1, 2, 2]
    for numbers, num_frames, found_names in zip(expected, frames, names, strict=True):
        config = STREETS.derive(num_frames=num_frames)
        assert list(found_names) == [sample_street(config, 3, "train", number).video_id for number in numbers]


def test_the_helper_names_the_class_under_each_cell(tmp_path: Path, model: str) -> None:
    """With the head's weights zero and one bias high the loss is that of the classes' shares, in closed form."""
    learner = build_learner(settings(tmp_path, model))
    head = learner.module.street_classes
    assert isinstance(head, torch.nn.Conv2d)
    with torch.no_grad():
        head.weight.zero_()
        head.bias.zero_()  # type: ignore[union-attr]
        head.bias[3] = 2.0  # type: ignore[index]
        found = float(learner.losses(range(1)).means["classes"])
    labels = np.stack([sample_street(STREETS.derive(num_frames=1), 3, "train", n).labels()[0] for n in (0, 1)])
    # 64 x 96 stretched to 64 x 64, a cell is 4 x 4: its third row and column is looked at.
    cells = labels[:, 2::4][:, :, (np.arange(64) * 96 // 64)[2::4]]
    total = np.log(np.exp(2.0) + 9)
    expected = total - 2.0 * (cells == 3).mean()
    assert found == pytest.approx(0.5 * expected, rel=1e-4)


def test_clicks_on_streets_are_learned(tmp_path: Path, model: str) -> None:
    """60 steps on large regions from random weights: the loss of the last ten is well below that of the first."""
    phase = ONE.model_copy(update={"num_steps": 60, "min_region_px": 200, "kinds": ("box",)})
    loop = small_loop(60, 1, learning_rate=3e-3)
    given = settings(tmp_path, model)
    given = given.model_copy(update={"masks": MasksTraining(streets=STREETS, phases=(phase,), loop=loop)})
    learner = build_learner(given)
    optimizer = torch.optim.AdamW(learner.trained().values(), lr=3e-3)
    losses = []
    for step in range(60):
        optimizer.zero_grad()
        total = torch.stack(list(learner.losses(range(step, step + 1)).means.values())).sum()
        total.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(float(total.detach()))
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:10])


def test_what_cannot_be_learned_from_is_refused(tmp_path: Path) -> None:
    core = random_sam2(tiny_config(image_size=64))
    save_file({k: v.contiguous() for k, v in core.model.state_dict().items()}, tmp_path / "plain.safetensors")
    card = {"checkpoint": "plain.safetensors", "kind": "sam2", "architecture": core.config.model_dump(mode="json")}
    (tmp_path / "model.json").write_text(json.dumps(card))
    with pytest.raises(ConfigError, match="begins with a SAMWISE with grounded fusion"):
        build_learner(settings(tmp_path, str(tmp_path)))
    with pytest.raises(ValidationError, match="give two"):
        StreetPhase(num_steps=1, num_frames=1, streets_per_step=1, objects_per_street=1, kinds=("mask",))
    job = read_job(["--what", "masks", "--data", "vspw:somewhere", "--output", str(tmp_path)])
    with pytest.raises(ConfigError, match="generated streets"):
        job.run()
