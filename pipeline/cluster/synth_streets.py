"""masklake synth for streets: generated streets in the layouts of DELIVER and VSPW."""

from pathlib import Path
from typing import Literal

from pipeline.synth.layouts_street import Subset, write_deliver, write_vspw
from pipeline.synth.street import iter_streets
from pipeline.synth.street_config import street_config
from pipeline.synth.street_world import MODALITIES
from pipeline.synth.world import Split

StreetLayout = Literal["deliver", "vspw"]

_SUBSET_OF: dict[Split, Subset] = {"train": "train", "valid": "val", "test": "test", "heldout": "test"}
_PRESET_OF: dict[StreetLayout, str] = {"deliver": "street_modal", "vspw": "street_eval"}


def write_streets(
    out: Path, layout: StreetLayout, *, num_streets: int, preset: str | None, seed: int, split: Split
) -> Path:
    """Write streets of one split and return their manifest; other splits may be added to the same folder.

    Args:
        preset: a preset of streets; None for the one that suits the layout.

    Raises:
        FileExistsError: the split is there already.
        ValueError: there is no such preset.
    """
    config = street_config(preset or _PRESET_OF[layout])
    if layout == "deliver":
        config = config.derive(modalities=MODALITIES)
    streets = iter_streets(config, seed, split, range(num_streets))
    subset = _SUBSET_OF[split]
    write = write_deliver if layout == "deliver" else write_vspw
    return write({subset: streets}, out)[subset]
