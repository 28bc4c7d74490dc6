"""Named rules for scoring label maps: what is void, which mIoU is meant, and how video consistency counts."""

from dataclasses import dataclass
from typing import Literal

VC_LENGTHS = (8, 16)
"""Frames per window of VC8 and VC16."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VcRules:
    """How video consistency counts a window of n frames.

    Attributes:
        needs_truth: a constant prediction counts only where it is right.
        drops_last_window: a video of T frames has T - n windows instead of T - n + 1.
        void_is_a_class: pixels that are void through a window count like those of a class.
    """

    needs_truth: bool
    drops_last_window: bool
    void_is_a_class: bool


VC_OFFICIAL = VcRules(needs_truth=False, drops_last_window=True, void_is_a_class=True)
"""As VSPW's VC_perclip script counts: a prediction that is constant and wrong everywhere scores 1."""

VC_STRICT = VcRules(needs_truth=True, drops_last_window=False, void_is_a_class=False)
"""The definition with nothing left out: constant, and equal to the truth."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SemanticProtocol:
    """How label maps become numbers.

    Attributes:
        source: whose rules these are.
        ignore_labels: labels of the truth whose pixels are left out.
        miou: "present" averages over the classes that the truth shows, "all" over every class.
        pools_vc_lengths: vc_official_16 averages the windows of 8 and of 16 frames together.
    """

    name: str
    source: str
    ignore_labels: tuple[int, ...] = (255,)
    miou: Literal["present", "all"] = "present"
    pools_vc_lengths: bool = False


_ALL = (
    SemanticProtocol(
        name="masklake",
        source="void 255; mean over the classes that the truth shows",
    ),
    SemanticProtocol(
        name="vspw",
        source="VSPW's evaluator and VC_perclip.py as CFFM ships it; labels 254 and 255 are void",
        ignore_labels=(254, 255),
    ),
    SemanticProtocol(
        name="vspw_dvis",
        source="as vspw, with the VC of DVIS++ and VidEoMT, whose list of windows is not emptied before n = 16",
        ignore_labels=(254, 255),
        pools_vc_lengths=True,
    ),
    SemanticProtocol(
        name="deliver",
        source="DELIVER's and MCubeS' evaluator, which MemorySAM uses: absent classes score 0 and count",
        miou="all",
    ),
)

SEMANTIC_PROTOCOLS: dict[str, SemanticProtocol] = {protocol.name: protocol for protocol in _ALL}


def semantic_protocol(name: str) -> SemanticProtocol:
    """The protocol of that name.

    Raises:
        ValueError: there is none.
    """
    if name not in SEMANTIC_PROTOCOLS:
        raise ValueError(f"Unknown protocol {name!r}; expected one of {', '.join(SEMANTIC_PROTOCOLS)}.")
    return SEMANTIC_PROTOCOLS[name]
