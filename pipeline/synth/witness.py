"""What a viewer of the rendered clip could testify to: who is seen when, how fast, where beside whom."""

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from pipeline.synth.meanings import Verdict
from pipeline.synth.motion import CHANGING_MOTIONS
from pipeline.synth.world import REFERENCE_PX, Motion, Truth

Relation = Literal["left_of", "right_of", "above", "below", "behind", "in_front_of"]
RELATIONS: tuple[Relation, ...] = get_args(Relation)

SEEN_SHARE = 0.2
"""An object is seen in a frame when so much of its largest area is visible, and at least `SEEN_MIN_PX`."""
SEEN_MIN_PX = 8
LATE_SHARE = 0.25
"""An object is late when it is first seen after so much of the clip."""
FAST_PX = 4.5
"""From this mean speed on an object is fast; pixels per frame on a canvas whose shorter side has 128 pixels."""
_SURELY_NOT_FAST_PX = 3.2
_SLOW_PX = 2.4
_SURELY_NOT_SLOW_PX = 3.6

_BESIDE_SHARE = 0.1  # of the shorter side: centres nearer than this are neither left nor right
_BEHIND_SHARE = 0.15  # of an object's area must be hidden at some time for it to be behind
_STEPS_TO_SEE: dict[Motion, int] = {"circle_clockwise": 3, "circle_counterclockwise": 3, "zigzag": 6, "bounce": 6}


@dataclass(frozen=True, slots=True, kw_only=True)
class Witness:
    """Facts drawn from the truth of one clip; N objects by slot.

    Attributes:
        seen: bool (T, N).
        exists: per object; True if it is seen long enough to be spoken of, False if not one pixel of it ever shows.
        motion_seen: per object, whether its class of motion could be told from what is seen of it.
        speeds: per object, mean speed while it moves and is seen, in pixels per frame at 128; 0.0 if it never does.
        first_seen, last_seen: frames; -1 for an object that is never seen.
        reappears: per object; seen, then gone for two frames or more, then seen again.
        related: relation -> [i][j], whether object i stands so to object j throughout.
        judged: answers given so far, by question; asking again costs nothing.
    """

    truth: Truth
    seen: NDArray[np.bool_]
    exists: tuple[Verdict, ...]
    motion_seen: tuple[bool, ...]
    speeds: tuple[float, ...]
    first_seen: tuple[int, ...]
    last_seen: tuple[int, ...]
    reappears: tuple[Verdict, ...]
    related: dict[Relation, tuple[tuple[Verdict, ...], ...]]
    judged: dict[Hashable, tuple[Verdict, ...]] = field(default_factory=dict, compare=False, repr=False)

    @property
    def num_objects(self) -> int:
        return len(self.truth.objects)


def testify(truth: Truth) -> Witness:
    """All facts about a clip that its expressions may use."""
    seen = truth.visible_px >= np.maximum(SEEN_SHARE * truth.full_px.max(axis=0), SEEN_MIN_PX)
    slots = range(len(truth.objects))
    times = [np.flatnonzero(seen[:, slot]) for slot in slots]
    return Witness(
        truth=truth,
        seen=seen,
        exists=tuple(_exists(truth, seen, slot) for slot in slots),
        motion_seen=tuple(_is_motion_seen(truth, seen[:, slot], slot) for slot in slots),
        speeds=tuple(_speed(truth, seen[:, slot], slot) for slot in slots),
        first_seen=tuple(int(frames[0]) if len(frames) else -1 for frames in times),
        last_seen=tuple(int(frames[-1]) if len(frames) else -1 for frames in times),
        reappears=tuple(_reappears(truth.visible_px[:, slot], seen[:, slot]) for slot in slots),
        related=_relations(truth, seen),
    )


def is_fast(witness: Witness, slot: int) -> Verdict:
    """Whether the object moves fast; None in between, False for one that stays."""
    speed = witness.speeds[slot]
    return True if speed >= FAST_PX else False if speed <= _SURELY_NOT_FAST_PX else None


def is_slow(witness: Witness, slot: int) -> Verdict:
    """Whether the object moves, but slowly."""
    speed = witness.speeds[slot]
    return False if speed == 0 or speed >= _SURELY_NOT_SLOW_PX else True if speed <= _SLOW_PX else None


def is_late(witness: Witness, slot: int) -> bool:
    """Whether the object is first seen after a good part of the clip."""
    return witness.first_seen[slot] >= LATE_SHARE * witness.truth.num_frames


def _exists(truth: Truth, seen: NDArray[np.bool_], slot: int) -> Verdict:
    if seen[:, slot].sum() >= max(2, truth.num_frames // 4):
        return True
    return None if truth.visible_px[:, slot].any() else False


def _seen_steps(truth: Truth, seen: NDArray[np.bool_], slot: int) -> NDArray[np.float32]:
    """Velocities (K, 2) of the steps at both ends of which the object is seen."""
    return truth.velocities_px[1:, slot][seen[1:] & seen[:-1]]


def _is_motion_seen(truth: Truth, seen: NDArray[np.bool_], slot: int) -> bool:
    motion, steps = truth.objects[slot].motion, _seen_steps(truth, seen, slot)
    if motion not in CHANGING_MOTIONS:
        return len(steps) >= min(_STEPS_TO_SEE.get(motion, 2), truth.num_frames - 1)
    _, counts = np.unique(np.sign(steps), axis=0, return_counts=True)
    return int((counts >= 2).sum()) >= 2


def _speed(truth: Truth, seen: NDArray[np.bool_], slot: int) -> float:
    steps = _seen_steps(truth, seen, slot).astype(np.float64)
    lengths = np.sqrt((steps * steps).sum(axis=1))
    lengths = lengths[lengths > 0.25]
    scale = REFERENCE_PX / min(truth.height, truth.width)
    return float(lengths.mean()) * scale if len(lengths) else 0.0


def _reappears(visible_px: NDArray[np.int32], seen: NDArray[np.bool_]) -> Verdict:
    frames = np.flatnonzero(seen)
    if not len(frames):
        return None
    inside = slice(int(frames[0]), int(frames[-1]) + 1)
    if seen[inside].all():
        return False
    gone = visible_px[inside] == 0
    return True if (gone[1:] & gone[:-1]).any() else None


def _relations(truth: Truth, seen: NDArray[np.bool_]) -> dict[Relation, tuple[tuple[Verdict, ...], ...]]:
    slots = range(len(truth.objects))
    left = [[_is_before(truth, seen, i, j, 0) for j in slots] for i in slots]
    above = [[_is_before(truth, seen, i, j, 1) for j in slots] for i in slots]
    behind = [[_is_behind(truth, i, j) for j in slots] for i in slots]
    forward: dict[Relation, list[list[Verdict]]] = {"left_of": left, "above": above, "behind": behind}
    inverse: dict[Relation, Relation] = {"left_of": "right_of", "above": "below", "behind": "in_front_of"}
    related = {name: tuple(map(tuple, table)) for name, table in forward.items()}
    turned = {inverse[name]: tuple(zip(*table, strict=True)) for name, table in forward.items()}
    return {**related, **turned}


def _is_before(truth: Truth, seen: NDArray[np.bool_], one: int, other: int, axis: int) -> Verdict:
    """Whether object `one` stays at lower coordinates of an axis, clear of doubt by distance and slant."""
    together = seen[:, one] & seen[:, other]
    if one == other:
        return False
    if not together.any():
        return None
    gaps = (truth.centres_px[:, other] - truth.centres_px[:, one])[together]
    along, across = gaps[:, axis], np.abs(gaps[:, 1 - axis])
    if (along <= 0).all():
        return False
    clear = (along >= _BESIDE_SHARE * min(truth.height, truth.width)) & (along >= 0.5 * across)
    return True if clear.all() else None


def _is_behind(truth: Truth, one: int, other: int) -> Verdict:
    hidden = truth.hidden_px[:, one, other]
    if not hidden.any():
        return False
    return True if (hidden >= _BEHIND_SHARE * truth.full_px[:, one].max()).any() else None
