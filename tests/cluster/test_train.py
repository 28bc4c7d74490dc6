"""Ray Train: two workers take the very step that one takes with the whole batch, and errors come home."""

from pathlib import Path

import pytest
import torch
from ray.train import WorkerGroupError

from jobs.train_refer import TrainRefer, read_job
from pipeline.cluster.train import raise_cause, run_workers
from pipeline.errors import ConfigError, EngineError
from pipeline.io.storage import open_store
from pipeline.training.checkpoints import load_latest
from pipeline.training.loop import train
from tests.cluster.failing_training import CONFIG, Settings, train_both
from tests.training.linear_learner import LinearLearner

pytestmark = [
    pytest.mark.slow,
    pytest.mark.cluster,
    # Ray warns of its own settings, and of what it has deprecated in itself.
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning"),
]

FLAGS = [
    *("--architecture", "mini", "--device", "cpu", "--num-threads", "0", "--torch-threads", "1"),
    *(
        "--samwise.trained",
        "adapters",
        "--samwise.freeze-batch-norm",
        "--samwise.mask-text-padding",
        "--samwise.loop.batch-size",
        "4",
    ),
    *("--samwise.loop.num-steps", "1", "--samwise.loop.clip-norm", "1000000"),
]


def job(output: Path, *flags: str) -> TrainRefer:
    return read_job(["--output", str(output), *FLAGS, *flags])


def gradients(output: Path) -> dict[str, torch.Tensor]:
    """Of the first step: AdamW's first moment is then a tenth of them."""
    content = torch.load(output / "checkpoints" / "step-000000001.pt", weights_only=True)
    moments = content["optimizer"]["state"]
    names = list(content["training"]["parameters"])
    return {name: moments[place]["exp_avg"] * 10 for place, name in enumerate(names)}


@pytest.fixture(scope="module")
def outputs(ray_of_our_own: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two workers left: SAMWISE's training in "two", the one in which a worker died in "killed"."""
    folder = tmp_path_factory.mktemp("outputs")
    two_workers = ("--runner", "ray", "--num-workers", "2", "--max-restarts", "1")
    two = job(folder / "two", *two_workers, "--samwise.loop.micro-batch-size", "1")
    both = Settings(refer=two.settings(), output=str(folder / "killed"), has_died=folder / "has_died")
    assert run_workers(train_both, both, two) == 0
    return folder


def test_two_workers_have_the_gradient_of_one_with_the_whole_batch(outputs: Path, tmp_path: Path) -> None:
    assert job(tmp_path / "one").run() == 0
    one, two = gradients(tmp_path / "one"), gradients(outputs / "two")
    assert one.keys() == two.keys()
    assert sum(gradient.abs().sum() > 0 for gradient in one.values()) > 50
    for name, gradient in one.items():
        assert torch.allclose(gradient, two[name], rtol=0, atol=1e-6), name
    assert any(gradient.any() for name, gradient in one.items() if name.startswith("cme."))
    assert (outputs / "two" / "model" / "model.pt").is_file()
    assert not (outputs / "two" / "_ray_train").exists()


def test_a_worker_that_dies_is_started_anew_and_goes_on_from_the_checkpoint(outputs: Path) -> None:
    assert (outputs / "has_died").exists()
    untroubled = LinearLearner(with_ratio=True)
    train(untroubled, CONFIG)
    content = load_latest(open_store(outputs / "killed"))
    assert content is not None
    assert content["training"]["step"] == CONFIG.num_steps
    weight = untroubled.trained()["1.weight"]
    assert torch.allclose(content["training"]["parameters"]["1.weight"], weight, rtol=0, atol=1e-5)


def test_what_a_worker_raises_is_what_the_caller_sees() -> None:
    def failed(cause: Exception) -> WorkerGroupError:
        return WorkerGroupError("one of two", {1: cause})

    with pytest.raises(ConfigError, match="/nowhere"):
        raise_cause(failed(ConfigError("/nowhere: no such file")))
    with pytest.raises(EngineError, match="ended early"):
        raise_cause(failed(ZeroDivisionError("0")))


def test_an_output_in_memory_is_refused_under_ray() -> None:
    with pytest.raises(ConfigError, match="in this process alone"):
        read_job(["--output", "memory://somewhere", *FLAGS, "--runner", "ray"]).run()
