"""DELIVER and VSPW trees of streets, read again the way the datasets' own loaders do."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from pipeline.io.manifest import read_manifest
from pipeline.synth.layouts_street import DELIVER_CLASSES, write_deliver, write_vspw
from pipeline.synth.street import Street, sample_street
from pipeline.synth.street_config import StreetConfig
from pipeline.synth.street_world import MODALITIES, STREET_CLASSES, Failure, Weather

CONFIG = StreetConfig(height=40, width=56, num_frames=2, modalities=MODALITIES)
CASES: tuple[tuple[Weather, Failure], ...] = (("night", "none"), ("rain", "eventlowres"), ("fog", "lidarjitter"))


@pytest.fixture(scope="module")
def streets() -> list[Street]:
    return [
        sample_street(CONFIG.derive(weathers={weather: 1.0}, failures={failure: 1.0}), 2, "valid", index)
        for index, (weather, failure) in enumerate(CASES)
    ]


def pixels(path: Path) -> np.ndarray:
    """A picture as stored, channels red, green, blue (, alpha)."""
    stored = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert stored is not None, path
    return stored if stored.ndim == 2 else stored[..., [2, 1, 0, 3][: stored.shape[2]]]


def deliver_label(path: Path) -> np.ndarray:
    """Channel 0, 255 to 0, minus 1 in eight bits."""
    raw = pixels(path)[..., 0].copy()
    raw[raw == 255] = 0
    return raw - np.uint8(1)


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_deliver_is_found_by_the_loaders_own_substitutions(streets: list[Street], tmp_path: Path) -> None:
    root = tmp_path / "DELIVER"
    write_deliver({"val": streets}, root)
    found = sorted((root / "img").glob("*/val/*/*_rgb*.png"))
    assert len(found) == 2 * len(streets)
    by_place = {(street.weather, frame.frame_index): (street, frame) for street in streets for frame in street.frames}
    for path in found:
        weather, subset, sequence, name = path.relative_to(root / "img").parts
        street, frame = by_place[weather, int(name[:6])]
        assert subset == "val"
        assert sequence.startswith("MAP_1_point")
        assert name == f"{frame.frame_index:06d}_rgb_front.png"
        assert np.array_equal(pixels(path), frame.rgb)
        for folder, word in (("hha", "depth"), ("depth", "depth"), ("event", "event"), ("lidar", "lidar")):
            stored = pixels(Path(str(path).replace("/img", f"/{folder}").replace("_rgb", f"_{word}")))
            wanted = frame.modalities[folder]  # type: ignore[index]
            if folder == "event" and street.failure == "eventlowres":
                assert stored.shape == (10, 14, 3)
                stored = cv2.resize(stored, (56, 40), interpolation=cv2.INTER_NEAREST)
            assert np.array_equal(stored, wanted), folder
        label = deliver_label(Path(str(path).replace("/img", "/semantic").replace("_rgb", "_semantic")))
        names = np.array(DELIVER_CLASSES)[label]
        for ours, theirs in (("sky", "Sky"), ("road", "Road"), ("vehicle", "Cars"), ("ground", "SideWalk")):
            assert np.array_equal(names == theirs, frame.labels == STREET_CLASSES.index(ours))  # type: ignore[arg-type]


@pytest.mark.parametrize(("case", "weather"), [("eventlowres", "rain"), ("lidarjitter", "fog"), ("night", "night")])
def test_a_case_is_a_part_of_the_path(case: str, weather: str, streets: list[Street], tmp_path: Path) -> None:
    write_deliver({"test": streets}, tmp_path)
    found = [path for path in tmp_path.glob("img/*/test/*/*.png") if case in str(path.relative_to(tmp_path))]
    assert len(found) == 2
    assert {path.parts[-4] for path in found} == {weather}


def test_deliver_has_the_published_classes() -> None:
    assert len(DELIVER_CLASSES) == len(set(DELIVER_CLASSES)) == 25
    assert [DELIVER_CLASSES[i] for i in (0, 3, 6, 12, 24)] == ["Building", "Pedestrian", "Road", "Sky", "Truck"]


def test_deliver_may_keep_the_ids_of_streets(streets: list[Street], tmp_path: Path) -> None:
    write_deliver({"train": streets[:1]}, tmp_path, class_ids="street")
    for frame, path in zip(streets[0].frames, sorted(tmp_path.glob("semantic/night/train/*/*.png")), strict=True):
        assert np.array_equal(deliver_label(path), frame.labels)


def test_the_jobs_reader_takes_the_bundles(streets: list[Street], tmp_path: Path) -> None:
    manifests = write_deliver({"train": streets[:2], "val": streets[2:]}, tmp_path)
    reading = read_manifest(manifests["train"], needs="nothing", strict=True)
    assert [item.video_id for item in reading.items] == [street.video_id for street in streets[:2]]
    for row in rows_of(manifests["train"]):
        assert row["modality_order"] == ["rgb", "hha", "event", "lidar"]
        assert set(row["modalities"]) == set(MODALITIES)
        for uri in (row["video_uri"], row["tags"]["labels"], *row["modalities"].values()):
            assert len(list((tmp_path / uri).glob("*.png"))) == 2, uri
    assert [row["tags"]["failure"] for row in rows_of(manifests["val"])] == ["lidarjitter"]


def test_vspw_masks_are_one_based_and_frames_are_close(streets: list[Street], tmp_path: Path) -> None:
    manifests = write_vspw({"train": streets[:2], "val": streets[2:]}, tmp_path)
    numbers = json.loads((tmp_path / "label_num_dic_final.json").read_text())
    assert numbers == {"others": 0, **{name: number for number, name in enumerate(STREET_CLASSES, start=1)}}
    assert (tmp_path / "train.txt").read_text().split() == [street.video_id for street in streets[:2]]
    assert (tmp_path / "val.txt").read_text().split() == [streets[2].video_id]
    for street in streets:
        folder = tmp_path / "data" / street.video_id
        assert sorted(path.name for path in (folder / "mask").iterdir()) == ["00000001.png", "00000002.png"]
        assert sorted(path.name for path in (folder / "origin").iterdir()) == ["00000001.jpg", "00000002.jpg"]
        for frame in street.frames:
            name = f"{frame.frame_index + 1:08d}"
            mask = pixels(folder / "mask" / f"{name}.png")
            assert mask.ndim == 2
            assert np.array_equal(mask - np.uint8(1), frame.labels)
            assert np.abs(pixels(folder / "origin" / f"{name}.jpg").astype(int) - frame.rgb).mean() < 5
    (row,) = rows_of(manifests["val"])
    assert row["video_uri"] == f"data/{streets[2].video_id}/origin"
    assert len(read_manifest(manifests["train"], needs="nothing", strict=True).items) == 2


def test_what_cannot_be_written_says_so(streets: list[Street], tmp_path: Path) -> None:
    bare = sample_street(CONFIG.derive(modalities=("depth",)), 2, "valid", 0)
    with pytest.raises(ValueError, match="lacks hha, event, lidar"):
        write_deliver({"val": [bare]}, tmp_path / "bare")
    for write in (write_deliver, write_vspw):
        root = tmp_path / write.__name__
        with pytest.raises(ValueError, match="comes twice"):
            write({"val": [streets[0], streets[0]]}, root)
        write({"test": streets[1:2]}, root)
        with pytest.raises(FileExistsError, match="Remove the old streets"):
            write({"test": streets[2:]}, root)
