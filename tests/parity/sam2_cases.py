"""The courses of interaction on which ours must equal upstream's SAM2VideoPredictor."""

from dataclasses import dataclass, field
from typing import Any

from tests.parity.random_sam2 import SAM_2_0

HEIGHT, WIDTH = 72, 120


@dataclass(frozen=True, slots=True, kw_only=True)
class Click:
    """Points (x, y, label) and a box, in video pixels."""

    frame: int
    object_id: int = 1
    points: tuple[tuple[float, float, int], ...] = ()
    box: tuple[float, float, float, float] | None = None
    clear_old: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class GiveMask:
    """The drawn mask of one shape, or an empty one."""

    frame: int
    object_id: int = 1
    empty: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Propagate:
    """Track from a frame (None: the earliest prompted one) to the end, or to frame 0."""

    start: int | None = None
    reverse: bool = False
    max_frames: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One video, one model, one course of interaction.

    Attributes:
        changes: fields of the tiny config.
        bounded: ours forgets what its policy cannot read again.
        object_score: the median; around 0 objects come and go.
        tolerance: largest difference of logits, as a share of the largest logit.
        seed: of weights and frames. A tracker feeds on its own answers, and some random models amplify a rounding
            error of 1e-7 tenfold every few frames; the seeds here are of models that do not.
    """

    name: str
    num_frames: int
    steps: tuple[Click | GiveMask | Propagate, ...]
    changes: dict[str, Any] = field(default_factory=dict)
    corrections_condition: bool = False
    bounded: bool = False
    seed: int = 0
    object_score: float = 6.0
    tolerance: float = 1e-5


CLICK = Click(frame=0, points=((22.0, 25.0, 1),))
BOX = Click(frame=0, object_id=2, box=(76.0, 41.0, 104.0, 59.0))
BOX_AND_CLICK = Click(frame=0, object_id=2, box=(76.0, 41.0, 104.0, 59.0), points=((90.0, 50.0, 1),))
LATE_CLICKS = Click(frame=6, object_id=3, points=((60.0, 50.0, 1), (5.0, 5.0, 0)))
CORRECTION = Click(frame=12, points=((70.0, 25.0, 1), (100.0, 60.0, 0)))

COURSES: tuple[Case, ...] = (
    Case(name="one click, 9 frames", num_frames=9, steps=(CLICK, Propagate())),
    Case(name="one click, 20 frames, bounded", num_frames=20, steps=(CLICK, Propagate()), bounded=True),
    Case(name="box, 20 frames", num_frames=20, steps=(BOX, Propagate()), seed=1),
    Case(name="box and click, 9 frames", num_frames=9, steps=(BOX_AND_CLICK, Propagate()), seed=1),
    Case(name="mask, 20 frames", num_frames=20, steps=(GiveMask(frame=0), Propagate()), seed=3),
    Case(name="empty mask, 9 frames", num_frames=9, steps=(GiveMask(frame=0, empty=True), Propagate())),
    Case(
        name="clicks in turn on one frame, 9 frames",
        num_frames=9,
        steps=(
            CLICK,
            Click(frame=0, points=((50.0, 60.0, 0),), clear_old=False),
            Click(frame=0, points=((30.0, 20.0, 1),), clear_old=False),
            Propagate(),
        ),
    ),
    Case(
        name="three objects, 40 frames, bounded",
        num_frames=40,
        steps=(CLICK, BOX, GiveMask(frame=0, object_id=3), Propagate()),
        bounded=True,
        seed=4,
    ),
    Case(
        name="three objects, one prompted later, 20 frames",
        num_frames=20,
        steps=(CLICK, BOX, LATE_CLICKS, Propagate()),
        seed=1,
    ),
    Case(
        name="correction, 20 frames",
        num_frames=20,
        steps=(CLICK, Propagate(), CORRECTION, Propagate(start=12), Propagate()),
        seed=3,
    ),
    Case(
        name="correction that conditions, 20 frames",
        num_frames=20,
        steps=(CLICK, Propagate(), CORRECTION, Propagate(start=10)),
        corrections_condition=True,
        seed=3,
    ),
    Case(
        name="correction of the prompted frame, 9 frames",
        num_frames=9,
        steps=(CLICK, Propagate(), Click(frame=0, points=((40.0, 40.0, 0),)), Propagate()),
    ),
    Case(
        name="correction by mask, 20 frames",
        num_frames=20,
        steps=(CLICK, Propagate(), GiveMask(frame=12), Propagate(start=12)),
        corrections_condition=True,
    ),
    Case(
        name="several conditioning frames, 40 frames",
        num_frames=40,
        steps=(CLICK, Click(frame=9, points=((40.0, 25.0, 1),)), GiveMask(frame=21), GiveMask(frame=30), Propagate()),
        seed=7,
    ),
    Case(
        name="the two closest conditioning frames, 40 frames",
        num_frames=40,
        steps=(CLICK, Click(frame=9, points=((40.0, 25.0, 1),)), GiveMask(frame=11), GiveMask(frame=30), Propagate()),
        changes={"max_cond_frames_in_attn": 2},
        seed=7,
    ),
    Case(
        name="backwards, then forwards, 20 frames",
        num_frames=20,
        steps=(
            Click(frame=13, points=((74.0, 25.0, 1),)),
            GiveMask(frame=16),
            Propagate(start=13, reverse=True),
            Propagate(start=13),
        ),
        seed=8,
    ),
    Case(
        name="backwards, correction on the way, 20 frames",
        num_frames=20,
        steps=(
            GiveMask(frame=15),
            Propagate(start=15, reverse=True, max_frames=9),
            Click(frame=8, points=((50.0, 25.0, 1),)),
            Propagate(start=8, reverse=True),
        ),
        seed=9,
    ),
    Case(
        name="every third frame remembered, 40 frames",
        num_frames=40,
        steps=(CLICK, BOX, Propagate(), Propagate(start=30, reverse=True)),
        changes={"memory_temporal_stride_for_eval": 3},
        seed=10,
    ),
    Case(
        name="pointers of the future too, 20 frames",
        num_frames=20,
        steps=(CLICK, GiveMask(frame=12), Propagate()),
        changes={"only_obj_ptrs_in_the_past_for_eval": False},
    ),
    Case(
        name="objects that come and go, 20 frames",
        num_frames=20,
        steps=(CLICK, BOX, GiveMask(frame=0, object_id=3), Propagate()),
        object_score=0.0,
        seed=1,
    ),
    Case(
        name="predictor's switches, 20 frames",
        num_frames=20,
        steps=(CLICK, Propagate()),
        changes={
            "dynamic_multimask_via_stability": True,
            "binarize_mask_from_pts_for_mem_enc": True,
            "multimask_output_for_tracking": False,
        },
        seed=3,
    ),
    Case(
        name="soft absent pointers, 20 frames",
        num_frames=20,
        steps=(CLICK, BOX, Propagate()),
        changes={"fixed_no_obj_ptr": False, "soft_no_obj_ptr": True, "use_multimask_token_for_obj_ptr": False},
        object_score=1.0,
        seed=1,
    ),
    Case(
        name="no object scores, 20 frames",
        num_frames=20,
        steps=(CLICK, GiveMask(frame=0, object_id=2), Propagate()),
        changes={"fixed_no_obj_ptr": False, "pred_obj_scores": False},
    ),
    Case(
        name="other sizes, 9 frames",
        num_frames=9,
        steps=(CLICK, BOX, Propagate()),
        changes={
            "image_size": 192,
            "window_spec": (8, 4, 14, 7),
            "num_maskmem": 7,
            "d_model": 32,
            "mem_dim": 32,
            "num_multimask_outputs": 5,
        },
        seed=1,
    ),
    Case(
        name="memory stored as bfloat16, 20 frames",
        num_frames=20,
        steps=(CLICK, Propagate()),
        changes={"memory_dtype": "bfloat16"},
        # A difference of 1e-7 may round a memory feature to the neighbouring bfloat16, which is 4e-3 away.
        tolerance=1e-3,
    ),
)


def _of_family(case: Case, family: str, changes: dict[str, Any]) -> Case:
    values = {name: getattr(case, name) for name in Case.__slots__}
    return Case(**{**values, "name": f"{family}: {case.name}", "changes": {**changes, **case.changes}})


CASES: tuple[Case, ...] = tuple(
    _of_family(case, family, changes) for family, changes in (("2.0", SAM_2_0), ("2.1", {})) for case in COURSES
)
