"""The training job: flags over recipes, a run and its resume, and checkpoints that the corpus job loads."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from jobs.train_refer import TrainRefer, read_job
from pipeline.cluster.train import main
from pipeline.engine.load_model import build_segmenter, load_model
from pipeline.errors import ConfigError
from pipeline.io.weights import resolve_model
from pipeline.segmenter import Segmenter
from pipeline.synth.clip import sample_clip
from pipeline.synth.layouts import write_mevis
from pipeline.ticks import RGB, Prompt, Tick
from pipeline.training.refer import build_learner
from pipeline.training.samwise_recipes import mevis, pretrain
from pipeline.training.workers import Workers
from tests.training.small_samwise import WORLD

FLAGS = [
    *("--architecture", "mini", "--device", "cpu", "--num-threads", "0", "--torch-threads", "1"),
    *("--samwise.num-frames", "2", "--samwise.no-cme", "--samwise.loop.batch-size", "2"),
    *("--samwise.loop.num-steps", "4", "--samwise.loop.checkpoint-every", "2"),
]


def job(output: Path, *flags: str) -> TrainRefer:
    return read_job(["--output", str(output), *FLAGS, *flags])


def test_the_recipe_of_the_data_is_the_default_of_every_option() -> None:
    assert read_job(["--output", "o", "--data", "refcoco:/d"]).samwise == pretrain()
    changed = read_job(["--output", "o", "--data", "mevis:/d", "--samwise.loop.learning-rate", "0.5"]).samwise
    expected = mevis()
    assert changed == expected.model_copy(update={"loop": expected.loop.model_copy(update={"learning_rate": 0.5})})
    assert read_job(["--output", "o", "--recipe", "mevis"]).samwise == mevis()
    with pytest.raises(ConfigError, match="no recipe belongs to it"):
        read_job(["--output", "o", "--data", "coco:/d"])
    with pytest.raises(ConfigError, match="Did you mean --resume"):
        read_job(["--output", "o", "--resum"])


def masks_of(segmenter: Segmenter) -> np.ndarray[Any, Any]:
    clip = sample_clip(WORLD, 3, "valid", 0)
    session = segmenter.open([Prompt(object_id=1, text=clip.expressions[0].text)], (64, 64))
    for index, frame in enumerate(clip.frames):
        session.push(Tick(frame_index=index, pts_us=index, images={RGB: frame}))
    session.end()
    while (work := session.next_work()) is not None:
        segmenter.run(work.stage, [session])
    return np.stack([tick.objects[0].confidence for tick in session.take()])


def segmenter_of(path: Path) -> Segmenter:
    """As the corpus job does with `--model PATH`."""
    return build_segmenter("samwise", {}, load_model(resolve_model(str(path), offline=True)), "cpu")


@pytest.mark.parametrize("place", ["model", "model/model.pt", "checkpoints/step-000000004.pt"])
def test_what_training_leaves_is_a_model_for_the_corpus_job(trained: Path, place: str) -> None:
    segmenter: Any = segmenter_of(trained / place)
    content = torch.load(trained / "checkpoints" / "step-000000004.pt", weights_only=True)
    own = segmenter.network.state_dict()
    averaged, raw = content["training"]["average"], content["training"]["parameters"]
    assert all(torch.equal(own[name], tensor) for name, tensor in averaged.items())
    assert any(not torch.equal(own[name], tensor) for name, tensor in raw.items())
    assert np.isfinite(masks_of(segmenter)).all()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("trained")
    assert job(output).run() == 0
    return output


def test_a_cut_run_resumes_to_the_same_weights(trained: Path, tmp_path: Path) -> None:
    from pipeline.training.refer import train_refer

    train_refer(job(tmp_path).settings(), Workers(), stop_after=2)
    assert not (tmp_path / "model").exists()
    assert main(lambda: job(tmp_path)) == 2  # an output that holds a training is not overwritten
    assert job(tmp_path, "--resume").run() == 0
    whole, cut = (torch.load(path / "model" / "model.pt", weights_only=True)["model"] for path in (trained, tmp_path))
    assert all(torch.equal(whole[name], cut[name]) for name in whole)


def test_a_finished_training_is_where_another_begins(trained: Path, tmp_path: Path) -> None:
    flags = [flag for flag in FLAGS if flag not in ("--architecture", "mini")]
    second = read_job(["--output", str(tmp_path), *flags, "--init", str(trained / "model")])
    learner = build_learner(second.settings(), Workers())
    expected = torch.load(trained / "model" / "model.pt", weights_only=True)["model"]
    content = learner.model_content()
    assert all(torch.equal(content["model"][name], tensor) for name, tensor in expected.items())


def test_training_runs_on_a_dataset_on_disk(tmp_path: Path) -> None:
    clip = sample_clip(WORLD.derive(num_frames=6, height=48), 0, "train", 0)
    write_mevis([clip], tmp_path / "mevis", subset="train")
    output = tmp_path / "out"
    flags = ["--data", f"mevis:{tmp_path / 'mevis'}", "--samwise.loop.num-steps", "1", "--samwise.epochs", "None"]
    assert job(output, *flags, "--samwise.loop.checkpoint-every", "1").run() == 0
    assert (output / "model" / "model.json").is_file()


@pytest.mark.parametrize(
    ("flags", "code"),
    [
        (("--init", "no-such-model", "--offline"), 5),
        (("--data", "mevis:/nowhere"), 2),
        (("--num-workers", "2"), 2),
        (("--samwise.loop.precision", "bf16"), 2),
    ],
)
def test_what_a_user_can_mend_ends_in_a_message_and_a_code(
    tmp_path: Path, flags: tuple[str, ...], code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(lambda: job(tmp_path, *flags)) == code
    assert "Traceback" not in capsys.readouterr().err
