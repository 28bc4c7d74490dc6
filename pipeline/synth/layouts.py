"""Writes generated clips in the layouts of public datasets, small copies for importers to be tested on."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.synth.clip import Clip
from pipeline.synth.corpus import coco_rles

MevisSubset = Literal["train", "valid_u", "valid"]
DavisSubset = Literal["train", "val"]
YoutubeSubset = Literal["train", "valid", "test"]

YOUTUBE_FRAME_STEP = 5
"""Frames of YouTube-VOS are named by their number in the source video, of which every fifth was kept."""


def write_mevis(clips: Iterable[Clip], root: Path, *, subset: MevisSubset = "valid_u") -> None:
    """MeViS: `<subset>/{JPEGImages/<video>/<frame>.jpg, meta_expressions.json, mask_dict.json}`.

    An expression lists the annotations that make up its target, none for a no-target one; `mask_dict` holds one
    COCO RLE or null per frame of each annotation. The "valid" subset has no public truth, so neither has its copy.

    Source: Ding et al., ICCV 2023 (MeViS), section 3; layout as in the official tools.
    """
    folder = root / subset
    has_truth = subset != "valid"
    videos: dict[str, Any] = {}
    mask_dict: dict[str, list[dict[str, Any] | None]] = {}
    for video_number, clip in enumerate(clips):
        names = _write_frames(clip, folder / "JPEGImages" / clip.video_id, step=1)
        first_annotation = len(mask_dict)
        if has_truth:
            for thing in clip.truth.objects:
                mask_dict[str(len(mask_dict))] = coco_rles(clip.object_mask(thing.object_id))
        expressions: dict[str, dict[str, Any]] = {}
        for said in clip.expressions:
            expressions[said.expression_id] = {"exp": said.text}
            if has_truth:
                annotations = [first_annotation + target - 1 for target in said.target_ids]
                expressions[said.expression_id] |= {"obj_id": list(said.target_ids), "anno_id": annotations}
        videos[clip.video_id] = {"vid_id": video_number, "expressions": expressions, "frames": names}
    _write_json(folder / "meta_expressions.json", {"videos": videos})
    if has_truth:
        _write_json(folder / "mask_dict.json", mask_dict)


def write_ref_youtube_vos(clips: Mapping[YoutubeSubset, Iterable[Clip]], root: Path) -> None:
    """Ref-YouTube-VOS: frames, indexed masks of the training videos, `meta.json` and `meta_expressions`.

    As in the published copy, the "valid" expressions list valid and test videos together, frames of both lie under
    `valid/`, and nothing but "train" has truth. An expression of this dataset has exactly one target, so the other
    expressions of a clip are left out and the rest are numbered anew.

    Source: Seo et al., ECCV 2020 (URVOS); Xu et al., ECCV 2018 (YouTube-VOS).
    """
    listed: dict[str, dict[str, Any]] = {subset: {} for subset in ("train", "valid", "test")}
    objects: dict[str, Any] = {}
    for subset, subset_clips in clips.items():
        folder = root / ("train" if subset == "train" else "valid")
        for clip in subset_clips:
            names = _write_frames(clip, folder / "JPEGImages" / clip.video_id, step=YOUTUBE_FRAME_STEP)
            entry = {"expressions": _single_target_expressions(clip, has_truth=subset == "train"), "frames": names}
            listed[subset][clip.video_id] = entry
            if subset == "train":
                _write_indexed_masks(clip.labels, folder / "Annotations" / clip.video_id, names)
                objects[clip.video_id] = {"objects": _youtube_objects(clip, names)}
    listed["valid"] |= listed["test"]
    for name, videos in listed.items():
        _write_json(root / "meta_expressions" / name / "meta_expressions.json", {"videos": videos})
    _write_json(root / "train" / "meta.json", {"videos": objects})


def write_davis(clips: Mapping[DavisSubset, Iterable[Clip]], root: Path) -> None:
    """DAVIS 2017 at 480p: frames, indexed masks with the PASCAL VOC palette, and the lists of sequences.

    `Annotations_unsupervised` holds every object, `Annotations` those that are visible in the first frame, since
    the semi-supervised task prompts nowhere else.

    Source: Pont-Tuset et al., 2017 (DAVIS 2017), section 2.
    """
    for subset, subset_clips in clips.items():
        names_of_clips = []
        for clip in subset_clips:
            names = _write_frames(clip, root / "JPEGImages" / "480p" / clip.video_id, step=1)
            prompted = np.where(np.isin(clip.labels, np.unique(clip.labels[0])), clip.labels, 0).astype(np.uint8)
            _write_indexed_masks(prompted, root / "Annotations" / "480p" / clip.video_id, names)
            _write_indexed_masks(clip.labels, root / "Annotations_unsupervised" / "480p" / clip.video_id, names)
            names_of_clips.append(clip.video_id)
        listing = root / "ImageSets" / "2017" / f"{subset}.txt"
        listing.parent.mkdir(parents=True, exist_ok=True)
        listing.write_text("".join(f"{name}\n" for name in names_of_clips), encoding="utf-8")


def voc_palette() -> NDArray[np.uint8]:
    """The PASCAL VOC colour map, uint8 (256, 3): bits of the index dealt out to red, green and blue in turn."""
    palette = np.zeros((256, 3), dtype=np.uint8)
    for index in range(256):
        for bit in range(8):
            palette[index, bit % 3] |= ((index >> bit) & 1) << (7 - bit // 3)
    return palette


def _single_target_expressions(clip: Clip, *, has_truth: bool) -> dict[str, dict[str, str]]:
    single = [said for said in clip.expressions if len(said.target_ids) == 1]
    return {
        str(number): {"exp": said.text, **({"obj_id": str(said.target_ids[0])} if has_truth else {})}
        for number, said in enumerate(single)
    }


def _youtube_objects(clip: Clip, names: list[str]) -> dict[str, Any]:
    """Each object's category and the frames that show it."""
    return {
        str(thing.object_id): {
            "category": thing.shape,
            "frames": [name for name, area in zip(names, clip.truth.visible_px[:, slot], strict=True) if area],
        }
        for slot, thing in enumerate(clip.truth.objects)
    }


def _write_frames(clip: Clip, folder: Path, *, step: int) -> list[str]:
    """Write JPEG files without chroma subsampling; returns their names without suffix."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"{step * frame_index:05d}" for frame_index in range(len(clip.frames))]
    for name, frame in zip(names, clip.frames, strict=True):
        Image.fromarray(frame).save(folder / f"{name}.jpg", quality=95, subsampling=0)
    return names


def _write_indexed_masks(labels: NDArray[np.uint8], folder: Path, names: list[str]) -> None:
    """Write label maps (T, H, W) as PNG in palette mode: the pixel's value is the object's id."""
    folder.mkdir(parents=True, exist_ok=True)
    palette = voc_palette().ravel().tolist()
    for name, label_map in zip(names, labels, strict=True):
        picture = Image.fromarray(label_map)
        picture.putpalette(palette)
        picture.save(folder / f"{name}.png")


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
