"""Tracking suites: clips that each pose one difficulty of tracking, with exact masks and first-frame prompts.

A clip is the same for equal (config, seed, index), on every platform.
"""

import hashlib
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.masks.geometry import bounding_box
from pipeline.synth.draws import Draws
from pipeline.synth.track_plays import TRACK_SUITES, TrackSuite, TrackSuiteConfig, sample_play
from pipeline.synth.track_stage import Ints, Stage, draw_stage
from pipeline.synth.world import SUBPIXELS
from pipeline.ticks import PointPrompt, Prompt

PromptKind = Literal["mask", "box", "point"]

_SCENE_STREAM, _PICTURE_STREAM, _MIRROR_STREAM = range(3)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackClip:
    """One clip of a suite: T frames of H x W pixels, N objects; object 1 is the target.

    Attributes:
        video_id: names suite, size, seed and index.
        frames: uint8 (T, H, W, 3), RGB.
        labels: uint8 (T, H, W): the nearest object that covers at least half of the pixel; 0 for none and for posts.
        centres_px: float32 (T, N, 2), x and y on the screen, also where the object is not shown.
        radius_px: of every object.
        full_px: int32 (T, N): pixels that the object would show if nothing stood before it.
        camera_px: int64 (T, 2): how far the picture has moved over the world.
        tracked_ids: the objects that a run of this suite is asked to track.
        flashes: bool (T,): the target's pixels are corrupted.
    """

    video_id: str
    suite: TrackSuite
    frames_per_second: int
    frames: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    centres_px: NDArray[np.float32]
    radius_px: float
    full_px: NDArray[np.int32]
    camera_px: Ints
    tracked_ids: tuple[int, ...]
    flashes: NDArray[np.bool_]

    @property
    def num_frames(self) -> int:
        return len(self.frames)

    @property
    def object_ids(self) -> tuple[int, ...]:
        return tuple(range(1, self.full_px.shape[1] + 1))

    @property
    def second_half(self) -> slice:
        """Frames by which a suite is judged: its difficulty has been met by then."""
        return slice(self.num_frames // 2, self.num_frames)

    @property
    def last_third(self) -> slice:
        return slice(self.num_frames - self.num_frames // 3, self.num_frames)

    @property
    def hidden_frames(self) -> NDArray[np.int64]:
        """Frames on which no pixel of the target is seen."""
        return np.flatnonzero(~self.object_mask(1).any(axis=(1, 2)))

    @property
    def reappears_at(self) -> int | None:
        """The frame on which the target is seen again after it was gone; None if it always is in view."""
        hidden = self.hidden_frames
        return int(hidden[-1]) + 1 if hidden.size and hidden[-1] + 1 < self.num_frames else None

    def object_mask(self, object_id: int) -> NDArray[np.bool_]:
        """The visible mask of one object, bool (T, H, W).

        Raises:
            ValueError: the clip has no such object.
        """
        if object_id not in self.object_ids:
            raise ValueError(f"{self.video_id}: no object {object_id}; expected one of {self.object_ids}.")
        mask: NDArray[np.bool_] = self.labels == object_id
        return mask

    def prompts(self, kind: PromptKind) -> list[Prompt]:
        """Each tracked object by its mask, its box or a click on its middle, on frame 0."""
        return [self._prompt(object_id, kind) for object_id in self.tracked_ids]

    def _prompt(self, object_id: int, kind: PromptKind) -> Prompt:
        mask = self.labels[0] == object_id
        if kind == "mask":
            return Prompt(object_id=object_id, frame_index=0, mask=mask)
        if kind == "box":
            box = bounding_box(mask)
            assert box is not None, "every tracked object is in view on frame 0"
            edges = (float(box.left), float(box.top), float(box.right), float(box.bottom))
            return Prompt(object_id=object_id, frame_index=0, box=edges)
        x, y = self.centres_px[0, object_id - 1].tolist()
        return Prompt(object_id=object_id, frame_index=0, points=(PointPrompt(x=x, y=y),))


def track_suite_config(suite: str, *, height: int = 256, num_frames: int = 64) -> TrackSuiteConfig:
    """A suite as the benchmark runs it.

    Raises:
        ValueError: no such suite, or a size that it cannot have.
    """
    if suite not in TRACK_SUITES:
        raise ValueError(f"Unknown tracking suite {suite!r}; expected one of {', '.join(TRACK_SUITES)}.")
    # At constant speed the fast straight target crosses a square picture in six frames.
    width = height * 3 // 2 if suite == "fast_straight" else height * 5 // 4
    return TrackSuiteConfig(suite=suite, height=height, width=width, num_frames=num_frames)


def sample_track_clip(config: TrackSuiteConfig, seed: int, index: int = 0) -> TrackClip:
    """Clip `index` of a suite.

    Args:
        seed, index: 0 .. 2^32 - 1.

    Raises:
        ValueError: they are not.
    """
    for value, what in ((seed, "seed"), (index, "index")):
        if not 0 <= value < 1 << 32:
            raise ValueError(f"{what} {value}: expected 0 .. 2^32 - 1.")
    name = (TRACK_SUITES.index(config.suite), seed, index)
    play = sample_play(config, Draws(*name, _SCENE_STREAM))
    stage = Stage(
        height=config.height,
        width=config.width,
        sprites=play.sprites,
        posts=play.posts,
        camera_px=play.camera_px,
        name=(*name, _PICTURE_STREAM),
        grain=config.grain,
        has_distractors=play.has_distractors,
    )
    centres = np.stack([sprite.centres for sprite in play.sprites], axis=1) - play.camera_px[:, None] * SUBPIXELS
    drawn = draw_stage(stage)
    clip = TrackClip(
        video_id=f"track_{config.suite}_{config.height}x{config.width}_{seed}_{index:06d}",
        suite=config.suite,
        frames_per_second=config.frames_per_second,
        frames=drawn.frames,
        labels=drawn.labels,
        centres_px=(centres / SUBPIXELS).astype(np.float32),
        radius_px=play.sprites[0].radius / SUBPIXELS,
        full_px=drawn.full_px,
        camera_px=play.camera_px,
        tracked_ids=play.tracked_ids,
        flashes=play.sprites[0].flashes,
    )
    return _mirrored(clip, Draws(*name, _MIRROR_STREAM))


def track_clip_digest(clip: TrackClip) -> str:
    """SHA-256 over pixels and labels: equal digests mean equal clips."""
    digest = hashlib.sha256(repr((clip.frames.shape, clip.tracked_ids)).encode())
    digest.update(clip.frames.tobytes())
    digest.update(clip.labels.tobytes())
    return digest.hexdigest()


def _mirrored(clip: TrackClip, draws: Draws) -> TrackClip:
    """The clip as drawn, or turned left to right, upside down, or both."""
    frames, labels = clip.frames, clip.labels
    centres_px, camera_px = clip.centres_px.copy(), clip.camera_px.copy()
    for axis, coordinate in ((2, 0), (1, 1)):
        if draws.chance(0.5):
            frames, labels = np.flip(frames, axis), np.flip(labels, axis)
            centres_px[:, :, coordinate] = frames.shape[axis] - centres_px[:, :, coordinate]
            camera_px[:, coordinate] *= -1
    return replace(
        clip,
        frames=np.ascontiguousarray(frames),
        labels=np.ascontiguousarray(labels),
        centres_px=centres_px,
        camera_px=camera_px,
    )
