"""The motion encoders' training: the loss falls, nothing else moves, and what is written can be read."""

from pathlib import Path

import pytest
import torch

from jobs.train_track import TrainTrack, read_job
from pipeline.cluster.train import main
from pipeline.models.mosam_init import random_tracking_core
from pipeline.models.motion_config import MotionConfig
from pipeline.models.motion_encoders import load_motion_encoders
from pipeline.models.motion_flow import build_flow
from pipeline.models.sam2_core import Sam2Core
from pipeline.models.sam2_variants import Sam2Config, predictor_config
from pipeline.models.samwise_variants import ARCHITECTURES
from pipeline.synth.config import ClipConfig
from pipeline.training.loop import LoopConfig, train
from pipeline.training.track_learner import TrackLearner, TrackTraining, track_clip

CLIPS = ClipConfig(
    name="two_movers",
    height=64,
    width=96,
    num_frames=3,
    min_objects=2,
    max_objects=2,
    shapes=("disc", "square"),
    sizes=("large",),
    motions=("left", "right", "down"),
    expressions=("any",),
    kind_weights={"attribute": 1.0},
)


def recipe(**changes: object) -> TrackTraining:
    values = {
        "clips": CLIPS,
        "num_clips": 1,
        "true_history": 1.0,
        "encoder_width": 16,
        "loop": LoopConfig(num_steps=10, batch_size=1, learning_rate=1e-2),
        **changes,
    }
    return TrackTraining.model_validate(values)


def frozen_core() -> Sam2Core:
    """A 64 px SAM2 with random weights."""
    return random_tracking_core(predictor_config(Sam2Config.model_validate(ARCHITECTURES["mini"]["sam2"])), seed=0)


def total(learner: TrackLearner) -> float:
    losses = learner.losses([0])
    return float(sum(float(value.detach()) for value in losses.means.values()))


def test_the_loss_falls_and_only_the_encoders_move() -> None:
    core = frozen_core()
    learner = TrackLearner(core, recipe())
    frozen = {name: tensor.clone() for name, tensor in core.state_dict().items()}
    first = {name: tensor.detach().clone() for name, tensor in learner.trained().items()}
    before = total(learner)
    train(learner, recipe().loop)
    assert (after := total(learner)) < 0.9 * before, after / before
    assert all(torch.equal(core.state_dict()[name], tensor) for name, tensor in frozen.items())
    assert not any(parameter.requires_grad for parameter in core.parameters())
    assert set(first) == {name for name, _ in learner.module.named_parameters()}
    moved = {name for name, tensor in learner.trained().items() if not torch.equal(tensor.detach(), first[name])}
    assert {name.split(".")[0] for name in moved} == {"sparse", "dense"}
    assert moved >= set(first) - {"sparse.missing"}


def test_every_prompted_row_is_scored_on_its_own_object() -> None:
    core, training = frozen_core(), recipe()
    learner = TrackLearner(core, training)
    clip = learner._sample(0)
    scores = track_clip(core, learner.module, clip, training, flow=build_flow(training.motion), from_truth=True)
    assert len(scores) == CLIPS.num_frames - 1
    for frame, score in enumerate(scores, start=1):
        assert score.logits_RKHW.shape == (2, 3, 64, 64)
        for row, object_id in enumerate((1, 2)):
            share = float((clip.labels[frame] == object_id).mean())
            assert float(score.targets_RHW[row].float().mean()) == pytest.approx(share, abs=0.02)
        assert score.logits_RKHW.requires_grad


def test_clips_without_a_believed_motion_teach_nothing_and_do_no_harm() -> None:
    learner = TrackLearner(frozen_core(), recipe(motion=MotionConfig(mode="off")))
    losses = learner.losses([0])
    value = torch.stack(list(losses.means.values())).sum()
    value.backward()
    assert float(value.detach()) == 0.0
    assert all(p.grad is not None and not p.grad.any() for p in learner.module.parameters())


def test_drawing_ahead_changes_nothing() -> None:
    ahead = TrackLearner(frozen_core(), recipe(), num_threads=1)
    ahead.look_ahead([0])
    assert total(ahead) == total(TrackLearner(frozen_core(), recipe()))
    ahead.close()


FLAGS = [
    *("--device", "cpu", "--num-threads", "0", "--torch-threads", "1", "--offline", "--image-size", "128"),
    *("--track.clips.name", "tracks", "--track.clips.height", "64", "--track.clips.width", "64"),
    *("--track.clips.num-frames", "3", "--track.num-clips", "1", "--track.loop.num-steps", "2"),
    *("--track.loop.batch-size", "1", "--track.loop.checkpoint-every", "1", "--track.true-history", "1"),
]


def job(output: Path, *flags: str) -> TrainTrack:
    return read_job(["--output", str(output), *FLAGS, *flags])


def test_the_job_leaves_encoders_that_can_be_read_and_goes_on_where_it_stopped(tmp_path: Path) -> None:
    assert job(tmp_path).run() == 0
    encoders = load_motion_encoders(tmp_path / "model" / "motion_encoders.pt", d_model=64)
    kept = torch.load(tmp_path / "checkpoints" / "step-000000002.pt", weights_only=True)
    own = encoders.state_dict()
    assert all(torch.equal(own[name], tensor) for name, tensor in kept["model"].items())
    assert main(lambda: job(tmp_path)) == 2
    assert job(tmp_path, "--resume").run() == 0
