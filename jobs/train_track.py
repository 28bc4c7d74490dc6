"""Trains MoSAM's motion encoders on ShapesRef with a frozen SAM2. `python jobs/train_track.py --help`."""

import sys
from collections.abc import Sequence
from pathlib import Path

if __package__ in (None, ""):
    # Run as a file, from a bare working directory: the packages lie beside this folder.
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipeline.cluster.train import TrainJob, main, parse_train_job, refuse_unless_resuming, run_workers
from pipeline.training.track import TrackTrainingSettings, train_track
from pipeline.training.track_learner import TrackTraining


class TrainTrack(TrainJob):
    """Training of the motion encoders: key points and flow to prompt tokens (MoSAM's trainable variant)."""

    model: str = "tiny"
    """The SAM2 that is tracked with, frozen: a registry name, a path or a URI; a SAMWISE gives the SAM2 inside it."""
    image_size: int | None = None
    """Side of the model's square in pixels; by default its own."""
    track: TrackTraining = TrackTraining()
    """The recipe itself."""

    def settings(self) -> TrackTrainingSettings:
        """What each worker is built from; workers always go on where there is a checkpoint."""
        shared = self.model_dump(include=set(TrackTrainingSettings.model_fields) & set(type(self).model_fields))
        threads = self.torch_threads if self.runner == "local" else self.torch_threads or 1
        return TrackTrainingSettings.model_validate({**shared, "resume": True, "torch_threads": threads})

    def run(self) -> int:
        """Train, and return the exit code."""
        refuse_unless_resuming(self)
        return run_workers(train_track, self.settings(), self)


def read_job(arguments: Sequence[str]) -> TrainTrack:
    """The job from flags and YAML files.

    Raises:
        ConfigError: an option is unknown or refused.
    """
    return parse_train_job(TrainTrack, arguments, prog="train_track")


if __name__ == "__main__":
    sys.exit(main(lambda: read_job(sys.argv[1:])))
