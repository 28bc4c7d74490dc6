"""Which frames make a clip: counts, order, windows, and videos shorter than the clip."""

import numpy as np
import pytest

from pipeline.training.frame_sampling import FrameSampler, anchor_with_neighbours, anchors, around_anchor

SAMPLERS = [around_anchor, anchor_with_neighbours]


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize(("anchor", "num_video_frames"), [(0, 1), (0, 3), (2, 3), (0, 8), (8, 20), (16, 20), (40, 200)])
def test_clips_have_eight_rising_frames_of_the_video(sampler: FrameSampler, anchor: int, num_video_frames: int) -> None:
    for seed in range(20):
        frames = sampler(anchor, num_video_frames, 8, np.random.default_rng(seed))
        assert len(frames) == 8
        assert list(frames) == sorted(frames)
        assert set(frames) <= set(range(num_video_frames))
        if num_video_frames <= 3:
            assert set(frames) == set(range(num_video_frames))


def test_ref_youtube_vos_takes_four_of_the_eight_before_and_four_of_the_eight_from_the_anchor_on() -> None:
    seen: set[int] = set()
    for seed in range(200):
        frames = around_anchor(40, 200, 8, np.random.default_rng(seed))
        assert len(set(frames)) == 8
        assert sum(32 <= frame < 40 for frame in frames) == 4
        assert sum(40 <= frame < 48 for frame in frames) == 4
        seen.update(frames)
    assert seen == set(range(32, 48))


def test_ref_youtube_vos_tops_up_from_the_other_side() -> None:
    frames = around_anchor(0, 200, 8, np.random.default_rng(0))
    assert frames == tuple(range(8))
    assert len(set(around_anchor(16, 18, 8, np.random.default_rng(0)))) == 8


def test_mevis_takes_the_anchor_two_near_neighbours_and_the_rest_from_outside() -> None:
    for seed in range(200):
        frames = anchor_with_neighbours(40, 200, 8, np.random.default_rng(seed))
        assert len(set(frames)) == 8
        assert 40 in frames
        near = [frame for frame in frames if 37 <= frame <= 43]
        assert any(frame < 40 for frame in near)
        assert any(frame > 40 for frame in near)
        before, after = max(f for f in near if f < 40), min(f for f in near if f > 40)
        assert not [frame for frame in frames if before < frame < after and frame != 40]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_clip_of_one_frame_is_the_anchor(sampler: FrameSampler) -> None:
    assert sampler(5, 9, 1, np.random.default_rng(0)) == (5,)


def test_anchors_come_every_clip_length() -> None:
    assert list(anchors(20, 8)) == [0, 8, 16]
