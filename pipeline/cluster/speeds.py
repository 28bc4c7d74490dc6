"""How fast a model is, for a plan's estimate: from this lake's own commits, else a figure that names its source."""

from collections.abc import Iterable
from dataclasses import dataclass

from schemas.commit import Commit


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """Seconds of device time per frame and expression, and where the figure comes from."""

    seconds_per_query_frame: float
    source: str


PUBLISHED: dict[tuple[str, str], Speed] = {
    ("samwise-base", "cuda"): Speed(
        seconds_per_query_frame=0.06,
        source="authors' statement: 50 frames, one expression, about 3 s on an RTX 4090 (SAMWISE issue 23)",
    ),
    ("tiny", "cpu"): Speed(
        seconds_per_query_frame=0.03, source="measured: tiny at 128 px, one thread of a 2-core machine"
    ),
}
"""(architecture, device) to a figure that holds until the lake has its own."""


def chosen_kind(device: str) -> str:
    """Where a job on "auto", "cpu" or "cuda" will likely run; an estimate, since the cluster decides."""
    if device != "auto":
        return device
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def speed_of(commits: Iterable[Commit], *, architecture: str, device: str) -> Speed | None:
    """The lake's own speed if anything is committed, else a published one, else None."""
    items = [item for commit in commits for item in commit.items]
    query_frames = sum(item.frames * max(item.objects, 1) for item in items)
    if query_frames:
        seconds = sum(item.device_seconds for item in items)
        return Speed(seconds_per_query_frame=seconds / query_frames, source=f"{len(items)} videos committed here")
    return PUBLISHED.get((architecture, device))
