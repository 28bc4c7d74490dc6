"""DELIVER: 25 classes, rgb with depth (HHA), event and LiDAR images, in five weathers and five kinds of failure."""

from collections.abc import Iterator, Sequence

from pipeline.errors import ManifestError
from pipeline.io.importers.scenes import Imported, Scene, listed_files, rows_of
from pipeline.io.nearest_name import did_you_mean
from pipeline.io.storage import Store

CONDITIONS = ("cloud", "fog", "night", "rain", "sun")
CORNER_CASES = ("motionblur", "overexposure", "underexposure", "lidarjitter", "eventlowres")

_FOLDERS = {"depth": "hha", "event": "event", "lidar": "lidar"}
"""Modality to folder: what models call depth is its HHA encoding; the raw one in `depth/` is read by none."""

_TOP = "DELIVER"


def deliver_scenes(store: Store, *, split: str, order: Sequence[str] = (), case: str | None = None) -> Imported:
    """Scenes of one split.

    Layout: `{img,hha,lidar,event,semantic}/<condition>/<split>/<map>/<frame>_{rgb,depth,lidar,event,semantic}*.png`;
    the root may be the folder above `DELIVER/`. Files of the hha folder are named `_depth`. A label's channel 0 is the
    class id plus one; 0 and 255 are ignored.

    Source: Zhang et al., "Delivering Arbitrary-Modal Semantic Segmentation", CVPR 2023, and its loader.

    Args:
        case: a condition, or a corner case that the names of folder or file hold.

    Raises:
        ManifestError: not this layout, no scene left, or an unknown case.
        StorageError: the store cannot be read.
    """
    if case is not None and case not in (*CONDITIONS, *CORNER_CASES):
        raise ManifestError(f"case {case!r}: {did_you_mean(case, (*CONDITIONS, *CORNER_CASES))}")
    folders = [f"{top}{name}" for top in ("", f"{_TOP}/") for name in ("img", "semantic", *_FOLDERS.values())]
    files = listed_files(store, folders)
    return rows_of(_scenes(files, split, case), store, files, dataset="DELIVER", split=split, order=order)


def _scenes(files: frozenset[str], split: str, case: str | None) -> Iterator[Scene]:
    for path in sorted(files):
        top = f"{_TOP}/" if path.startswith(f"{_TOP}/") else ""
        parts = path.removeprefix(top).split("/")
        is_rgb = len(parts) == 5 and parts[0] == "img" and "_rgb" in parts[4] and parts[4].endswith(".png")
        if is_rgb and parts[2] == split and (case is None or _is_of(parts, case)):
            yield _scene(path, top, parts)


def _scene(rgb: str, top: str, parts: Sequence[str]) -> Scene:
    _, condition, split, place, file = parts

    def beside(folder: str, word: str) -> str:
        # By parts: replacing "/img" in the whole path, as the published loader does, would change the root too.
        return f"{top}{folder}/{condition}/{split}/{place}/{file.replace('_rgb', f'_{word}')}"

    corner = next((name for name in CORNER_CASES if name in place), None)
    return Scene(
        name=f"{split}/{condition}/{place}/{file.partition('_rgb')[0]}",
        rgb=rgb,
        modalities={name: (beside(folder, name),) for name, folder in _FOLDERS.items()},
        label=beside("semantic", "semantic"),
        tags={"condition": condition, "map": place} | ({"case": corner} if corner else {}),
    )


def _is_of(parts: Sequence[str], case: str) -> bool:
    # Departs from the published filter, which looks for the word in the whole path: "rain" is in every "train".
    return parts[1] == case if case in CONDITIONS else case in parts[3] or case in parts[4]
