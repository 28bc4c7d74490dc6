"""What a method must offer: Segmenter and Session, their laws, and SEGMENTERS, the registry."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Protocol

from pipeline.errors import ConfigError
from pipeline.ticks import Prompt, Tick, TickMasks

State = dict[str, Any]
"""A session's state: nested dicts, lists and tuples of tensors, numpy arrays, numbers, strings, None."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What a session wants the device to do next, as a value that the scheduler compares.

    Attributes:
        stage: one of `Segmenter.buckets`.
        group: only works of one stage and equal group may share a batch (tensor shapes, number of memories).
        size: places it takes in the stage's bucket, 1 .. bucket size.
    """

    stage: str
    group: Hashable
    size: int


class Session(Protocol):
    """All that one video remembers; bounded in bytes whatever the video's length.

    Laws, tested for every registered method:
        1. Any interleaving of sessions gives the masks that each session gives alone, bit for bit.
        2. Each pushed tick comes out of `take` exactly once, in order, by the time `end` is worked off.
        3. `state_dict` may be taken between any two calls. A session restored from it, fed the ticks that
           followed, gives the same masks as if nothing had happened; ticks already taken are not given again.
    """

    def push(self, tick: Tick) -> None:
        """Accept the next tick. Raises SessionError unless frame_index is larger than the last one's."""
        ...

    def end(self) -> None:
        """No more ticks will come; what lags behind becomes work."""
        ...

    def next_work(self) -> Work | None:
        """What to run next; None when only further ticks (or nothing at all) can bring work."""
        ...

    def take(self) -> list[TickMasks]:
        """Finished ticks since the last call, in order."""
        ...

    def state_bytes(self) -> int:
        """Bytes held for this video, buffered frames included."""
        ...

    def state_dict(self) -> State:
        """Everything needed to go on; see law 3."""
        ...


class Segmenter(Protocol):
    """Holds weights and remembers nothing about any video.

    Attributes:
        method: name in SEGMENTERS.
        buckets: stage name, in the order in which a tick passes the stages, to the one batch size at which this
            stage always runs; a batch with fewer rows is filled up with dummy rows, so that a mask never depends on
            who shares it.
    """

    method: str

    @property
    def buckets(self) -> Mapping[str, int]: ...

    def open(self, prompts: Sequence[Prompt], frame_size: tuple[int, int]) -> Session:
        """Begin a video of frames (height, width). Raises PromptError if a prompt cannot be used."""
        ...

    def restore(self, state: State) -> Session:
        """The session that gave this state_dict. Raises SessionError if it is of another method or config."""
        ...

    def run(self, stage: str, sessions: Sequence[Session]) -> None:
        """Do the next work of each session, all of one stage and group, total size <= buckets[stage].

        Atomic: if it raises, every session is as before and may be run again alone.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """A model as a method's factory receives it: no storage left to ask.

    Attributes:
        name: for messages and lineage.
        architecture: sizes; empty means the named ones, or "read them off the tensors".
        architecture_name: a name among the sizes that the method's module knows, or None.
        tensors: key to tensor, as the checkpoint file holds them; None means seeded random weights.
        seed: for random weights.
        tokenizer_dir: local folder of a tokenizer's files; None for the closed vocabulary inside the package.
        calibration: what turns the method's own confidence into a probability, as `pipeline.models.confidence` reads
            it; None leaves the confidence as it is.
        folders: role to a local folder with a further network that the method uses, such as "network".
    """

    name: str
    architecture: Mapping[str, Any]
    tensors: Mapping[str, Any] | None
    architecture_name: str | None = None
    seed: int = 0
    tokenizer_dir: str | None = None
    calibration: Mapping[str, Any] | None = None
    folders: Mapping[str, str] = field(default_factory=dict)


def step(segmenter: Segmenter, sessions: Sequence[Session], ticks: Sequence[Tick]) -> list[list[TickMasks]]:
    """Push one tick into each session, work off all that became possible, and take what came out.

    The plain form of what the engine does, without batching across sessions.
    """
    for session, tick in zip(sessions, ticks, strict=True):
        session.push(tick)
        work_off(segmenter, session)
    return [session.take() for session in sessions]


def finish(segmenter: Segmenter, session: Session) -> list[TickMasks]:
    """End a session and return the ticks that lagged behind."""
    session.end()
    work_off(segmenter, session)
    return session.take()


def work_off(segmenter: Segmenter, session: Session) -> None:
    """Run a session's work, alone in its batches, until it needs more ticks."""
    while (work := session.next_work()) is not None:
        segmenter.run(work.stage, [session])


SEGMENTERS: dict[str, str] = {
    "memorysam": "pipeline.methods.memorysam:build_segmenter",
    "mosam": "pipeline.methods.mosam:build_segmenter",
    "sam2_vss": "pipeline.methods.sam2_vss:build_segmenter",
    "samwise": "pipeline.methods.samwise:build_segmenter",
}
"""Method name to `module:factory`, imported on first use.

A factory takes (config, model: ModelSpec, device: str) and returns a Segmenter.
"""


def segmenter_factory(method: str) -> Any:
    """The factory of a registered method.

    Raises:
        ConfigError: no such method.
    """
    if method not in SEGMENTERS:
        raise ConfigError(f"method {method!r} is not registered; known: {', '.join(sorted(SEGMENTERS))}.")
    module_name, _, attribute = SEGMENTERS[method].partition(":")
    return getattr(import_module(module_name), attribute)
