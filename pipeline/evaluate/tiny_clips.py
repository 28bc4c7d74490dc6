"""The held-out clips that the tiny model is measured on: sets by name, their seeds, and what is asked of each clip."""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from pipeline.synth.clip import Clip, reversed_truth, sample_clip
from pipeline.synth.config import ClipConfig
from pipeline.synth.corpus import PromptKind, manifest_row, truth_row
from pipeline.synth.expressions import Expression
from pipeline.synth.presets import SUITES
from pipeline.synth.referents import resolve
from pipeline.synth.witness import testify
from pipeline.synth.world import Split
from pipeline.ticks import RGB, PointPrompt, Prompt, Tick

Task = Literal["refer", "track", "guided"]

HELD_OUT_SEEDS = 1 << 31
"""Streams of evaluation are named by seeds from here on; a training whose seed is below never draws from them."""
CALIBRATION_SEEDS = HELD_OUT_SEEDS + (1 << 30)
"""Those of calibration, so that a confidence is never measured on the clips it was fitted to."""
NUM_SEEDS = 1 << 30
"""Seeds that each of the two has."""

PROMPT_KINDS: tuple[PromptKind, ...] = ("mask", "point", "box")
NUM_TRACKED = 2
"""Objects of a clip that are tracked: the first ones, a look-alike among them where there is one."""

_CLIPS_TRIED_PER_CASE = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipSet:
    """A family of clips, and what is done with them.

    Attributes:
        told: what is in it, in words.
        task: "refer" asks the clip's sentences; "track" prompts objects on the first frame, see `tracking_prompts`, for
            a tracker by memory alone; "guided" the same for one with motion-guided prompts.
        kinds: how objects are prompted.
        is_backwards: the clips are played backwards under the sentences of the forward clip.
        split: "test" shows every combination of colour, shape and motion as it comes; object 1 of "heldout" always
            is one that training never shows.
    """

    told: str
    config: ClipConfig
    task: Task = "refer"
    kinds: tuple[PromptKind, ...] = PROMPT_KINDS
    is_backwards: bool = False
    split: Split = "test"


SETS: dict[str, ClipSet] = {
    "still": ClipSet(told="4 frames, still objects, still camera", config=SUITES["still"]),
    "still_pan": ClipSet(
        told="4 frames, still objects, camera pan up to 2.5 px a frame with jitter", config=SUITES["still_pan"]
    ),
    "twins": ClipSet(
        told="4 frames, twins that differ in motion alone, 2-5 px a frame, still camera", config=SUITES["twins"]
    ),
    "twins_pan": ClipSet(told="as twins, camera pan up to 2.5 px a frame", config=SUITES["twins_pan"]),
    "frozen": ClipSet(told="as twins, the middle frame shown four times", config=SUITES["frozen"]),
    "backwards": ClipSet(
        told="as twins, played backwards under the sentences of the forward clip, where the other twin now fits",
        config=SUITES["twins"].derive(name="backwards", expressions=("referent", "twin")),
        is_backwards=True,
    ),
    "twins24": ClipSet(
        told="24 frames, otherwise as twins; camera pan in half of the clips",
        config=SUITES["streaming_twins"],
    ),
    "streaming24": ClipSet(
        told="24 frames, all motions, 70 % twins, 30 % camera pan, objects that cross", config=SUITES["streaming24"]
    ),
    "tracks": ClipSet(told="as streaming24, objects 1 and 2 prompted", config=SUITES["streaming24"], task="track"),
    "guided": ClipSet(
        told="the clips of tracks, prompted by masks alone",
        config=SUITES["streaming24"],
        task="guided",
        kinds=("mask",),
    ),
    "late": ClipSet(told="16 frames, the referent enters at 30-60 % of them", config=SUITES["late"]),
    "reappears": ClipSet(told="16 frames, the referent is away for 2-5 of them", config=SUITES["reappears"]),
    "plural": ClipSet(told="16 frames, 4-6 objects, sentences with several referents", config=SUITES["plural"]),
    "relation": ClipSet(
        told="4 frames, 3-4 objects, sentences that need a relation to another object", config=SUITES["relation"]
    ),
    "temporal": ClipSet(told="16 frames, sentences on entries, exits and changes", config=SUITES["temporal"]),
    "heldout": ClipSet(
        told="as twins, object 1 of a colour, shape and motion that training never shows together",
        config=SUITES["twins"].derive(name="heldout", expressions=("referent",)),
        split="heldout",
    ),
    "tracking_bias": ClipSet(
        told="24 frames, a look-alike from frame 0 on, the referent enters at 30-60 %", config=SUITES["tracking_bias"]
    ),
}
"""All sets by name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipCase:
    """One clip with what is asked of it.

    Attributes:
        prompts: for "refer" one per sentence, in order, `object_id` counting from 1; for "track" those of
            `tracking_prompts`.
        truth: the clip's row of truth.jsonl, as `pipeline.evaluate.shapesref.measure_video` reads it.
    """

    clip: Clip
    prompts: tuple[Prompt, ...]
    truth: Mapping[str, Any]

    @property
    def frame_size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        _, height, width = self.clip.labels.shape
        return height, width

    def ticks(self) -> list[Tick]:
        """The frames as an engine takes them."""
        microseconds = 1_000_000 / self.clip.frames_per_second
        return [
            Tick(frame_index=index, pts_us=round(index * microseconds), images={RGB: frame})
            for index, frame in enumerate(self.clip.frames)
        ]


def held_out_seed(seed: int, *, base: int = HELD_OUT_SEEDS) -> int:
    """The seed of the clips that `--seed` names.

    Args:
        base: `HELD_OUT_SEEDS` or `CALIBRATION_SEEDS`.

    Raises:
        ValueError: seed is not in 0 .. `NUM_SEEDS` - 1.
    """
    if not 0 <= seed < NUM_SEEDS:
        raise ValueError(f"seed {seed}: expected 0 .. {NUM_SEEDS - 1}.")
    return base + seed


def iter_cases(clip_set: ClipSet, seed: int, count: int) -> Iterator[ClipCase]:
    """The first `count` cases of a set, each drawn when asked for; a clip that asks nothing is passed over.

    Args:
        seed: as `held_out_seed` gives it.

    Raises:
        ValueError: the set's clips have almost never anything to ask.
    """
    cases = (_case_of(clip, clip_set) for clip in _clips(clip_set, seed))
    asking = (case for case in itertools.islice(cases, count * _CLIPS_TRIED_PER_CASE) if case.prompts)
    found = 0
    for case in itertools.islice(asking, count):
        found += 1
        yield case
    if found < count:
        raise ValueError(f"{clip_set.told}: {found} clips of {count * _CLIPS_TRIED_PER_CASE} ask anything.")


def tracking_prompts(clip: Clip, kinds: Sequence[PromptKind] = PROMPT_KINDS) -> tuple[Prompt, ...]:
    """First-frame prompts: each of the first `NUM_TRACKED` objects by mask, by point and by box, or as `kinds` say.

    An object is left out if the first frame shows less than a third of what is ever seen of it. `query_id` is
    "kind:object", as "mask:1".
    """
    rows = {kind: {row["object_id"]: row for row in _first_frame_rows(clip, kind)} for kind in PROMPT_KINDS}
    objects = [object_id for object_id in range(1, NUM_TRACKED + 1) if object_id in rows["mask"]]
    asked = itertools.product(kinds, objects)
    return tuple(
        _tracking_prompt(clip, kind, rows[kind][object_id], slot) for slot, (kind, object_id) in enumerate(asked)
    )


def _clips(clip_set: ClipSet, seed: int) -> Iterator[Clip]:
    drawn = (sample_clip(clip_set.config, seed, clip_set.split, index) for index in itertools.count())
    return map(_backwards, drawn) if clip_set.is_backwards else drawn


def _case_of(clip: Clip, clip_set: ClipSet) -> ClipCase:
    is_asked = clip_set.task == "refer"
    prompts = tuple(_text_prompts(clip.expressions)) if is_asked else tracking_prompts(clip, clip_set.kinds)
    return ClipCase(clip=clip, prompts=prompts, truth=truth_row(clip))


def _text_prompts(expressions: Iterable[Expression]) -> Iterator[Prompt]:
    for object_id, said in enumerate(expressions, start=1):
        yield Prompt(
            object_id=object_id, query_id=said.expression_id, text=said.text, motion_words=tuple(said.motion_words)
        )


def _backwards(clip: Clip) -> Clip:
    """The pictures in the opposite order, and the sentences that fit exactly the other look-alike since.

    They keep their words and their targets of the forward clip, so that "the opposite twin" is the one that the
    backward clip shows doing what the sentence says.
    """
    truth = reversed_truth(clip.truth)
    witness = testify(truth)
    kept = []
    for said in clip.expressions:
        others = set(clip.twins or ()) - set(said.target_ids)
        if len(others) == 1 and resolve(said.query, witness) == tuple(others):
            kept.append(said)
    return replace(clip, frames=clip.frames[::-1], labels=clip.labels[::-1], truth=truth, expressions=tuple(kept))


def _first_frame_rows(clip: Clip, kind: PromptKind) -> list[dict[str, Any]]:
    return [row for row in manifest_row(clip, "", prompt=kind)["prompts"] if row["frame"] == 0]


def _tracking_prompt(clip: Clip, kind: PromptKind, row: Mapping[str, Any], slot: int) -> Prompt:
    object_id = row["object_id"]
    prompt = Prompt(object_id=slot + 1, query_id=f"{kind}:{object_id}", frame_index=0, mask=clip.labels[0] == object_id)
    if kind == "mask":
        return prompt
    if kind == "point":
        points = tuple(PointPrompt(x=x, y=y, positive=sign > 0) for x, y, sign in row["points"])
        return replace(prompt, mask=None, points=points)
    x0, y0, x1, y1 = map(float, row["box"])
    return replace(prompt, mask=None, box=(x0, y0, x1, y1))
