"""Trains a masklet classifier, a semantic network, or a SAM2 for streets. `python jobs/train_semantic.py --help`."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

if __package__ in (None, ""):
    # Run as a file, from a bare working directory: the packages lie beside this folder.
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipeline.cluster.masklet_cache import build_on_ray
from pipeline.cluster.train import TrainJob, main, parse_train_job, refuse_unless_resuming, run_workers
from pipeline.errors import ConfigError
from pipeline.models.proposals import ProposalConfig
from pipeline.training.masklet_cache import CacheSettings, ensure_cache
from pipeline.training.semantic_network import NetworkSettings, NetworkTraining, train_network
from pipeline.training.street_masks import MasksSettings, MasksTraining, train_masks
from pipeline.training.vss_classifier import ClassifierSettings, ClassifierTraining, train_classifier


class TrainSemantic(TrainJob):
    """Training for semantic_corpus: what --classifier takes, or what --network takes, or what --model takes."""

    what: Literal["classifier", "network", "masks"] = "classifier"
    """A classifier of SAM2's masklets, a small SegFormer from random weights, or a SAM2 for generated streets."""
    data: str = "streets"
    """streets[:PRESET], or vspw:ROOT in the published layout; "masks" has streets of its own."""
    model: str = "tiny"
    """The SAM2 whose masklets are classified, or that learns streets: a registry name, a path or a URI."""
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
    masks: MasksTraining = MasksTraining()
    """The recipe of the SAM2 that learns streets."""

    def cache_settings(self) -> CacheSettings:
        """What the feature cache is built from."""
        shared = self.model_dump(include=set(CacheSettings.model_fields) & set(type(self).model_fields))
        return CacheSettings.model_validate({**shared, "seed": self.classifier.loop.seed})

    def settings(self) -> ClassifierSettings | NetworkSettings | MasksSettings:
        """What each worker is built from; workers always go on where there is a checkpoint.

        Raises:
            ConfigError: data that "masks" does not learn from.
        """
        if self.what == "masks" and self.data != "streets":
            raise ConfigError(f"data {self.data!r}: masks are learned from generated streets. Leave data out.")
        threads = self.torch_threads if self.runner == "local" else self.torch_threads or 1
        kind = _SETTINGS[self.what]
        shared = self.model_dump(include=set(kind.model_fields) & set(type(self).model_fields))
        more = {"cache": self.cache_settings()} if self.what == "classifier" else {}
        return kind.model_validate({**shared, **more, "resume": True, "torch_threads": threads})

    def run(self) -> int:
        """Train, and return the exit code."""
        refuse_unless_resuming(self)
        settings = self.settings()
        if isinstance(settings, NetworkSettings):
            return run_workers(train_network, settings, self)
        if isinstance(settings, MasksSettings):
            return run_workers(train_masks, settings, self)
        if self.runner == "ray":
            ensure_cache(settings.cache, build_on_ray(self))
        return run_workers(train_classifier, settings, self)


_SETTINGS: dict[str, type[ClassifierSettings] | type[NetworkSettings] | type[MasksSettings]] = {
    "classifier": ClassifierSettings,
    "network": NetworkSettings,
    "masks": MasksSettings,
}


def read_job(arguments: Sequence[str]) -> TrainSemantic:
    """The job from flags and YAML files.

    Raises:
        ConfigError: an option is unknown or refused.
    """
    return parse_train_job(TrainSemantic, arguments, prog="train_semantic")


if __name__ == "__main__":
    sys.exit(main(lambda: read_job(sys.argv[1:])))
