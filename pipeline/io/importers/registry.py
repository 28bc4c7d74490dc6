"""Data sets by name: their own layout in, manifest rows of modality bundles out."""

from collections.abc import Sequence
from typing import Literal

from pipeline.errors import ConfigError
from pipeline.io.importers.deliver import deliver_scenes
from pipeline.io.importers.mcubes import mcubes_scenes
from pipeline.io.importers.rgbx import kitti360_scenes, mfnet_scenes, nyu_scenes
from pipeline.io.importers.scenes import Imported
from pipeline.io.storage import open_store

Dataset = Literal["deliver", "mcubes", "nyu", "kitti360", "mfnet"]
Split = Literal["train", "val", "test"]

_LISTED = {"mcubes": mcubes_scenes, "nyu": nyu_scenes, "kitti360": kitti360_scenes, "mfnet": mfnet_scenes}


def import_scenes(
    dataset: Dataset, root: str, *, split: Split, modalities: Sequence[str] = (), case: str | None = None
) -> Imported:
    """The scenes of one split of a data set, as manifest rows.

    Args:
        root: URI of the folder that holds the data set's own folders.
        modalities: what a method is to see, in this order; empty for all, as the data set's models read them.
        case: DELIVER only: a weather or failure.

    Raises:
        ConfigError: `case` for another data set.
        ManifestError: the root is not of this layout.
        StorageError: the store cannot be read.
    """
    store = open_store(root)
    if dataset == "deliver":
        return deliver_scenes(store, split=split, order=modalities, case=case)
    if case is not None:
        raise ConfigError(f"--case {case}: only deliver is divided by cases. Leave it out for {dataset}.")
    return _LISTED[dataset](store, split=split, order=modalities)
