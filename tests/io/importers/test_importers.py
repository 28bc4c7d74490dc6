"""Importers on miniature copies of each layout: every scene once, every file where the data set has it, gaps told."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.cli import main
from pipeline.errors import ConfigError, ManifestError
from pipeline.io.importers.registry import import_scenes
from pipeline.io.manifest import read_manifest, write_manifest
from pipeline.io.storage import open_store

DELIVER_SCENES = [
    ("cloud", "val", "MAP_1_point12", "000000"),
    ("cloud", "val", "MAP_1_point12", "000010"),
    ("rain", "val", "MAP_10_point3_lidarjitter", "000005"),
    ("rain", "train", "MAP_2_point4", "000001"),
    ("night", "train", "MAP_2_point5", "000001"),
]
DELIVER_FILES = {
    "img": "rgb",
    "hha": "depth",
    "depth": "depth",
    "event": "event",
    "lidar": "lidar",
    "semantic": "semantic",
}


def put(root: str, paths: Iterable[str], data: bytes = b"a file") -> None:
    store = open_store(root)
    for path in paths:
        store.write_whole(path, data)


def deliver_path(folder: str, scene: tuple[str, str, str, str]) -> str:
    condition, split, place, frame = scene
    return f"{folder}/{condition}/{split}/{place}/{frame}_{DELIVER_FILES[folder]}_front.png"


def by_name(rows: Iterable[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {row["video_id"]: row for row in rows}


@pytest.mark.parametrize("top", ["", "DELIVER/"])
@pytest.mark.parametrize("kind", ["local", "memory"])
def test_deliver_scenes_find_their_files(top: str, kind: str, tmp_path: Path, memory_root: str) -> None:
    # The root's own name holds what the published loader would replace everywhere in the path.
    root = f"{tmp_path}/img_rgb" if kind == "local" else f"{memory_root}/img_rgb"
    put(root, [top + deliver_path(folder, scene) for folder in DELIVER_FILES for scene in DELIVER_SCENES])
    imported = import_scenes("deliver", root, split="val")
    assert imported.summary() == "3 scenes; nothing missing"
    rows = by_name(imported.rows)
    scene = DELIVER_SCENES[2]
    row = rows["val/rain/MAP_10_point3_lidarjitter/000005"]
    uri = open_store(root).uri
    assert row["video_uri"] == uri(top + deliver_path("img", scene))
    assert row["modalities"] == {
        name: uri(top + deliver_path(folder, scene))
        for name, folder in {"depth": "hha", "event": "event", "lidar": "lidar"}.items()
    }
    assert row["modality_order"] == ["rgb", "depth", "event", "lidar"]
    assert row["tags"] == {
        "split": "val",
        "condition": "rain",
        "map": "MAP_10_point3_lidarjitter",
        "case": "lidarjitter",
        "label_uri": uri(top + deliver_path("semantic", scene)),
    }
    assert "case" not in rows["val/cloud/MAP_1_point12/000010"]["tags"]


@pytest.mark.parametrize(
    ("split", "case", "num_scenes"),
    [("val", "lidarjitter", 1), ("val", "cloud", 2), ("train", "rain", 1), ("train", "night", 1)],
)
def test_a_case_of_deliver_chooses_its_scenes(split: Any, case: str, num_scenes: int, tmp_path: Path) -> None:
    put(str(tmp_path), [deliver_path(folder, scene) for folder in DELIVER_FILES for scene in DELIVER_SCENES])
    rows = import_scenes("deliver", str(tmp_path), split=split, case=case).rows
    assert len(rows) == num_scenes
    assert all(case in row["video_id"] for row in rows)


def test_a_missing_file_keeps_its_row_and_is_counted(tmp_path: Path) -> None:
    put(str(tmp_path), [deliver_path(folder, scene) for folder in DELIVER_FILES for scene in DELIVER_SCENES])
    (tmp_path / deliver_path("lidar", DELIVER_SCENES[0])).unlink()
    (tmp_path / deliver_path("semantic", DELIVER_SCENES[1])).unlink()
    imported = import_scenes("deliver", str(tmp_path), split="val", modalities=("lidar", "rgb"))
    assert imported.summary() == "3 scenes; missing: lidar in 1, label in 1"
    row = by_name(imported.rows)["val/cloud/MAP_1_point12/000000"]
    assert (list(row["modalities"]), row["modality_order"]) == (["lidar"], ["lidar", "rgb"])


def write_mcubes(root: Path) -> None:
    names = {"train.txt": ["in_1", "in_2"], "test.txt": ["out_1", "out_2"]}
    for name in (name for listed in names.values() for name in listed):
        for folder in ("polL_color", "NIR_warped", "GT"):
            (root / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.zeros((40, 248), np.uint8)).save(root / folder / f"{name}.png")
        for folder in ("polL_aolp_sin", "polL_aolp_cos", "polL_dolp"):
            (root / folder).mkdir(exist_ok=True)
            np.save(root / folder / f"{name}.npy", np.zeros((40, 248), np.float32))
    (root / "list_folder").mkdir()
    for list_name, listed in names.items():
        (root / "list_folder" / list_name).write_text("".join(f"{name}\n" for name in listed))


def test_mcubes_reads_its_test_list_for_val_and_cuts_what_the_loader_cuts(tmp_path: Path) -> None:
    write_mcubes(tmp_path)
    val = import_scenes("mcubes", str(tmp_path), split="val")
    assert [row["video_id"] for row in val.rows] == ["val/out_1", "val/out_2"]
    row = val.rows[0]
    sine, cosine = (str(tmp_path / f"polL_aolp_{part}/out_1.npy") for part in ("sin", "cos"))
    assert row["modalities"] == {
        "aolp": f"{sine}|{cosine}|{sine}",
        "dolp": str(tmp_path / "polL_dolp/out_1.npy"),
        "nir": str(tmp_path / "NIR_warped/out_1.png"),
    }
    assert row["modality_order"] == ["rgb", "aolp", "dolp", "nir"]
    assert row["crop"] == [200, 0, 240, 40], "56 columns remain of 248, of which the middle 40 make a square"
    train = import_scenes("mcubes", str(tmp_path), split="train")
    assert [row["video_id"] for row in train.rows] == ["train/in_1", "train/in_2"]
    assert train.rows[0]["crop"] == [192, 0, 248, 40]


def test_the_published_size_of_mcubes_gives_the_published_crop() -> None:
    from pipeline.io.importers.mcubes import _crop

    assert _crop(1024, 1224, is_square=True) == (196, 0, 1220, 1024)


KITTI = "data_2d_raw/2013_05_28_drive_0000_sync/image_00/data_rect/0000000253.png"
OTHERS: dict[str, tuple[str, str, dict[str, str], str, str]] = {
    "nyu": ("test.txt", "12", {"depth": "HHA/12.jpg"}, "RGB/12.jpg", "Label/12.png"),
    "mfnet": ("test.txt", "00001D", {"thermal": "ther/00001D.jpg"}, "rgb/00001D.jpg", "labels/00001D.png"),
    "kitti360": (
        "val.txt",
        f"{KITTI} a second word",
        {
            "depth": "data_2d_hha/2013_05_28_drive_0000_sync/image_00/data_rect/0000000253.png",
            "event": "data_2d_event/2013_05_28_drive_0000_sync/0000000253_event_image.png",
            "lidar": "data_2d_lidar/2013_05_28_drive_0000_sync/image_00/data_rect/0000000253_color.png",
        },
        KITTI,
        "data_2d_semantics/train/2013_05_28_drive_0000_sync/image_00/semantic/0000000253.png",
    ),
}


@pytest.mark.parametrize("dataset", OTHERS)
def test_a_listed_data_set_finds_its_files(dataset: Any, tmp_path: Path) -> None:
    list_name, line, modalities, rgb, label = OTHERS[dataset]
    put(str(tmp_path), [rgb, label, *modalities.values()])
    put(str(tmp_path), [list_name], f"{line}\n\n".encode())
    imported = import_scenes(dataset, str(tmp_path), split="val")
    assert imported.summary() == "1 scenes; nothing missing"
    (row,) = imported.rows
    assert row["video_uri"] == str(tmp_path / rgb)
    assert row["modalities"] == {name: str(tmp_path / path) for name, path in modalities.items()}
    assert row["tags"]["label_uri"] == str(tmp_path / label)


@pytest.mark.parametrize("dataset", ["deliver", "mcubes", *OTHERS])
def test_another_layout_is_refused(dataset: Any, tmp_path: Path) -> None:
    put(str(tmp_path), ["somewhere/a.png"])
    with pytest.raises(ManifestError, match="Expected the"):
        import_scenes(dataset, str(tmp_path), split="val")


def test_what_cannot_be_asked_is_refused(tmp_path: Path) -> None:
    put(str(tmp_path), [deliver_path(folder, scene) for folder in DELIVER_FILES for scene in DELIVER_SCENES])
    with pytest.raises(ManifestError, match=r"modality 'thermal': DELIVER has none\. Known: rgb, depth"):
        import_scenes("deliver", str(tmp_path), split="val", modalities=("rgb", "thermal"))
    with pytest.raises(ManifestError, match="case 'snow'"):
        import_scenes("deliver", str(tmp_path), split="val", case="snow")
    with pytest.raises(ConfigError, match="only deliver is divided by cases"):
        import_scenes("nyu", str(tmp_path), split="val", case="night")
    put(str(tmp_path), ["test.txt"], b"1\n2\n1\n")
    with pytest.raises(ManifestError, match=r"test\.txt: '1' and 0 others are there twice"):
        import_scenes("nyu", str(tmp_path), split="val")


def test_the_verb_writes_a_manifest_that_reads_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_mcubes(tmp_path / "data")
    out = tmp_path / "mcubes.jsonl"
    arguments = ["mcubes", "--root", str(tmp_path / "data"), "--out", str(out), "--split", "test"]
    with pytest.raises(SystemExit) as ended:
        main(["import", *arguments, "--modalities", "rgb", "dolp", "aolp"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"{out}: 2 scenes; nothing missing\n"
    items = read_manifest(out, needs="nothing", strict=True).items
    assert [item.modality_order for item in items] == [("rgb", "dolp", "aolp")] * 2
    assert {name: uri.count("|") for name, uri in items[0].modalities.items()} == {"aolp": 2, "dolp": 0}
    assert items[0].crop == (200, 0, 240, 40)
    assert items[0].tags["label_uri"].endswith("GT/out_1.png")
    write_manifest([json.loads(line) for line in out.read_text().splitlines()], tmp_path / "again.jsonl")
    assert (tmp_path / "again.jsonl").read_bytes() == out.read_bytes()
