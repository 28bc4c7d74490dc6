"""Which frames of a video make a training clip around an anchor: the rules for Ref-YouTube-VOS and for MeViS."""

from collections.abc import Callable, Sequence

import numpy as np

FrameSampler = Callable[[int, int, int, np.random.Generator], tuple[int, ...]]
"""(anchor, num_video_frames, num_frames, generator) to rising frame indices, `num_frames` of them, maybe repeated."""

MAX_NEIGHBOUR_DISTANCE = 3
"""MeViS: one neighbour on each side is 1 to 3 frames away."""


def anchors(num_video_frames: int, num_frames: int) -> range:
    """Anchors of a video: every `num_frames`-th frame, so that an epoch sees each part about once."""
    return range(0, num_video_frames, num_frames)


def around_anchor(
    anchor: int, num_video_frames: int, num_frames: int, generator: np.random.Generator
) -> tuple[int, ...]:
    """Ref-YouTube-VOS: half of the frames from just before the anchor, half from it on, sorted.

    Each side offers `num_frames` frames; where one has too few the other gives more, then the rest of the video,
    and a video shorter than the clip repeats frames. One frame is the anchor.

    Source: SAMWISE's released training code, restated in its specification.
    """
    if num_frames == 1:
        return (anchor,)
    before = list(range(max(0, anchor - num_frames), anchor))
    after = list(range(anchor, min(num_video_frames, anchor + num_frames)))
    chosen = [
        *_some(before, num_frames // 2, generator),
        *_some(after, num_frames - num_frames // 2, generator),
    ]
    for offered in ([*before, *after], range(num_video_frames)):
        left = [frame for frame in offered if frame not in chosen]
        chosen += _some(left, num_frames - len(chosen), generator)
    return _filled(chosen, num_video_frames, num_frames, generator)


def anchor_with_neighbours(
    anchor: int, num_video_frames: int, num_frames: int, generator: np.random.Generator
) -> tuple[int, ...]:
    """MeViS: the anchor, a neighbour 1 to 3 frames away on each side, the rest from outside that window, sorted.

    The neighbours stop at the video's ends, so short videos and ends repeat frames. Fewer frames than three leave
    neighbours out.

    Source: SAMWISE's released training code, restated in its specification.
    """
    steps = generator.integers(1, MAX_NEIGHBOUR_DISTANCE + 1, size=2)
    first, last = max(0, anchor - int(steps[0])), min(num_video_frames - 1, anchor + int(steps[1]))
    chosen = [anchor, first, last][:num_frames]
    outside = [frame for frame in range(num_video_frames) if not first <= frame <= last]
    chosen += _some(outside, num_frames - len(chosen), generator)
    if len(chosen) < num_frames:
        left = [frame for frame in range(num_video_frames) if frame not in chosen]
        chosen += _some(left, num_frames - len(chosen), generator)
    return _filled(chosen, num_video_frames, num_frames, generator)


def _some(frames: Sequence[int], count: int, generator: np.random.Generator) -> list[int]:
    """Up to `count` of the frames, none twice."""
    count = min(max(0, count), len(frames))
    return [int(frame) for frame in generator.choice(frames, size=count, replace=False)] if count else []


def _filled(
    chosen: Sequence[int], num_video_frames: int, num_frames: int, generator: np.random.Generator
) -> tuple[int, ...]:
    """Sorted, with frames repeated at random where the video is too short."""
    missing = num_frames - len(chosen)
    repeated = [int(frame) for frame in generator.integers(0, num_video_frames, size=missing)]
    return tuple(sorted([*chosen, *repeated]))
