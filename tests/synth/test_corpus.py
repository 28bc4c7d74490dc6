"""A written corpus, read again by PyAV, json and the definition of COCO's RLE."""

import json
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from pipeline.cluster.demo import demo_clips
from pipeline.io.manifest import read_manifest
from pipeline.synth.clip import Clip, iter_frames, sample_clip
from pipeline.synth.corpus import write_corpus, write_video
from pipeline.synth.presets import LONG, SUITES, TRAIN
from tests.synth.reader import decode_rle

CONFIG = TRAIN.derive(height=64, width=96, num_frames=8, late_fraction=0.4)


@pytest.fixture(scope="module")
def clips() -> list[Clip]:
    return [sample_clip(CONFIG, 8, "valid", index) for index in range(3)]


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def decoded(path: Path) -> np.ndarray:
    """Frames (T, H, W, 3) from the stored planes by the formulas of ITU-R BT.601, limited range."""
    with av.open(str(path)) as container:
        return np.stack([rgb_of(frame) for frame in container.decode(video=0)])


def rgb_of(frame: av.VideoFrame) -> np.ndarray:
    planes = frame.to_ndarray().astype(float)
    height, width = frame.height, frame.width
    if frame.format.name == "yuv444p":
        luma, blue, red = planes
    else:
        luma = planes[:height]
        blue, red = planes[height:].reshape(2, height // 2, width // 2).repeat(2, axis=1).repeat(2, axis=2)
    y, u, v = (luma - 16) * 255 / 219, (blue - 128) * 255 / 224, (red - 128) * 255 / 224
    return np.clip(np.stack([y + 1.402 * v, y - 0.344136 * u - 0.714136 * v, y + 1.772 * u], axis=-1), 0, 255)


def unpacked(rles: list[dict[str, Any] | None], height: int, width: int) -> np.ndarray:
    return np.stack([decode_rle(rle, height, width) for rle in rles])


def test_the_manifest_names_videos_and_expressions(clips: list[Clip], tmp_path: Path) -> None:
    path = write_corpus(clips, tmp_path / "corpus")
    rows = rows_of(path)
    assert [row["video_id"] for row in rows] == [clip.video_id for clip in clips]
    for row, clip in zip(rows, clips, strict=True):
        assert (path.parent / row["video_uri"]).is_file()
        assert row["expressions"] == [
            {"id": said.expression_id, "text": said.text, "motion_words": list(said.motion_words)}
            for said in clip.expressions
        ]
        assert all(set(said["motion_words"]) <= set(said["text"].split()) for said in row["expressions"])


@pytest.mark.parametrize("needs", ["expressions", "prompts"])
def test_the_jobs_reader_takes_the_manifest(clips: list[Clip], tmp_path: Path, needs: Any) -> None:
    reading = read_manifest(write_corpus(clips, tmp_path / "corpus", prompt="box"), needs=needs, strict=True)
    assert len(reading.items) == 3


@pytest.mark.parametrize(("pixel_format", "mean_error"), [("yuv420p", 4.0), ("yuv444p", 1.5)])
def test_videos_hold_the_frames(clips: list[Clip], tmp_path: Path, pixel_format: Any, mean_error: float) -> None:
    write_corpus(clips, tmp_path / "corpus", pixel_format=pixel_format)
    for clip in clips:
        frames = decoded(tmp_path / "corpus" / "videos" / f"{clip.video_id}.mp4")
        assert frames.shape == clip.frames.shape
        error = frames - clip.frames
        assert np.abs(error).mean() < mean_error
        assert np.abs(error.mean(axis=(0, 1, 2))).max() < 0.6, "no shift of colours"


def test_truth_holds_the_masks_of_objects_and_expressions(clips: list[Clip], tmp_path: Path) -> None:
    write_corpus(clips, tmp_path / "corpus")
    for row, clip in zip(rows_of(tmp_path / "corpus" / "truth.jsonl"), clips, strict=True):
        size = row["height"], row["width"]
        assert size == (64, 96)
        for entry in row["objects"]:
            mask = unpacked(entry["rles"], *size)
            assert np.array_equal(mask, clip.labels == entry["object_id"])
            assert [rle is None for rle in entry["rles"]] == [box is None for box in entry["boxes"]]
            assert (entry["colour"], entry["motion"]) == (
                clip.truth.objects[entry["object_id"] - 1].colour,
                clip.truth.objects[entry["object_id"] - 1].motion,
            )
        for entry, said in zip(row["expressions"], clip.expressions, strict=True):
            assert np.array_equal(unpacked(entry["rles"], *size), np.isin(clip.labels, said.target_ids))
            assert entry["flags"]["none"] == (entry["object_ids"] == [])


@pytest.mark.parametrize("kind", ["point", "box", "mask"])
def test_prompts_lie_on_their_object_when_it_is_first_well_seen(clips: list[Clip], tmp_path: Path, kind: Any) -> None:
    rows = rows_of(write_corpus(clips, tmp_path / "corpus", prompt=kind))
    for row, clip in zip(rows, clips, strict=True):
        for prompt in row["prompts"]:
            mask = clip.labels[prompt["frame"]] == prompt["object_id"]
            areas = (clip.labels == prompt["object_id"]).sum(axis=(1, 2))
            assert mask.sum() * 3 >= areas.max() > 3 * areas[: prompt["frame"]].max(initial=0)
            if kind == "point":
                ((x, y, label),) = prompt["points"]
                assert label == 1
                assert mask[int(y), int(x)]
            elif kind == "box":
                x0, y0, x1, y1 = prompt["box"]
                assert mask[y0:y1, x0:x1].sum() == mask.sum()
                assert mask[y0].any() & mask[y1 - 1].any() & mask[:, x0].any() & mask[:, x1 - 1].any()
            else:
                assert np.array_equal(decode_rle(prompt["mask_rle"], *mask.shape), mask)


def test_equal_clips_give_equal_files(clips: list[Clip], tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_corpus(clips[:1], tmp_path / name)
    files = [sorted(path for path in (tmp_path / name).rglob("*") if path.is_file()) for name in ("one", "two")]
    assert [path.read_bytes() for path in files[0]] == [path.read_bytes() for path in files[1]]


def test_a_corpus_is_not_written_over_and_names_are_not_repeated(clips: list[Clip], tmp_path: Path) -> None:
    write_corpus(clips[:1], tmp_path / "corpus")
    with pytest.raises(FileExistsError, match="Remove the old corpus"):
        write_corpus(clips, tmp_path / "corpus")
    with pytest.raises(ValueError, match="comes twice"):
        write_corpus([clips[0], clips[0]], tmp_path / "other")


def test_odd_sizes_and_empty_videos_are_refused(tmp_path: Path) -> None:
    clip = sample_clip(TRAIN.derive(height=33, width=64), 0, "train", 0)
    with pytest.raises(ValueError, match="33x64 is odd; yuv420p needs even sides"):
        write_video(clip.frames, tmp_path / "odd.mp4", frames_per_second=12)
    write_video(clip.frames, tmp_path / "odd.mp4", frames_per_second=12, pixel_format="yuv444p")
    assert decoded(tmp_path / "odd.mp4").shape == clip.frames.shape
    with pytest.raises(ValueError, match="no frames"):
        write_video([], tmp_path / "none.mp4", frames_per_second=12)


def test_a_long_video_is_written_from_a_stream(tmp_path: Path) -> None:
    config = LONG.derive(height=32, width=48, num_frames=120)
    images = (frame.image for frame in iter_frames(config, 0, "test", 0))
    write_video(images, tmp_path / "long.mp4", frames_per_second=12)
    assert decoded(tmp_path / "long.mp4").shape == (120, 32, 48, 3)


def test_frames_of_no_target_expressions_have_no_mask(tmp_path: Path) -> None:
    clip = sample_clip(SUITES["streaming24"].derive(num_frames=4, expressions=("none",)), 0, "valid", 0)
    write_corpus([clip], tmp_path / "corpus")
    (row,) = rows_of(tmp_path / "corpus" / "truth.jsonl")
    assert row["expressions"][0]["rles"] == [None] * 4
    assert row["expressions"][0]["object_ids"] == []


def test_equal_frames_give_equal_files_however_often_they_are_written(tmp_path: Path) -> None:
    # A clip of the demo, which x264 wrote in several ways until it was told to compute alike everywhere.
    clip = demo_clips(3)[2]
    files = [tmp_path / f"{attempt}.mp4" for attempt in range(12)]
    for file in files:
        write_video(clip.frames, file, frames_per_second=clip.frames_per_second)
    assert len({file.read_bytes() for file in files}) == 1
