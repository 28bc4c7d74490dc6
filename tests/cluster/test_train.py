"""Ray Train: two workers take the very step that one takes with the whole batch, and errors come home."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
import torch

from jobs.train_refer import TrainRefer, read_job
from pipeline.errors import ConfigError

pytestmark = [pytest.mark.slow, pytest.mark.cluster]

FLAGS = [
    *("--architecture", "mini", "--device", "cpu", "--num-threads", "0", "--torch-threads", "1"),
    *("--samwise.trained", "adapters", "--samwise.freeze-batch-norm", "--samwise.loop.batch-size", "4"),
    *("--samwise.loop.num-steps", "1", "--samwise.loop.clip-norm", "1000000"),
]


@pytest.fixture(scope="module")
def ray_of_our_own() -> Iterator[None]:
    """One session for all tests of this file."""
    os.environ.pop("RAY_ADDRESS", None)
    ray.init(
        address="local",
        num_cpus=3,
        include_dashboard=False,
        object_store_memory=100 * 1024 * 1024,
        log_to_driver=False,
    )
    yield
    ray.shutdown()


def job(output: Path, *flags: str) -> TrainRefer:
    return read_job(["--output", str(output), *FLAGS, *flags])


def gradients(output: Path) -> dict[str, torch.Tensor]:
    """Of the first step: AdamW's first moment is then a tenth of them."""
    content = torch.load(output / "checkpoints" / "step-000000001.pt", weights_only=True)
    moments = content["optimizer"]["state"]
    names = list(content["training"]["parameters"])
    return {name: moments[place]["exp_avg"] * 10 for place, name in enumerate(names)}


@pytest.mark.usefixtures("ray_of_our_own")
def test_two_workers_have_the_gradient_of_one_with_the_whole_batch(tmp_path: Path) -> None:
    assert job(tmp_path / "one").run() == 0
    assert (
        job(tmp_path / "two", "--runner", "ray", "--num-workers", "2", "--samwise.loop.micro-batch-size", "1").run()
        == 0
    )
    one, two = gradients(tmp_path / "one"), gradients(tmp_path / "two")
    assert one.keys() == two.keys()
    assert sum(gradient.abs().sum() > 0 for gradient in one.values()) > 50
    for name, gradient in one.items():
        assert torch.allclose(gradient, two[name], rtol=0, atol=1e-6), name
    assert any(gradient.any() for name, gradient in one.items() if name.startswith("cme."))
    assert (tmp_path / "two" / "model" / "model.pt").is_file()
    assert not (tmp_path / "two" / "_ray_train").exists()


@pytest.mark.usefixtures("ray_of_our_own")
def test_what_a_worker_raises_is_what_the_caller_sees(tmp_path: Path) -> None:
    failing = job(tmp_path, "--runner", "ray", "--num-workers", "1", "--max-restarts", "0", "--data", "mevis:/nowhere")
    with pytest.raises(ConfigError, match="/nowhere"):
        failing.run()


def test_an_output_in_memory_is_refused_under_ray() -> None:
    with pytest.raises(ConfigError, match="in this process alone"):
        read_job(["--output", "memory://somewhere", *FLAGS, "--runner", "ray"]).run()
