"""Tracker's own promises: bounded memory, state that round-trips, batching over objects, and refusals."""

import io

import pytest
import torch
from torch import Tensor

from pipeline.errors import PromptError, SessionError
from pipeline.models.image_encoding import ImageFeatures
from pipeline.models.memory_policies import LastFrames, RecentFrames
from pipeline.models.sam2_core import Sam2Core
from pipeline.models.tracking import ObjectTrack, Tracker, uses_multimask
from tests.parity.random_sam2 import random_sam2, tiny_config
from tests.parity.sam2 import moving_shapes
from tests.parity.sam2_cases import HEIGHT, WIDTH

POINT, LABEL = torch.tensor([[22.0, 25.0]]), torch.tensor([1])
BOX = torch.tensor([76.0, 41.0, 104.0, 59.0])


@pytest.fixture(scope="module")
def core() -> Sam2Core:
    return random_sam2(tiny_config(), seed=4, object_score=8.0)


@pytest.fixture(scope="module")
def video(core: Sam2Core) -> ImageFeatures:
    frames, _ = moving_shapes(24, seed=4)
    with torch.inference_mode():
        pixels = torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 127.5 - 1
        return core.encode_image(torch.nn.functional.interpolate(pixels, (128, 128)))


def tracker(core: Sam2Core, **options: object) -> Tracker:
    return Tracker(core, frame_size=(HEIGHT, WIDTH), **options)


def prompt_three(one: Tracker, video: ImageFeatures, objects: tuple[int, ...] = (1, 2, 3)) -> None:
    for object_id in objects:
        if object_id == 1:
            one.prompt_points(video.rows([0]), 0, 1, points_P2=POINT, labels_P=LABEL)
        elif object_id == 2:
            one.prompt_points(video.rows([0]), 0, 2, box_4=BOX)
        else:
            mask = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
            mask[40:60, 30:80] = True
            one.prompt_mask(video.rows([0]), 0, 3, mask)


def track_all(one: Tracker, video: ImageFeatures, frames: range) -> Tensor:
    return torch.stack([one.track(video.rows([frame]), frame) for frame in frames])


@torch.inference_mode()
def test_objects_tracked_together_equal_each_tracked_alone(core: Sam2Core, video: ImageFeatures) -> None:
    together = tracker(core)
    prompt_three(together, video)
    masks = track_all(together, video, range(12))
    assert masks.shape == (12, 3, 1, 32, 32)
    for place, object_id in enumerate((1, 2, 3)):
        alone = tracker(core)
        prompt_three(alone, video, (object_id,))
        single = track_all(alone, video, range(12))
        torch.testing.assert_close(masks[:, place], single[:, 0], rtol=0.0, atol=2e-4)


@torch.inference_mode()
def test_prompts_on_frames_never_tracked_read_no_memory(core: Sam2Core, video: ImageFeatures) -> None:
    one = tracker(core)
    prompt_three(one, video)
    track_all(one, video, range(4))
    plan = one.plan_answer(one.tracks[1], 9, num_points=1)
    assert (plan.selection.is_empty, plan.multimask, plan.is_conditioning) == (True, True, True)
    plan = one.plan_answer(one.tracks[1], 3, num_points=2)
    assert (plan.selection.is_empty, plan.multimask, plan.is_conditioning) == (False, False, False)


@torch.inference_mode()
def test_bytes_stay_bounded_while_a_video_goes_on(core: Sam2Core, video: ImageFeatures) -> None:
    one, sizes = tracker(core), []
    prompt_three(one, video)
    for frame in range(60):
        one.track(video.rows([frame % 24]), frame)
        sizes.append(one.num_bytes())
    assert max(sizes[20:]) == sizes[20] == sizes[-1]
    assert all(track.runs == [(0, 59, False)] for track in one.tracks.values())


@torch.inference_mode()
@pytest.mark.parametrize("cut", [0, 1, 9])
def test_a_tracker_restored_from_its_state_goes_on_the_same(core: Sam2Core, video: ImageFeatures, cut: int) -> None:
    one = tracker(core)
    prompt_three(one, video)
    for frame in range(cut):
        one.track(video.rows([frame]), frame)
    buffer = io.BytesIO()
    torch.save(one.state_dict(), buffer)
    buffer.seek(0)
    other = tracker(core)
    other.load_state(torch.load(buffer, weights_only=True))
    assert torch.equal(track_all(one, video, range(cut, 14)), track_all(other, video, range(cut, 14)))
    more = {"points_P2": torch.tensor([[50.0, 60.0]]), "labels_P": torch.tensor([0]), "clear_old": False}
    shown = [each.prompt_points(video.rows([13]), 13, 1, **more) for each in (one, other)]
    assert torch.equal(*shown)


@torch.inference_mode()
def test_another_policy_reads_another_memory(core: Sam2Core, video: ImageFeatures) -> None:
    results = []
    for policy in (RecentFrames.of(core.config), LastFrames(num_recent=3)):
        one = tracker(core, policy=policy)
        prompt_three(one, video, (1,))
        results.append(track_all(one, video, range(9)))
    assert torch.equal(results[0][0], results[1][0])
    assert not torch.allclose(results[0][5:], results[1][5:], atol=0.1)


@torch.inference_mode()
def test_bounded_corrects_the_last_frame_as_the_unbounded_does_and_refuses_older_ones(
    core: Sam2Core, video: ImageFeatures
) -> None:
    bounded, whole = tracker(core), tracker(core, bounded=False)
    for one in (bounded, whole):
        prompt_three(one, video, (1,))
        track_all(one, video, range(23))
    click = {"points_P2": torch.tensor([[90.0, 30.0]]), "labels_P": LABEL}
    shown = [each.prompt_points(video.rows([22]), 22, 1, **click) for each in (bounded, whole)]
    assert torch.equal(*shown)
    assert torch.equal(*(each.track(video.rows([23]), 23) for each in (bounded, whole)))
    assert whole.prompt_points(video.rows([2]), 2, 1, **click).shape == (1, 1, HEIGHT, WIDTH)
    for frame in (2, 12, 21):
        with pytest.raises(PromptError, match=r"Correct the frame tracked last \(23\)"):
            bounded.prompt_points(video.rows([frame]), frame, 1, **click)


@torch.inference_mode()
def test_bounded_goes_on_in_one_direction_only(core: Sam2Core, video: ImageFeatures) -> None:
    one = tracker(core)
    prompt_three(one, video, (1,))
    track_all(one, video, range(5))
    for frame, reverse in ((4, False), (2, False), (5, True), (3, True)):
        with pytest.raises(SessionError, match="bounded=False"):
            one.track(video.rows([frame]), frame, reverse=reverse)
    assert one.track(video.rows([7]), 7).shape == (1, 1, 32, 32)


def test_prompts_that_ask_nothing_or_too_much_are_refused(core: Sam2Core, video: ImageFeatures) -> None:
    one = tracker(core)
    with pytest.raises(PromptError, match="nothing to track"):
        one.track(video.rows([0]), 0)
    with pytest.raises(PromptError, match="points with their labels, or a box"):
        one.prompt_points(video.rows([0]), 0, 1)
    with pytest.raises(PromptError, match="points with their labels, or a box"):
        one.prompt_points(video.rows([0]), 0, 1, points_P2=POINT)
    with pytest.raises(PromptError, match="a box cannot join earlier clicks"):
        one.prompt_points(video.rows([0]), 0, 1, box_4=BOX, clear_old=False)
    assert one.tracks == {}


@torch.inference_mode()
def test_a_removed_object_is_tracked_no_more(core: Sam2Core, video: ImageFeatures) -> None:
    one = tracker(core)
    prompt_three(one, video)
    one.remove_object(2)
    one.remove_object(99)
    assert one.track(video.rows([0]), 0).shape[0] == 2
    assert list(one.tracks) == [1, 3]


def test_runs_of_tracked_frames_remember_the_latest_direction() -> None:
    track = ObjectTrack()
    for frame in range(5, 10):
        track.mark_tracked(frame, reverse=False)
    for frame in range(7, 2, -1):
        track.mark_tracked(frame, reverse=True)
    assert track.runs == [(5, 9, False), (7, 3, True)]
    assert [track.direction_at(frame) for frame in (2, 3, 7, 8, 9, 10)] == [None, True, True, False, False, None]


@pytest.mark.parametrize(
    ("changes", "is_first_answer", "num_points", "expected"),
    [
        ({}, True, 1, True),
        ({}, True, 2, False),
        ({}, False, 0, True),
        ({"multimask_output_for_tracking": False}, False, 0, False),
        ({"multimask_output_for_tracking": False}, True, 1, True),
        ({"multimask_min_pt_num": 1}, False, 0, False),
        ({"multimask_output_in_sam": False}, True, 1, False),
        ({"multimask_max_pt_num": 3}, True, 3, True),
    ],
)
def test_when_to_choose_among_candidates(
    changes: dict[str, object], is_first_answer: bool, num_points: int, expected: bool
) -> None:
    config = tiny_config(**changes)
    assert uses_multimask(config, is_first_answer=is_first_answer, num_points=num_points) is expected


@torch.inference_mode()
@pytest.mark.parametrize("memory_dtype", ["float32", "bfloat16"])
def test_half_precision_tracks_the_same_object(video: ImageFeatures, memory_dtype: str) -> None:
    core = random_sam2(tiny_config(memory_dtype=memory_dtype), seed=4, object_score=8.0)
    exact, half = tracker(core), tracker(core)
    prompt_three(exact, video)
    expected = track_all(exact, video, range(6))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        prompt_three(half, video)
        masks = track_all(half, video, range(6))
    assert masks.dtype == torch.float32
    assert float((masks - expected).abs().mean()) < 0.1 * float(expected.std())
    stored = {
        entry.features_Chw.dtype
        for track in half.tracks.values()
        for entry in track.bank
        if entry.features_Chw is not None
    }
    assert stored == ({torch.bfloat16} if memory_dtype == "bfloat16" else {torch.float32})
