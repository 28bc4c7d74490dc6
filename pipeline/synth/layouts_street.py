"""Writes generated streets in the layouts of DELIVER and VSPW, with manifests that the jobs read."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.io.vspw_layout import CLASS_NUMBERS
from pipeline.synth.modalities import LOWRES_FACTOR
from pipeline.synth.street import Street, StreetFrame
from pipeline.synth.street_world import MODALITIES, STREET_CLASSES, Modality, StreetClass

Subset = Literal["train", "val", "test"]
ClassIds = Literal["deliver", "street"]

DELIVER_CLASSES: tuple[str, ...] = (
    "Building",
    "Fence",
    "Other",
    "Pedestrian",
    "Pole",
    "RoadLine",
    "Road",
    "SideWalk",
    "Vegetation",
    "Cars",
    "Wall",
    "TrafficSign",
    "Sky",
    "Ground",
    "Bridge",
    "RailTrack",
    "GroundRail",
    "TrafficLight",
    "Static",
    "Dynamic",
    "Water",
    "Terrain",
    "TwoWheeler",
    "Bus",
    "Truck",
)
"""DELIVER's classes, id = position.

Source: Zhang et al., CVPR 2023 (DELIVER, CMNeXt); the order of its published loader.
"""

DELIVER_NAME_OF: dict[StreetClass, str] = {
    "sky": "Sky",
    "building": "Building",
    "vegetation": "Vegetation",
    "road": "Road",
    "ground": "SideWalk",
    "pole": "Pole",
    "sign": "TrafficSign",
    "vehicle": "Cars",
    "person": "Pedestrian",
    "other": "Other",
}
DELIVER_ID_OF: NDArray[np.uint8] = np.array(
    [DELIVER_CLASSES.index(DELIVER_NAME_OF[name]) for name in STREET_CLASSES], dtype=np.uint8
)
"""DELIVER's id of each class of streets."""

MODALITY_ORDER = ("rgb", "hha", "event", "lidar")
"""What DELIVER's models see, in this order: for depth its loader takes the HHA code."""

_FILE_WORD: dict[Modality, str] = {"depth": "depth", "hha": "depth", "event": "event", "lidar": "lidar"}
_VOID = "others"


def write_deliver(
    streets: Mapping[Subset, Iterable[Street]], root: Path, *, class_ids: ClassIds = "deliver"
) -> dict[Subset, Path]:
    """DELIVER: `{img,hha,depth,event,lidar,semantic}/<weather>/<split>/MAP_1_point<index>[_<failure>]/<files>`.

    Files are `NNNNNN_{rgb,depth,depth,event,lidar,semantic}_front.png`; those of `hha` are called depth too, and are
    what DELIVER's own loader takes for it. Labels are RGBA with class id + 1 in the red channel. Under the failure
    "eventlowres" events have a quarter of the rows and columns.

    Source: Zhang et al., CVPR 2023 (DELIVER); layout as in its published loader.

    Args:
        streets: by subset, with all four modalities.
        class_ids: "deliver" writes the ids of DELIVER's 25 classes, "street" those of `STREET_CLASSES`.

    Returns:
        The manifest of each subset, `manifest_<subset>.jsonl`: a row is one directory of frames and the directories
        of its modalities, by the names of the folders, in DELIVER's own order.

    Raises:
        FileExistsError: the subset was written before.
        ValueError: a street lacks a modality, or two would lie in one directory.
    """
    manifests: dict[Subset, Path] = {}
    for subset, subset_streets in streets.items():
        rows = []
        manifests[subset] = _unwritten(root / f"manifest_{subset}.jsonl")
        for street in subset_streets:
            case = "" if street.failure == "none" else f"_{street.failure}"
            sequence = f"{street.weather}/{subset}/MAP_1_point{street.index}{case}"
            if (root / "img" / sequence).exists():
                raise ValueError(f"{sequence} comes twice; streets of one subset need different indices.")
            for frame in street.frames:
                _write_deliver_frame(frame, street, root, sequence, class_ids)
            rows.append(_deliver_row(street, subset, sequence, class_ids))
        _write_lines(manifests[subset], rows)
    return manifests


def write_vspw(streets: Mapping[Subset, Iterable[Street]], root: Path) -> dict[Subset, Path]:
    """VSPW: `data/<video>/{origin/*.jpg, mask/*.png}`, `<subset>.txt` and `label_num_dic_final.json`.

    Masks hold class id + 1; 0 is void, and no pixel of a street is.

    Source: Miao et al., CVPR 2021 (VSPW); layout as in the published copy.

    Returns:
        The manifest of each subset, `manifest_<subset>.jsonl`: a row is a video's `origin`.

    Raises:
        FileExistsError: the subset was written before.
        ValueError: two streets have one name.
    """
    manifests: dict[Subset, Path] = {}
    for subset, subset_streets in streets.items():
        rows = []
        manifests[subset] = _unwritten(root / f"manifest_{subset}.jsonl")
        for street in subset_streets:
            folder = root / "data" / street.video_id
            if folder.exists():
                raise ValueError(f"{street.video_id} comes twice; streets of one corpus need different names.")
            for kind in ("origin", "mask"):
                (folder / kind).mkdir(parents=True)
            for frame in street.frames:
                name = f"{frame.frame_index + 1:08d}"
                Image.fromarray(frame.rgb).save(folder / "origin" / f"{name}.jpg", quality=95, subsampling=0)
                Image.fromarray(frame.labels + np.uint8(1)).save(folder / "mask" / f"{name}.png")
            tags = {"split": subset, "labels": f"data/{street.video_id}/mask"}
            rows.append(_row(street, f"data/{street.video_id}/origin", "vspw", tags))
        (root / f"{subset}.txt").write_text("".join(f"{row['video_id']}\n" for row in rows), encoding="utf-8")
        _write_lines(manifests[subset], rows)
    numbers: dict[str, int] = {_VOID: 0}
    numbers |= {name: class_id + 1 for class_id, name in enumerate(STREET_CLASSES)}
    (root / CLASS_NUMBERS).write_text(json.dumps(numbers), encoding="utf-8")
    return manifests


def _write_deliver_frame(frame: StreetFrame, street: Street, root: Path, sequence: str, class_ids: ClassIds) -> None:
    missing = [name for name in MODALITIES if name not in frame.modalities]
    if missing:
        raise ValueError(f"{street.video_id} lacks {', '.join(missing)}; DELIVER needs modalities={MODALITIES}.")
    stem = f"{frame.frame_index:06d}"
    _write_png(frame.rgb, root / "img" / sequence / f"{stem}_rgb_front.png")
    for name, word in _FILE_WORD.items():
        picture = frame.modalities[name]
        if name == "event" and street.failure == "eventlowres":
            picture = picture[::LOWRES_FACTOR, ::LOWRES_FACTOR]
        _write_png(picture, root / name / sequence / f"{stem}_{word}_front.png")
    ids = DELIVER_ID_OF[frame.labels] if class_ids == "deliver" else frame.labels
    label = np.zeros((*ids.shape, 4), dtype=np.uint8)
    label[..., 0], label[..., 3] = ids + np.uint8(1), 255
    _write_png(label, root / "semantic" / sequence / f"{stem}_semantic_front.png")


def _deliver_row(street: Street, subset: Subset, sequence: str, class_ids: ClassIds) -> dict[str, Any]:
    tags = {
        "split": subset,
        "weather": street.weather,
        "failure": street.failure,
        "class_ids": class_ids,
        "labels": f"semantic/{sequence}",
    }
    row = _row(street, f"img/{sequence}", "deliver", tags)
    folders = {name: f"{name}/{sequence}" for name in MODALITIES}
    return {**row, "modalities": folders, "modality_order": list(MODALITY_ORDER)}


def _row(street: Street, video_uri: str, dataset: str, tags: dict[str, str]) -> dict[str, Any]:
    return {
        "video_uri": video_uri,
        "video_id": street.video_id,
        "dataset": dataset,
        "fps": float(street.frames_per_second),
        "tags": tags,
    }


def _unwritten(manifest: Path) -> Path:
    if manifest.exists():
        raise FileExistsError(f"{manifest} exists. Remove the old streets, or write to another directory.")
    manifest.parent.mkdir(parents=True, exist_ok=True)
    return manifest


def _write_png(picture: NDArray[np.uint8], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.ascontiguousarray(picture)).save(path)


def _write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
