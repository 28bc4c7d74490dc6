"""Dataset layouts, read again the way the datasets' own loaders do."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.synth.clip import Clip, sample_clip
from pipeline.synth.layouts import voc_palette, write_davis, write_mevis, write_ref_youtube_vos
from pipeline.synth.presets import SUITES, TRAIN
from tests.synth.reader import decode_rle

CONFIG = TRAIN.derive(
    height=48, width=64, num_frames=8, late_fraction=0.5, max_objects=3, expressions=("referent", "twin", "none")
)


@pytest.fixture(scope="module")
def clips() -> list[Clip]:
    return [sample_clip(CONFIG, 2, "valid", index) for index in range(3)]


def loaded(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def assert_frames_match(clip: Clip, folder: Path, names: list[str]) -> None:
    assert sorted(path.stem for path in folder.iterdir()) == names
    for name, frame in zip(names, clip.frames, strict=True):
        picture = np.asarray(Image.open(folder / f"{name}.jpg"))
        assert picture.shape == frame.shape
        assert np.abs(picture.astype(int) - frame).mean() < 3


def test_mevis_masks_are_the_union_of_an_expressions_annotations(clips: list[Clip], tmp_path: Path) -> None:
    write_mevis(clips, tmp_path, subset="valid_u")
    videos = loaded(tmp_path / "valid_u" / "meta_expressions.json")["videos"]
    mask_dict = loaded(tmp_path / "valid_u" / "mask_dict.json")
    assert sorted(map(int, mask_dict)) == list(range(sum(clip.num_objects for clip in clips)))
    assert [video["vid_id"] for video in videos.values()] == [0, 1, 2]
    for clip in clips:
        video = videos[clip.video_id]
        assert video["frames"] == [f"{index:05d}" for index in range(8)]
        assert_frames_match(clip, tmp_path / "valid_u" / "JPEGImages" / clip.video_id, video["frames"])
        for said in clip.expressions:
            entry = video["expressions"][said.expression_id]
            assert entry["exp"] == said.text
            assert entry["obj_id"] == list(said.target_ids)
            for frame in range(8):
                union = np.zeros((48, 64), dtype=np.uint8)
                for annotation in entry["anno_id"]:
                    union += decode_rle(mask_dict[str(annotation)][frame], 48, 64)
                assert np.array_equal(union.astype(bool), clip.expression_mask(said)[frame])


def test_mevis_valid_has_no_truth(clips: list[Clip], tmp_path: Path) -> None:
    write_mevis(clips[:1], tmp_path, subset="valid")
    (video,) = loaded(tmp_path / "valid" / "meta_expressions.json")["videos"].values()
    assert all(set(entry) == {"exp"} for entry in video["expressions"].values())
    assert not (tmp_path / "valid" / "mask_dict.json").exists()


def test_mevis_no_target_expressions_have_no_annotation(clips: list[Clip], tmp_path: Path) -> None:
    write_mevis(clips, tmp_path)
    videos = loaded(tmp_path / "valid_u" / "meta_expressions.json")["videos"]
    assert all(video["expressions"]["2"]["anno_id"] == [] for video in videos.values())


def test_ref_youtube_vos_trains_on_indexed_masks_of_every_fifth_frame(clips: list[Clip], tmp_path: Path) -> None:
    write_ref_youtube_vos({"train": clips[:1], "valid": clips[1:2], "test": clips[2:]}, tmp_path)
    clip = clips[0]
    video = loaded(tmp_path / "meta_expressions" / "train" / "meta_expressions.json")["videos"][clip.video_id]
    meta = loaded(tmp_path / "train" / "meta.json")["videos"][clip.video_id]["objects"]
    assert video["frames"] == [f"{5 * index:05d}" for index in range(8)]
    assert_frames_match(clip, tmp_path / "train" / "JPEGImages" / clip.video_id, video["frames"])
    assert [entry["exp"] for entry in video["expressions"].values()] == [said.text for said in clip.expressions[:2]]
    assert [entry["obj_id"] for entry in video["expressions"].values()] == ["1", "2"]
    for index, name in enumerate(video["frames"]):
        picture = Image.open(tmp_path / "train" / "Annotations" / clip.video_id / f"{name}.png")
        assert picture.mode == "P"
        assert np.array_equal(np.asarray(picture), clip.labels[index])
        for object_id, entry in meta.items():
            assert (name in entry["frames"]) == (clip.labels[index] == int(object_id)).any()
            assert entry["category"] == clip.truth.objects[int(object_id) - 1].shape


def test_ref_youtube_vos_lists_test_videos_among_the_valid_ones(clips: list[Clip], tmp_path: Path) -> None:
    write_ref_youtube_vos({"train": clips[:1], "valid": clips[1:2], "test": clips[2:]}, tmp_path)
    listed = {
        subset: loaded(tmp_path / "meta_expressions" / subset / "meta_expressions.json")["videos"]
        for subset in ("valid", "test")
    }
    assert set(listed["valid"]) == {clip.video_id for clip in clips[1:]}
    assert set(listed["valid"]) - set(listed["test"]) == {clips[1].video_id}, "what is scored"
    for clip in clips[1:]:
        assert all("obj_id" not in entry for entry in listed["valid"][clip.video_id]["expressions"].values())
        assert (tmp_path / "valid" / "JPEGImages" / clip.video_id / "00035.jpg").is_file()
    assert not (tmp_path / "valid" / "Annotations").exists()


def test_davis_masks_are_palette_pictures_and_prompted_objects_start_in_frame_0(tmp_path: Path) -> None:
    clips = [sample_clip(SUITES["late"].derive(height=48, width=64), 2, "valid", index) for index in range(2)]
    write_davis({"train": clips[:1], "val": clips[1:]}, tmp_path)
    for subset, clip in (("train", clips[0]), ("val", clips[1])):
        assert (tmp_path / "ImageSets" / "2017" / f"{subset}.txt").read_text() == f"{clip.video_id}\n"
        assert_frames_match(clip, tmp_path / "JPEGImages" / "480p" / clip.video_id, [f"{i:05d}" for i in range(16)])
        late = [object_id for object_id in range(1, clip.num_objects + 1) if not (clip.labels[0] == object_id).any()]
        assert 1 in late
        for index in range(16):
            masks = []
            for folder in ("Annotations", "Annotations_unsupervised"):
                picture = Image.open(tmp_path / folder / "480p" / clip.video_id / f"{index:05d}.png")
                assert picture.mode == "P"
                assert picture.getpalette()[:9] == [0, 0, 0, 128, 0, 0, 0, 128, 0]  # type: ignore[index]
                masks.append(np.asarray(picture))
            assert np.array_equal(masks[1], clip.labels[index])
            assert np.array_equal(masks[0], np.where(np.isin(clip.labels[index], late), 0, clip.labels[index]))


def test_the_palette_is_that_of_pascal_voc() -> None:
    palette = voc_palette()
    published = {
        1: (128, 0, 0),
        2: (0, 128, 0),
        3: (128, 128, 0),
        4: (0, 0, 128),
        8: (64, 0, 0),
        15: (192, 128, 128),
        20: (0, 64, 128),
    }
    assert palette.shape == (256, 3)
    for index, colour in published.items():
        assert tuple(palette[index]) == colour
    assert tuple(palette[255]) == (224, 224, 192)
