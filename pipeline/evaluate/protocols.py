"""Named evaluation protocols: a bare "J&F" means nothing, since the public scripts count differently."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoringProtocol:
    """How masks become one number.

    Every protocol averages J and F over the counted frames of an item (an object or an expression), then over items
    of all videos alike, then over groups; J&F is the mean of the two. A video with more items weighs more.

    Attributes:
        source: whose rules these are.
        item: what is scored.
        frames: "inner" leaves out the first and the last annotated frame.
        counting: "once_seen" counts an item from the first counted frame on which truth or prediction has a pixel of
            it, and drops items that the truth never shows; "every_frame" counts a frame where both are empty as 1.
        matching: "by_id", or "best": the one-to-one matching of predictions to truths with the greatest mean J&F.
        excludes_void: whether pixels of label 255 are left out.
        missing: an item without prediction is an "error", has "empty" masks, or scores "zero" on J and F.
        extra: a prediction of no item is an "error" or "ignored"; under "best", more than `max_predictions` of them.
        key: results of equal keys replace each other: "item" keys are unique, the expression's "text" is not.
        num_groups: sets of expressions, scored each for itself.
    """

    name: str
    source: str
    item: Literal["object", "expression"]
    frames: Literal["all", "inner"] = "all"
    counting: Literal["every_frame", "once_seen"] = "every_frame"
    matching: Literal["by_id", "best"] = "by_id"
    excludes_void: bool = False
    missing: Literal["error", "empty", "zero"] = "error"
    extra: Literal["error", "ignored"] = "error"
    max_predictions: int | None = None
    key: Literal["item", "text"] = "item"
    num_groups: int = 1


# Departs from the DAVIS script: it takes as many objects as the first frame's largest label; here the truth names them.
_ALL = (
    ScoringProtocol(
        name="davis_semi",
        source="DAVIS 2017 evaluation script, task semi-supervised; frames 2 to T-1",
        item="object",
        frames="inner",
        missing="empty",
    ),
    ScoringProtocol(
        name="davis_unsup",
        source="DAVIS 2017 evaluation script, task unsupervised",
        item="object",
        matching="best",
        excludes_void=True,
        missing="empty",
        max_predictions=20,
    ),
    ScoringProtocol(
        name="ref_davis",
        source="Ref-DAVIS17: DAVIS 2017 unsupervised for each of four sets of expressions (two annotators, first "
        "frame and full video), and their mean",
        item="object",
        matching="best",
        excludes_void=True,
        missing="empty",
        max_predictions=20,
        num_groups=4,
    ),
    ScoringProtocol(
        name="mevis",
        source="MeViS tools/eval_mevis.py: results keyed by video and expression; a missing video scores 0, 0",
        item="expression",
        missing="zero",
        extra="ignored",
    ),
    ScoringProtocol(
        name="mevis_samwise_text_keyed",
        source="SAMWISE's evaluation of MeViS valid_u: results keyed by the expression's text, so that of equal "
        "texts only the last counts",
        item="expression",
        missing="zero",
        extra="ignored",
        key="text",
    ),
    ScoringProtocol(
        name="ref_ytvos",
        source="Ref-YouTube-VOS on its annotated frames; the challenge server's own script is not public",
        item="expression",
    ),
    ScoringProtocol(
        name="vos_benchmark",
        source="vos-benchmark 0.1.0, its default of leaving out first and last frame",
        item="object",
        frames="inner",
        counting="once_seen",
        missing="empty",
        extra="ignored",
    ),
    ScoringProtocol(
        name="vos_benchmark_all_frames",
        source="vos-benchmark 0.1.0 with skip_first_and_last=False",
        item="object",
        counting="once_seen",
        missing="empty",
        extra="ignored",
    ),
    ScoringProtocol(
        name="sa_v",
        source="SA-V's sav_benchmark on the 6 fps annotations; objects may overlap",
        item="object",
        frames="inner",
        counting="once_seen",
        extra="ignored",
    ),
    ScoringProtocol(
        name="shapesref",
        source="ShapesRef: all frames, an empty frame where nothing is referred to counts as 1",
        item="expression",
    ),
)

PROTOCOLS: dict[str, ScoringProtocol] = {protocol.name: protocol for protocol in _ALL}


def scoring_protocol(name: str) -> ScoringProtocol:
    """The protocol of that name.

    Raises:
        ValueError: there is none.
    """
    if name not in PROTOCOLS:
        raise ValueError(f"Unknown protocol {name!r}; expected one of {', '.join(PROTOCOLS)}.")
    return PROTOCOLS[name]
