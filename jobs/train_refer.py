"""Trains SAMWISE: on ShapesRef, RefCOCO stills, Ref-YouTube-VOS or MeViS. `python jobs/train_refer.py --help`."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

if __package__ in (None, ""):
    # Run as a file, from a bare working directory: the packages lie beside this folder.
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pydantic import create_model

from pipeline.cluster.train import TrainJob, main, parse_train_job, refuse_unless_resuming, run_workers
from pipeline.errors import ConfigError
from pipeline.training.refer import ReferTraining, train_refer
from pipeline.training.samwise_recipes import PRESETS, SamwiseTraining

Recipe = Literal["auto", "pretrain", "ref_youtube_vos", "mevis", "shapesref"]

_RECIPE_OF_DATA = {"refcoco": "pretrain"}


class TrainRefer(TrainJob):
    """Training of text-referring segmentation (SAMWISE, CVPR 2025)."""

    data: str = "shapesref"
    """shapesref[:PRESET], refcoco:ROOT, ref_youtube_vos:ROOT or mevis:ROOT, each ROOT in the published layout."""
    recipe: Recipe = "auto"
    """Defaults of all --samwise options; "auto" takes those that belong to the data."""
    init: str | None = None
    """SAMWISE weights to begin with: a registry name, a path (a checkpoint of this job too), or a URI."""
    sam2: str | None = None
    """Weights of SAM2 to begin with, for a SAMWISE that has none yet."""
    text_encoder: str | None = None
    """Weights of RoBERTa or CLIP to begin with, likewise."""
    architecture: str | None = None
    """Name of the sizes; by default those of --init, else "tiny" for ShapesRef and "samwise-base" for the others."""
    tokenizer: str | None = None
    """Folder with the text encoder's tokenizer, unless its vocabulary is closed."""
    samwise: SamwiseTraining = SamwiseTraining()
    """The recipe itself."""

    def settings(self) -> ReferTraining:
        """What each worker is built from; workers always go on where there is a checkpoint."""
        shared = self.model_dump(include=set(ReferTraining.model_fields) & set(type(self).model_fields))
        threads = self.torch_threads if self.runner == "local" else self.torch_threads or 1
        return ReferTraining.model_validate({**shared, "resume": True, "torch_threads": threads})

    def run(self) -> int:
        """Train, and return the exit code."""
        refuse_unless_resuming(self)
        return run_workers(train_refer, self.settings(), self)


def read_job(arguments: Sequence[str]) -> TrainRefer:
    """The job from flags and YAML files, over its recipe's defaults.

    Raises:
        ConfigError: an option is unknown or refused.
    """
    named = parse_train_job(TrainRefer, arguments, prog="train_refer")
    kind = named.data.partition(":")[0]
    recipe = _RECIPE_OF_DATA.get(kind, kind) if named.recipe == "auto" else named.recipe
    if recipe not in PRESETS:
        raise ConfigError(f"data {named.data!r}: no recipe belongs to it. Name one: {', '.join(PRESETS)}.")
    over_recipe = create_model("TrainRefer", __base__=TrainRefer, samwise=(SamwiseTraining, PRESETS[recipe]()))
    return parse_train_job(over_recipe, arguments, prog="train_refer")


if __name__ == "__main__":
    sys.exit(main(lambda: read_job(sys.argv[1:])))
