"""The tracking job, whole: prompts and detections in, tables out; bad prompts are told and the rest runs."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jobs.track_corpus import TrackCorpus
from pipeline.cluster.job import EXIT_OK, EXIT_USAGE, main
from pipeline.masks import rle
from pipeline.masks.geometry import bounding_box
from pipeline.query import open_run
from tests.methods.tracking_world import HEIGHT, WIDTH, image_at

NUM_FRAMES = 6

POINT = {"object_id": 1, "frame": 0, "points": [[50, 20, 1]]}
BAD = {
    "outside": [{"object_id": 1, "frame": 0, "points": [[500, 20, 1]]}],
    "beyond": [{"object_id": 1, "frame": 99, "points": [[50, 20, 1]]}],
    "empty": [{"object_id": 1, "frame": 0, "mask_rle": "EMPTY"}],
    "twins": [POINT, {"object_id": 1, "frame": 0, "box": [1, 1, 9, 9]}],
    "backwards": [{"object_id": 1, "frame": 0, "box": [9, 1, 3, 9]}],
    "nothing": [],
}
"""Video to prompts that cannot be tracked."""


def mask_of(*, empty: bool) -> dict[str, object]:
    mask = np.zeros((HEIGHT, WIDTH), np.bool_)
    mask[10:30, 40:60] = not empty
    box = bounding_box(mask)
    counts = rle.encode(mask, box) if box else rle.encode(mask)
    return {"size": [HEIGHT, WIDTH], "counts": counts.decode("ascii")}


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("track")
    (folder / "frames").mkdir()
    for place in range(NUM_FRAMES):
        Image.fromarray(image_at(place)).save(folder / "frames" / f"{place:05d}.png")
    shown = [POINT, {"object_id": 4, "frame": 3, "mask_rle": mask_of(empty=False)}]
    rows = [{"video_id": "good", "prompts": shown}, {"video_id": "detected"}]
    rows += [{"video_id": name, "prompts": prompts} for name, prompts in BAD.items()]
    text = "\n".join(json.dumps({"video_uri": "frames", "fps": 25, **row}) for row in rows)
    (folder / "m.jsonl").write_text(text.replace('"EMPTY"', json.dumps(mask_of(empty=True))))
    header = "video_id,frame,object_id,x0,y0,x1,y1"
    (folder / "d.csv").write_text(f"{header}\ndetected,1,2,40,10,62,34\ndetected,2,2,39,10,61,34")
    arguments = ["--manifest", str(folder / "m.jsonl"), "--output", str(folder / "lake"), "--runner", "local"]
    flags = ["--detections", str(folder / "d.csv"), "--device", "cpu", "--quiet", "--mosam.direction", "both"]
    assert main(TrackCorpus, [*arguments, *flags], prog="track_corpus") == EXIT_OK
    return folder / "lake"


def test_every_frame_has_one_row_per_object_that_says_why(lake: Path) -> None:
    with open_run(lake) as opened:
        rows = opened.sql(
            "SELECT video_id, object_id, frame_index, trace.source, trace.prompt_kind, len(trace.memory_frames) "
            "FROM masks ORDER BY ALL"
        ).fetchall()
        tracks = opened.sql("SELECT video_id, object_id, source, n_frames FROM tracks ORDER BY ALL").fetchall()
    asked = [("detected", 2), ("good", 1), ("good", 4)]
    assert [row[:3] for row in rows] == [(*names, frame) for names in asked for frame in range(NUM_FRAMES)]
    told = {row[:3]: row[3:] for row in rows}
    assert told["good", 1, 0] == ("prompted", "points", 0)
    assert told["good", 4, 3] == ("prompted", "mask", 0)
    assert told["detected", 2, 1] == ("prompted", "box", 0)
    followed = [row for row in rows if row[3] != "prompted"]
    assert len(followed) == 3 * (NUM_FRAMES - 1)
    assert all(source in ("tracked", "motion") and num >= 1 for *_, source, _, num in followed)
    assert tracks == [("detected", 2, "box", 6), ("good", 1, "points", 6), ("good", 4, "mask", 6)]


def test_the_mask_that_was_shown_comes_back(lake: Path) -> None:
    with open_run(lake) as opened:
        boxes = opened.sql(
            "SELECT bbox FROM masks WHERE video_id = 'good' AND object_id = 4 AND frame_index = 3"
        ).fetchall()
    # Through the model's grid of 4 x 4 cells of a 128 px square: within a cell.
    assert abs(np.array(list(boxes[0][0].values())) - (40, 10, 20, 20)).max() <= 4


def test_each_bad_prompt_is_an_error_with_its_line_and_reason(lake: Path) -> None:
    with open_run(lake) as opened:
        errors = {row[0]: row[1:] for row in opened.sql("SELECT video_id, stage, line, message FROM errors").fetchall()}
    said = {
        "outside": ("prompt", "lies outside the frame"),
        "beyond": ("prompt", "the last frame that came is 5"),
        "empty": ("prompt", "the mask is empty"),
        "twins": ("manifest", "shown on frame 0 twice"),
        "backwards": ("manifest", "x1 > x0"),
        "nothing": ("manifest", "Give at least one"),
    }
    assert set(errors) == set(said)
    for place, (name, (stage, message)) in enumerate(said.items(), start=3):
        assert errors[name][:2] == (stage, place), name
        assert message in errors[name][2]


def test_ranges_and_unknown_policies_are_refused_before_anything_runs(tmp_path: Path) -> None:
    arguments = ["--manifest", "m.jsonl", "--output", str(tmp_path), "--quiet"]
    with pytest.raises(SystemExit) as refused:
        main(TrackCorpus, [*arguments, "--unit-frames", "100"], prog="track_corpus")
    assert refused.value.code == EXIT_USAGE
    config = tmp_path / "job.yaml"
    config.write_text("mosam: {policy: sam2long}")
    assert main(TrackCorpus, [*arguments, "--config", str(config)], prog="track_corpus") == EXIT_USAGE
