"""The tiny model's training in small: sizes, clips and stages that run in seconds on one core."""

from pipeline.models.sam2_variants import Sam2Config
from pipeline.models.samwise_architecture import SamwiseArchitecture
from pipeline.models.samwise_init import random_samwise
from pipeline.models.samwise_network import SamwiseNetwork
from pipeline.models.samwise_variants import grounded_samwise, small_sam2
from pipeline.synth.config import ClipConfig
from pipeline.synth.street_config import StreetConfig
from pipeline.training.loop import LoopConfig
from pipeline.training.tiny_stages import CmeStage, ContactStage, MemoryStage, ReferStage, TrackPhase, TrackStage

CLIPS = ClipConfig(
    name="small",
    height=64,
    width=64,
    num_frames=2,
    min_objects=2,
    max_objects=2,
    motions=("left", "right"),
    twin_fraction=1.0,
    twin_differs={"motion": 1.0},
    expressions=("referent", "twin"),
    kind_weights={"motion": 1.0},
)
"""Two look-alikes that move in opposite directions."""


def small_architecture(**changes: object) -> SamwiseArchitecture:
    """Grounded fusion with every part, 64 px; changes are of its SAM2."""
    sam2 = small_sam2(embed_dim=8, stages=(1, 1, 2, 1), d_model=32, image_size=64)
    return grounded_samwise(Sam2Config.model_validate({**sam2.model_dump(), **changes}))


def small_contact(num_steps: int) -> ContactStage:
    """All turns of the contact stage, beginning with streets."""
    four = CLIPS.derive(name="small4", num_frames=4)
    return ContactStage(
        refer_clips=four,
        track_clips=four,
        num_frames=3,
        turns=("street", "refer", "short", "track", "guided"),
        starts=(1, 1),
        short_clips=CLIPS,
        streets=StreetConfig(name="small_street", height=64, width=96, num_frames=2),
        streets_per_step=2,
        loop=small_loop(num_steps, 2),
    )


def small_network(**changes: object) -> SamwiseNetwork:
    """With seeded random weights."""
    return random_samwise(small_architecture(**changes), seed=0)


def small_loop(num_steps: int, batch_size: int, **changes: object) -> LoopConfig:
    """A short loop."""
    return LoopConfig.model_validate({"num_steps": num_steps, "batch_size": batch_size, "seed": 3, **changes})


def small_stages(num_steps: int) -> dict[str, ReferStage | TrackStage | MemoryStage | CmeStage]:
    """All stages by name, on clips of two to four frames."""
    three, four = CLIPS.derive(name="small3", num_frames=3), CLIPS.derive(name="small4", num_frames=4)
    num_early, loop = num_steps // 2, small_loop(num_steps, 4)
    refer = ReferStage(early_clips=CLIPS, late_clips=four, num_early_steps=num_early, loop=loop)
    return {
        "refer": refer,
        "ripen": refer,
        "sharpen": refer,
        "detail": refer.model_copy(update={"trains_detail": True}),
        "track": TrackStage(
            phases=(
                TrackPhase(num_steps=num_early, clips=CLIPS, num_frames=1, kinds=("box", "point")),
                TrackPhase(num_steps=num_early, clips=three, num_frames=3, every=2),
            ),
            loop=loop,
        ),
        "memory": MemoryStage(refer_clips=four, track_clips=four, num_frames=3, loop=loop),
        "contact": small_contact(num_steps),
        "guide": small_contact(num_steps).model_copy(update={"turns": ("guided", "short")}),
        "choose": small_contact(num_steps).model_copy(update={"turns": ("track", "short"), "drawn_share": 1.0}),
        "keep": small_contact(num_steps),
        "tell": small_contact(num_steps).model_copy(update={"turns": ("short", "track")}),
        "pace": small_contact(num_steps),
        "hold": small_contact(num_steps).model_copy(update={"turns": ("track", "refer")}),
        "firm": small_contact(num_steps).model_copy(update={"turns": ("track", "refer")}),
        "heed": small_contact(num_steps).model_copy(update={"turns": ("short", "track")}),
        "cme": CmeStage(late_clips=four, plain_clips=three, loop=small_loop(num_steps, 2)),
    }
