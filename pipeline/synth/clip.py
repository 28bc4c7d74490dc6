"""Generated clips: frames, exact masks, expressions and truth, the same for equal (config, seed, split, index)."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipeline.synth.config import ClipConfig
from pipeline.synth.draws import Draws
from pipeline.synth.expressions import Expression, sample_expressions
from pipeline.synth.render import DrawnFrame, draw_frames, observe
from pipeline.synth.scene import sample_scene
from pipeline.synth.witness import testify
from pipeline.synth.world import SPLITS, Life, Scene, Split, Truth, played_motion

_SCENE_STREAM, _BACKGROUND_STREAM, _EXPRESSION_STREAM = range(3)
_MAX_ATTEMPTS = 200
_MAX_NAME = 1 << 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """One generated video, T frames of H x W pixels, N objects.

    Attributes:
        video_id: names config, split, seed and index.
        frames: uint8 (T, H, W, 3), RGB.
        labels: uint8 (T, H, W): the id of the nearest object that covers at least half of the pixel, 0 for none
            and for occluders; so visible masks are disjoint.
        expressions: in the order of the config.
        truth: of every object at every frame. In a "frozen" clip the motions named here, and those in the
            expressions, are what the scene would have shown: the frames show none.
        twins: ids of two look-alikes that differ in exactly one trait, or None.
    """

    video_id: str
    frames_per_second: int
    frames: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    expressions: tuple[Expression, ...]
    truth: Truth
    twins: tuple[int, int] | None

    @property
    def num_objects(self) -> int:
        return len(self.truth.objects)

    def object_mask(self, object_id: int) -> NDArray[np.bool_]:
        """The visible mask of one object, bool (T, H, W).

        Raises:
            ValueError: the clip has no such object.
        """
        if not 1 <= object_id <= self.num_objects:
            raise ValueError(f"{self.video_id}: no object {object_id}; expected 1 .. {self.num_objects}.")
        mask: NDArray[np.bool_] = self.labels == object_id
        return mask

    def expression_mask(self, expression: Expression) -> NDArray[np.bool_]:
        """The union of the visible masks of the targets, bool (T, H, W); empty without targets."""
        is_target = np.zeros(self.num_objects + 1, dtype=np.bool_)
        is_target[list(expression.target_ids)] = True
        return is_target[self.labels]

    def boxes(self) -> NDArray[np.int32]:
        """Boxes around the visible masks, int32 (T, N, 4) as x0, y0, x1, y1, ends excluded; -1 where not visible."""
        boxes = np.full((len(self.labels), self.num_objects, 4), -1, dtype=np.int32)
        for object_id in range(1, self.num_objects + 1):
            mask = self.labels == object_id
            for axis, low in ((1, 0), (2, 1)):
                is_hit = mask.any(axis=axis)
                ends = is_hit.argmax(axis=1), is_hit.shape[1] - is_hit[:, ::-1].argmax(axis=1)
                shown = is_hit.any(axis=1)
                boxes[shown, object_id - 1, low] = ends[0][shown]
                boxes[shown, object_id - 1, low + 2] = ends[1][shown]
        return boxes


def sample_clip(config: ClipConfig, seed: int, split: Split, index: int) -> Clip:
    """Clip `index` of a split: scenes are drawn until one has a certain answer for every expression asked for.

    Args:
        seed, index: 0 .. 2^32 - 1. Splits draw from disjoint streams whatever their seeds.
        split: "train" and "valid" never show a held-out combination of colour, shape and motion, object 1 of
            "heldout" always is one, "test" takes all as they come.

    Raises:
        ValueError: an argument is out of range, or the config asks for expressions that its scenes do not bear.
    """
    name = _stream_name(seed, split, index)
    for attempt in range(_MAX_ATTEMPTS):
        scene = _sample_scene(config, name, split, attempt)
        drawn = list(draw_frames(scene))
        clip = _played(scene, drawn, config, (*name, attempt))
        if clip is not None:
            return clip
    raise ValueError(
        f"No scene in {_MAX_ATTEMPTS} bears the expressions {config.expressions} at seed {seed}, split {split!r}, "
        f"index {index}. Allow more objects, motions or frames, or other kinds of expressions."
    )


def iter_clips(config: ClipConfig, seed: int, split: Split, indices: Iterable[int]) -> Iterator[Clip]:
    """Clips of a split one after the other, each sampled when asked for."""
    return (sample_clip(config, seed, split, index) for index in indices)


def iter_frames(config: ClipConfig, seed: int, split: Split, index: int) -> Iterator[DrawnFrame]:
    """The frames of a scene without expressions, one at a time: memory is bounded whatever `config.num_frames`.

    The scene is the first one that `sample_clip` tries under the same name, whether or not it bears expressions.

    Raises:
        ValueError: an argument is out of range, or the config does not play forward.
    """
    if config.playback != "forward":
        raise ValueError(f"iter_frames plays forward only, got playback={config.playback!r}; use sample_clip.")
    return draw_frames(_sample_scene(config, _stream_name(seed, split, index), split, 0))


def clip_digest(clip: Clip) -> str:
    """SHA-256 over pixels, labels, expressions and targets: equal digests mean equal clips."""
    digest = hashlib.sha256()
    digest.update(repr(clip.frames.shape).encode())
    digest.update(np.ascontiguousarray(clip.frames).tobytes())
    digest.update(np.ascontiguousarray(clip.labels).tobytes())
    for expression in clip.expressions:
        digest.update(repr((expression.text, expression.target_ids, expression.word_truth)).encode())
    return digest.hexdigest()


def _stream_name(seed: int, split: Split, index: int) -> tuple[int, int, int]:
    if split not in SPLITS:
        raise ValueError(f"Unknown split {split!r}; expected one of {', '.join(SPLITS)}.")
    for value, what in ((seed, "seed"), (index, "index")):
        if not 0 <= value < _MAX_NAME:
            raise ValueError(f"{what} {value}: expected 0 .. 2^32 - 1.")
    return seed, SPLITS.index(split), index


def _sample_scene(config: ClipConfig, name: tuple[int, int, int], split: Split, attempt: int) -> Scene:
    return sample_scene(
        config,
        split=split,
        draws=Draws(*name, attempt, _SCENE_STREAM),
        background_name=(*name, attempt, _BACKGROUND_STREAM),
    )


def _played(scene: Scene, drawn: list[DrawnFrame], config: ClipConfig, name: tuple[int, int, int, int]) -> Clip | None:
    """The clip that a drawn scene makes, or None if it has nothing to say for some expression."""
    truth = observe(scene, drawn)
    if config.playback == "reversed":
        truth, drawn = reversed_truth(truth), drawn[::-1]
    expressions = sample_expressions(config, testify(truth), Draws(*name, _EXPRESSION_STREAM))
    if expressions is None:
        return None
    if config.playback == "frozen":
        middle = len(drawn) // 2
        truth, drawn = _frozen(truth, middle), [drawn[middle]] * len(drawn)
    seed, split, index, _ = name
    return Clip(
        video_id=f"{config.name}_{SPLITS[split]}_{seed}_{index:06d}",
        frames_per_second=config.frames_per_second,
        frames=np.stack([frame.image for frame in drawn]),
        labels=np.stack([frame.labels for frame in drawn]),
        expressions=expressions,
        truth=truth,
        twins=scene.twins,
    )


_LIFE_BACKWARDS: dict[Life, Life] = {"late": "leaves", "leaves": "late"}


def reversed_truth(truth: Truth) -> Truth:
    """The truth of the same pictures in the opposite order."""
    steps = -truth.velocities_px[:0:-1]
    objects = tuple(
        replace(
            thing,
            motion=played_motion(thing.motion, backwards=True),
            life=_LIFE_BACKWARDS.get(thing.life, thing.life),
        )
        for thing in truth.objects
    )
    return replace(
        truth,
        objects=objects,
        centres_px=truth.centres_px[::-1],
        velocities_px=np.concatenate([steps[:1], steps]),
        radii_px=truth.radii_px[::-1],
        present=truth.present[::-1],
        visible_px=truth.visible_px[::-1],
        full_px=truth.full_px[::-1],
        hidden_px=truth.hidden_px[::-1],
        camera_px=truth.camera_px[::-1],
    )


def _frozen(truth: Truth, frame_index: int) -> Truth:
    """The truth of one frame repeated; each object keeps the name of its motion."""
    chosen = np.full(truth.num_frames, frame_index)
    return replace(
        truth,
        centres_px=truth.centres_px[chosen],
        velocities_px=np.zeros_like(truth.velocities_px),
        radii_px=truth.radii_px[chosen],
        present=truth.present[chosen],
        visible_px=truth.visible_px[chosen],
        full_px=truth.full_px[chosen],
        hidden_px=truth.hidden_px[chosen],
        camera_px=truth.camera_px[chosen],
    )
