"""Label maps in VSPW's layout: pixel for pixel what the tables hold, read back by the importer and by the metrics."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from pipeline.cli import main as masklake
from pipeline.encode import RowContext, TrackAccumulator, encode_tick, frame_row
from pipeline.errors import ConfigError
from pipeline.evaluate.semantic import SemanticScorer
from pipeline.evaluate.semantic_protocols import semantic_protocol
from pipeline.evaluate.vspw import score_vspw
from pipeline.export.vspw import CLASS_NUMBERS, export_vspw
from pipeline.io.commit_log import commit_unit
from pipeline.io.mask_files import StagedUnit
from pipeline.io.parts import PartLimits
from pipeline.io.storage import open_store
from pipeline.masks import rle
from pipeline.query import open_run
from pipeline.synth.layouts_street import write_vspw
from pipeline.synth.street import Street, iter_streets
from pipeline.synth.street_config import street_config
from pipeline.synth.street_world import STREET_CLASSES
from pipeline.ticks import ObjectMask, TickMasks
from pipeline.training.semantic_sources import open_source
from schemas.commit import Commit, CommittedItem
from tests.drawn_lake import LINEAGE

Labels = NDArray[np.uint8]
HEIGHT, WIDTH, FRAMES = 48, 72, 9


@pytest.fixture(scope="module")
def streets() -> list[Street]:
    config = street_config("street_train").derive(height=HEIGHT, width=WIDTH, num_frames=FRAMES)
    return list(iter_streets(config, 3, "train", range(2)))


@pytest.fixture(scope="module")
def vspw(streets: list[Street], tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("vspw")
    write_vspw({"val": streets}, root)
    return root


def spoilt(labels: Labels) -> Labels:
    """A prediction that is wrong in places and void in others."""
    wrong = labels.copy()
    wrong[:, :20, ::3] = (labels[:, :20, ::3] + 1) % len(STREET_CLASSES)
    wrong[2, 30:, 5:40] = 255
    wrong[4] = 255
    return wrong


def ticks_of(labels: Labels) -> list[TickMasks]:
    """Class regions, and a masklet over all of them that has a class as well."""
    ticks = []
    for frame, one in enumerate(labels):
        regions = [
            ObjectMask(object_id=c + 1, mask=one == c, confidence=0.5, class_id=c) for c in np.unique(one[one != 255])
        ]
        masklet = ObjectMask(
            object_id=len(STREET_CLASSES) + 1, mask=np.ones(one.shape, np.bool_), confidence=0.5, class_id=3
        )
        ticks.append(
            TickMasks(frame_index=frame, pts_us=frame, height=HEIGHT, width=WIDTH, objects=(*regions, masklet))
        )
    return ticks


def commit(
    lake: Path, videos: Sequence[tuple[str, str, list[TickMasks]]], *, run_id: str = "run1", unit_id: str = "unit1"
) -> None:
    """(video_id, video_uri, masks) as a worker commits them."""
    store, items = open_store(lake), []
    staged = StagedUnit(store, run_id, unit_id, "attempt1", LINEAGE, lake.parent / "scratch", PartLimits())
    for video_id, uri, ticks in videos:
        context = RowContext(
            run_id=run_id,
            dataset=None,
            video_id=video_id,
            unit_id=unit_id,
            attempt_id="attempt1",
            queries={},
            class_names=dict(enumerate(STREET_CLASSES)),
        )
        item, tracks = staged.item(video_id), TrackAccumulator(context)
        for tick in ticks:
            rows = encode_tick(tick, context)
            item.add_masks(rows)
            item.add_frames(frame_row(tick, context))
            tracks.add(rows)
        item.add_tracks(tracks.rows())
        item.keep()
        items.append(
            CommittedItem(
                item_id=video_id,
                video_id=video_id,
                video_uri=uri,
                range_start=0,
                range_end=None,
                frames=len(ticks),
                objects=0,
                rows=0,
                input_etag=None,
                input_bytes=None,
                device_seconds=0.0,
            )
        )
    commit_unit(
        store,
        Commit(
            run_id=run_id,
            unit_id=unit_id,
            attempt_id="attempt1",
            config_hash="config",
            items=tuple(items),
            parts=staged.close(),
            errors=(),
            wall_seconds=1.0,
            committed_at=1.0,
        ),
    )


@pytest.fixture(scope="module")
def lake(streets: list[Street], vspw: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "lake"
    videos = [
        (street.video_id, str(vspw / "data" / street.video_id / "origin"), ticks_of(spoilt(street.labels())))
        for street in streets
    ]
    commit(folder, videos)
    return folder


def code_of(*arguments: str) -> int | str | None:
    with pytest.raises(SystemExit) as exited:
        masklake(arguments)
    return exited.value.code


def test_predictions_are_what_the_tables_hold_by_the_names_of_the_pictures(
    lake: Path, vspw: Path, streets: list[Street], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert code_of("export", "vspw", str(lake), "--out", str(tmp_path)) == 0
    assert f"2 videos, {2 * FRAMES} label maps, 10 classes; 2 maps hold no class" in capsys.readouterr().out
    with open_run(lake) as run:
        rows = run.sql("SELECT video_id, frame_index, class_id, rle FROM masks WHERE object_id <= 10").fetchall()
    for street in streets:
        pictures = sorted((vspw / "data" / street.video_id / "origin").iterdir())
        written = sorted((tmp_path / street.video_id).iterdir())
        assert [file.stem for file in written] == [file.stem for file in pictures]
        maps = np.stack([np.array(Image.open(file)) for file in written])
        np.testing.assert_array_equal(maps, spoilt(street.labels()))
        mine = [row[1:] for row in rows if row[0] == street.video_id]
        assert len(mine) > FRAMES
        for frame, class_id, counts in mine:
            np.testing.assert_array_equal(maps[frame] == class_id, rle.decode(counts, HEIGHT, WIDTH))


@pytest.mark.parametrize("protocol", ["vspw", "masklake"])
def test_the_metrics_read_the_folders_and_find_what_they_find_in_memory(
    protocol: str, lake: Path, vspw: Path, streets: list[Street], tmp_path: Path
) -> None:
    export_vspw(lake, tmp_path)
    expected = SemanticScorer(semantic_protocol(protocol), num_classes=len(STREET_CLASSES))
    for street in streets:
        expected.add_video(spoilt(street.labels()), street.labels())
    scores = score_vspw(str(vspw), str(tmp_path), protocol=protocol)
    assert scores == expected.scores()
    assert scores.miou is not None
    assert 0.2 < scores.miou < 0.95
    assert scores.consistency["vc_strict_8"] is not None


def test_masks_are_a_data_set_that_the_importer_reads(
    lake: Path, vspw: Path, streets: list[Street], tmp_path: Path
) -> None:
    export_vspw(lake, tmp_path, form="masks", classes=str(vspw / CLASS_NUMBERS), subset="train")
    for street in streets:
        shutil.copytree(vspw / "data" / street.video_id / "origin", tmp_path / "data" / street.video_id / "origin")
    source = open_source(f"vspw:{tmp_path}", seed=0)
    assert source.class_names == STREET_CLASSES
    found = {video.video_id: video for video in (source.video(number) for number in range(2))}
    for street in streets:
        labels = np.stack([frame.labels for frame in found[street.video_id].frames])
        np.testing.assert_array_equal(labels, spoilt(street.labels()))


def test_pixels_without_a_class_hold_what_is_asked_for(lake: Path, streets: list[Street], tmp_path: Path) -> None:
    export_vspw(lake, tmp_path, unpainted=9)
    one = np.array(Image.open(sorted((tmp_path / streets[0].video_id).iterdir())[4]))
    assert (one == 9).all()
    with pytest.raises(ConfigError, match="unpainted 256"):
        export_vspw(lake, tmp_path, unpainted=256)


def test_a_videos_maps_are_named_by_frame_index_and_a_folder_that_is_gone_is_told(
    streets: list[Street], tmp_path: Path
) -> None:
    video = tmp_path / "clip.mp4"
    video.write_bytes(b"a video")
    ticks = ticks_of(streets[0].labels())[::4]
    commit(tmp_path / "lake", [("clip", str(video), ticks)])
    export_vspw(tmp_path / "lake", tmp_path / "out")
    assert sorted(file.name for file in (tmp_path / "out" / "clip").iterdir()) == [
        "00000000.png",
        "00000004.png",
        "00000008.png",
    ]
    video.unlink()
    with pytest.raises(ConfigError, match="no longer there"):
        export_vspw(tmp_path / "lake", tmp_path / "out")
    video.mkdir()
    Image.fromarray(np.zeros((HEIGHT, WIDTH), np.uint8)).save(video / "one.png")
    with pytest.raises(ConfigError, match="1 pictures, but the run saw frame 4"):
        export_vspw(tmp_path / "lake", tmp_path / "out")


def test_pictures_are_in_natural_order(streets: list[Street], tmp_path: Path) -> None:
    folder = tmp_path / "origin"
    folder.mkdir()
    for number in (2, 10, 1):
        Image.fromarray(np.zeros((HEIGHT, WIDTH), np.uint8)).save(folder / f"f{number}.jpg")
    commit(tmp_path / "lake", [("v", str(folder), ticks_of(streets[0].labels())[:3])])
    export_vspw(tmp_path / "lake", tmp_path / "out")
    last = np.array(Image.open(tmp_path / "out" / "v" / "f10.png"))
    np.testing.assert_array_equal(last, streets[0].labels()[2])


def test_classes_that_do_not_agree_and_runs_that_cannot_be_exported_are_told(
    lake: Path, streets: list[Street], tmp_path: Path
) -> None:
    wrong = tmp_path / "classes.json"
    wrong.write_text(json.dumps({"others": 0} | {name: n + 1 for n, name in enumerate(STREET_CLASSES[::-1])}))
    with pytest.raises(ConfigError, match=r"class 0 is 'sky' in the run and 'other' in the file \(number 1\)"):
        export_vspw(lake, tmp_path / "out", classes=str(wrong))
    labels = np.full((1, HEIGHT, WIDTH), 4, np.uint8)
    commit(tmp_path / "lake", [("v", "https://host/v.mp4", ticks_of(labels))])
    with pytest.raises(ConfigError, match=r"classes \[0, 1, 2, 3\] were never seen"):
        export_vspw(tmp_path / "lake", tmp_path / "out", form="masks")
    commit(tmp_path / "lake", [("v", "https://host/v.mp4", ticks_of(labels))], run_id="run2")
    with pytest.raises(ConfigError, match=r"runs run1, run2\. Name one"):
        export_vspw(tmp_path / "lake", tmp_path / "out")
    masklets = [TickMasks(frame_index=0, pts_us=0, height=HEIGHT, width=WIDTH, objects=ticks_of(labels)[0].objects[1:])]
    commit(tmp_path / "lake", [("v", "https://host/v.mp4", masklets)], run_id="run3")
    with pytest.raises(ConfigError, match="no class regions"):
        export_vspw(tmp_path / "lake", tmp_path / "out", run_id="run3")


def test_a_video_without_any_row_is_named_and_the_verb_fails(
    streets: list[Street], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = [TickMasks(frame_index=0, pts_us=0, height=HEIGHT, width=WIDTH, objects=())]
    good = ticks_of(streets[0].labels())[:1]
    commit(tmp_path / "lake", [("good", "https://h/a.mp4", good), ("empty", "https://h/b.mp4", empty)])
    assert code_of("export", "vspw", str(tmp_path / "lake"), "--out", str(tmp_path / "out")) == 1
    assert "tells their size: empty" in capsys.readouterr().out
    assert (tmp_path / "out" / "good" / "00000000.png").exists()


def test_the_evaluation_prints_its_numbers_and_tells_what_is_missing(
    lake: Path, vspw: Path, streets: list[Street], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export_vspw(lake, tmp_path / "out")
    ask = ["evaluate", "vspw", "--root", str(vspw), "--predictions", str(tmp_path / "out")]
    assert code_of(*ask, "--json", str(tmp_path / "scores.json")) == 0
    told = json.loads((tmp_path / "scores.json").read_text())
    assert f"miou                     {told['miou']:.4f}" in capsys.readouterr().out
    assert told["frames"] == 2 * FRAMES
    gone = sorted((tmp_path / "out" / streets[1].video_id).iterdir())[3]
    gone.unlink()
    assert code_of(*ask) == 2
    assert f"{gone.name}: no such file; expected a prediction" in capsys.readouterr().err
    assert code_of(*ask, "--subset", "test") == 2
    assert "list of videos of 'test'" in capsys.readouterr().err
    Image.fromarray(np.zeros((HEIGHT, WIDTH + 2), np.uint8)).save(gone)
    assert code_of(*ask) == 2
    assert "all of a video of one size" in capsys.readouterr().err
