"""The multimodal training job: flags over recipes, a run and its resume, and checkpoints that the method loads."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from jobs.train_multimodal import TrainMultimodal, read_job
from pipeline.cluster.train import main
from pipeline.engine.load_model import build_segmenter, load_model
from pipeline.errors import ConfigError, WeightsError
from pipeline.io.weights import resolve_model
from pipeline.models.memorysam_architecture import named_architecture
from pipeline.segmenter import work_off
from pipeline.ticks import Tick
from pipeline.training.memorysam_recipes import PRESETS, deliver, mcubes, streets
from pipeline.training.memorysam_sources import ARCHITECTURES, open_source
from pipeline.training.multimodal import build_learner, train_multimodal
from pipeline.training.workers import Workers
from tests.training.small_mcubes import write_mcubes

FLAGS = [
    *("--device", "cpu", "--num-threads", "0", "--torch-threads", "1", "--image-size", "64"),
    *("--memorysam.loop.batch-size", "1", "--memorysam.loop.num-steps", "2"),
    *("--memorysam.loop.checkpoint-every", "1", "--memorysam.modalities", "rgb", "lidar"),
]


def job(output: Path, *flags: str) -> TrainMultimodal:
    return read_job(["--output", str(output), *FLAGS, *flags])


def test_the_recipe_of_the_data_is_the_default_of_every_option() -> None:
    assert read_job(["--output", "o"]).memorysam == streets()
    assert read_job(["--output", "o", "--data", "deliver:/d"]).memorysam == deliver()
    changed = read_job(["--output", "o", "--data", "deliver:/d", "--memorysam.spmm", "masked"]).memorysam
    assert changed == deliver().model_copy(update={"spmm": "masked"})
    assert read_job(["--output", "o", "--data", "mcubes:/d"]).memorysam == mcubes()
    with pytest.raises(ConfigError, match="no recipe belongs to it"):
        read_job(["--output", "o", "--data", "nyu:/d"])


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("trained")
    assert job(output).run() == 0
    return output


@pytest.mark.parametrize("place", ["model", "checkpoints/step-000000002.pt"])
def test_what_training_leaves_is_a_model_for_the_method(trained: Path, place: str) -> None:
    model = load_model(resolve_model(str(trained / place), offline=True))
    segmenter = build_segmenter("memorysam", {}, model, "cpu")
    assert json.loads((trained / "model" / "model.json").read_text())["kind"] == "memorysam"
    content = torch.load(trained / "checkpoints" / "step-000000002.pt", weights_only=True)
    own = segmenter.network.state_dict()  # type: ignore[attr-defined]
    assert all(torch.equal(own[name], tensor) for name, tensor in content["training"]["average"].items())
    scene = open_source("streets", seed=1, num_classes=10).draw(0, ("rgb", "lidar"))
    session = segmenter.open((), scene.labels.shape)
    session.push(Tick(frame_index=0, pts_us=0, images=scene.images))  # type: ignore[arg-type]
    work_off(segmenter, session)
    (found,) = session.take()
    assert np.sum([region.mask for region in found.objects], axis=0).all()
    assert segmenter.class_names[3] == "road"  # type: ignore[attr-defined]


def test_a_cut_run_resumes_to_the_same_weights(trained: Path, tmp_path: Path) -> None:
    train_multimodal(job(tmp_path).settings(), Workers(), stop_after=1)
    assert not (tmp_path / "model").exists()
    assert main(lambda: job(tmp_path)) == 2  # an output that holds a training is not overwritten
    assert job(tmp_path, "--resume").run() == 0
    whole, cut = (torch.load(path / "model" / "model.pt", weights_only=True)["model"] for path in (trained, tmp_path))
    assert all(torch.equal(whole[name], cut[name]) for name in whole)


def test_epochs_over_mcubes_leave_a_model(tmp_path: Path) -> None:
    write_mcubes(tmp_path / "data", train=("a", "b"), test=("c",), num_classes=10)
    flags = ("--architecture", "tiny-multimodal", "--memorysam.trained", "all", "--memorysam.epochs", "1")
    sensors = ("--memorysam.modalities", "rgb", "aolp", "dolp", "nir")
    assert job(tmp_path / "out", "--data", f"mcubes:{tmp_path / 'data'}", *flags, *sensors).run() == 0
    assert (tmp_path / "out/checkpoints/step-000000002.pt").is_file(), "an epoch of two scenes"
    assert json.loads((tmp_path / "out/model/model.json").read_text())["trained_on"] == "mcubes"


def test_each_kind_of_data_brings_the_architecture_of_its_classes() -> None:
    for kind, recipe in PRESETS.items():
        architecture = named_architecture(ARCHITECTURES[kind])
        assert (
            set(recipe().modalities)
            == {
                "streets": {"rgb", "hha", "event", "lidar"},
                "deliver": {"rgb", "hha", "event", "lidar"},
                "mcubes": {"rgb", "aolp", "dolp", "nir"},
            }[kind]
        )
        assert architecture.num_classes == {"streets": 10, "deliver": 25, "mcubes": 20}[kind]
    assert PRESETS.keys() == ARCHITECTURES.keys()


def test_a_finished_training_writes_its_model_again_in_half_precision(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained / "checkpoints", tmp_path / "checkpoints")
    assert job(tmp_path, "--resume", "--half").run() == 0
    half = load_model(resolve_model(str(tmp_path / "model"), offline=True)).tensors
    whole = torch.load(trained / "model" / "model.pt", weights_only=True)["model"]
    assert half is not None
    assert half.keys() == whole.keys()
    assert all(torch.equal(half[name], tensor.half()) for name, tensor in whole.items() if tensor.is_floating_point())


def test_a_finished_training_is_where_another_begins(trained: Path, tmp_path: Path) -> None:
    second = read_job(["--output", str(tmp_path), "--init", str(trained / "model"), "--memorysam.trained", "lora"])
    learner = build_learner(second.settings(), Workers())
    expected = torch.load(trained / "model" / "model.pt", weights_only=True)["model"]
    content = learner.model_content()
    assert all(torch.equal(content["model"][name], tensor) for name, tensor in expected.items())
    assert learner.network.architecture.sam2.image_size == 64


@pytest.mark.parametrize(
    ("flags", "error", "message"),
    [
        (("--memorysam.trained", "lora"), WeightsError, "would stay random"),
        (("--init", "a", "--sam2", "b"), ConfigError, "leave sam2 out"),
        (("--image-size", "48"), ConfigError, "does not fit"),
        (("--data", "deliver:/nowhere", "--recipe", "streets"), ConfigError, "DELIVER's layout"),
        (("--architecture", "large"), WeightsError, "expected one of"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(
    tmp_path: Path, flags: tuple[str, ...], error: type[Exception], message: str
) -> None:
    # The tiny architecture also where the data would ask for the large one.
    named = () if "--architecture" in flags or "--init" in flags else ("--architecture", "tiny-multimodal")
    with pytest.raises(error, match=message):
        build_learner(job(tmp_path, *named, *flags).settings(), Workers())
