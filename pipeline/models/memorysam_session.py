"""What one video or scene holds under MemorySAM: ticks that wait, the one in the works, label maps not yet taken."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.errors import SessionError
from pipeline.models.frame_order import check_order
from pipeline.models.memorysam_input import Fit, ModalityImage, fitted_size, resize_image
from pipeline.models.memorysam_scene import SceneFrame, SceneInFlight
from pipeline.models.memorysam_stages import SceneLabels, SceneRequest
from pipeline.models.session_state import image_from_state, image_to_state, outputs_from_state, outputs_to_state, to_cpu
from pipeline.segmenter import State, Work
from pipeline.ticks import ObjectMask, Tick, TickMasks

GATED = "gated"
CONTRIBUTION = "contribution"


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionRules:
    """What a session must know of its segmenter.

    Attributes:
        modalities: which to read, in this order; None reads all in the tick's order.
        image_size, fit, antialias: how a frame comes into the model's square.
        images_per_encode: batch size of the encoder.
        fingerprint: method, config and architecture as plain values; a state of another one is refused.
    """

    modalities: tuple[str, ...] | None
    image_size: int
    fit: Fit
    antialias: bool
    images_per_encode: int
    fingerprint: Mapping[str, Any]


class MemorySamSession:
    """One video, or one scene; see `pipeline.segmenter.Session` for the laws.

    Every tick is a memory sequence of its own, over its modalities, so nothing is remembered from tick to tick.
    """

    def __init__(self, rules: SessionRules, frame_size: tuple[int, int]) -> None:
        self.rules = rules
        self.frame_size = frame_size
        self.inner_size = fitted_size(*frame_size, image_size=rules.image_size, fit=rules.fit)
        self._pending: list[SceneFrame] = []
        self._scene: SceneInFlight | None = None
        self._ready: list[TickMasks] = []
        self._last_frame_index: int | None = None
        self._ended = False

    def push(self, tick: Tick) -> None:
        """Resize and keep a tick's modalities.

        Raises:
            SessionError: out of order or after the end; no modality to read; an image of another size or kind.
        """
        check_order(tick.frame_index, last=self._last_frame_index, has_ended=self._ended)
        wanted = tuple(tick.images) if self.rules.modalities is None else self.rules.modalities
        modalities = tuple(name for name in wanted if name in tick.images)
        if not modalities:
            raise SessionError(
                f"frame {tick.frame_index}: modalities {sorted(tick.images)}; expected at least one of "
                f"{list(wanted)}. Set the method's modalities to those that the bundle has."
            )
        images = tuple(self._fitted(tick, name) for name in modalities)
        self._pending.append(
            SceneFrame(frame_index=tick.frame_index, pts_us=tick.pts_us, modalities=modalities, images_hw3=images)
        )
        self._last_frame_index = tick.frame_index

    def end(self) -> None:
        """Nothing lags behind."""
        self._ended = True

    def next_work(self) -> Work | None:
        """The next step of the oldest tick that is not done."""
        request = self.next_step()
        if request is None:
            return None
        return Work(stage=request.step.stage, group=request.step.group, size=len(request.step.places))

    def next_step(self) -> SceneRequest | None:
        """The tick at hand, what to do with it, and what that takes."""
        if not self._pending:
            return None
        frame = self._pending[0]
        scene = self._scene or SceneInFlight(num_modalities=len(frame.modalities))
        step = scene.next_step(images_per_encode=self.rules.images_per_encode)
        assert step is not None, "a scene that is done has been accepted"
        return SceneRequest(scene=scene, step=step, frame=frame, inner_size=self.inner_size, frame_size=self.frame_size)

    def released_by(self, scene: SceneInFlight, labels: SceneLabels | None) -> TickMasks | None:
        """What accepting a scene would release."""
        return None if labels is None else self._tick_masks(self._pending[0], scene, labels)

    def advance(self, scene: SceneInFlight, released: TickMasks | None) -> None:
        """Accept a scene with one more step done; assignments only, so it cannot fail half way."""
        if released is None:
            self._scene = scene
            return
        self._scene = None
        self._ready.append(released)
        del self._pending[0]

    def take(self) -> list[TickMasks]:
        """Label maps finished since the last call."""
        taken, self._ready = self._ready, []
        return taken

    def state_bytes(self) -> int:
        """Waiting ticks, features and memories of the one at hand, masks waiting to be taken, and the record itself."""
        pending = sum(frame.num_bytes() for frame in self._pending)
        ready = sum(found.mask.nbytes for tick in self._ready for found in tick.objects)
        return pending + ready + (self._scene.num_bytes() if self._scene else 0) + sys.getsizeof(self)

    def state_dict(self) -> State:
        """Ticks that are not done, and masks not taken: the tick at hand will be redone."""
        state: State = to_cpu(
            {
                "fingerprint": dict(self.rules.fingerprint),
                "frame_size": list(self.frame_size),
                "pending": [
                    {
                        "frame_index": frame.frame_index,
                        "pts_us": frame.pts_us,
                        "modalities": list(frame.modalities),
                        "images": [image_to_state(image) for image in frame.images_hw3],
                    }
                    for frame in self._pending
                ],
                "ready": outputs_to_state(self._ready),
                "last_frame_index": self._last_frame_index,
                "ended": self._ended,
            }
        )
        return state

    def load_state(self, state: State) -> None:
        """Go on from where `state_dict` was taken."""
        self._pending = [
            SceneFrame(
                frame_index=fields["frame_index"],
                pts_us=fields["pts_us"],
                modalities=tuple(fields["modalities"]),
                images_hw3=tuple(image_from_state(image) for image in fields["images"]),
            )
            for fields in state["pending"]
        ]
        self._ready = outputs_from_state(state["ready"])
        self._last_frame_index = state["last_frame_index"]
        self._ended = state["ended"]

    def _fitted(self, tick: Tick, modality: str) -> ModalityImage:
        image: Any = tick.images[modality]
        where = f"frame {tick.frame_index}, modality {modality!r}"
        if image.dtype not in (np.uint8, np.float32) or image.shape != (*self.frame_size, 3):
            raise SessionError(
                f"{where}: {image.dtype} {image.shape}; expected uint8 or float32 {(*self.frame_size, 3)}, the size "
                "the session was opened with. Align the modalities to one size and repeat a single channel."
            )
        if image.dtype == np.float32 and not np.isfinite(image).all():
            raise SessionError(f"{where}: {int((~np.isfinite(image)).sum())} values are not finite. Fill or drop them.")
        resized = resize_image(image, self.inner_size, antialias=self.rules.antialias)
        # The caller may use its array again.
        return resized.copy() if resized is image else resized

    def _tick_masks(self, frame: SceneFrame, scene: SceneInFlight, labels: SceneLabels) -> TickMasks:
        height, width = self.frame_size
        return TickMasks(
            frame_index=frame.frame_index,
            pts_us=frame.pts_us,
            height=height,
            width=width,
            objects=tuple(
                ObjectMask(
                    object_id=region.class_id + 1,
                    class_id=region.class_id,
                    mask=region.mask,
                    confidence=region.confidence,
                )
                for region in labels.regions
            ),
            flags=_flags(frame.modalities, scene.object_scores, labels.contributions),
        )


def _flags(
    modalities: Sequence[str], object_scores: Sequence[float], shares: Sequence[float] | None
) -> tuple[str, ...]:
    gated = [f"{GATED}:{name}" for name, score in zip(modalities, object_scores, strict=True) if score <= 0]
    if shares is None:
        return tuple(gated)
    return (*gated, *(f"{CONTRIBUTION}:{name}={share:.4f}" for name, share in zip(modalities, shares, strict=True)))
