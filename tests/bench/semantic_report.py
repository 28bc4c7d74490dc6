"""What the semantic bench claims of its table, and the table as Markdown."""

from collections.abc import Mapping
from typing import Any

from tests.bench.semantic_runs import Measured

TITLES = ("mIoU", "boundary mIoU", "VC8 strict", "VC16 strict", "VC8 official", "VC16 official", "warp", "fps")

Claim = tuple[str, bool, str]
"""What is claimed, whether it holds, and the numbers."""


def judge(table: Mapping[str, Measured]) -> list[Claim]:
    """The method's claims on this table."""
    alone, frame, window = (
        table[name].scores for name in ("network alone", "refined, frame vote", "refined, window, awaited")
    )

    def claim(what: str, score: str, ours: Mapping[str, float], other: Mapping[str, float], *, strict: bool) -> Claim:
        holds = ours[score] > other[score] if strict else ours[score] >= other[score]
        return what, bool(holds), f"{ours[score]:.4f} against {other[score]:.4f}"

    return [
        claim("refined beats unrefined in boundary mIoU", "boundary_miou", window, alone, strict=True),
        claim("refined beats unrefined in strict VC8", "vc_strict_8", window, alone, strict=True),
        claim("refined is not lower in mIoU", "miou", window, alone, strict=False),
        claim("window vote beats frame vote in strict VC8", "vc_strict_8", window, frame, strict=True),
        claim("window vote beats frame vote in strict VC16", "vc_strict_16", window, frame, strict=True),
    ]


def table_markdown(table: Mapping[str, Measured]) -> str:
    """The table for a README; scores in percent."""
    lines = [f"| | {' | '.join(TITLES)} |", "|---|" + "--:|" * len(TITLES)]
    for name, found in table.items():
        *scores, fps = found.columns()
        lines.append(f"| {name} | {' | '.join(f'{100 * score:.1f}' for score in scores)} | {fps:.1f} |")
    return "\n".join(lines)


def report_markdown(facts: Mapping[str, Any], table: Mapping[str, Measured], claims: list[Claim]) -> str:
    """A page: how it was measured, the table, the claims."""
    parts = ["\n".join(f"* {name}: {told}" for name, told in facts.items()), table_markdown(table)]
    rows = [f"| {what} | {numbers} | {'holds' if holds else 'does not hold'} |" for what, holds, numbers in claims]
    return "\n\n".join([*parts, "\n".join(["| claim | numbers | verdict |", "|---|---|---|", *rows])]) + "\n"
