"""A fake method with real state: two stages, clips that lag, a memory per object, and faults on demand.

Its arithmetic is on integers, so that "bit for bit" is not a matter of rounding, and every mask depends on the whole
history of its own video: a mix-up of sessions, objects or frames anywhere changes all masks from there on.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from pipeline.errors import PromptError, SessionError
from pipeline.segmenter import Segmenter, Session, State, Work, finish, step
from pipeline.ticks import RGB, ObjectMask, Prompt, Tick, TickMasks

MODULUS = 1_000_003
MEMORY_FRAMES = 3

Hook = Callable[[str, Sequence[Session]], None]
"""Called before a batch changes anything, with stage and sessions; raises or waits to inject a fault."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FakeOptions:
    """What `build_segmenter` reads from a method config.

    Attributes:
        clip: frames that are fused before any of them comes out.
        ballast: bytes that every session pretends to hold per remembered frame.
    """

    clip: int = 3
    encode_bucket: int = 4
    track_bucket: int = 4
    ballast: int = 0


class FakeSession:
    """All that one video remembers: raw ticks, codes of encoded ones, and numbers remembered per object."""

    def __init__(self, prompts: Sequence[Prompt], frame_size: tuple[int, int], options: FakeOptions) -> None:
        self.prompts = list(prompts)
        self.frame_size = frame_size
        self.options = options
        self.raw: deque[Tick] = deque()
        self.clip: deque[tuple[Tick, int]] = deque()
        self.fused: deque[tuple[Tick, int]] = deque()
        self.memories: list[deque[int]] = [deque(maxlen=MEMORY_FRAMES) for _ in prompts]
        self.out: list[TickMasks] = []
        self.last_frame_index = -1
        self.ended = False

    @property
    def texts(self) -> set[str | None]:
        return {prompt.text for prompt in self.prompts}

    def push(self, tick: Tick) -> None:
        if self.ended or tick.frame_index <= self.last_frame_index:
            raise SessionError(f"frame {tick.frame_index} after {self.last_frame_index}")
        self.last_frame_index = tick.frame_index
        self.raw.append(tick)

    def end(self) -> None:
        self.ended = True
        self._fuse()

    def next_work(self) -> Work | None:
        if self.fused:
            group = (self.frame_size, len(self.memories[0]))
            return Work(stage="track", group=group, size=len(self.prompts))
        if self.raw:
            size = min(len(self.raw), self.options.encode_bucket)
            return Work(stage="encode", group=self.frame_size, size=size)
        return None

    def take(self) -> list[TickMasks]:
        taken, self.out = self.out, []
        return taken

    def state_bytes(self) -> int:
        ticks = [*self.raw, *(tick for tick, _ in [*self.clip, *self.fused])]
        remembered = sum(len(memory) for memory in self.memories)
        return sum(tick.rgb.nbytes for tick in ticks) + remembered * (8 + self.options.ballast)

    def state_dict(self) -> State:
        return {
            "method": "fake",
            "prompts": [(prompt.object_id, prompt.text) for prompt in self.prompts],
            "frame_size": list(self.frame_size),
            "raw": [_tick_state(tick) for tick in self.raw],
            "clip": [(_tick_state(tick), code) for tick, code in self.clip],
            "fused": [(_tick_state(tick), code) for tick, code in self.fused],
            "memories": [torch.tensor(list(memory), dtype=torch.int64) for memory in self.memories],
            "last_frame_index": self.last_frame_index,
            "ended": self.ended,
        }

    def encoded(self, codes: Sequence[int]) -> None:
        for code in codes:
            self.clip.append((self.raw.popleft(), code))
            self._fuse()

    def tracked(self, masks: Sequence[np.ndarray], memories: Sequence[int]) -> None:
        tick, _ = self.fused.popleft()
        for memory, value in zip(self.memories, memories, strict=True):
            memory.append(value)
        confidence = 7.5 if "overconfident" in self.texts else 0.75
        objects = tuple(
            ObjectMask(object_id=prompt.object_id, mask=mask, confidence=confidence)
            for prompt, mask in zip(self.prompts, masks, strict=True)
        )
        height, width = self.frame_size
        self.out.append(
            TickMasks(frame_index=tick.frame_index, pts_us=tick.pts_us, height=height, width=width, objects=objects)
        )

    def _fuse(self) -> None:
        if len(self.clip) < self.options.clip and not (self.ended and not self.raw):
            return
        total = sum(code for _, code in self.clip) % MODULUS
        self.fused.extend((tick, (code + 7 * total) % MODULUS) for tick, code in self.clip)
        self.clip.clear()


class FakeSegmenter:
    """Integer arithmetic in padded buckets; remembers nothing about any video.

    Prompts whose text is "refuse" are refused by `open`; "poison" makes a batch fail, "oom" makes it run out of
    memory, "die" ends the thread that runs it, "twice" gives a frame twice, "overconfident" a confidence above 1.
    """

    method = "fake"

    def __init__(self, options: FakeOptions | None = None, hook: Hook | None = None) -> None:
        self.options = options or FakeOptions()
        self.hook = hook
        self.batches: list[tuple[str, int]] = []
        self.threads: set[int] = set()

    @property
    def buckets(self) -> Mapping[str, int]:
        return {"encode": self.options.encode_bucket, "track": self.options.track_bucket}

    def open(self, prompts: Sequence[Prompt], frame_size: tuple[int, int]) -> FakeSession:
        self.threads.add(threading.get_ident())
        if not prompts or any(prompt.text == "refuse" for prompt in prompts):
            raise PromptError("the fake refuses this prompt")
        return FakeSession(prompts, frame_size, self.options)

    def restore(self, state: State) -> FakeSession:
        if state.get("method") != "fake":
            raise SessionError(f"state of method {state.get('method')!r}, expected 'fake'")
        prompts = [Prompt(object_id=object_id, text=text) for object_id, text in state["prompts"]]
        height, width = state["frame_size"]
        session = FakeSession(prompts, (height, width), self.options)
        session.raw.extend(_tick_of(tick) for tick in state["raw"])
        session.clip.extend((_tick_of(tick), code) for tick, code in state["clip"])
        session.fused.extend((_tick_of(tick), code) for tick, code in state["fused"])
        for memory, values in zip(session.memories, state["memories"], strict=True):
            memory.extend(int(value) for value in values)
        session.last_frame_index, session.ended = state["last_frame_index"], state["ended"]
        return session

    def run(self, stage: str, sessions: Sequence[Session]) -> None:
        self.threads.add(threading.get_ident())
        mine = [session for session in sessions if isinstance(session, FakeSession)]
        works = [session.next_work() for session in mine]
        assert len({(work.stage, work.group) for work in works if work}) == 1
        assert {work.stage for work in works if work} == {stage}
        assert sum(work.size for work in works if work) <= self.buckets[stage]
        if self.hook is not None:
            self.hook(stage, sessions)
        self._fail_if_asked(mine)
        self.batches.append((stage, sum(work.size for work in works if work)))
        (self._encode if stage == "encode" else self._track)(mine)

    def _fail_if_asked(self, sessions: Sequence[FakeSession]) -> None:
        texts = set().union(*(session.texts for session in sessions))
        if "poison" in texts:
            raise RuntimeError("the fake was poisoned")
        if "oom" in texts:
            raise torch.OutOfMemoryError("the fake is out of memory")
        if "die" in texts:
            raise SystemExit("the fake ends its thread")

    def _encode(self, sessions: Sequence[FakeSession]) -> None:
        counts = [min(len(session.raw), self.options.encode_bucket) for session in sessions]
        frames = [session.raw[i].images[RGB] for session, n in zip(sessions, counts, strict=True) for i in range(n)]
        height, width = sessions[0].frame_size
        images = torch.zeros(self.options.encode_bucket, height * width * 3, dtype=torch.int64)
        for row, frame in enumerate(frames):
            images[row] = torch.from_numpy(frame.astype(np.int64)).flatten()
        places = torch.arange(1, images.shape[1] + 1)
        codes = ((images * places).sum(1) % MODULUS).tolist()
        for session, count in zip(sessions, counts, strict=True):
            session.encoded(codes[:count])
            del codes[:count]

    def _track(self, sessions: Sequence[FakeSession]) -> None:
        height, width = sessions[0].frame_size
        seeds = torch.zeros(self.options.track_bucket, dtype=torch.int64)
        images = torch.zeros(self.options.track_bucket, height, width, dtype=torch.int64)
        row = 0
        for session in sessions:
            tick, code = session.fused[0]
            for prompt, memory in zip(session.prompts, session.memories, strict=True):
                seeds[row] = (31 * sum(memory) + code * prompt.object_id + len(memory)) % MODULUS
                images[row] = torch.from_numpy(tick.rgb.sum(axis=2).astype(np.int64))
                row += 1
        masks = (images + seeds[:, None, None]) % 7 < 3
        row = 0
        for session in sessions:
            rows = slice(row, row + len(session.prompts))
            session.tracked([mask.numpy().copy() for mask in masks[rows]], seeds[rows].tolist())
            if "twice" in session.texts:
                session.out.append(session.out[-1])
            row = rows.stop


def build_segmenter(config: Mapping[str, Any], model: Any, device: str) -> FakeSegmenter:
    """The fake as a registered method's factory."""
    return FakeSegmenter(FakeOptions(**config))


def prompts_of(*texts: str) -> list[Prompt]:
    return [Prompt(object_id=i + 1, text=text) for i, text in enumerate(texts)]


def ticks_of(seed: int, num_frames: int, *, size: tuple[int, int] = (4, 6), stride: int = 1) -> Iterator[Tick]:
    """A video of random frames; the same seed gives the same frames."""
    random = np.random.default_rng(seed)
    for i in range(num_frames):
        image = random.integers(0, 256, (*size, 3), dtype=np.uint8)
        yield Tick(frame_index=i * stride, pts_us=i * stride * 40_000, images={RGB: image})


def masks_alone(segmenter: Segmenter, prompts: Sequence[Prompt], ticks: Sequence[Tick]) -> list[TickMasks]:
    """What a video gives alone, without an engine: the answer that every interleaving must repeat."""
    session = segmenter.open(prompts, ticks[0].rgb.shape[:2])
    masks = [out for tick in ticks for out in step(segmenter, [session], [tick])[0]]
    return masks + finish(segmenter, session)


def assert_same_masks(given: Sequence[TickMasks], expected: Sequence[TickMasks]) -> None:
    assert [masks.frame_index for masks in given] == [masks.frame_index for masks in expected]
    assert [masks.pts_us for masks in given] == [masks.pts_us for masks in expected]
    for one, other in zip(given, expected, strict=True):
        assert [seen.object_id for seen in one.objects] == [seen.object_id for seen in other.objects]
        for seen, answer in zip(one.objects, other.objects, strict=True):
            np.testing.assert_array_equal(seen.mask, answer.mask)


def _tick_state(tick: Tick) -> tuple[int, int, torch.Tensor]:
    return tick.frame_index, tick.pts_us, torch.from_numpy(tick.rgb.copy())


def _tick_of(state: tuple[int, int, torch.Tensor]) -> Tick:
    return Tick(frame_index=state[0], pts_us=state[1], images={RGB: state[2].numpy()})
