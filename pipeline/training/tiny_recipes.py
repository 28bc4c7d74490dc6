"""Recipe of the tiny model: its stages beyond their defaults, each with what it is for."""

from typing import Any

from pipeline.synth.config import ClipConfig
from pipeline.training.loop import LoopConfig
from pipeline.training.tiny_stages import FOUR_FRAMES, LATER_MIX, ContactStage, MemoryStage, ReferStage, stage_loop


def ripening() -> ReferStage:
    """The same again from the weights of the first time: four frames, and as many sentences without referent."""
    clips = FOUR_FRAMES.derive(name="ripen4", expressions=("referent", "twin", "any", "none"))
    loop = stage_loop(num_steps=800, batch_size=12, learning_rate=8e-4, warmup_steps=20, ema_decay=0.998, seed=1)
    return _later(clips, loop, presence_weight=1.0)


def sharpening() -> ReferStage:
    """Look-alikes that differ in what they are more often than in how they move; nothing stands in their way."""
    clips = FOUR_FRAMES.derive(
        name="sharpen4",
        twin_differs={"motion": 0.2, "colour": 0.1, "shape": 0.25, "texture": 0.3, "size": 0.15},
        crossing_fraction=0.1,
        late_fraction=0.0,
        blink_fraction=0.0,
        occluder_fraction=0.0,
        distractor_fraction=0.15,
        kind_weights={**LATER_MIX, "attribute": 0.5, "relation": 0.04},
    )
    loop = stage_loop(num_steps=900, batch_size=16, learning_rate=1e-3, warmup_steps=20, ema_decay=0.998, seed=4)
    return _later(clips, loop, presence_weight=2.0, texture_weight=0.5)


def detailing() -> ReferStage:
    """With the detail stem: every kind of look-alike in turn, in all the ways things move."""
    clips = FOUR_FRAMES.derive(
        name="detail4",
        twin_differs={"motion": 0.45, "colour": 0.05, "shape": 0.15, "texture": 0.2, "size": 0.15},
        crossing_fraction=0.1,
        late_fraction=0.05,
        blink_fraction=0.02,
        occluder_fraction=0.05,
        pan_fraction=0.4,
    )
    loop = stage_loop(num_steps=2400, batch_size=16, learning_rate=1.2e-3, warmup_steps=40, ema_decay=0.998, seed=5)
    return _later(clips, loop, presence_weight=1.0, texture_weight=0.5, trains_detail=True)


def _later(clips: ClipConfig, loop: LoopConfig, **own: object) -> ReferStage:
    """A stage with one kind of clips from its first step to its last."""
    return ReferStage.model_validate(
        {"early_clips": clips, "late_clips": clips, "num_early_steps": 0, "loop": loop, **own}
    )


def touching() -> ContactStage:
    """The tiny model's contact stage: paths of look-alikes meet twice as often as in the stage before."""
    meets = {"crossing_fraction": 0.4, "late_fraction": 0.05, "blink_fraction": 0.02, "occluder_fraction": 0.1}
    before = MemoryStage()
    loop = stage_loop(
        num_steps=2100,
        batch_size=4,
        learning_rate=7e-4,
        warmup_steps=20,
        ema_decay=0.998,
        rate_factors=before.loop.rate_factors,
        seed=8,
        log_every=25,
    )
    return ContactStage(
        refer_clips=before.refer_clips.derive(name="contact24", **meets),
        track_clips=before.track_clips.derive(name="contact24_tracked", **meets),
        loop=loop,
    )


def guiding() -> ContactStage:
    """After contact: in every other step objects are tracked, in turns by memory alone and told where to look.

    A tracker whose weights never saw a motion prompt beside a memory is misled by it: MoSAM's prompts cost such weights
    0.05 J where they should gain.
    """
    before = touching()
    twins = {"motion": 0.45, "colour": 0.05, "shape": 0.2, "texture": 0.15, "size": 0.15}
    slow = dict.fromkeys(before.loop.rate_factors, 0.5)
    loop = {"num_steps": 2000, "learning_rate": 8e-4, "rate_factors": slow, "seed": 9}
    return _after(
        before, "guide", short={"twin_differs": twins}, loop=loop, turns=("refer", "track", "short", "guided")
    )


def choosing() -> ContactStage:
    """After guide: longer parts are tracked, half of them by memories drawn at random; half of the short sentences fit
    nothing.

    All stages before read the frames just passed, so their weights bore no other choice of memories.
    """
    before = guiding()
    return _after(
        before,
        "choose",
        short={
            "expressions": ("referent", "twin", "none", "none"),
            "kind_weights": {**LATER_MIX, "motion": 0.5},
        },
        loop={"num_steps": 1800, "rate_factors": dict.fromkeys(before.loop.rate_factors, 0.7), "seed": 10},
        turns=("short", "track", "refer", "guided"),
        num_tracked_frames=12,
        tracked_clips_per_step=3,
        drawn_share=0.5,
    )


def keeping() -> ContactStage:
    """As choose, from a mean of it and guide; more of the short sentences are on motion."""
    short = {"kind_weights": {**LATER_MIX, "motion": 0.8}}
    return _after(choosing(), "keep", short=short, loop={"num_steps": 1400, "seed": 11})


def telling() -> ContactStage:
    """Beside keep, from the same mean: sentences in three steps of four."""
    short = {"kind_weights": {**LATER_MIX, "motion": 1.0}}
    turns = ("short", "refer", "short", "track")
    return _after(choosing(), "tell", short=short, loop={"num_steps": 1400, "seed": 12}, turns=turns)


_PACE = {"speed_px": (1.6, 5.6), "speed_share": 0.6}
"""Things slower and faster than elsewhere, so that many can be called so, and sentences that do."""


def pacing() -> ContactStage:
    """From a mean of choose, keep and tell: most sentences on motion name a speed where they can.

    That mean answered 16 of 190 sentences that fit nothing; 7 of the 16 were false by a word of speed alone, though
    only 8 of the 190 have one (150 clips each of two sets, development seed 777).
    """
    twins = {"motion": 0.45, "colour": 0.05, "shape": 0.25, "texture": 0.1, "size": 0.15}
    return _after(telling(), "pace", short={**_PACE, "twin_differs": twins}, loop={"num_steps": 1400, "seed": 13})


def holding() -> ContactStage:
    """Beside pace, from the same mean: tracks in every other step, three of four of them by SAM2's memories."""
    loop = {"num_steps": 1400, "seed": 14}
    turns = ("track", "refer", "track", "short")
    return _after(telling(), "hold", short=_PACE, loop=loop, turns=turns, drawn_share=0.25)


def firming() -> ContactStage:
    """From a mean of pace and hold: more tracks a step, over fewer frames."""
    loop = {"num_steps": 1400, "seed": 15}
    return _after(holding(), "firm", short={}, loop=loop, num_tracked_frames=10, tracked_clips_per_step=4)


def heeding() -> ContactStage:
    """Beside firm, from the same mean: more look-alikes that differ in shape, tracks in every other step."""
    twins = {"motion": 0.4, "shape": 0.35, "texture": 0.1, "size": 0.15}
    loop = {"num_steps": 1400, "seed": 16}
    return _after(
        holding(), "heed", short={"twin_differs": twins}, loop=loop, turns=("short", "track", "refer", "track")
    )


def _after(
    before: ContactStage, name: str, *, short: dict[str, Any], loop: dict[str, Any], **own: object
) -> ContactStage:
    """A stage on clips of its own name: the one before, with these changes to its short clips, its loop and itself."""
    clips = {
        "short_clips": before.short_clips.derive(name=f"{name}4", **short),
        "refer_clips": before.refer_clips.derive(name=f"{name}24"),
        "track_clips": before.track_clips.derive(name=f"{name}24_tracked"),
    }
    return before.model_copy(update={**own, **clips, "loop": before.loop.model_copy(update=loop)})
