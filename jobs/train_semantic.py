"""Trains a masklet classifier or a small semantic network. `python jobs/train_semantic.py --help`."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

if __package__ in (None, ""):
    # Run as a file, from a bare working directory: the packages lie beside this folder.
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipeline.cluster.masklet_cache import build_on_ray
from pipeline.cluster.train import TrainJob, main, parse_train_job, refuse_unless_resuming, run_workers
from pipeline.models.proposals import ProposalConfig
from pipeline.training.masklet_cache import CacheSettings, ensure_cache
from pipeline.training.semantic_network import NetworkSettings, NetworkTraining, train_network
from pipeline.training.vss_classifier import ClassifierSettings, ClassifierTraining, train_classifier


class TrainSemantic(TrainJob):
    """Training for semantic_corpus: what --classifier takes, or what --network takes."""

    what: Literal["classifier", "network"] = "classifier"
    """A classifier of SAM2's masklets, or a small SegFormer from random weights."""
    data: str = "streets"
    """streets[:PRESET], or vspw:ROOT in the published layout."""
    model: str = "tiny"
    """The SAM2 whose masklets are classified: a registry name, a path or a URI."""
    image_size: int | None = None
    """Side of its square in pixels; by default its own."""
    num_videos: int | None = 200
    """Videos whose masklets are learned from; "None" for all of a folder."""
    window: int = 32
    """Frames after which masks are looked for anew, as in semantic_corpus."""
    proposals: ProposalConfig = ProposalConfig()
    """Which masks are proposed, as in semantic_corpus."""
    min_purity: float = 0.7
    """Share of a masklet's pixels that its class must have; else it is "mixed"."""
    classifier: ClassifierTraining = ClassifierTraining()
    """The classifier's recipe."""
    network: NetworkTraining = NetworkTraining()
    """The network's recipe."""

    def cache_settings(self) -> CacheSettings:
        """What the feature cache is built from."""
        shared = self.model_dump(include=set(CacheSettings.model_fields) & set(type(self).model_fields))
        return CacheSettings.model_validate({**shared, "seed": self.classifier.loop.seed})

    def settings(self) -> ClassifierSettings | NetworkSettings:
        """What each worker is built from; workers always go on where there is a checkpoint."""
        threads = self.torch_threads if self.runner == "local" else self.torch_threads or 1
        kind = NetworkSettings if self.what == "network" else ClassifierSettings
        shared = self.model_dump(include=set(kind.model_fields) & set(type(self).model_fields))
        more = {} if self.what == "network" else {"cache": self.cache_settings()}
        return kind.model_validate({**shared, **more, "resume": True, "torch_threads": threads})

    def run(self) -> int:
        """Train, and return the exit code."""
        refuse_unless_resuming(self)
        settings = self.settings()
        if isinstance(settings, NetworkSettings):
            return run_workers(train_network, settings, self)
        if self.runner == "ray":
            ensure_cache(settings.cache, build_on_ray(self))
        return run_workers(train_classifier, settings, self)


def read_job(arguments: Sequence[str]) -> TrainSemantic:
    """The job from flags and YAML files.

    Raises:
        ConfigError: an option is unknown or refused.
    """
    return parse_train_job(TrainSemantic, arguments, prog="train_semantic")


if __name__ == "__main__":
    sys.exit(main(lambda: read_job(sys.argv[1:])))
