"""The training loop: resume bit for bit, even splits, averages, logs, and what it refuses."""

import json
import logging
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pipeline.errors import ConfigError
from pipeline.io.storage import Store, open_store
from pipeline.training.checkpoints import load_latest
from pipeline.training.loop import LoopConfig, NonFiniteLoss, train
from pipeline.training.schedule import ScheduleConfig
from pipeline.training.workers import Workers
from tests.training.linear_learner import LinearLearner, features_at

CONFIG = LoopConfig(
    num_steps=6,
    batch_size=4,
    learning_rate=0.1,
    weight_decay=0.01,
    schedule=ScheduleConfig(kind="cosine", warmup_steps=2),
    ema_decay=0.9,
    checkpoint_every=2,
)


def assert_same(first: object, second: object) -> None:
    """Nested equality, tensors bit for bit."""
    assert type(first) is type(second)
    if isinstance(first, dict) and isinstance(second, dict):
        assert first.keys() == second.keys()
        for key in first:
            assert_same(first[key], second[key])
    elif isinstance(first, list | tuple) and isinstance(second, list | tuple):
        assert len(first) == len(second)
        for left, right in zip(first, second, strict=True):
            assert_same(left, right)
    elif isinstance(first, torch.Tensor) and isinstance(second, torch.Tensor):
        assert torch.equal(first, second)
    else:
        assert first == second


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "out")


def test_a_resumed_training_continues_bit_for_bit(tmp_path: Path) -> None:
    whole, cut = open_store(tmp_path / "whole"), open_store(tmp_path / "cut")
    expected = train(LinearLearner(dropout=0.5, with_ratio=True), CONFIG, store=whole)
    first = train(LinearLearner(dropout=0.5, with_ratio=True), CONFIG, store=cut, stop_after=3)
    torch.manual_seed(99)  # whatever happened in between
    second = train(LinearLearner(dropout=0.5, with_ratio=True), CONFIG, store=cut, resume=True)
    assert sorted(first.scalars) == [0, 1, 2]
    assert {**first.scalars, **second.scalars} == expected.scalars
    assert_same(load_latest(cut), load_latest(whole))


def test_dropout_differs_from_step_to_step() -> None:
    learner = LinearLearner(dropout=0.5)
    frozen = CONFIG.model_copy(update={"learning_rate": 1e-12, "num_steps": 3})
    positions: list[float] = []
    for seed in (0, 1):
        config = frozen.model_copy(update={"seed": seed})
        positions += [scalars["square"] for scalars in train(learner, config).scalars.values()]
    assert len(set(positions)) == 6


def test_training_leaves_the_callers_random_state_alone() -> None:
    learner = LinearLearner(dropout=0.5)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()  # type: ignore[union-attr]
    train(learner, CONFIG)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]  # type: ignore[union-attr]


def test_the_first_update_is_that_of_adam_in_closed_form() -> None:
    learner = LinearLearner()
    config = LoopConfig(num_steps=1, batch_size=2, learning_rate=0.1, clip_norm=0.5)
    inputs = torch.stack([features_at(0), features_at(1)])
    weight = torch.tensor([0.5, -0.5, 0.25])
    # The batch norm is in evaluation mode with mean 0 and variance 1.
    scale = 1 / math.sqrt(1 + 1e-5)
    errors = inputs @ weight * scale - inputs @ torch.tensor([1.0, 2.0, 3.0])
    gradient = 2 * (errors[:, None] * inputs * scale).mean(dim=0)
    scalars = train(learner, config).scalars[0]
    assert scalars["square"] == pytest.approx(float((errors**2).mean()), rel=1e-5)
    assert scalars["gradient_norm"] == pytest.approx(float(gradient.norm()), rel=1e-5)
    clipped = gradient * min(1.0, 0.5 / float(gradient.norm()))
    moved = weight - 0.1 * clipped / (clipped.abs() + 1e-8)
    assert torch.allclose(next(iter(learner.trained().values()))[0], moved, atol=1e-6)


@pytest.mark.parametrize("micro_batch_size", [1, 2, 4])
def test_micro_batches_add_up_to_the_batch_ratios_included(micro_batch_size: int) -> None:
    whole, cut = LinearLearner(with_ratio=True), LinearLearner(with_ratio=True)
    config = LoopConfig(num_steps=1, batch_size=8, learning_rate=0.1, clip_norm=None)
    expected = train(whole, config).scalars[0]
    found = train(cut, config.model_copy(update={"micro_batch_size": micro_batch_size})).scalars[0]
    assert found == pytest.approx(expected, rel=1e-5)
    (own,), (other,) = whole.trained().values(), cut.trained().values()
    assert own.grad is not None
    assert other.grad is not None
    assert torch.allclose(own.grad, other.grad, rtol=0, atol=1e-5)
    assert cut.asked == [list(range(start, start + micro_batch_size)) for start in range(0, 8, micro_batch_size)]


def test_a_ratio_whose_denominator_is_zero_is_no_loss() -> None:
    learner = LinearLearner(with_ratio=True)
    scalars = train(learner, LoopConfig(num_steps=1, batch_size=1)).scalars[0]  # the weight of position 0 is 0
    assert scalars["weighted"] == 0.0
    assert scalars["loss"] == scalars["square"]


def test_the_average_is_what_a_checkpoint_offers_as_its_model(store: Store) -> None:
    learner = LinearLearner()
    train(learner, CONFIG.model_copy(update={"num_steps": 1}), store=store)
    content = load_latest(store)
    assert content is not None
    start, end = torch.tensor([[0.5, -0.5, 0.25]]), content["training"]["parameters"]["1.weight"]
    assert torch.equal(end, learner.trained()["1.weight"])
    # The first step's decay is 1 / 10.
    assert torch.allclose(content["model"]["1.weight"], start * 0.1 + end * 0.9)


def test_old_checkpoints_go_and_the_pointer_names_the_last(store: Store) -> None:
    config = CONFIG.model_copy(update={"checkpoint_every": 1, "keep_last": 2})
    train(LinearLearner(), config, store=store)
    names = [file.path for file in store.list("checkpoints")]
    assert names == ["checkpoints/latest.json", "checkpoints/step-000000005.pt", "checkpoints/step-000000006.pt"]
    assert json.loads(store.read_bytes("checkpoints/latest.json"))["step"] == 6


def test_a_crash_between_checkpoint_and_pointer_leaves_the_old_one_good(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(LinearLearner(), CONFIG, store=store, stop_after=2)
    write = Store.write_whole

    def fail_at_pointer(self: Store, path: str, data: bytes) -> None:
        if path.endswith("latest.json"):
            raise OSError("disk gone")
        write(self, path, data)

    with monkeypatch.context() as patched:
        patched.setattr(Store, "write_whole", fail_at_pointer)
        with pytest.raises(OSError, match="disk gone"):
            train(LinearLearner(), CONFIG, store=store, resume=True, stop_after=4)
    content = load_latest(store)
    assert content is not None
    assert content["training"]["step"] == 2
    assert sorted(train(LinearLearner(), CONFIG, store=store, resume=True).scalars) == [2, 3, 4, 5]


def test_checkpoints_go_to_any_store() -> None:
    store = open_store("memory://training-loop")
    train(LinearLearner(), CONFIG, store=store, stop_after=2)
    assert sorted(train(LinearLearner(), CONFIG, store=store, resume=True).scalars) == [2, 3, 4, 5]
    assert any(file.path.startswith("logs/events") for file in store.list())


def test_tensorboard_reads_the_curve(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="pipeline.training"):
        result = train(LinearLearner(), CONFIG.model_copy(update={"log_every": 3}), store=store)
    assert [record.message.split(":")[0] for record in caplog.records] == ["step 3 of 6", "step 6 of 6"]
    reader = EventAccumulator(store.full_path("logs"))
    reader.Reload()
    told = {event.step: event.value for event in reader.Scalars("square")}
    assert told == pytest.approx({step: scalars["square"] for step, scalars in result.scalars.items()})


def test_a_loss_that_is_not_finite_names_step_and_samples_and_changes_nothing() -> None:
    learner = LinearLearner(poisoned=6)
    with pytest.raises(NonFiniteLoss, match=r"step 1: .*samples: sample 4, sample 5, sample 6, sample 7"):
        train(learner, CONFIG)
    assert bool(torch.isfinite(learner.trained()["1.weight"]).all())


def test_an_output_with_a_training_is_not_overwritten(store: Store) -> None:
    train(LinearLearner(), CONFIG, store=store, stop_after=2)
    with pytest.raises(ConfigError, match="holds a training already"):
        train(LinearLearner(), CONFIG, store=store)


def test_a_resume_under_another_recipe_is_refused_and_names_what_differs(store: Store) -> None:
    train(LinearLearner(), CONFIG, store=store, stop_after=2)
    other = CONFIG.model_copy(update={"learning_rate": 0.2, "log_every": 7})
    with pytest.raises(ConfigError, match=r"learning_rate was 0.1, is 0.2; with_ratio was False, is True\. Take"):
        train(LinearLearner(with_ratio=True), other, store=store, resume=True)


@pytest.mark.parametrize(("batch_size", "num_workers", "micro"), [(8, 3, None), (12, 2, 4), (6, 8, None)])
def test_a_batch_that_cannot_be_split_evenly_is_refused(batch_size: int, num_workers: int, micro: int | None) -> None:
    config = LoopConfig(num_steps=1, batch_size=batch_size, micro_batch_size=micro)
    with pytest.raises(ConfigError, match="even split"):
        train(LinearLearner(), config, workers=Workers(rank=0, num_workers=num_workers))


def test_mixed_precision_without_cuda_is_refused() -> None:
    with pytest.raises(ConfigError, match="needs CUDA"):
        train(LinearLearner(), CONFIG.model_copy(update={"precision": "bf16"}))
