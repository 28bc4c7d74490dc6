"""What the law tests of every method share: its smallest segmenter, drawn videos, and a scheduler that shuffles."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from types import ModuleType

import numpy as np

from pipeline.segmenter import SEGMENTERS, Segmenter, Session, work_off
from pipeline.ticks import RGB, Tick, TickMasks

METHODS = sorted(SEGMENTERS)


def module_of(method: str) -> ModuleType:
    """A method's module. It offers build_segmenter, mini() and example_prompts(num_objects, frame_size)."""
    return import_module(SEGMENTERS[method].partition(":")[0])


@cache
def mini_segmenter(method: str) -> Segmenter:
    """The method's smallest model on the CPU; its buckets have room for several videos."""
    module = module_of(method)
    config, model = module.mini()
    segmenter: Segmenter = module.build_segmenter(config, model, "cpu")
    return segmenter


@dataclass(frozen=True, slots=True, kw_only=True)
class Video:
    """A drawn video and how many objects are asked of it.

    Attributes:
        stride: source frames from one tick to the next.
    """

    seed: int
    num_frames: int
    num_objects: int
    height: int
    width: int
    stride: int = 1

    def open(self, method: str) -> Session:
        prompts = module_of(method).example_prompts(self.num_objects, (self.height, self.width))
        return mini_segmenter(method).open(prompts, (self.height, self.width))

    def ticks(self, method: str) -> list[Tick]:
        """Discs that move over a noisy ground, in every modality the method reads."""
        modalities = getattr(module_of(method), "EXAMPLE_MODALITIES", (RGB,))
        return [self._tick(place, modalities) for place in range(self.num_frames)]

    def _tick(self, place: int, modalities: Sequence[str]) -> Tick:
        images = {}
        for channel, modality in enumerate(modalities):
            generator = np.random.default_rng([self.seed, place, channel])
            image = generator.integers(40, 90, (self.height, self.width, 3), dtype=np.uint8)
            y, x = np.mgrid[: self.height, : self.width]
            for disc in range(3):
                left = (self.seed * 7 + disc * 19 + place * (disc + 1)) % self.width
                image[(y - (disc + 1) * self.height / 4) ** 2 + (x - left) ** 2 < 30] = np.roll([230, 60, 30], disc)
            images[modality] = image
        frame_index = place * self.stride
        return Tick(frame_index=frame_index, pts_us=frame_index * 40_000, images=images)


@cache
def alone(method: str, video: Video) -> tuple[TickMasks, ...]:
    """The video by itself, tick by tick; computed once, since many laws are held against it."""
    session, segmenter, taken = video.open(method), mini_segmenter(method), []
    for tick in video.ticks(method):
        session.push(tick)
        work_off(segmenter, session)
        taken += session.take()
    session.end()
    work_off(segmenter, session)
    return (*taken, *session.take())


@dataclass(slots=True)
class Shuffler:
    """Pushes ticks and runs batches of several sessions in a random but legal order, until all is done."""

    method: str
    videos: Sequence[Video]
    seed: int
    num_shared: int = 0
    """Batches in which more than one session took part."""
    taken: list[list[TickMasks]] = field(init=False)

    def run(self) -> list[list[TickMasks]]:
        chance = random.Random(self.seed)
        sessions = [video.open(self.method) for video in self.videos]
        queues = [video.ticks(self.method) for video in self.videos]
        ended = [False] * len(sessions)
        self.taken = [[] for _ in sessions]
        while True:
            waiting = [i for i, session in enumerate(sessions) if session.next_work() is not None]
            feedable = [i for i, done in enumerate(ended) if not done]
            if not waiting and not feedable:
                return self.taken
            if feedable and (not waiting or chance.random() < 0.6):
                self._feed(chance.choice(feedable), sessions, queues, ended)
            else:
                self._run_batch(chance, sessions, waiting)
            for i, session in enumerate(sessions):
                if chance.random() < 0.3 or ended[i]:
                    self.taken[i] += session.take()

    def _feed(self, i: int, sessions: list[Session], queues: list[list[Tick]], ended: list[bool]) -> None:
        if queues[i]:
            sessions[i].push(queues[i].pop(0))
        else:
            sessions[i].end()
            ended[i] = True

    def _run_batch(self, chance: random.Random, sessions: list[Session], waiting: list[int]) -> None:
        segmenter = mini_segmenter(self.method)
        chance.shuffle(waiting)
        first = sessions[waiting[0]].next_work()
        assert first is not None
        batch, size = [], 0
        for i in waiting:
            work = sessions[i].next_work()
            assert work is not None
            fits = size + work.size <= segmenter.buckets[first.stage]
            if (work.stage, work.group) == (first.stage, first.group) and fits:
                batch.append(sessions[i])
                size += work.size
        self.num_shared += len(batch) > 1
        segmenter.run(first.stage, batch)


def assert_same_masks(ours: Sequence[TickMasks], wanted: Sequence[TickMasks]) -> None:
    """Equal bit for bit: masks, numbers, flags, order."""
    assert [tick.frame_index for tick in ours] == [tick.frame_index for tick in wanted]
    for tick, other in zip(ours, wanted, strict=True):
        assert (tick.pts_us, tick.height, tick.width, tick.flags) == (
            other.pts_us,
            other.height,
            other.width,
            other.flags,
        )
        for found, expected in zip(tick.objects, other.objects, strict=True):
            np.testing.assert_array_equal(found.mask, expected.mask)
            for name in ("object_id", "confidence", "object_score", "predicted_iou", "stability", "class_id"):
                assert getattr(found, name) == getattr(expected, name), (tick.frame_index, name)
