"""Training sources: ShapesRef, drawn as asked for, and the public layouts of Ref-YouTube-VOS, MeViS and RefCOCO."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PilImage
from PIL import UnidentifiedImageError
from pycocotools import mask as coco_mask

from pipeline.errors import ConfigError, DecodeError
from pipeline.masks import rle
from pipeline.synth.clip import sample_clip
from pipeline.synth.config import ClipConfig
from pipeline.synth.presets import clip_config
from pipeline.synth.world import Split
from pipeline.ticks import Image, Mask
from pipeline.training.clips import ClipSource, Mixed, TrainingSample, normalised_expression
from pipeline.training.frame_sampling import FrameSampler, anchor_with_neighbours, anchors, around_anchor

REFCOCO_SETS = ("refcoco", "refcoco+", "refcocog")


@dataclass(frozen=True, slots=True, kw_only=True)
class ShapesRefSource:
    """Clips of the procedural world; item i is clip i of a split, one of its expressions chosen at random.

    Attributes:
        config: of the clips; its number of frames is the training clip's.
        num_clips: an epoch of this many clips, which come again and again; None never repeats one.
    """

    config: ClipConfig
    seed: int
    split: Split = "train"
    num_clips: int | None = None

    @property
    def num_items(self) -> int | None:
        return self.num_clips

    def draw(self, item: int, generator: np.random.Generator) -> TrainingSample:
        clip = sample_clip(self.config, self.seed, self.split, item % (1 << 32))
        said = clip.expressions[int(generator.integers(len(clip.expressions)))]
        return TrainingSample(
            sample_id=f"{clip.video_id}:{said.expression_id}",
            frames=clip.frames,
            masks=clip.expression_mask(said),
            expression=normalised_expression(said.text, clip.video_id),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoExpression:
    """One expression of one video, as annotated.

    Attributes:
        frame_names: files of the video's frames, without suffix, in order.
        targets: object ids (Ref-YouTube-VOS) or annotation ids (MeViS), at least one.
    """

    video: str
    expression_id: str
    text: str
    frame_names: tuple[str, ...]
    targets: tuple[int, ...]


class RefYoutubeVos:
    """`ROOT/{meta_expressions/train/meta_expressions.json, train/{JPEGImages,Annotations}/<video>/}`.

    Source: Seo et al., ECCV 2020 (URVOS). One item per expression and every `num_frames`-th frame.

    Raises:
        ConfigError: the layout is not there.
    """

    def __init__(self, root: Path, *, num_frames: int) -> None:
        meta = root / "meta_expressions" / "train" / "meta_expressions.json"
        self._folder = root / "train"
        expressions = [
            _video_expression(video, number, entry, said, (int(said["obj_id"]),))
            for video, entry in _read_json(meta)["videos"].items()
            for number, said in entry["expressions"].items()
        ]
        self._items = _VideoItems(expressions, num_frames, around_anchor)

    @property
    def num_items(self) -> int:
        return len(self._items.places)

    def draw(self, item: int, generator: np.random.Generator) -> TrainingSample:
        said, frames = self._items.choose(item, generator)
        (target,) = said.targets
        names = [said.frame_names[frame] for frame in frames]
        labels = [_read_labels(self._folder / "Annotations" / said.video / f"{name}.png") for name in names]
        masks = np.stack([label == target for label in labels])
        return _video_sample(said, frames, self._folder / "JPEGImages" / said.video, masks)


class Mevis:
    """`ROOT/train/{meta_expressions.json, mask_dict.json, JPEGImages/<video>/}`.

    The target is the union of all objects that the expression means; expressions that mean none are left out.
    `mask_dict.json` is held in memory, as in the data set's own tools.

    Source: Ding et al., ICCV 2023 (MeViS). One item per expression and every `num_frames`-th frame.

    Raises:
        ConfigError: the layout is not there.
    """

    def __init__(self, root: Path, *, num_frames: int) -> None:
        self._folder = root / "train"
        self._masks: Mapping[str, Sequence[Mapping[str, Any] | None]] = _read_json(self._folder / "mask_dict.json")
        expressions = [
            _video_expression(video, number, entry, said, tuple(int(i) for i in said["anno_id"]))
            for video, entry in _read_json(self._folder / "meta_expressions.json")["videos"].items()
            for number, said in entry["expressions"].items()
            if said["anno_id"]
        ]
        for said in expressions:
            _check_annotations(said, self._masks)
        self._items = _VideoItems(expressions, num_frames, anchor_with_neighbours)

    @property
    def num_items(self) -> int:
        return len(self._items.places)

    def draw(self, item: int, generator: np.random.Generator) -> TrainingSample:
        said, frames = self._items.choose(item, generator)
        pictures = self._folder / "JPEGImages" / said.video
        height, width = _read_picture(pictures / f"{said.frame_names[frames[0]]}.jpg").shape[:2]
        masks = np.zeros((len(frames), height, width), dtype=np.bool_)
        for place, frame in enumerate(frames):
            for target in said.targets:
                found = self._masks[str(target)][frame]
                if found is not None:
                    masks[place] |= _decoded(found, (height, width), f"{said.video}, annotation {target}")
        return _video_sample(said, frames, pictures, masks)


class RefCoco:
    """`ROOT/train2014/*.jpg` and `ROOT/<set>/instances_<set>_train.json`, one "image" per expression, as a still.

    This is the layout in which referring-video methods pre-train on images: COCO's JSON with a `caption` per image
    entry and one annotation for it. Source: Yu et al., ECCV 2016 (RefCOCO, RefCOCO+); Mao et al., CVPR 2016 (RefCOCOg).

    Raises:
        ConfigError: the layout is not there.
    """

    def __init__(self, root: Path, name: str) -> None:
        content = _read_json(root / name / f"instances_{name}_train.json")
        self._name = name
        self._pictures = root / "train2014"
        targets: dict[int, list[Mapping[str, Any]]] = {}
        for annotation in content["annotations"]:
            targets.setdefault(int(annotation["image_id"]), []).append(annotation)
        self._entries = [(image, targets[image["id"]]) for image in content["images"] if image["id"] in targets]

    @property
    def num_items(self) -> int:
        return len(self._entries)

    def draw(self, item: int, generator: np.random.Generator) -> TrainingSample:
        image, annotations = self._entries[item]
        where = f"{self._name} {image['id']} ({image['file_name']})"
        picture = _read_picture(self._pictures / str(image["file_name"]))
        size = (picture.shape[0], picture.shape[1])
        masks = [_decoded(annotation["segmentation"], size, where) for annotation in annotations]
        return TrainingSample(
            sample_id=where,
            frames=picture[None],
            masks=np.any(masks, axis=0)[None],
            expression=normalised_expression(str(image["caption"]), where),
        )


def open_source(data: str, *, num_frames: int, seed: int, image_size: int) -> ClipSource:
    """The source that a job names.

    Args:
        data: "shapesref", "shapesref:PRESET", "refcoco:ROOT", "ref_youtube_vos:ROOT" or "mevis:ROOT".
        num_frames: of a clip; RefCOCO has 1.
        image_size: ShapesRef is drawn at this size at once.

    Raises:
        ConfigError: the name is unknown, the root is missing or empty, or the number of frames does not fit.
    """
    kind, _, rest = data.partition(":")
    if kind == "shapesref":
        return _shapesref(rest or "train", num_frames, seed, image_size)
    if kind not in ("refcoco", "ref_youtube_vos", "mevis") or not rest:
        raise ConfigError(
            f"data {data!r}: expected shapesref, shapesref:PRESET, refcoco:ROOT, ref_youtube_vos:ROOT or mevis:ROOT."
        )
    if kind == "refcoco" and num_frames != 1:
        raise ConfigError(f"data {data!r} with num_frames {num_frames}: it has stills. Set num_frames to 1.")
    try:
        source = _on_disk(kind, Path(rest), num_frames)
    except (KeyError, TypeError) as error:
        raise ConfigError(f"data {data!r}: its annotations are not in the published layout: {error!r}.") from error
    if not source.num_items:
        raise ConfigError(f"data {data!r}: no expression with a target in it. Check the root.")
    return source


class _VideoItems:
    """Items of a video data set: expression and anchor."""

    def __init__(self, expressions: Sequence[VideoExpression], num_frames: int, sampler: FrameSampler) -> None:
        self._expressions = expressions
        self._num_frames = num_frames
        self._sampler = sampler
        self.places = [
            (number, anchor)
            for number, said in enumerate(expressions)
            for anchor in anchors(len(said.frame_names), num_frames)
        ]

    def choose(self, item: int, generator: np.random.Generator) -> tuple[VideoExpression, tuple[int, ...]]:
        """The item's expression and the frames of its clip."""
        number, anchor = self.places[item]
        said = self._expressions[number]
        return said, self._sampler(anchor, len(said.frame_names), self._num_frames, generator)


def _shapesref(preset: str, num_frames: int, seed: int, image_size: int) -> ShapesRefSource:
    try:
        config = clip_config(preset).derive(num_frames=num_frames, height=image_size, width=image_size)
    except ValueError as error:
        raise ConfigError(f"data 'shapesref:{preset}' with {num_frames} frames: {error}") from error
    return ShapesRefSource(config=config, seed=seed)


def _on_disk(kind: str, root: Path, num_frames: int) -> ClipSource:
    if kind == "refcoco":
        return _all_refcoco(root)
    return (
        RefYoutubeVos(root, num_frames=num_frames) if kind == "ref_youtube_vos" else Mevis(root, num_frames=num_frames)
    )


def _all_refcoco(root: Path) -> Mixed:
    names = [name for name in REFCOCO_SETS if (root / name).is_dir()]
    if not names:
        raise ConfigError(f"{root}: no folder {', '.join(REFCOCO_SETS)} in it. Give the folder that holds them.")
    return Mixed(sources=tuple(RefCoco(root, name) for name in names))


def _check_annotations(said: VideoExpression, masks: Mapping[str, Sequence[Any]]) -> None:
    for target in said.targets:
        num_masks = len(masks.get(str(target), ()))
        if num_masks != len(said.frame_names):
            raise ConfigError(
                f"{said.video}, expression {said.expression_id}: annotation {target} has {num_masks} masks in "
                f"mask_dict.json for {len(said.frame_names)} frames. Fetch both files of one release."
            )


def _video_expression(
    video: str, number: str, entry: Mapping[str, Any], said: Mapping[str, Any], targets: tuple[int, ...]
) -> VideoExpression:
    return VideoExpression(
        video=video,
        expression_id=number,
        text=normalised_expression(str(said["exp"]), f"{video}, expression {number}"),
        frame_names=tuple(str(name) for name in entry["frames"]),
        targets=targets,
    )


def _video_sample(said: VideoExpression, frames: Sequence[int], folder: Path, masks: Mask) -> TrainingSample:
    pictures = [_read_picture(folder / f"{said.frame_names[frame]}.jpg") for frame in frames]
    return TrainingSample(
        sample_id=f"{said.video}:{said.expression_id} frames {list(frames)}",
        frames=np.stack(pictures),
        masks=masks,
        expression=said.text,
    )


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such file. Give the data set's root, in its published layout.") from error
    except ValueError as error:
        raise ConfigError(f"{path}: not JSON: {error}. Fetch it again.") from error


def _read_picture(path: Path) -> Image:
    with _opened(path) as picture:
        return np.asarray(picture.convert("RGB"))


def _read_labels(path: Path) -> NDArray[np.uint8]:
    """Object ids of an indexed PNG, uint8 (y, x)."""
    with _opened(path) as picture:
        if picture.mode not in ("P", "L"):
            raise DecodeError(f"{path}: mode {picture.mode}; expected P or L, whose values are object ids.")
        return np.asarray(picture)


def _opened(path: Path) -> PilImage.Image:
    try:
        picture = PilImage.open(path)
        picture.load()
    except (OSError, UnidentifiedImageError) as error:
        raise DecodeError(f"{path}: cannot be read: {error}. Fetch the data set's file again.") from error
    return picture


def _decoded(segmentation: Any, size: tuple[int, int], where: str) -> Mask:
    """A mask from COCO's polygons or RLE, bool (y, x)."""
    height, width = size
    if isinstance(segmentation, list):
        segmentation = coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))
    try:
        counts, rows, columns = rle.from_coco(segmentation)
    except (ValueError, KeyError, TypeError) as error:
        raise DecodeError(f"{where}: its RLE cannot be read: {error}") from error
    if (rows, columns) != size:
        raise DecodeError(f"{where}: mask of {rows}x{columns} for a picture of {height}x{width}.")
    return rle.decode(counts, height, width)
