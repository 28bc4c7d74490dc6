"""Small SAMWISEs and a small world to train them on, in seconds on one core."""

from pipeline.models.samwise_architecture import SamwiseArchitecture
from pipeline.models.samwise_variants import ARCHITECTURES
from pipeline.models.text_encoder import TextEncoderConfig
from pipeline.synth.config import ClipConfig
from pipeline.training.datasets import ShapesRefSource

END_ID = 59

WORLD = ClipConfig(
    name="two_large",
    height=64,
    width=64,
    num_frames=2,
    min_objects=2,
    max_objects=2,
    colours=("red", "blue"),
    shapes=("disc",),
    textures=("plain",),
    sizes=("large",),
    motions=("still",),
    twin_fraction=1.0,
    twin_differs={"colour": 1.0},
    expressions=("referent", "twin"),
    kind_weights={"attribute": 1.0},
)
"""Two large discs that lie still, a red and a blue one; every expression tells them apart by colour alone."""


def mini(**changes: object) -> SamwiseArchitecture:
    """The smallest architecture with every part: 64 px."""
    return SamwiseArchitecture.model_validate({**ARCHITECTURES["mini"], **changes})


def mini_clip() -> SamwiseArchitecture:
    """The same with CLIP's kind of text encoder."""
    text = TextEncoderConfig(
        kind="clip",
        vocabulary_size=END_ID + 1,
        width=32,
        num_layers=2,
        num_heads=4,
        feedforward_width=64,
        max_positions=20,
        end_id=END_ID,
    )
    return mini(text=text.model_dump(), tokenizer="clip", vocabulary=())


def small_world(*, num_clips: int | None = None, **changes: object) -> ShapesRefSource:
    """Clips of WORLD, or of a world near it."""
    return ShapesRefSource(config=WORLD.derive(**changes), seed=0, num_clips=num_clips)
