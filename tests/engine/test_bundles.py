"""Bundles through the worker: scenes packed many to a unit, any modalities in any order, gaps in the frames table."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.decode.bundle_options import BundleOptions
from pipeline.engine.local import run_local
from pipeline.engine.worker import Worker
from pipeline.io.manifest import read_manifest
from pipeline.io.plan import plan_units
from pipeline.masks import rle
from pipeline.segmenter import Session
from schemas.commit import Commit, Receipt
from schemas.work_unit import WorkItem
from tests.bundle_fakes import CLASSES, ModalitySegmenter, mask_of
from tests.drawn_bundles import HEIGHT, WIDTH, picture, write_modality
from tests.engine.lakes import RUN_ID, commits_in, rows_in, settings_of, unit_of

pytestmark = pytest.mark.timeout(60)

EVERYTHING = BundleOptions()


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    return tmp_path / "lake"


def scene(root: Path, number: int, *names: str, **columns: Any) -> dict[str, Any]:
    """A manifest row of single images."""
    folder = root / f"scene{number}"
    uris = {name: write_modality(folder, name, "image", [number]) for name in ("rgb", *names)}
    return {"video_uri": uris.pop("rgb"), "video_id": f"scene{number}", "modalities": uris, **columns}


def items_of(root: Path, rows: Sequence[Mapping[str, Any]]) -> tuple[WorkItem, ...]:
    path = root / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read_manifest(path, needs="nothing", strict=True).items


def work_off(lake: Path, items: Sequence[WorkItem], options: BundleOptions = EVERYTHING, **settings: Any) -> Commit:
    """All items as one unit."""
    segmenter = settings.pop("segmenter", None) or ModalitySegmenter()
    with Worker(settings_of(lake, bundle=options, **settings), segmenter=segmenter) as worker:
        receipt = worker(unit_of(*items).to_json())
    assert receipt.status == "committed", receipt.errors
    (commit,) = commits_in(lake)
    return commit


def seen_in(lake: Path) -> dict[tuple[str, int], set[str]]:
    """(video, frame) to the modalities that the method saw there; each mask is that of the modality's own picture."""
    seen: dict[tuple[str, int], set[str]] = {}
    for row in rows_in(lake):
        name, number = CLASSES[row["class_id"]], row["frame_index"]
        shown = number if not row["video_id"].startswith("scene") else int(row["video_id"].removeprefix("scene"))
        mask = rle.decode(row["rle"], row["height"], row["width"])
        np.testing.assert_array_equal(mask, mask_of(picture(name, shown)))
        assert row["label"] == name
        seen.setdefault((row["video_id"], number), set()).add(name)
    return seen


def flags_in(lake: Path) -> dict[tuple[str, int], list[str]]:
    return {(row["video_id"], row["frame_index"]): row["flags"] for row in rows_in(lake, "frames")}


def test_one_worker_serves_scenes_of_different_modalities_and_orders_in_one_pack(lake: Path, tmp_path: Path) -> None:
    rows = [
        scene(tmp_path, 1, "depth", "event", "lidar"),
        scene(tmp_path, 2, "lidar", "depth"),
        scene(tmp_path, 3, "depth", "event", modality_order=["event", "rgb"]),
        scene(tmp_path, 4, "depth", modality_order=["depth"]),
        scene(tmp_path, 5),
    ]
    items = items_of(tmp_path, rows)
    plan = plan_units(
        items,
        run_id=RUN_ID,
        method="fake",
        config_hash="c0ffee",
        pack_frames=8,
        frames_of={item.item_id: 1 for item in items},
    )
    assert [len(unit.items) for unit in plan.units] == [5]
    receipts: list[Receipt] = []
    settings = settings_of(lake, bundle=EVERYTHING)
    run_local(settings, plan.units, on_receipt=receipts.append, worker=Worker(settings, segmenter=ModalitySegmenter()))
    assert [(receipt.status, receipt.videos_ok, receipt.frames) for receipt in receipts] == [("committed", 5, 5)]
    orders = {
        "scene1": "rgb,depth,event,lidar",
        "scene2": "rgb,lidar,depth",
        "scene3": "event,rgb",
        "scene4": "depth",
        "scene5": "rgb",
    }
    assert flags_in(lake) == {(name, 0): [f"order:{order}"] for name, order in orders.items()}
    assert seen_in(lake) == {(name, 0): set(order.split(",")) for name, order in orders.items()}
    assert all((row["height"], row["width"]) == (HEIGHT, WIDTH) for row in rows_in(lake))


def test_scenes_of_several_units_at_once_keep_their_masks(lake: Path, tmp_path: Path) -> None:
    items = items_of(tmp_path, [scene(tmp_path, number, "depth") for number in range(1, 10)])
    settings = settings_of(lake, bundle=EVERYTHING, max_videos=3)
    units = [unit_of(*items[start::3]) for start in range(3)]
    run_local(settings, units, on_receipt=lambda receipt: None, worker=Worker(settings, segmenter=ModalitySegmenter()))
    assert seen_in(lake) == {(item.video_id, 0): {"rgb", "depth"} for item in items}


def gappy_items(root: Path) -> tuple[WorkItem, ...]:
    """A video whose LiDAR lacks frames 1 and 4, a scene without its LiDAR file, and a whole scene."""
    video = {
        "video_uri": write_modality(root, "rgb", "folder", range(6)),
        "video_id": "drive",
        "modalities": {"lidar": write_modality(root, "lidar", "folder", (0, 2, 3, 5))},
    }
    bare, whole = scene(root, 7), scene(root, 8, "lidar")
    bare["modalities"] = {"lidar": str(root / "nowhere.png")}
    return items_of(root, [video, bare, whole])


def test_a_missing_modality_is_dropped_and_told_in_the_frames_table(lake: Path, tmp_path: Path) -> None:
    commit = work_off(lake, gappy_items(tmp_path), BundleOptions(on_missing="drop_modality"))
    assert [(item.video_id, item.frames) for item in commit.items] == [("drive", 6), ("scene7", 1), ("scene8", 1)]
    gaps = [("drive", 1), ("drive", 4), ("scene7", 0)]
    frames = [*(("drive", i) for i in range(6)), ("scene7", 0), ("scene8", 0)]
    assert seen_in(lake) == {frame: {"rgb"} if frame in gaps else {"rgb", "lidar"} for frame in frames}
    assert flags_in(lake) == {
        frame: ["order:rgb", "missing:lidar"] if frame in gaps else ["order:rgb,lidar"] for frame in frames
    }


def test_a_skipped_frame_has_a_row_of_the_frames_table_and_no_masks(lake: Path, tmp_path: Path) -> None:
    commit = work_off(lake, gappy_items(tmp_path), BundleOptions(on_missing="skip_frame"))
    assert [(item.video_id, item.frames) for item in commit.items] == [("drive", 4), ("scene7", 0), ("scene8", 1)]
    gaps = [("drive", 1), ("drive", 4), ("scene7", 0)]
    assert seen_in(lake).keys() == {("drive", 0), ("drive", 2), ("drive", 3), ("drive", 5), ("scene8", 0)}
    flags = flags_in(lake)
    assert len(flags) == 8
    assert [flags[frame] for frame in gaps] == [["missing:lidar", "skipped"]] * 3
    assert [row["n_objects"] for row in rows_in(lake, "frames") if row["flags"][-1] == "skipped"] == [0, 0, 0]


def test_each_bad_scene_fails_with_its_stage_and_the_good_one_is_committed(lake: Path, tmp_path: Path) -> None:
    rows = [scene(tmp_path, number, "depth") for number in range(1, 7)]
    rows[0]["modalities"]["lidar"] = str(tmp_path / "nowhere.png")
    rows[1]["modalities"]["depth"] = write_modality(tmp_path, "depth", "image", [2], height=WIDTH, width=HEIGHT)
    np.save(tmp_path / "nan.npy", np.full((HEIGHT, WIDTH), np.nan))
    rows[2]["modalities"]["depth"] = str(tmp_path / "nan.npy")
    (tmp_path / "broken.png").write_bytes(Path(rows[3]["modalities"]["depth"]).read_bytes()[:-60])
    rows[3]["modalities"]["depth"] = str(tmp_path / "broken.png")
    rows[4]["video_uri"] = str(tmp_path / "no_rgb.png")
    commit = work_off(lake, items_of(tmp_path, rows))
    assert [item.video_id for item in commit.items] == ["scene6"]
    told = [(error.video_id, error.stage, error.error_class, error.retryable) for error in commit.errors]
    stages = {1: "open", 2: "decode", 3: "decode", 4: "decode", 5: "open"}
    assert told == [(f"scene{number}", stage, "DecodeError", False) for number, stage in stages.items()]
    reasons = ["lidar is not there", "Expected one shape", "NaN or infinite", "not a whole image", "no such file"]
    assert all(reason in error.message for reason, error in zip(reasons, commit.errors, strict=True))


def test_a_bundle_cut_off_half_way_goes_on_with_all_that_reading_told(lake: Path, tmp_path: Path) -> None:
    gaps = {5, 11, 12, 17, 22}
    row = {
        "video_uri": write_modality(tmp_path, "rgb", "video", range(24)),
        "video_id": "drive",
        "modalities": {"depth": write_modality(tmp_path, "depth", "folder", sorted(set(range(24)) - gaps))},
    }
    (item,) = items_of(tmp_path, [row])
    looked = [0]

    def die_late(stage: str, sessions: Sequence[Session]) -> None:
        looked[0] += len(sessions)
        if looked[0] > 15:
            raise SystemExit("the process is lost")

    settings = settings_of(
        lake, bundle=BundleOptions(on_missing="drop_modality", align="name"), snapshot_frames=6, read_ahead_frames=0
    )
    with Worker(settings, segmenter=ModalitySegmenter(lag=4, hook=die_late)) as worker:
        assert worker(unit_of(item).to_json()).status == "failed"
    again = ModalitySegmenter(lag=4, hook=lambda stage, sessions: looked.append(1))
    with Worker(settings, segmenter=again) as worker:
        assert worker(unit_of(item).to_json()).status == "committed"
    assert len(looked) - 1 == 12, "it went on after frame 11, two of whose neighbours had not come out"
    assert seen_in(lake) == {("drive", i): {"rgb"} if i in gaps else {"rgb", "depth"} for i in range(24)}
    assert flags_in(lake) == {
        ("drive", i): ["order:rgb", "missing:depth"] if i in gaps else ["order:rgb,depth"] for i in range(24)
    }
