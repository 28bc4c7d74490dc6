"""The multimodal job, whole: a generated DELIVER tree, and bundles of every kind, in; class regions out."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jobs.multimodal_corpus import MultimodalCorpus
from pipeline.cli import main as masklake
from pipeline.cluster.job import EXIT_OK, EXIT_USAGE, main
from pipeline.evaluate.modality_subsets import subset_runs
from pipeline.query import open_run
from pipeline.synth.layouts_street import write_deliver
from pipeline.synth.street import iter_streets
from pipeline.synth.street_config import StreetConfig
from pipeline.synth.street_world import MODALITIES, STREET_CLASSES

HEIGHT, WIDTH = 48, 64
NUM_SCENES = 6
STREETS = StreetConfig(
    height=HEIGHT,
    width=WIDTH,
    num_frames=2,
    modalities=MODALITIES,
    weathers={"night": 1.0, "sun": 1.0},
    failures={"none": 1.0, "eventlowres": 1.0},
)


def run(manifest: Path, lake: Path, *flags: str) -> int:
    arguments = ["--manifest", str(manifest), "--output", str(lake), "--runner", "local", "--device", "cpu", "--quiet"]
    return main(MultimodalCorpus, [*arguments, "--memorysam.image-size", "64", *flags], prog="multimodal_corpus")


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "DELIVER"
    write_deliver({"val": iter_streets(STREETS, 3, "valid", range(NUM_SCENES // 2))}, root)
    return root


@pytest.fixture(scope="module")
def scenes(tree: Path) -> list[dict[str, Any]]:
    """Manifest rows, as the importer makes them of the tree."""
    out = tree.parent / "scenes.jsonl"
    with pytest.raises(SystemExit) as ended:
        masklake(["import", "deliver", "--root", str(tree), "--out", str(out), "--split", "val"])
    assert ended.value.code == 0
    return [json.loads(line) for line in out.read_text().splitlines()]


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def lake(tree: Path, scenes: list[dict[str, Any]]) -> Path:
    lake = tree.parent / "lake"
    assert run(write_rows(tree.parent / "rows.jsonl", scenes), lake) == EXIT_OK
    return lake


def regions(lake: Path) -> dict[tuple[str, int, int], bytes]:
    """(scene, frame, class) to RLE."""
    with open_run(lake) as opened:
        rows = opened.sql("SELECT video_id, frame_index, class_id, rle FROM masks").fetchall()
    return {tuple(row[:3]): row[3] for row in rows}


def flags(lake: Path) -> dict[str, list[str]]:
    with open_run(lake) as opened:
        return dict(opened.sql("SELECT video_id, flags FROM frames").fetchall())


def test_every_scene_of_a_deliver_tree_is_covered_once_by_named_classes(
    lake: Path, scenes: list[dict[str, Any]]
) -> None:
    assert len(scenes) == NUM_SCENES
    with open_run(lake) as opened:
        areas = opened.sql("SELECT video_id, sum(area), min(height), min(width) FROM masks GROUP BY 1").fetchall()
        names = opened.sql("SELECT DISTINCT class_id, label FROM masks").fetchall()
        units = opened.sql("SELECT count(DISTINCT unit_id) FROM commits").fetchall()
    assert {tuple(row) for row in areas} == {(row["video_id"], HEIGHT * WIDTH, HEIGHT, WIDTH) for row in scenes}
    assert all(STREET_CLASSES[class_id] == label for class_id, label in names)
    assert units == [(1,)], "single scenes are packed"


def test_low_resolution_events_are_told_in_the_frames_table(lake: Path, scenes: list[dict[str, Any]]) -> None:
    low = {row["video_id"]: row["tags"].get("case") == "eventlowres" for row in scenes}
    assert len(set(low.values())) == 2
    assert {name: "resized:event" in told for name, told in flags(lake).items()} == low


def test_labels_lie_where_the_manifest_says(scenes: list[dict[str, Any]]) -> None:
    for row in scenes:
        label = np.asarray(Image.open(row["tags"]["label_uri"]))
        assert label.shape[:2] == (HEIGHT, WIDTH)
        assert label[:, :, 0].min() >= 1
        assert label[:, :, 0].max() <= 25


def test_a_scene_alone_has_the_labels_that_it_has_in_a_pack(
    lake: Path, scenes: list[dict[str, Any]], tmp_path: Path
) -> None:
    manifest = write_rows(tmp_path / "rows.jsonl", scenes)
    assert run(manifest, tmp_path / "lake", "--pack-frames", "1", "--videos-per-actor", "3") == EXIT_OK
    assert regions(tmp_path / "lake") == regions(lake)


def test_directories_of_frames_give_what_their_scenes_give(tree: Path, lake: Path, tmp_path: Path) -> None:
    assert run(tree / "manifest_val.jsonl", tmp_path / "lake") == EXIT_OK
    with open_run(lake) as opened:
        single = opened.sql("SELECT class_id, rle FROM masks ORDER BY ALL").fetchall()
    with open_run(tmp_path / "lake") as opened:
        assert opened.sql("SELECT class_id, rle FROM masks ORDER BY ALL").fetchall() == single


def bundles(root: Path, scene: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rows of different modalities and orders, and of every fault."""
    row = {**scene, "modalities": dict(scene["modalities"])}
    others = row["modalities"]
    depth = np.asarray(Image.open(others["depth"]))[:, :, 0]
    Image.fromarray(depth.astype(np.uint16) * 257).save(root / "depth16.png")
    np.save(root / "hole.npy", np.where(depth == depth.max(), np.nan, depth / 255).astype(np.float32))
    Image.fromarray(depth.T.copy()).save(root / "turned.png")
    changed = {
        "whole": {},
        "reversed": {"modality_order": row["modality_order"][::-1]},
        "two": {"modality_order": ["depth", "rgb"]},
        "rgb": {"modality_order": ["rgb"], "modalities": {}},
        "deep": {"modalities": others | {"depth": str(root / "depth16.png")}},
        "no_lidar": {"modalities": others | {"lidar": str(root / "nowhere.png")}},
        "hole": {"modalities": others | {"depth": str(root / "hole.npy")}},
        "turned": {"modalities": others | {"depth": str(root / "turned.png")}},
    }
    return [{**row, **columns, "video_id": name} for name, columns in changed.items()]


def test_bundles_of_every_kind_are_handled_as_documented(
    lake: Path, scenes: list[dict[str, Any]], tmp_path: Path
) -> None:
    scene = scenes[0]
    rows = bundles(tmp_path, scene)
    flags_given = ["--bundle.on-missing", "drop_modality"]
    assert run(write_rows(tmp_path / "rows.jsonl", rows), tmp_path / "lake", *flags_given) == EXIT_OK
    with open_run(tmp_path / "lake") as opened:
        errors = opened.sql('SELECT video_id, stage, "class", message FROM errors ORDER BY 1').fetchall()
    assert [error[:3] for error in errors] == [("hole", "decode", "DecodeError"), ("turned", "decode", "DecodeError")]
    assert "NaN or infinite" in errors[0][3]
    assert "Expected one shape" in errors[1][3]
    found = regions(tmp_path / "lake")
    told = flags(tmp_path / "lake")
    of = {row["video_id"]: {key[2]: rle for key, rle in found.items() if key[0] == row["video_id"]} for row in rows}
    assert of["whole"] == {key[2]: rle for key, rle in regions(lake).items() if key[0] == scene["video_id"]}
    assert "missing:lidar" in told["no_lidar"]
    assert all("missing:lidar" not in told[name] for name in told.keys() - {"no_lidar"})
    # The order of the memory, which modalities there are, and their depth in bits all reach the model.
    seen = [of[name] for name in ("whole", "reversed", "two", "rgb", "no_lidar")]
    assert all(one != other for place, one in enumerate(seen) for other in seen[:place])
    assert of["deep"].keys()


def test_a_dropped_modality_and_one_that_is_not_asked_for_give_the_same_labels(
    scenes: list[dict[str, Any]], tmp_path: Path
) -> None:
    runs = {run.name: run for run in subset_runs(("rgb", "depth", "event", "lidar"), "skipped")}
    scene = scenes[0]
    gone = {**scene, "video_id": "gone", "modalities": scene["modalities"] | {"lidar": str(tmp_path / "no.png")}}
    manifest = write_rows(tmp_path / "rows.jsonl", [gone, runs["rgb+depth+event"].row({**scene, "video_id": "left"})])
    assert run(manifest, tmp_path / "lake", "--bundle.on-missing", "drop_modality") == EXIT_OK
    of: dict[str, dict[int, bytes]] = {"gone": {}, "left": {}}
    for (name, _, class_id), rle in regions(tmp_path / "lake").items():
        of[name][class_id] = rle
    assert of["gone"] == of["left"] != {}


def test_another_policy_is_another_run(scenes: list[dict[str, Any]], tmp_path: Path) -> None:
    manifest = write_rows(tmp_path / "rows.jsonl", scenes[:1])
    assert run(manifest, tmp_path / "lake") == EXIT_OK
    assert run(manifest, tmp_path / "lake", "--bundle.zero-filled", "lidar") == EXIT_USAGE
    before = regions(tmp_path / "lake")
    assert run(manifest, tmp_path / "lake", "--bundle.zero-filled", "lidar", "--overwrite") == EXIT_OK
    assert regions(tmp_path / "lake") != before
