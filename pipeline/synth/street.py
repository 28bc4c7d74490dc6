"""Generated streets: frames, exact labels, depth and other sensors, equal for equal (config, seed, split, index)."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.synth.draws import Draws
from pipeline.synth.modalities import EventCamera, LidarScanner, hha_like, inverse_depth
from pipeline.synth.modalities_weather import Atmosphere, mean_picture
from pipeline.synth.street_config import StreetConfig
from pipeline.synth.street_render import Painted, colours_of, labels_of, luminance_of, paint_view
from pipeline.synth.street_scene import sample_street_scene
from pipeline.synth.street_world import (
    TICKS_PER_FRAME,
    Failure,
    Modality,
    StreetScene,
    Weather,
)
from pipeline.synth.world import SPLITS, Split

_STREET = 0x57EE7  # keeps the streams of streets apart from those of clips
_SCENE_STREAM, _SENSOR_STREAM, _FRAME_STREAM = range(3)
_MAX_NAME = 1 << 32


@dataclass(frozen=True, slots=True, kw_only=True)
class StreetThing:
    """One instance of a street that stands by itself or moves; walls and hedges have instance ids only.

    Attributes:
        velocity_mps: (right, up, forward), in metres per second over the ground.
    """

    instance_id: int
    class_id: int
    kind: str
    velocity_mps: tuple[float, float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class StreetFrame:
    """One frame of H x W pixels. Labels, instances and depth belong to the ray through each pixel's centre.

    Attributes:
        rgb: uint8 (H, W, 3), after weather and failure.
        clean_rgb: uint8 (H, W, 3), before both.
        labels: uint8 (H, W), class ids; every pixel has a class.
        instances: uint16 (H, W), ids that last as long as the street; 0 for sky, road and ground.
        depth_m: float32 (H, W), along the camera's axis; `SKY_DEPTH_M` in the sky.
        modalities: what the config asks for beside rgb, uint8 (H, W, 3) each.
    """

    frame_index: int
    rgb: NDArray[np.uint8]
    clean_rgb: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    instances: NDArray[np.uint16]
    depth_m: NDArray[np.float32]
    modalities: dict[Modality, NDArray[np.uint8]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Street:
    """One generated street.

    Attributes:
        video_id: names config, split, seed and index.
        index: its number in the split.
        things: what stands by itself or moves, whether a frame shows it or not.
        camera_m: float64 (T, 3), the camera's place: right, up, forward.
    """

    video_id: str
    index: int
    frames_per_second: int
    weather: Weather
    failure: Failure
    frames: tuple[StreetFrame, ...]
    things: tuple[StreetThing, ...]
    camera_m: NDArray[np.float64]

    def rgb(self) -> NDArray[np.uint8]:
        """All frames, uint8 (T, H, W, 3)."""
        return np.stack([frame.rgb for frame in self.frames])

    def labels(self) -> NDArray[np.uint8]:
        """All label maps, uint8 (T, H, W)."""
        return np.stack([frame.labels for frame in self.frames])

    def instances(self) -> NDArray[np.uint16]:
        """All maps of instance ids, uint16 (T, H, W)."""
        return np.stack([frame.instances for frame in self.frames])


def sample_street(config: StreetConfig, seed: int, split: Split, index: int) -> Street:
    """Street `index` of a split.

    Args:
        seed, index: 0 .. 2^32 - 1. Splits draw from disjoint streams whatever their seeds.

    Raises:
        ValueError: an argument is out of range.
    """
    scene = street_scene(config, seed, split, index)
    ticks_per_second = config.frames_per_second * TICKS_PER_FRAME
    things = tuple(
        StreetThing(
            instance_id=thing.instance_id,
            class_id=thing.class_id,
            kind=thing.kind,
            velocity_mps=(thing.step_um[0] * ticks_per_second / 1e6, 0.0, thing.step_um[1] * ticks_per_second / 1e6),
        )
        for thing in scene.uprights
    )
    views = [scene.camera.at(frame * TICKS_PER_FRAME) for frame in range(scene.num_frames)]
    return Street(
        video_id=f"{config.name}_{SPLITS[scene.name[1]]}_{seed}_{index:06d}",
        index=index,
        frames_per_second=config.frames_per_second,
        weather=scene.weather,
        failure=scene.failure,
        frames=tuple(_Recorder(config, scene).frames()),
        things=things,
        camera_m=np.array([(view.x_mm, view.y_mm, view.z_mm) for view in views]) / 1000,
    )


def iter_streets(config: StreetConfig, seed: int, split: Split, indices: Iterable[int]) -> Iterator[Street]:
    """Streets of a split one after the other, each sampled when asked for."""
    return (sample_street(config, seed, split, index) for index in indices)


def iter_street_frames(config: StreetConfig, seed: int, split: Split, index: int) -> Iterator[StreetFrame]:
    """The frames of `sample_street` one at a time; memory does not grow with the pictures already drawn.

    Raises:
        ValueError: an argument is out of range.
    """
    return _Recorder(config, street_scene(config, seed, split, index)).frames()


def street_scene(config: StreetConfig, seed: int, split: Split, index: int) -> StreetScene:
    """The scene that the frames of a street are drawn from.

    Raises:
        ValueError: an argument is out of range.
    """
    if split not in SPLITS:
        raise ValueError(f"Unknown split {split!r}; expected one of {', '.join(SPLITS)}.")
    for value, what in ((seed, "seed"), (index, "index")):
        if not 0 <= value < _MAX_NAME:
            raise ValueError(f"{what} {value}: expected 0 .. 2^32 - 1.")
    name = seed, SPLITS.index(split), index
    return sample_street_scene(config, name, Draws(*name, _STREET, _SCENE_STREAM))


def street_digest(street: Street) -> str:
    """SHA-256 over all pixels of all sensors, labels, instances and depth: equal digests mean equal streets."""
    digest = hashlib.sha256()
    for frame in street.frames:
        pictures = [frame.rgb, frame.labels, frame.instances.astype("<u2"), frame.depth_m.astype("<f4")]
        pictures += [frame.modalities[name] for name in sorted(frame.modalities)]
        for picture in pictures:
            digest.update(repr(picture.shape).encode())
            digest.update(np.ascontiguousarray(picture).tobytes())
    return digest.hexdigest()


class _Recorder:
    """Draws the frames of a scene with all its sensors."""

    def __init__(self, config: StreetConfig, scene: StreetScene) -> None:
        draws = Draws(*scene.name, _STREET, _SENSOR_STREAM)
        self._config, self._scene = config, scene
        self._atmosphere = Atmosphere.draw(scene, draws)
        self._scanner = LidarScanner.draw(config, scene.weather, scene.failure, draws)
        self._events: EventCamera | None = None
        if "event" in config.modalities:
            self._events = EventCamera.draw(scene.height, scene.width, scene.weather, scene.failure, draws)

    def frames(self) -> Iterator[StreetFrame]:
        last = self._luminance(-TICKS_PER_FRAME) if self._events else None
        for frame_index in range(self._scene.num_frames):
            painted = paint_view(self._scene, frame_index * TICKS_PER_FRAME)
            luminance = luminance_of(painted.codes, self._scene.materials)
            yield self._frame(frame_index, painted, luminance, last)
            last = luminance

    def _frame(
        self,
        frame_index: int,
        painted: Painted,
        luminance: NDArray[np.uint16],
        last: NDArray[np.uint16] | None,
    ) -> StreetFrame:
        scene, tick = self._scene, frame_index * TICKS_PER_FRAME
        # Each sensor has its own stream: which others are asked for changes none of its pixels.
        camera, events, scanner = (Draws(*scene.name, _STREET, _FRAME_STREAM, frame_index, n) for n in range(3))
        clean = colours_of(painted.codes, scene.materials)
        exposure = self._blurred(tick) if scene.failure == "motionblur" else clean
        modalities: dict[Modality, NDArray[np.uint8]] = {}
        for name in self._config.modalities:
            match name:
                case "depth":
                    modalities[name] = inverse_depth(painted.depth_mm)
                case "hha":
                    modalities[name] = hha_like(painted.depth_mm, scene.camera.at(tick))
                case "event":
                    assert self._events is not None
                    assert last is not None
                    modalities[name] = self._events.record([last, *self._between(tick), luminance], events)
                case "lidar":
                    modalities[name] = self._scanner.record(painted.depth_mm, luminance, scene.camera.at(tick), scanner)
        labels, instances = labels_of(painted, scene.materials)
        return StreetFrame(
            frame_index=frame_index,
            rgb=self._atmosphere.cast(exposure, painted, scene, tick, scene.failure, camera),
            clean_rgb=clean,
            labels=labels,
            instances=instances,
            depth_m=(painted.depth_mm / np.float32(1000)).astype(np.float32),
            modalities=modalities,
        )

    def _luminance(self, tick: int) -> NDArray[np.uint16]:
        return luminance_of(paint_view(self._scene, tick).codes, self._scene.materials)

    def _between(self, tick: int) -> list[NDArray[np.uint16]]:
        """Luminances at the sub-frames strictly between the frame before a tick and the tick."""
        step = TICKS_PER_FRAME // self._config.event_subframes
        return [self._luminance(tick - k * step) for k in range(self._config.event_subframes - 1, 0, -1)]

    def _blurred(self, tick: int) -> NDArray[np.uint8]:
        views = [paint_view(self._scene, tick + offset) for offset in self._atmosphere.blur_ticks]
        return mean_picture([colours_of(view.codes, self._scene.materials) for view in views])
