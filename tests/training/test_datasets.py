"""Data set layouts, written by the generator and read back: frames, masks, expressions and what is left out."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from pipeline.errors import ConfigError, DecodeError
from pipeline.masks import rle
from pipeline.synth.clip import Clip, sample_clip
from pipeline.synth.expressions import Expression
from pipeline.synth.layouts import write_mevis, write_ref_youtube_vos
from pipeline.synth.presets import SUITES, TRAIN
from pipeline.training.clips import ClipSource, TrainingSample, draw_sample
from pipeline.training.datasets import ShapesRefSource, open_source

CONFIG = TRAIN.derive(
    height=48, width=64, num_frames=10, late_fraction=0.5, max_objects=3, expressions=("referent", "twin", "none")
)


@pytest.fixture(scope="module")
def clips() -> list[Clip]:
    return [sample_clip(CONFIG, 2, "train", index) for index in range(2)]


@pytest.fixture(scope="module")
def plural() -> Clip:
    return sample_clip(SUITES["plural"].derive(height=48, width=64), 2, "train", 0)


def all_samples(source: ClipSource) -> list[TrainingSample]:
    assert source.num_items is not None
    return [source.draw(item, np.random.default_rng(item)) for item in range(source.num_items)]


def chosen_frames(sample: TrainingSample) -> list[int]:
    frames: list[int] = json.loads(sample.sample_id.partition(" frames ")[2])
    return frames


def expression_of(clip: Clip, sample: TrainingSample) -> Expression:
    (said,) = [said for said in clip.expressions if " ".join(said.text.lower().split()) == sample.expression]
    return said


def assert_shows(sample: TrainingSample, clip: Clip) -> None:
    frames = chosen_frames(sample)
    assert np.array_equal(sample.masks, clip.expression_mask(expression_of(clip, sample))[frames])
    assert np.abs(sample.frames.astype(int) - clip.frames[frames]).mean() < 3  # JPEG


def test_ref_youtube_vos_gives_each_expression_its_object_in_the_chosen_frames(
    clips: list[Clip], tmp_path: Path
) -> None:
    write_ref_youtube_vos({"train": clips}, tmp_path)
    source = open_source(f"ref_youtube_vos:{tmp_path}", num_frames=4, seed=0, image_size=64)
    samples = all_samples(source)
    # Two clips, two expressions each that mean one object, anchors 0, 4 and 8 of ten frames.
    assert len(samples) == 2 * 2 * 3
    for sample in samples:
        (clip,) = [clip for clip in clips if sample.sample_id.startswith(f"{clip.video_id}:")]
        assert_shows(sample, clip)


def test_mevis_unites_the_objects_of_an_expression(plural: Clip, tmp_path: Path) -> None:
    write_mevis([plural], tmp_path, subset="train")
    source = open_source(f"mevis:{tmp_path}", num_frames=8, seed=0, image_size=64)
    samples = all_samples(source)
    assert len(samples) == len(plural.expressions) * 2  # anchors 0 and 8 of 16 frames
    for sample in samples:
        assert len(expression_of(plural, sample).target_ids) > 1
        assert_shows(sample, plural)


def test_mevis_leaves_out_expressions_without_a_target(clips: list[Clip], tmp_path: Path) -> None:
    write_mevis(clips, tmp_path, subset="train")
    source = open_source(f"mevis:{tmp_path}", num_frames=10, seed=0, image_size=64)
    assert source.num_items == 2 * 2


def test_captions_are_lower_case_with_single_spaces(clips: list[Clip], tmp_path: Path) -> None:
    write_mevis(clips[:1], tmp_path, subset="train")
    path = tmp_path / "train" / "meta_expressions.json"
    meta = json.loads(path.read_text())
    for said in meta["videos"][clips[0].video_id]["expressions"].values():
        said["exp"] = "  The RED \t thing "
    path.write_text(json.dumps(meta))
    source = open_source(f"mevis:{tmp_path}", num_frames=8, seed=0, image_size=64)
    assert source.draw(0, np.random.default_rng(0)).expression == "the red thing"


def write_refcoco(clips: list[Clip], root: Path, name: str, form: str) -> None:
    """One still per clip and one "image" entry per expression, as the pre-training files have them."""
    (root / "train2014").mkdir(exist_ok=True)
    images, annotations = [], []
    for clip in clips:
        file_name = f"COCO_train2014_{clip.video_id}.jpg"
        Image.fromarray(clip.frames[5]).save(root / "train2014" / file_name, quality=95, subsampling=0)
        for said in clip.expressions[:2]:
            mask = clip.expression_mask(said)[5]
            if not mask.any():
                continue
            number = len(images)
            images.append({"id": number, "file_name": file_name, "caption": said.text.upper(), "original_id": 7})
            annotations.append({"id": number, "image_id": number, "segmentation": segmentation_of(mask, form)})
    (root / name).mkdir()
    content = {"images": images, "annotations": annotations, "categories": []}
    (root / name / f"instances_{name}_train.json").write_text(json.dumps(content))


def segmentation_of(mask: np.ndarray, form: str) -> object:
    height, width = mask.shape
    if form == "rle":
        return rle.to_coco(rle.encode(mask), height, width)
    if form == "runs":
        flat = mask.ravel(order="F")
        changes = np.flatnonzero(np.diff(flat)) + 1
        edges = [0, *([0] if flat[0] else []), *changes.tolist(), flat.size]
        return {"size": [height, width], "counts": np.diff(edges).tolist()}
    rows, columns = np.nonzero(mask)
    left, top, right, bottom = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
    return [[int(v) for v in (left, top, right, top, right, bottom, left, bottom)]]


@pytest.mark.parametrize("form", ["rle", "runs"])
def test_refcoco_is_read_as_stills(clips: list[Clip], tmp_path: Path, form: str) -> None:
    write_refcoco(clips, tmp_path, "refcoco", form)
    write_refcoco(clips, tmp_path, "refcoco+", form)
    source = open_source(f"refcoco:{tmp_path}", num_frames=1, seed=0, image_size=64)
    samples = all_samples(source)
    assert len(samples) >= 4
    assert [s.expression for s in samples[: len(samples) // 2]] == [s.expression for s in samples[len(samples) // 2 :]]
    for sample in samples:
        (clip,) = [clip for clip in clips if clip.video_id in sample.sample_id]
        (said,) = [said for said in clip.expressions if said.text.lower() == sample.expression]
        assert np.array_equal(sample.masks[0], clip.expression_mask(said)[5])
        assert np.abs(sample.frames[0].astype(int) - clip.frames[5]).mean() < 3


def test_refcoco_polygons_are_filled(clips: list[Clip], tmp_path: Path) -> None:
    write_refcoco(clips[:1], tmp_path, "refcocog", "polygon")
    source = open_source(f"refcoco:{tmp_path}", num_frames=1, seed=0, image_size=64)
    sample = source.draw(0, np.random.default_rng(0))
    (said,) = [said for said in clips[0].expressions if said.text.lower() == sample.expression]
    box = coco_mask.toBbox(coco_mask.encode(np.asfortranarray(clips[0].expression_mask(said)[5].astype(np.uint8))))
    left, top, width, height = box.astype(int)
    filled = np.zeros((48, 64), dtype=np.bool_)
    filled[top : top + height, left : left + width] = True
    assert np.array_equal(sample.masks[0], filled)


def test_shapesref_is_drawn_at_the_models_size_and_never_repeats() -> None:
    source = open_source("shapesref", num_frames=6, seed=1, image_size=64)
    assert source.num_items is None
    first, second = (draw_sample(source, position, seed=1, long_side_px=64) for position in (0, 1))
    assert first.frames.shape == second.frames.shape == (6, 64, 64, 3)
    assert not np.array_equal(first.frames, second.frames)
    assert first.masks.any()


def test_a_shapesref_of_few_clips_comes_again_and_again() -> None:
    source = ShapesRefSource(config=CONFIG, seed=0, num_clips=2)
    names = {
        draw_sample(source, position, seed=0, long_side_px=64).sample_id.partition(":")[0] for position in range(6)
    }
    assert len(names) == 2


@pytest.mark.parametrize(
    ("data", "num_frames", "told"),
    [
        ("mevis", 8, "expected shapesref"),
        ("coco:/data", 8, "expected shapesref"),
        ("shapesref:nothing", 8, "Unknown preset"),
        ("mevis:{root}", 8, "meta_expressions.json|mask_dict.json: no such file"),
        ("ref_youtube_vos:{root}", 8, "meta_expressions.json: no such file"),
        ("refcoco:{root}", 1, "no folder refcoco"),
        ("refcoco:{root}", 8, "Set num_frames to 1"),
    ],
)
def test_what_is_not_there_is_said(tmp_path: Path, data: str, num_frames: int, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        open_source(data.format(root=tmp_path), num_frames=num_frames, seed=0, image_size=64)


def test_a_missing_frame_is_named(clips: list[Clip], tmp_path: Path) -> None:
    write_ref_youtube_vos({"train": clips[:1]}, tmp_path)
    missing = tmp_path / "train" / "JPEGImages" / clips[0].video_id / "00000.jpg"
    missing.unlink()
    source = open_source(f"ref_youtube_vos:{tmp_path}", num_frames=1, seed=0, image_size=64)
    with pytest.raises(DecodeError, match=r"00000\.jpg"):
        source.draw(0, np.random.default_rng(0))


def test_annotations_that_do_not_belong_together_are_told_at_once(clips: list[Clip], tmp_path: Path) -> None:
    write_mevis(clips[:1], tmp_path, subset="train")
    path = tmp_path / "train" / "mask_dict.json"
    masks = json.loads(path.read_text())
    path.write_text(json.dumps({"0": masks["0"][:-1], "1": masks["1"]}))
    with pytest.raises(ConfigError, match=r"annotation 0 has 9 masks in mask_dict\.json for 10 frames"):
        open_source(f"mevis:{tmp_path}", num_frames=8, seed=0, image_size=64)
    meta = tmp_path / "train" / "meta_expressions.json"
    meta.write_text(json.dumps({"clips": {}}))
    with pytest.raises(ConfigError, match="not in the published layout: KeyError"):
        open_source(f"mevis:{tmp_path}", num_frames=8, seed=0, image_size=64)
