"""Two trainings by the same workers, in the second of which one dies once; run by Ray's workers in the tests beside."""

import os
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel

from pipeline.io.storage import open_store
from pipeline.training.loop import LoopConfig, train
from pipeline.training.refer import ReferTraining, train_refer
from pipeline.training.workers import Workers
from tests.training.linear_learner import LinearLearner

CONFIG = LoopConfig(num_steps=6, batch_size=4, learning_rate=0.1, checkpoint_every=2)
DIES_AFTER_STEP = 2


class Settings(BaseModel):
    """The first training, where checkpoints of the second go, and the file that says that a worker has died."""

    refer: ReferTraining
    output: str
    has_died: Path


def train_both(settings: Settings, workers: Workers) -> None:
    """A training of SAMWISE that nothing disturbs, then one that dies: starting workers takes longer than either."""
    train_refer(settings.refer, workers)
    train_and_die_once(settings, workers)


def train_and_die_once(settings: Settings, workers: Workers) -> None:
    """Train; the last worker ends its process after a step that no checkpoint holds, the first time."""

    def die(step: int, scalars: Mapping[str, float]) -> None:
        if step == DIES_AFTER_STEP and workers.rank == workers.num_workers - 1 and not settings.has_died.exists():
            settings.has_died.touch()
            os._exit(1)

    learner = LinearLearner(with_ratio=True)
    train(learner, CONFIG, store=open_store(settings.output), workers=workers, resume=True, on_step=die)
