"""SAMWISE as a method: settings, prompts, clips, memory across clips, and what is told with the masks."""

import logging
import math
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.errors import ConfigError, PromptError, SessionError, WeightsError
from pipeline.methods.samwise import (
    ARCHITECTURES,
    SamwiseConfig,
    SamwiseSegmenter,
    build_segmenter,
    example_prompts,
    mini,
    tiny,
)
from pipeline.models.samwise_architecture import read_architecture
from pipeline.models.samwise_checkpoint import checkpoint_tensors
from pipeline.models.samwise_init import random_samwise
from pipeline.models.samwise_session import CME_SWITCH, MEMORY_RESET
from pipeline.segmenter import ModelSpec, finish, step
from pipeline.ticks import PointPrompt, Prompt, Tick, TickMasks
from tests.methods.law_cases import Video, assert_same_masks

HEIGHT, WIDTH = 40, 56
TEXT = Prompt(object_id=1, text="red disc moving left")


def segmenter(*, seed: int = 0, **changes: Any) -> SamwiseSegmenter:
    """The mini model, one row per batch unless told otherwise."""
    buckets = {"frames_per_encode": 8, "expressions_per_fuse": 1, "rows_per_decode": 1}
    return build_segmenter(SamwiseConfig(**{**buckets, **changes}), mini(seed)[1], "cpu")


def ticks(num_frames: int) -> list[Tick]:
    return Video(seed=9, num_frames=num_frames, num_objects=1, height=HEIGHT, width=WIDTH).ticks("samwise")


def run(model: SamwiseSegmenter, frames: list[Tick], prompts: list[Prompt] | None = None) -> list[TickMasks]:
    session = model.open(prompts or [TEXT], (HEIGHT, WIDTH))
    taken = [masks for tick in frames for masks in step(model, [session], [tick])[0]]
    return taken + finish(model, session)


def decide(model: SamwiseSegmenter, *, switch: bool) -> None:
    assert model.network.cme is not None
    model.network.cme.decision_class_head.bias.data = torch.tensor([-500.0, 500.0] if switch else [500.0, -500.0])


def test_masks_come_out_clip_by_clip() -> None:
    model = segmenter(clip_length=3)
    session = model.open([TEXT], (HEIGHT, WIDTH))
    given = [len(step(model, [session], [tick])[0]) for tick in ticks(7)]
    assert given == [0, 0, 3, 0, 0, 3, 0]
    assert [tick.frame_index for tick in finish(model, session)] == [6]


def test_a_clip_sees_its_own_later_frames_and_no_others() -> None:
    """HSA looks forward within a clip, and clips are fused apart."""
    model, frames = segmenter(clip_length=4, use_cme=False), ticks(8)
    changed = [*frames[:6], frames[0].__class__(frame_index=6, pts_us=0, images=frames[0].images), frames[7]]
    wanted, other = run(model, frames), run(model, changed)
    assert_same_masks(wanted[:4], other[:4])
    scores = [(a.objects[0].object_score, b.objects[0].object_score) for a, b in zip(wanted, other, strict=True)]
    assert all(a != b for a, b in scores[4:])


def test_memory_is_carried_across_clips() -> None:
    model, frames = segmenter(clip_length=4, use_cme=False), ticks(8)
    joined, second = run(model, frames), run(model, frames[4:])
    assert joined[4].objects[0].object_score != second[0].objects[0].object_score


def test_a_single_last_frame_keeps_its_memory_unless_the_reference_is_asked_for() -> None:
    """The published code takes a clip of one frame for a new video."""
    frames = ticks(9)
    keeping, forgetting = run(segmenter(), frames), run(segmenter(tail_policy="reference"), frames)
    isolated = run(segmenter(), frames[8:])
    assert_same_masks(keeping[:8], forgetting[:8])
    assert forgetting[8].objects[0].object_score == isolated[0].objects[0].object_score
    assert keeping[8].objects[0].object_score != isolated[0].objects[0].object_score
    assert [MEMORY_RESET in tick.flags for tick in forgetting] == [False] * 8 + [True]
    assert not any(MEMORY_RESET in tick.flags for tick in keeping)


def test_a_video_of_one_frame_is_no_reset() -> None:
    (only,) = run(segmenter(tail_policy="reference"), ticks(1))
    assert only.flags == ()


@pytest.mark.parametrize(("window", "frames"), [(4, [5, 8, 11]), (1, [2, 3, 4, 5, 6, 7, 8, 9, 10, 11])])
def test_switches_are_told_on_the_frames_the_window_allows(window: int, frames: list[int]) -> None:
    model = segmenter(cme_decision_window=window, clip_length=5)
    decide(model, switch=True)
    taken = run(model, ticks(12), [TEXT, Prompt(object_id=7, text="the blue square")])
    assert [tick.frame_index for tick in taken if f"{CME_SWITCH}:1" in tick.flags] == frames
    assert [tick.frame_index for tick in taken if f"{CME_SWITCH}:7" in tick.flags] == frames


def test_a_switch_shows_from_the_next_frame_on() -> None:
    switching, keeping = segmenter(cme_fusion="all_mask"), segmenter(cme_fusion="all_mask")
    decide(switching, switch=True)
    decide(keeping, switch=False)
    one, other = run(switching, ticks(10)), run(keeping, ticks(10))
    scores = [(a.objects[0].object_score, b.objects[0].object_score) for a, b in zip(one, other, strict=True)]
    assert [a == b for a, b in scores] == [True] * 6 + [False] * 4


def test_a_memory_encoder_that_keeps_changes_nothing() -> None:
    keeping = segmenter()
    decide(keeping, switch=False)
    assert_same_masks(run(keeping, ticks(10)), run(segmenter(use_cme=False), ticks(10)))


@pytest.mark.parametrize("buckets", [(3, 1, 1), (8, 4, 3), (16, 2, 8)])
def test_batch_sizes_change_only_the_last_bits(buckets: tuple[int, int, int]) -> None:
    prompts = example_prompts(4, (HEIGHT, WIDTH))
    names = ("frames_per_encode", "expressions_per_fuse", "rows_per_decode")
    wanted = run(segmenter(), ticks(10), prompts)
    other = run(segmenter(**dict(zip(names, buckets, strict=True))), ticks(10), prompts)
    for tick, same in zip(wanted, other, strict=True):
        for found, expected in zip(tick.objects, same.objects, strict=True):
            assert found.object_score == pytest.approx(expected.object_score, abs=1e-4)
            assert np.mean(found.mask != expected.mask) < 0.01


def test_expressions_of_a_video_share_one_encoding_and_do_not_change_each_other() -> None:
    model, frames, num_encoded = segmenter(), ticks(8), 0
    original = model.network.encode_prefix

    def counting(images: torch.Tensor) -> Any:
        nonlocal num_encoded
        num_encoded += 1
        return original(images)

    model.network.encode_prefix = counting  # type: ignore[method-assign]
    prompts = example_prompts(3, (HEIGHT, WIDTH))
    together = run(model, frames, prompts)
    assert num_encoded == 1
    for place, prompt in enumerate(prompts):
        alone = run(model, frames, [prompt])
        for tick, single in zip(together, alone, strict=True):
            np.testing.assert_array_equal(tick.objects[place].mask, single.objects[0].mask)
            assert tick.objects[place].object_score == single.objects[0].object_score


def test_batch_sizes_are_chosen_by_device_and_size_unless_given() -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda", 1)
    chosen = [
        (SamwiseConfig().buckets(cpu, image_size=128), (8, 1, 4)),
        (SamwiseConfig().buckets(cpu, image_size=1024), (8, 1, 1)),
        (SamwiseConfig(clip_length=5).buckets(cuda, image_size=1024), (5, 1, 8)),
        (
            SamwiseConfig(frames_per_encode=3, expressions_per_fuse=2, rows_per_decode=7).buckets(cuda, image_size=64),
            (3, 2, 7),
        ),
    ]
    assert [(b.encode, b.fuse, b.decode) for b, _ in chosen] == [wanted for _, wanted in chosen]


def test_objects_come_in_order_of_their_ids_whatever_the_order_of_the_prompts() -> None:
    prompts = [Prompt(object_id=5, text="star"), Prompt(object_id=2, text="the red disc")]
    taken = run(segmenter(), ticks(2), prompts)
    assert [[found.object_id for found in tick.objects] for tick in taken] == [[2, 5], [2, 5]]
    alone = run(segmenter(), ticks(2), [Prompt(object_id=1, text="star")])
    np.testing.assert_array_equal(taken[1].objects[1].mask, alone[1].objects[0].mask)


def test_confidence_is_presence_times_predicted_iou() -> None:
    for tick in run(segmenter(), ticks(3)):
        found = tick.objects[0]
        assert found.object_score is not None
        assert found.predicted_iou is not None
        wanted = found.predicted_iou / (1 + math.exp(-found.object_score))
        assert found.confidence == pytest.approx(wanted, abs=1e-6)


def test_without_an_object_score_head_confidence_is_predicted_iou_alone() -> None:
    architecture = read_architecture(ARCHITECTURES["mini"], name="mini")
    sam2 = architecture.sam2.model_copy(update={"pred_obj_scores": False, "fixed_no_obj_ptr": False})
    values = architecture.model_copy(update={"sam2": sam2}).model_dump()
    model = build_segmenter(SamwiseConfig(), ModelSpec(name="scoreless", architecture=values, tensors=None), "cpu")
    found = run(model, ticks(2))[0].objects[0]
    assert found.object_score is None
    assert found.confidence == found.predicted_iou


def test_an_object_out_of_view_gives_an_empty_mask_and_next_to_no_confidence() -> None:
    model = segmenter()
    model.network.core.model.sam_mask_decoder.pred_obj_score_head.layers[-1].bias.data.fill_(-50.0)
    for tick in run(model, ticks(3)):
        assert not tick.objects[0].mask.any()
        assert tick.objects[0].confidence < 1e-6


def test_stability_and_threshold_follow_the_logits() -> None:
    """A higher threshold gives a smaller mask within the larger one; stability is the ratio of two such masks."""
    areas = {}
    for logit in (-1.0, 0.0, 1.0):
        tick = run(segmenter(threshold=1 / (1 + math.exp(-logit))), ticks(1))[0]
        areas[logit] = tick.objects[0]
    assert areas[1.0].mask.sum() < areas[0.0].mask.sum() < areas[-1.0].mask.sum()
    assert not (areas[1.0].mask & ~areas[0.0].mask).any()
    ratio = areas[1.0].mask.sum() / areas[-1.0].mask.sum()
    assert areas[0.0].stability == pytest.approx(ratio, abs=0.01)


def test_masks_lie_at_the_size_and_place_of_the_frame() -> None:
    """A mask that follows a bright left half must be in the left half of a wide frame, padding cut away."""
    model = segmenter()
    captured = []
    original = model.network.core.enlarge

    def left_half(low_res: torch.Tensor) -> torch.Tensor:
        enlarged = torch.full_like(original(low_res), -5.0)
        enlarged[..., :32] = 5.0
        captured.append(enlarged.shape)
        return enlarged

    model.network.core.enlarge = left_half  # type: ignore[method-assign]
    mask = run(model, ticks(1))[0].objects[0].mask
    assert mask.shape == (HEIGHT, WIDTH)
    # The frame fills the square's width of 64 px, so 32 of them are half of it.
    assert mask[:, : WIDTH // 2 - 1].all()
    assert not mask[:, WIDTH // 2 + 1 :].any()


@pytest.mark.parametrize(
    ("prompts", "said"),
    [
        ([], "no prompts"),
        ([TEXT, TEXT], r"object_id \[1\]"),
        ([Prompt(object_id=1, text="  ")], "empty"),
        ([Prompt(object_id=1, text="a " * 80)], r"82 tokens.*at most 64"),
        ([Prompt(object_id=1, text="dog", frame_index=0, box=(0, 0, 5, 5))], "text alone"),
        ([Prompt(object_id=3, frame_index=0, points=(PointPrompt(x=1, y=1),))], "object 3"),
    ],
)
def test_prompts_that_cannot_be_used_are_refused(prompts: list[Prompt], said: str) -> None:
    with pytest.raises(PromptError, match=said):
        segmenter().open(prompts, (HEIGHT, WIDTH))


def test_text_is_read_as_it_stands_unless_normalising_is_asked_for() -> None:
    raw, clean = segmenter(), segmenter(normalize_text=True)
    seen: list[str] = []
    for model in (raw, clean):
        original = model.reader.tokenizer

        def listening(text: str, original: Any = original) -> Any:
            seen.append(text)
            return original(text)

        object.__setattr__(model.reader, "tokenizer", listening)
        model.open([Prompt(object_id=1, text="The  RED disc")], (HEIGHT, WIDTH))
    assert seen == ["The  RED disc", "the red disc"]


def motion_segmenter(**changes: Any) -> SamwiseSegmenter:
    values = {**ARCHITECTURES["mini"], "motion_prompt": True}
    spec = ModelSpec(name="motion", architecture=values, tensors=None)
    return build_segmenter(SamwiseConfig(motion_prompt=True, **changes), spec, "cpu")


def test_motion_words_are_found_given_or_absent() -> None:
    text = "red disc moving then turning"
    cases = {None: (3,), ("turning",): (5,), (): ()}
    for given, places in cases.items():
        session = motion_segmenter().open([Prompt(object_id=1, text=text, motion_words=given)], (HEIGHT, WIDTH))
        assert session.expressions[0].motion_tokens == places
    pooled = motion_segmenter(motion_pool="all").open([Prompt(object_id=1, text=text)], (HEIGHT, WIDTH))
    assert pooled.expressions[0].motion_tokens == (3, 5)


def test_expressions_with_and_without_a_verb_run_in_one_video() -> None:
    model = motion_segmenter(expressions_per_fuse=2, rows_per_decode=2)
    prompts = [Prompt(object_id=1, text="red disc moving"), Prompt(object_id=2, text="blue disc star")]
    taken = run(model, ticks(3), prompts)
    assert [len(tick.objects) for tick in taken] == [2, 2, 2]
    alone = run(model, ticks(3), prompts[1:])
    assert taken[2].objects[1].object_score == alone[2].objects[0].object_score


def test_a_part_that_the_model_lacks_cannot_be_switched_on() -> None:
    architecture = read_architecture({**ARCHITECTURES["mini"], "hsa": False, "cme": False}, name="plain")
    spec = ModelSpec(name="plain", architecture=architecture.model_dump(), tensors=None)
    for config, said in [
        (SamwiseConfig(hsa=True, use_cme=False), "without hsa.*hsa=False"),
        (SamwiseConfig(), "without cme.*use_cme=False"),
        (SamwiseConfig(use_cme=False, motion_prompt=True), "without motion_prompt"),
    ]:
        with pytest.raises(WeightsError, match=said):
            build_segmenter(config, spec, "cpu")
    assert build_segmenter(SamwiseConfig(use_cme=False), spec, "cpu").network.cme is None


def test_trained_weights_give_the_masks_they_were_saved_from() -> None:
    config, spec = SamwiseConfig(), mini()[1]
    architecture = read_architecture(spec.architecture, name="mini")
    tensors = checkpoint_tensors(random_samwise(architecture, seed=5))
    loaded = ModelSpec(name="saved", architecture=spec.architecture, tensors={"model": tensors})
    wanted = build_segmenter(config, mini(5)[1], "cpu")
    assert_same_masks(run(build_segmenter(config, loaded, "cpu"), ticks(3)), run(wanted, ticks(3)))


def test_an_architecture_may_be_named() -> None:
    named = ModelSpec(name="m", architecture={}, architecture_name="mini", tensors=None)
    assert build_segmenter(SamwiseConfig(), named, "cpu").network.architecture.sam2.image_size == 64
    with pytest.raises(WeightsError, match=r"no architecture 'huge'; known: mini"):
        build_segmenter(
            SamwiseConfig(), ModelSpec(name="m", architecture={}, architecture_name="huge", tensors=None), "cpu"
        )
    with pytest.raises(WeightsError, match="neither weights nor an architecture"):
        build_segmenter(SamwiseConfig(), ModelSpec(name="m", architecture={}, tensors=None), "cpu")


def test_untrained_weights_are_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        segmenter(seed=4)
    assert any("untrained weights" in record.getMessage() for record in caplog.records)


def test_running_without_the_exchange_a_model_was_trained_with_is_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert not segmenter(hsa=False).network.architecture.hsa
    assert any("trained with hsa" in record.getMessage() for record in caplog.records)


def test_another_image_size_is_taken_if_it_fits() -> None:
    model = segmenter(image_size=128)
    assert model.network.architecture.short_side_px == 128
    assert run(model, ticks(2))[1].objects[0].mask.shape == (HEIGHT, WIDTH)
    with pytest.raises(ConfigError, match="image_size 96"):
        segmenter(image_size=96)


def test_bfloat16_needs_cuda() -> None:
    with pytest.raises(ConfigError, match="needs CUDA"):
        segmenter(precision="bf16")


@pytest.mark.parametrize("change", [{"clip_lenght": 4}, {"clip_length": 0}, {"threshold": 1.0}, {"hsa": "maybe"}])
def test_settings_check_themselves(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        SamwiseConfig(**change)


@pytest.mark.parametrize("change", [{"clip_length": 4}, {"rows_per_decode": 2}, {"use_cme": False}])
def test_a_state_taken_under_other_settings_is_refused(change: dict[str, Any]) -> None:
    state = segmenter().open([TEXT], (HEIGHT, WIDTH)).state_dict()
    with pytest.raises(SessionError, match="config"):
        segmenter(**change).restore(state)


def test_the_embedded_models_sizes_are_those_of_its_card() -> None:
    config, spec = tiny()
    model = build_segmenter(config, spec, "cpu")
    assert 1.5e6 < sum(p.numel() for p in model.network.parameters()) < 2.5e6
    assert model.buckets == {"encode": 8, "fuse": 1, "decode": 4}
    video = Video(seed=2, num_frames=3, num_objects=2, height=72, width=120)
    session = model.open(example_prompts(2, (72, 120)), (72, 120))
    taken = [masks for tick in video.ticks("samwise") for masks in step(model, [session], [tick])[0]]
    taken += finish(model, session)
    shares = [found.mask.mean() for tick in taken for found in tick.objects]
    assert len(taken) == 3
    assert 0.01 < float(np.mean(shares)) < 0.99
