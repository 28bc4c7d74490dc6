"""The toy core does what memory, prompts and presence are for, so that a policy's gain on it means something."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.evaluate.mask_sequences import jaccards
from pipeline.methods.mosam import MosamConfig, MosamSegmenter
from pipeline.models.image_encoding import ImageFeatures
from pipeline.models.letterbox import to_square
from pipeline.models.memory import MemoryEntry, MemoryRead, MemorySelection
from pipeline.models.mosam_stages import stretch
from pipeline.synth.track_suites import TrackClip, sample_track_clip, track_suite_config
from tests.bench.track_rules import STATIC_WITHIN
from tests.bench.track_runs import ABLATIONS, run_clip, variant_config
from tests.toy_core import TOY_CONFIG, ToyCore

SIDE = TOY_CONFIG.image_size
FINE = SIDE // 4


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module")
def core() -> ToyCore:
    return ToyCore().eval()


def discs(*centres_xy: tuple[float, float], radius: float = 40.0) -> tuple[np.ndarray, list[np.ndarray]]:
    """Red discs on a grey gradient, (SIDE, SIDE, 3), and their masks."""
    y, x = np.mgrid[:SIDE, :SIDE]
    image = np.repeat((80 + 60 * x / SIDE)[:, :, None], 3, axis=2).astype(np.uint8)
    masks = [(x - cx) ** 2 + (y - cy) ** 2 <= radius**2 for cx, cy in centres_xy]
    for mask in masks:
        image[mask] = (218, 46, 42)
    return image, masks


def features_of(core: ToyCore, image: np.ndarray) -> ImageFeatures:
    return core.encode_image(to_square([stretch(image, SIDE)], num_rows=1, image_size=SIDE, device=core.device))


def remembered(core: ToyCore, image: np.ndarray, mask: np.ndarray, frame_index: int = 0) -> MemoryEntry:
    features = features_of(core, image)
    output = core.take_mask(features, torch.from_numpy(mask)[None, None].float())
    logits = core.enlarge(output.low_res_logits_R1hw)
    memory = core.encode_memory(features, logits, output.object_score_R1, is_mask_from_points=True)
    return MemoryEntry(
        frame_index=frame_index,
        pointer_D=output.object_pointer_RD[0],
        features_Chw=memory[0],
        object_score=float(output.object_score_R1),
        predicted_iou=1.0,
        is_conditioning=frame_index == 0,
    )


def reading(*entries: MemoryEntry) -> MemorySelection:
    return MemorySelection(frames=tuple(MemoryRead(entry=entry, temporal_position=6) for entry in entries))


def tracked(
    core: ToyCore, image: np.ndarray, selection: MemorySelection, **prompts: Tensor
) -> tuple[np.ndarray, float]:
    """The best mask on an image, (SIDE, SIDE), and the object score."""
    features = features_of(core, image)
    pix = core.attend(features, [selection])
    output = core.decode(pix, features.high_res, core.encode_prompts(1, **prompts), multimask=True)
    return (core.enlarge(output.low_res_logits_R1hw)[0, 0] > 0).numpy(), float(output.object_score_R1)


def iou(mask: np.ndarray, truth: np.ndarray) -> float:
    return float((mask & truth).sum() / (mask | truth).sum())


def first_frames(clip: TrackClip, count: int, tracked_ids: Sequence[int]) -> TrackClip:
    return replace(
        clip,
        frames=clip.frames[:count],
        labels=clip.labels[:count],
        centres_px=clip.centres_px[:count],
        full_px=clip.full_px[:count],
        tracked_ids=tuple(tracked_ids),
    )


@pytest.mark.parametrize("kind", ["mask", "box", "point"])
def test_the_static_control_is_tracked_by_the_real_session(core: ToyCore, kind: str) -> None:
    clip = first_frames(sample_track_clip(track_suite_config("static"), 3), 6, [1])
    config = MosamConfig(frames_per_encode=1, rows_per_decode=1)
    masks, _ = run_clip(MosamSegmenter(config, core, torch.device("cpu")), clip, kind)  # type: ignore[arg-type]
    assert jaccards(masks[1], clip.object_mask(1)).mean() > 0.9


def test_on_the_static_control_no_ablation_changes_anything_that_counts(core: ToyCore) -> None:
    """The other half of "each flag alters its scenario"; 18 frames, so that the filter takes part in arbitration."""
    clip = first_frames(sample_track_clip(track_suite_config("static"), 3), 18, [1])
    truth, base = clip.object_mask(1), {"frames_per_encode": 1, "rows_per_decode": 1}
    j = {}
    for variant in ("full", *ABLATIONS, "sam2"):
        segmenter = MosamSegmenter(variant_config(variant, base=base), core, torch.device("cpu"))
        j[variant] = jaccards(run_clip(segmenter, clip, "mask")[0][1], truth)
    assert j["full"].min() > 0.9
    for variant, found in j.items():
        assert abs(found.mean() - j["full"].mean()) <= STATIC_WITHIN, variant


def test_memory_tells_the_object_from_its_look_alike_and_follows_a_small_step(core: ToyCore) -> None:
    before, masks = discs((180, 200), (360, 200))
    after, moved = discs((200, 210), (350, 190))
    found, score = tracked(core, after, reading(remembered(core, before, masks[0])))
    assert iou(found, moved[0]) > 0.85
    assert score > 0
    other, _ = tracked(core, after, reading(remembered(core, before, masks[1])))
    assert iou(other, moved[1]) > 0.85


def test_an_object_that_left_is_absent(core: ToyCore) -> None:
    before, masks = discs((180, 200))
    _, score = tracked(core, discs()[0], reading(remembered(core, before, masks[0])))
    assert score <= 0


def test_memories_of_an_absent_object_say_nothing_of_the_object(core: ToyCore) -> None:
    entry = remembered(core, discs()[0], np.zeros((SIDE, SIDE), dtype=np.bool_))
    assert entry.features_Chw is not None
    assert not entry.features_Chw[27:].any()


def test_dropped_tokens_are_as_if_they_had_never_been_there(core: ToyCore) -> None:
    image, masks = discs((180, 200))
    good = remembered(core, image, masks[0])
    grid = TOY_CONFIG.grid
    # A later frame that calls everything the object: read whole it misleads, its tokens dropped it does not.
    poisoned = remembered(core, image, np.ones((SIDE, SIDE), dtype=np.bool_), frame_index=1)
    keep = torch.zeros(grid, grid, dtype=torch.bool)
    keep[0, 0] = True
    misled, _ = tracked(core, image, reading(good, poisoned))
    filtered, _ = tracked(
        core,
        image,
        MemorySelection(
            frames=(
                MemoryRead(entry=good, temporal_position=6),
                MemoryRead(entry=poisoned, temporal_position=0, keep=keep),
            )
        ),
    )
    alone, _ = tracked(core, image, reading(good))
    assert iou(filtered, alone) > 0.98
    assert iou(misled, alone) < iou(filtered, alone)


@pytest.mark.parametrize("prompt", ["points", "box", "logits"])
def test_a_prompt_shifts_the_choice_between_look_alikes(core: ToyCore, prompt: str) -> None:
    before, masks = discs((256, 200))
    # It went as far to one side as the look-alike stands to the other: memory alone cannot tell.
    after, (left, right) = discs((176, 200), (336, 200))
    asked = {
        "points": {"points_RP2": torch.tensor([[[336.0, 200.0]]]), "labels_RP": torch.tensor([[1]])},
        "box": {"boxes_R4": torch.tensor([[290.0, 155.0, 382.0, 245.0]])},
        "logits": {"mask_logits_R1hw": torch.from_numpy(right)[None, None].float() * 16 - 8},
    }[prompt]
    found, score = tracked(core, after, reading(remembered(core, before, masks[0])), **asked)
    assert score > 0
    assert iou(found, right) > 0.8
    assert not (found & left).any()


def test_a_row_does_not_depend_on_who_shares_its_batch(core: ToyCore) -> None:
    first, masks = discs((180, 200))
    second, _ = discs((300, 300), (100, 90))
    entry = remembered(core, first, masks[0])
    images = [stretch(image, SIDE) for image in (second, first)]
    both = core.encode_image(to_square(images, num_rows=2, image_size=SIDE, device=core.device))
    alone = features_of(core, first)
    assert torch.equal(both.rows([1]).high_res[0], alone.high_res[0])
    together = core.attend(both, [MemorySelection(), reading(entry)])
    assert torch.equal(together[1:], core.attend(alone, [reading(entry)]))
    assert together.shape == (2, TOY_CONFIG.d_model, FINE // 4, FINE // 4)
