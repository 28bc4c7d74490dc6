"""A fake method over modalities: each one's mask shows its picture, its place in the tick is told, masks lag behind."""

from collections import deque
from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
import torch

from pipeline.errors import SessionError
from pipeline.segmenter import Session, State, Work
from pipeline.ticks import ObjectMask, Prompt, Tick, TickMasks
from tests.fakes import Hook

CLASSES = ("rgb", "depth", "event", "lidar")
BUCKET = 3


def mask_of(image: np.ndarray) -> np.ndarray:
    """Where the first channel is bright, bool (H, W)."""
    return image[:, :, 0] > (0.5 if image.dtype == np.float32 else 127)


class ModalitySession:
    """Ticks that have come, and the last ones, which are held back."""

    def __init__(self, frame_size: tuple[int, int], lag: int) -> None:
        self.frame_size, self.lag = frame_size, lag
        self.waiting: deque[Tick] = deque()
        self.done: deque[TickMasks] = deque()
        self.ended = False

    def push(self, tick: Tick) -> None:
        if not tick.images:
            raise SessionError("a tick without images")
        self.waiting.append(tick)

    def end(self) -> None:
        self.ended = True

    def next_work(self) -> Work | None:
        return Work(stage="look", group=self.frame_size, size=1) if self.waiting else None

    def take(self) -> list[TickMasks]:
        keep = 0 if self.ended and not self.waiting else self.lag
        return [self.done.popleft() for _ in range(max(0, len(self.done) - keep))]

    def state_bytes(self) -> int:
        return sum(image.nbytes for tick in self.waiting for image in tick.images.values())

    def state_dict(self) -> State:
        assert not self.waiting, "the engine takes a state between batches"
        done = [
            (m.frame_index, m.pts_us, list(m.flags), [(o.object_id, torch.from_numpy(o.mask)) for o in m.objects])
            for m in self.done
        ]
        return {"frame_size": list(self.frame_size), "done": done}

    def look(self) -> None:
        tick = self.waiting.popleft()
        objects = [
            ObjectMask(object_id=c + 1, mask=mask_of(tick.images[name]), confidence=0.5, class_id=c)
            for c, name in enumerate(CLASSES)
            if name in tick.images
        ]
        self.done.append(
            TickMasks(
                frame_index=tick.frame_index,
                pts_us=tick.pts_us,
                height=self.frame_size[0],
                width=self.frame_size[1],
                objects=tuple(objects),
                flags=("order:" + ",".join(tick.images),),
            )
        )


class ModalitySegmenter:
    """Takes no prompts; up to three sessions in a batch."""

    method = "fake"
    class_names: ClassVar[Mapping[int, str]] = dict(enumerate(CLASSES))

    def __init__(self, *, lag: int = 0, hook: Hook | None = None) -> None:
        self.lag, self.hook = lag, hook

    @property
    def buckets(self) -> Mapping[str, int]:
        return {"look": BUCKET}

    def open(self, prompts: Sequence[Prompt], frame_size: tuple[int, int]) -> ModalitySession:
        assert not prompts
        return ModalitySession(frame_size, self.lag)

    def restore(self, state: State) -> ModalitySession:
        height, width = state["frame_size"]
        session = ModalitySession((height, width), self.lag)
        for frame_index, pts_us, flags, objects in state["done"]:
            masks = tuple(
                ObjectMask(object_id=number, mask=mask.numpy(), confidence=0.5, class_id=number - 1)
                for number, mask in objects
            )
            session.done.append(
                TickMasks(
                    frame_index=frame_index,
                    pts_us=pts_us,
                    height=height,
                    width=width,
                    objects=masks,
                    flags=tuple(flags),
                )
            )
        return session

    def run(self, stage: str, sessions: Sequence[Session]) -> None:
        if self.hook is not None:
            self.hook(stage, sessions)
        for session in sessions:
            assert isinstance(session, ModalitySession)
            session.look()
