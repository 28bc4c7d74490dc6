"""The main job, whole: manifest in, committed tables out; resume, shards, ranges, packs, and a lake in a store."""

import csv
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from jobs.refer_corpus import ReferCorpus
from pipeline.cluster.job import EXIT_INTERRUPTED, EXIT_OK, EXIT_USAGE, main
from pipeline.query import open_run
from pipeline.synth.clip import Clip, sample_clip
from pipeline.synth.corpus import write_corpus
from pipeline.synth.presets import clip_config

NUM_FRAMES = 18
HEIGHT, WIDTH = 48, 64
CONFIG = clip_config("train").derive(num_frames=NUM_FRAMES, height=HEIGHT, width=WIDTH)


@pytest.fixture(scope="module")
def clips() -> list[Clip]:
    return [sample_clip(CONFIG, 11, "test", index) for index in range(4)]


@pytest.fixture(scope="module")
def manifest(clips: list[Clip], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(clips, tmp_path_factory.mktemp("corpus"))


def run(manifest: Path | str, lake: Path | str, *flags: str) -> int:
    arguments = ["--manifest", str(manifest), "--output", str(lake), "--runner", "local", "--device", "cpu", "--quiet"]
    return main(ReferCorpus, [*arguments, *flags], prog="refer_corpus")


@pytest.fixture(scope="module")
def lake(manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    lake = tmp_path_factory.mktemp("lake") / "run-1"
    assert run(manifest, lake) == EXIT_OK
    return lake


def mask_digests(lake: Path | str) -> dict[tuple[str, int, int], bytes]:
    """(video, object, frame) to RLE: what a run says, without who said it when."""
    with open_run(lake) as opened:
        rows = opened.sql("SELECT video_id, object_id, frame_index, rle FROM masks").fetchall()
    assert len({row[:3] for row in rows}) == len(rows), "a row came twice"
    return {tuple(row[:3]): row[3] for row in rows}


def test_every_frame_has_one_row_per_expression(lake: Path, clips: list[Clip]) -> None:
    expected = {
        (clip.video_id, number, frame)
        for clip in clips
        for number in range(1, len(clip.expressions) + 1)
        for frame in range(NUM_FRAMES)
    }
    assert set(mask_digests(lake)) == expected


def test_rows_carry_the_expression_the_time_and_the_size(lake: Path, clips: list[Clip]) -> None:
    with open_run(lake) as opened:
        rows = opened.sql(
            "SELECT DISTINCT video_id, query_id, label, height, width, run_id FROM masks ORDER BY ALL"
        ).fetchall()
        times = opened.sql(
            "SELECT frame_index, pts_us FROM masks WHERE video_id = ? AND object_id = 1 ORDER BY 1",
            params=[clips[0].video_id],
        ).fetchall()
    asked = {
        (clip.video_id, e.expression_id, e.text, HEIGHT, WIDTH, "run-1") for clip in clips for e in clip.expressions
    }
    assert set(rows) == asked
    assert times == [(frame, round(frame * 1e6 / CONFIG.frames_per_second)) for frame in range(NUM_FRAMES)]


def test_decoded_masks_agree_with_the_columns_beside_them(lake: Path, clips: list[Clip]) -> None:
    with open_run(lake) as opened:
        for chunk in opened.masks(clips[1].video_id):
            assert chunk.masks.shape[1:] == (HEIGHT, WIDTH)
            areas = opened.sql(
                "SELECT area, present FROM masks WHERE video_id = ? AND object_id = ? ORDER BY frame_index",
                params=[chunk.video_id, chunk.object_id],
            ).fetchall()
            assert [(int(mask.sum()), bool(mask.any())) for mask in chunk.masks] == areas


def test_running_again_does_nothing_and_changes_nothing(
    lake: Path, manifest: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = mask_digests(lake), sorted((lake / "data").rglob("*.parquet"))
    assert run(manifest, lake) == EXIT_OK
    assert "4 committed before" in capsys.readouterr().out
    assert (mask_digests(lake), sorted((lake / "data").rglob("*.parquet"))) == before


def test_another_config_is_refused_until_it_may_overwrite(manifest: Path, tmp_path: Path) -> None:
    lake = tmp_path / "lake"
    assert run(manifest, lake, "--limit", "1") == EXIT_OK
    assert run(manifest, lake, "--samwise.threshold", "0.3") == EXIT_USAGE
    assert len(mask_digests(lake)) == 3 * NUM_FRAMES
    assert run(manifest, lake, "--samwise.threshold", "0.3", "--overwrite") == EXIT_OK
    assert len(mask_digests(lake)) == 4 * 3 * NUM_FRAMES


@pytest.mark.parametrize("flags", [["--pack-frames", "40"], ["--videos-per-actor", "1"], ["--snapshot-frames", "8"]])
def test_how_the_work_is_cut_does_not_change_a_mask(
    lake: Path, manifest: Path, tmp_path: Path, flags: list[str]
) -> None:
    assert run(manifest, tmp_path / "lake", *flags) == EXIT_OK
    assert mask_digests(tmp_path / "lake") == mask_digests(lake)


def test_shards_together_are_the_whole_and_apart(lake: Path, manifest: Path, tmp_path: Path) -> None:
    parts = []
    for index in range(2):
        assert run(manifest, tmp_path / f"lake{index}", "--shard", f"{index}/2") == EXIT_OK
        parts.append(mask_digests(tmp_path / f"lake{index}") if (tmp_path / f"lake{index}/data").exists() else {})
    assert not parts[0].keys() & parts[1].keys()
    assert parts[0] | parts[1] == mask_digests(lake)


def test_ranges_of_a_long_video_cover_it_once(manifest: Path, tmp_path: Path, lake: Path) -> None:
    assert run(manifest, tmp_path / "lake", "--unit-frames", "8", "--limit", "2") == EXIT_OK
    assert run(manifest, tmp_path / "lake", "--unit-frames", "8") == EXIT_OK
    ranged = mask_digests(tmp_path / "lake")
    whole = mask_digests(lake)
    assert ranged.keys() == whole.keys()
    # The first range begins with the empty memory that the whole video begins with.
    assert all(ranged[key] == whole[key] for key in whole if key[2] < 8)
    assert run(manifest, tmp_path / "lake") == EXIT_USAGE, "cut videos are not planned whole by a resume"


def test_a_csv_with_a_range_a_stride_and_a_size(manifest: Path, clips: list[Clip], tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["video_uri", "video_id", "expressions", "start_frame", "end_frame", "stride", "max_side"])
        uri = manifest.parent / "videos" / f"{clips[0].video_id}.mp4"
        writer.writerow([uri, "clip", 'the red disc|"the left one"', 3, 14, 4, 32])
    assert run(path, tmp_path / "lake") == EXIT_OK
    with open_run(tmp_path / "lake") as opened:
        rows = opened.sql(
            "SELECT frame_index, pts_us, height, width FROM masks WHERE object_id = 2 ORDER BY 1"
        ).fetchall()
    assert rows == [(frame, round(frame * 1e6 / 12), 24, 32) for frame in (3, 7, 11)]


def test_the_job_refuses_nothing_that_its_config_file_says(manifest: Path, tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(json.dumps({"limit": 1, "samwise": {"use_cme": False}, "run_id": "night"}))
    assert run(manifest, tmp_path / "lake", "--config", str(tmp_path / "job.yaml")) == EXIT_OK
    with open_run(tmp_path / "lake", run_id="night") as opened:
        config = json.loads(opened.sql("SELECT config_json FROM runs").fetchall()[0][0])
    assert config["samwise"]["use_cme"] is False
    assert config["limit"] == 1


def test_lineage_stands_in_every_part(lake: Path) -> None:
    import pyarrow.parquet as pq

    parts = sorted((lake / "data" / "masks").rglob("*.parquet"))
    assert len(parts) == 4
    for part in parts:
        metadata = {key.decode(): value.decode() for key, value in pq.read_schema(part).metadata.items()}
        assert metadata["method"] == "samwise"
        assert metadata["model"] == "tiny"
        assert metadata["code_version"].startswith("0.1.0")
        assert len(metadata["config_hash"]) == 32


def test_confidence_is_presence_times_predicted_iou(lake: Path) -> None:
    with open_run(lake) as opened:
        table = opened.sql("SELECT confidence, object_score, predicted_iou FROM masks").fetchnumpy()
    presence = 1 / (1 + np.exp(-np.asarray(table["object_score"], dtype=np.float64)))
    expected = presence * np.clip(np.asarray(table["predicted_iou"], dtype=np.float64), 0, 1)
    assert np.allclose(table["confidence"], expected, atol=1e-6)


def test_a_row_that_changed_after_its_commit_is_refused(manifest: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in manifest.read_text().splitlines()[:2]]
    for row in rows:
        row["video_uri"] = str(manifest.parent / row["video_uri"])
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    assert run(path, tmp_path / "lake") == EXIT_OK
    rows[1]["expressions"] = ["the red disc"]
    path.write_text("\n".join(json.dumps(row) for row in rows))
    assert run(path, tmp_path / "lake") == EXIT_USAGE
    rows[1]["video_id"] = "asked_anew"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    assert run(path, tmp_path / "lake") == EXIT_OK
    assert len(mask_digests(tmp_path / "lake")) == NUM_FRAMES * (2 * 3 + 1)


def test_settings_that_cannot_run_leave_the_lake_free_for_the_right_ones(manifest: Path, tmp_path: Path) -> None:
    flags = ["--limit", "1"]
    assert run(manifest, tmp_path / "lake", *flags, "--samwise.precision", "bf16") == EXIT_USAGE
    assert run(manifest, tmp_path / "lake", *flags) == EXIT_OK
    assert run(manifest, tmp_path / "lake", *flags, "--samwise.precision", "bf16") == EXIT_USAGE
    assert len(mask_digests(tmp_path / "lake")) == 3 * NUM_FRAMES, "what is committed is not withdrawn"


def test_an_output_that_is_a_file_is_refused(manifest: Path, tmp_path: Path) -> None:
    (tmp_path / "lake").write_text("here first")
    assert run(manifest, tmp_path / "lake") == EXIT_USAGE
    assert (tmp_path / "lake").read_text() == "here first"


def test_sigterm_ends_a_run_as_an_interrupt_and_it_goes_on_later(manifest: Path, tmp_path: Path, lake: Path) -> None:
    command = [sys.executable, "jobs/refer_corpus.py", "--manifest", str(manifest), "--output", str(tmp_path / "lake")]
    command += ["--runner", "local", "--device", "cpu", "--videos-per-actor", "1"]
    process = subprocess.Popen(command, cwd=Path(__file__).resolve().parents[2])
    while process.poll() is None and not list((tmp_path / "lake").rglob("_commits/**/*.json")):
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) in (EXIT_INTERRUPTED, EXIT_OK)  # it may have been at its very end
    assert run(manifest, tmp_path / "lake") == EXIT_OK
    assert mask_digests(tmp_path / "lake").keys() == mask_digests(lake).keys()
