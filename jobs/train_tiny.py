"""Trains the embedded tiny model on ShapesRef, stage by stage. `python jobs/train_tiny.py --help`."""

import sys
from collections.abc import Sequence
from pathlib import Path

if __package__ in (None, ""):
    # Run as a file, from a bare working directory: the packages lie beside this folder.
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipeline.cluster.train import TrainJob, main, parse_train_job, run_workers
from pipeline.errors import ConfigError
from pipeline.training.checkpoints import has_checkpoint
from pipeline.training.tiny import STAGES, StageName, TinyTraining, stage_store, train_tiny
from pipeline.training.tiny_recipes import (
    choosing,
    detailing,
    firming,
    guiding,
    heeding,
    holding,
    keeping,
    pacing,
    ripening,
    sharpening,
    telling,
    touching,
)
from pipeline.training.tiny_stages import CmeStage, ContactStage, MemoryStage, ReferStage, TrackStage


class TrainTiny(TrainJob):
    """Training of the embedded tiny model: words to things, memory and prompts, conditional memory encoder."""

    architecture: str = "tiny"
    """Name of an architecture with grounded fusion."""
    stages: tuple[StageName, ...] = STAGES
    """Stages to run, in order; each begins with what the one before left in the output."""
    presence_shift: float = TinyTraining.model_fields["presence_shift"].default
    """Added to every object score of the model that is written; below 0 it calls more frames empty."""
    mixes: dict[StageName, dict[StageName, float]] = TinyTraining.model_fields["mixes"].default
    """Shares of stages' weights in what a stage begins with; the others begin with those of the stage before."""
    refer: ReferStage = ReferStage()
    """Words to things."""
    ripen: ReferStage = ripening()
    """The same again, with more sentences that have no referent."""
    sharpen: ReferStage = sharpening()
    """Look-alikes that differ in what they are."""
    detail: ReferStage = detailing()
    """The detail stem, with every kind of look-alike."""
    track: TrackStage = TrackStage()
    """How to read a memory."""
    memory: MemoryStage = MemoryStage()
    """Memory, and prompts by points, boxes and masks."""
    contact: ContactStage = touching()
    """The same where things touch, on short clips, and on streets."""
    guide: ContactStage = guiding()
    """Tracking with and without motion prompts, beside sentences."""
    choose: ContactStage = choosing()
    """Tracking longer parts, by any choice of memories, beside sentences of which half fit nothing on short clips."""
    keep: ContactStage = keeping()
    """The same again, from a mean of choose and guide."""
    tell: ContactStage = telling()
    """Beside keep, from the same mean: sentences three times as often as tracks."""
    pace: ContactStage = pacing()
    """From a mean of the three before: things slower and faster, and sentences that say so."""
    hold: ContactStage = holding()
    """Beside pace, from the same mean: tracks in every other step."""
    firm: ContactStage = firming()
    """From the mean of pace and hold: more tracks a step, over fewer frames."""
    heed: ContactStage = heeding()
    """Beside firm, from the same mean: more look-alikes that differ in shape."""
    cme: CmeStage = CmeStage()
    """The conditional memory encoder's head."""

    def settings(self) -> TinyTraining:
        """What each worker is built from."""
        shared = self.model_dump(include=set(TinyTraining.model_fields) & set(type(self).model_fields))
        return TinyTraining.model_validate({**shared, "torch_threads": self.torch_threads or 1})

    def run(self) -> int:
        """Train, and return the exit code."""
        settings = self.settings()
        begun = [stage for stage in self.stages if has_checkpoint(stage_store(settings, stage))]
        if begun and not self.resume:
            raise ConfigError(f"{self.output} holds stage {begun[0]} already. Say --resume, or name another output.")
        return run_workers(train_tiny, settings, self)


def read_job(arguments: Sequence[str]) -> TrainTiny:
    """The job from flags and YAML files.

    Raises:
        ConfigError: an option is unknown or refused.
    """
    return parse_train_job(TrainTiny, arguments, prog="train_tiny")


if __name__ == "__main__":
    sys.exit(main(lambda: read_job(sys.argv[1:])))
