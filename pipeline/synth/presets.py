"""Named distributions of clips: for training, for the demo, for memory tests, and the evaluation suites."""

from pipeline.synth.config import STANDARD_MIX, ClipConfig, Kind
from pipeline.synth.world import MOTIONS, Motion

_STRAIGHT: tuple[Motion, ...] = ("left", "right", "up", "down", "up_left", "up_right", "down_left", "down_right")
_CIRCLES: tuple[Motion, ...] = ("circle_clockwise", "circle_counterclockwise")
_CHANGING: tuple[Motion, ...] = ("starts", "stops", "turns_back")
_STEADY = tuple(motion for motion in MOTIONS if motion not in _CHANGING)

_TRAINING_MIX: dict[Kind, float] = {**{kind: share * 0.35 / 0.93 for kind, share in STANDARD_MIX.items()}, "none": 0.65}

TRAIN = ClipConfig(
    name="train",
    num_frames=4,
    twin_fraction=0.7,
    kin_fraction=0.2,
    crossing_fraction=0.2,
    late_fraction=0.1,
    blink_fraction=0.05,
    occluder_fraction=0.15,
    pan_fraction=0.3,
    distractor_fraction=0.25,
    shadow_fraction=0.5,
    expressions=("referent", "twin", "any"),
    kind_weights=_TRAINING_MIX,
)
"""Training: two opposed referents, then one random expression, 65 % of which have no referent."""

DEMO = ClipConfig(
    name="demo",
    height=192,
    width=256,
    num_frames=24,
    min_objects=3,
    max_objects=5,
    speed_px=(1.6, 3.6),
    twin_fraction=0.6,
    kin_fraction=0.3,
    crossing_fraction=0.4,
    late_fraction=0.12,
    occluder_fraction=0.2,
    pan_fraction=0.25,
    pan_px=1.2,
    shadow_fraction=1.0,
    expressions=("referent", "twin", "any"),
)
"""Pictures for people: larger, longer and calmer."""

_CALM = DEMO.derive(
    width=192,
    max_objects=4,
    speed_px=(2.0, 3.6),
    motions=("still", *_STRAIGHT, *_CIRCLES),
    crossing_fraction=0.0,
    kin_fraction=0.0,
    late_fraction=0.0,
    occluder_fraction=0.0,
    pan_fraction=0.0,
)
_CALM_TWINS = _CALM.derive(
    twin_fraction=1.0,
    twin_differs={"motion": 1.0},
    motions=_STRAIGHT,
    expressions=("referent", "twin", "attribute"),
    kind_weights={"motion": 1.0},
)

DEMO_SCENES: tuple[ClipConfig, ...] = (
    _CALM.derive(twin_fraction=0.0, expressions=("attribute", "attribute", "attribute")),
    _CALM_TWINS,
    # One sentence without referent.
    _CALM_TWINS.derive(expressions=("referent", "twin", "none")),
    # Object 1 enters late.
    _CALM.derive(
        twin_fraction=0.0,
        late_fraction=1.0,
        lives_of="referent",
        expressions=("referent", "attribute", "attribute"),
        kind_weights={"attribute": 0.5, "motion": 0.5},
    ),
    _CALM_TWINS.derive(pan_fraction=1.0),
    _CALM_TWINS.derive(crossing_fraction=1.0),
)
"""What `masklake demo` shows, in turn. Square, so that things are as large to the tiny model as in its training."""

LONG = ClipConfig(
    name="long",
    num_frames=600,
    min_objects=3,
    max_objects=4,
    motions=("still", *_CIRCLES, "bounce", "spin"),
    shadow_fraction=0.5,
    expressions=("attribute",),
)
"""Motions that stay in the picture for ever; draw it with `iter_frames`, `num_frames` may be thousands."""

_STREAMING24 = TRAIN.derive(num_frames=24, late_fraction=0.0, blink_fraction=0.0, occluder_fraction=0.0)
_SUITE = TRAIN.derive(
    num_frames=16,
    speed_px=(2.0, 4.0),
    kin_fraction=0.0,
    crossing_fraction=0.0,
    late_fraction=0.0,
    blink_fraction=0.0,
    lives_of="referent",
    occluder_fraction=0.0,
    pan_fraction=0.0,
    kind_weights=STANDARD_MIX,
)
_MOTION_TWINS = _SUITE.derive(
    num_frames=4,
    twin_fraction=1.0,
    twin_differs={"motion": 1.0},
    motions=_STRAIGHT,
    expressions=("referent", "twin"),
    kind_weights={"motion": 1.0},
)

_STILL = _SUITE.derive(
    num_frames=4,
    twin_differs={"colour": 0.25, "shape": 0.25, "texture": 0.25, "size": 0.25},
    motions=("still",),
    expressions=("referent", "twin", "any"),
    kind_weights={"attribute": 0.35, "none": 0.65},
)
_TWINS = _MOTION_TWINS.derive(
    speed_px=(2.0, 5.0), expressions=("referent", "twin", "any"), kind_weights={"motion": 0.35, "none": 0.65}
)

_SUITES: dict[str, ClipConfig] = {
    "still": _STILL,
    "still_pan": _STILL.derive(pan_fraction=1.0),
    "twins": _TWINS,
    "twins_pan": _TWINS.derive(pan_fraction=1.0),
    "slow": _TWINS.derive(speed_px=(0.8, 2.0)),
    # A look-alike is in view from frame 0, the referent enters at 30-60 % of the clip.
    "tracking_bias": _SUITE.derive(
        num_frames=24, twin_fraction=1.0, motions=_STEADY, late_fraction=1.0, expressions=("referent",)
    ),
    "fast": _SUITE.derive(
        num_frames=10,
        speed_px=(5.0, 8.0),
        twin_fraction=0.5,
        motions=(*_STRAIGHT, *_CIRCLES),
        expressions=("referent", "any"),
        kind_weights={"attribute": 0.4, "motion": 0.6},
    ),
    "occlusion": _SUITE.derive(
        num_frames=24,
        sizes=("small",),
        motions=_STRAIGHT,
        crossing_fraction=0.5,
        occluder_fraction=1.0,
        expressions=("referent", "twin"),
    ),
    "streaming24": _STREAMING24,
    "streaming_twins": _TWINS.derive(num_frames=24, pan_fraction=0.5),
    # Controls: a model that reads motion fails on one frame repeated, and picks the twin when played backwards.
    "frozen": _MOTION_TWINS.derive(playback="frozen"),
    "reversed": _MOTION_TWINS.derive(playback="reversed"),
    "late": _SUITE.derive(max_objects=3, twin_fraction=0.3, late_fraction=1.0, expressions=("referent",)),
    "reappears": _SUITE.derive(max_objects=3, twin_fraction=0.3, blink_fraction=1.0, expressions=("referent",)),
    "plural": _SUITE.derive(
        min_objects=4, max_objects=6, twin_fraction=0.3, kin_fraction=0.45, expressions=("plural", "plural")
    ),
    "relation": _SUITE.derive(num_frames=4, min_objects=3, kin_fraction=0.45, expressions=("relation", "relation")),
    # Entries, exits and returns of any object, and motions that change.
    "temporal": _SUITE.derive(
        min_objects=3,
        twin_fraction=0.3,
        late_fraction=0.25,
        leave_fraction=0.2,
        blink_fraction=0.1,
        lives_of="all",
        expressions=("temporal", "temporal"),
    ),
}
SUITES: dict[str, ClipConfig] = {name: config.derive(name=name) for name, config in _SUITES.items()}
"""Evaluation suites: each isolates one difficulty."""

PRESETS: dict[str, ClipConfig] = {"train": TRAIN, "demo": DEMO, "long": LONG, **SUITES}
"""All of them by name; each names its clips by its own."""


def clip_config(name: str) -> ClipConfig:
    """The preset or suite of that name.

    Raises:
        ValueError: there is none.
    """
    if name not in PRESETS:
        raise ValueError(f"Unknown preset {name!r}; expected one of {', '.join(PRESETS)}.")
    return PRESETS[name]
