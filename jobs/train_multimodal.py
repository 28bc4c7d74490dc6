"""Trains MemorySAM: on generated streets, DELIVER or MCubeS. `python jobs/train_multimodal.py --help` lists options."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

if __package__ in (None, ""):
    # Run as a file, from a bare working directory: the packages lie beside this folder.
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pydantic import Field, create_model

from pipeline.cluster.train import TrainJob, main, parse_train_job, refuse_unless_resuming, run_workers
from pipeline.errors import ConfigError
from pipeline.training.memorysam_recipes import PRESETS, MemorySamTraining
from pipeline.training.multimodal import MultimodalTraining, train_multimodal

Recipe = Literal["auto", "streets", "deliver", "mcubes"]


class TrainMultimodal(TrainJob):
    """Training of multimodal semantic segmentation (MemorySAM, arXiv 2503.06700)."""

    data: str = "streets"
    """streets[:PRESET], deliver:ROOT or mcubes:ROOT, ROOT in the data set's own layout."""
    recipe: Recipe = "auto"
    """Defaults of all --memorysam options; "auto" takes those that belong to the data."""
    init: str | None = None
    """MemorySAM weights to begin with: a registry name, a path (a checkpoint of this job too), or a URI."""
    sam2: str | None = None
    """Weights of SAM 2.0 to begin with, for a MemorySAM that has none yet."""
    architecture: str | None = None
    """Name of the sizes; by default those of --init, else "tiny-multimodal" for streets, "memorysam-base" for
    DELIVER, "memorysam-base-mcubes" for MCubeS."""
    image_size: Annotated[int, Field(ge=32)] | None = None
    """Side of the model's square in pixels, by default the architecture's."""
    half: bool = False
    """Write the model in float16, as safetensors. With --resume on a finished training it is written again."""
    memorysam: MemorySamTraining = MemorySamTraining()
    """The recipe itself."""

    def settings(self) -> MultimodalTraining:
        """What each worker is built from; workers always go on where there is a checkpoint."""
        shared = self.model_dump(include=set(MultimodalTraining.model_fields) & set(type(self).model_fields))
        threads = self.torch_threads if self.runner == "local" else self.torch_threads or 1
        return MultimodalTraining.model_validate({**shared, "resume": True, "torch_threads": threads})

    def run(self) -> int:
        """Train, and return the exit code."""
        refuse_unless_resuming(self)
        return run_workers(train_multimodal, self.settings(), self)


def read_job(arguments: Sequence[str]) -> TrainMultimodal:
    """The job from flags and YAML files, over its recipe's defaults.

    Raises:
        ConfigError: an option is unknown or refused.
    """
    named = parse_train_job(TrainMultimodal, arguments, prog="train_multimodal")
    recipe = named.data.partition(":")[0] if named.recipe == "auto" else named.recipe
    if recipe not in PRESETS:
        raise ConfigError(f"data {named.data!r}: no recipe belongs to it. Name one: {', '.join(PRESETS)}.")
    over_recipe = create_model(
        "TrainMultimodal", __base__=TrainMultimodal, memorysam=(MemorySamTraining, PRESETS[recipe]())
    )
    return parse_train_job(over_recipe, arguments, prog="train_multimodal")


if __name__ == "__main__":
    sys.exit(main(lambda: read_job(sys.argv[1:])))
