"""MemorySAM as a method: scenes of any modalities side by side, labels, flags, and what it refuses."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.errors import ConfigError, PromptError, SessionError, WeightsError
from pipeline.methods.memorysam import MemorySamConfig, MemorySamSegmenter, build_segmenter, mini
from pipeline.models.memorysam_architecture import ARCHITECTURES, named_architecture
from pipeline.models.memorysam_checkpoint import checkpoint_tensors
from pipeline.models.memorysam_init import random_memorysam
from pipeline.models.memorysam_input import to_square
from pipeline.models.semantic_heads import enlarge_logits
from pipeline.segmenter import ModelSpec, work_off
from pipeline.ticks import RGB, Prompt, Tick, TickMasks
from tests.methods.law_cases import assert_same_masks

HEIGHT, WIDTH = 48, 72
SETS = (("lidar",), (RGB, "depth"), ("depth", RGB), (RGB, "depth", "event", "lidar"), ("event", "lidar", RGB))
"""Modalities of five scenes: other numbers, orders, and one without RGB."""


def spec(*, object_bias: float = 0.0, lora: float = 0.3) -> ModelSpec:
    """The mini model with adapters that do something."""
    network = random_memorysam(named_architecture("mini"), seed=0)
    with torch.no_grad():
        network.core.model.sam_mask_decoder.pred_obj_score_head.layers[-1].bias += object_bias
        for name, parameter in network.named_parameters():
            if ".linear_b_" in name:
                parameter.copy_(lora * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    return ModelSpec(name="mini", architecture=ARCHITECTURES["mini"], tensors=checkpoint_tensors(network))


MODEL = spec()


def segmenter(model: ModelSpec = MODEL, **changes: Any) -> MemorySamSegmenter:
    return build_segmenter(MemorySamConfig(**{"images_per_encode": 4, "rows_per_track": 3, **changes}), model, "cpu")


def tick(modalities: Sequence[str], *, seed: int = 0, size: tuple[int, int] = (HEIGHT, WIDTH), frame: int = 0) -> Tick:
    images = {}
    for name in modalities:
        generator = np.random.default_rng([seed, len(name), ord(name[0])])
        coarse = generator.integers(0, 255, (size[0] // 6, size[1] // 6, 3), dtype=np.uint8)
        images[name] = np.kron(coarse, np.ones((6, 6, 1), dtype=np.uint8))
    return Tick(frame_index=frame, pts_us=frame * 40_000, images=images)


def labelled(owner: MemorySamSegmenter, *ticks: Tick) -> list[TickMasks]:
    """The ticks as one video, alone."""
    size = next(iter(ticks[0].images.values())).shape[:2]
    session = owner.open((), (size[0], size[1]))
    for one in ticks:
        session.push(one)
    session.end()
    work_off(owner, session)
    return session.take()


def test_scenes_of_any_modalities_share_batches_and_give_what_each_gives_alone() -> None:
    owner = segmenter()
    ticks = [tick(names, seed=place) for place, names in enumerate(SETS)]
    sessions = [owner.open((), (HEIGHT, WIDTH)) for _ in ticks]
    for session, one in zip(sessions, ticks, strict=True):
        session.push(one)
    num_shared = 0
    while waiting := [session for session in sessions if session.next_work() is not None]:
        first = waiting[-1].next_work()
        assert first is not None
        batch, room = [], owner.buckets[first.stage]
        for session in reversed(waiting):
            work = session.next_work()
            if work is not None and (work.stage, work.group) == (first.stage, first.group) and work.size <= room:
                batch.append(session)
                room -= work.size
        num_shared += len(batch) > 1
        owner.run(first.stage, batch)
    assert num_shared >= 3
    alone = [labelled(owner, one)[0] for one in ticks]
    for session, expected in zip(sessions, alone, strict=True):
        assert_same_masks(session.take(), [expected])
    assert any(not np.array_equal(a.objects[0].mask, alone[0].objects[0].mask) for a in alone[1:])


def test_labels_are_those_of_the_network_in_the_order_of_the_tick() -> None:
    owner, names = segmenter(fold_lora=False), SETS[4]
    one = tick(names)
    (found,) = labelled(owner, one)
    # 48 x 72 comes into the 64 px square as 43 x 64.
    resized = [_resized(one.images[name], (43, 64)) for name in names]
    square = to_square(resized, names, num_rows=3, image_size=64, device=torch.device("cpu"))
    with torch.inference_mode():
        logits = enlarge_logits(owner.network(square[:, None]).logits_BKhw, (64, 64))[..., :43, :64]
        labels = enlarge_logits(logits, (HEIGHT, WIDTH))[0].argmax(dim=0).numpy()
    ours = np.zeros((HEIGHT, WIDTH), dtype=int)
    for region in found.objects:
        assert region.class_id is not None
        assert region.object_id == region.class_id + 1
        ours[region.mask] = region.class_id
    assert len(found.objects) > 1
    assert (ours == labels).mean() > 0.999
    reordered = labelled(owner, tick(SETS[4][::-1]))[0]
    assert any(not np.array_equal(a.mask, b.mask) for a, b in zip(found.objects, reordered.objects, strict=False))


def _resized(image: Any, size: tuple[int, int]) -> Any:
    from torch.nn import functional as F

    planes = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    resized = F.interpolate(planes, size=size, mode="bilinear", antialias=True)[0]
    return resized.round().to(torch.uint8).permute(1, 2, 0).numpy()


def test_folded_adapters_give_the_labels_of_unfolded_ones_and_other_than_none() -> None:
    one = tick(SETS[3])
    folded, unfolded = segmenter(), segmenter(fold_lora=False)
    assert folded.fold_difference is not None
    assert 0 < folded.fold_difference < 1e-5
    assert unfolded.fold_difference is None
    (first,), (second,), (without,) = (labelled(s, one) for s in (folded, unfolded, segmenter(spec(lora=0.0))))
    same = [(a.mask == b.mask).mean() for a, b in zip(first.objects, second.objects, strict=True)]
    assert min(same) > 0.999
    assert any((a.mask != b.mask).mean() > 0.01 for a, b in zip(first.objects, without.objects, strict=False))


def test_a_config_chooses_modalities_and_their_order() -> None:
    owner = segmenter(modalities=("depth", RGB, "nir"))
    chosen = labelled(owner, tick(SETS[3]))
    assert_same_masks(chosen, labelled(segmenter(), tick(("depth", RGB))))
    with pytest.raises(SessionError, match="expected at least one"):
        labelled(owner, tick(("lidar",)))


def test_memory_off_is_another_answer_and_only_with_several_modalities() -> None:
    with_memory, without = segmenter(), segmenter(use_memory=False)
    one, several = tick((RGB,)), tick(SETS[3])
    assert_same_masks(labelled(without, one), labelled(with_memory, one))
    first, second = labelled(without, several)[0], labelled(with_memory, several)[0]
    assert any((a.mask != b.mask).any() for a, b in zip(first.objects, second.objects, strict=False))


def test_gated_modalities_are_flagged() -> None:
    (open_tick,) = labelled(segmenter(), tick((RGB, "depth")))
    assert open_tick.flags == ()
    (gated,) = labelled(segmenter(spec(object_bias=-50.0)), tick((RGB, "depth")))
    assert gated.flags == ("gated:rgb", "gated:depth")
    (region,) = gated.objects
    assert (region.class_id, region.confidence) == (0, pytest.approx(0.25))


def test_contributions_are_flagged_where_asked() -> None:
    (told,) = labelled(segmenter(report_contributions=True), tick((RGB, "depth")))
    names, shares = zip(*(flag.removeprefix("contribution:").split("=") for flag in told.flags), strict=True)
    assert names == (RGB, "depth")
    assert all(0 <= float(share) <= 1 for share in shares)
    assert any(float(share) > 0 for share in shares)


def test_classes_beyond_the_data_sets_are_never_predicted(caplog: pytest.LogCaptureFixture) -> None:
    assert max(o.class_id or 0 for o in labelled(segmenter(), tick((RGB, "depth")))[0].objects) >= 2
    owner = segmenter(class_names=("road", "sky"))
    assert owner.class_names == {0: "road", 1: "sky"}
    assert "cut off" in caplog.text
    assert {found.class_id for found in labelled(owner, tick((RGB, "depth")))[0].objects} <= {0, 1}
    assert segmenter().class_names[3] == "class 3"
    with pytest.raises(ConfigError, match="5 class_names"):
        segmenter(class_names=tuple("abcde"))


def test_float_images_are_read_beside_uint8_ones() -> None:
    depth = tick(("depth",)).images["depth"]
    as_float: Any = {"depth": (depth / np.float32(255)).astype(np.float32)}
    exact = labelled(segmenter(), Tick(frame_index=0, pts_us=0, images=as_float))[0]
    rounded = labelled(segmenter(), tick(("depth",)))[0]
    agreement = [(a.mask == b.mask).mean() for a, b in zip(exact.objects, rounded.objects, strict=True)]
    assert min(agreement) > 0.97  # resized without rounding to uint8


def test_a_stretched_frame_fills_the_square() -> None:
    stretched, padded = (labelled(segmenter(fit=fit), tick((RGB,)))[0] for fit in ("stretch", "letterbox"))
    assert stretched.objects[0].mask.shape == (HEIGHT, WIDTH)
    assert any((a.mask != b.mask).any() for a, b in zip(stretched.objects, padded.objects, strict=False))


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ({RGB: np.zeros((HEIGHT, WIDTH, 3), np.uint8), "depth": np.zeros((HEIGHT, 8, 3), np.uint8)}, "one size"),
        ({"depth": np.zeros((HEIGHT, WIDTH), np.uint8)}, "repeat a single channel"),
        ({"depth": np.zeros((HEIGHT, WIDTH, 3), np.uint16)}, "uint16"),
        ({"aolp": np.full((HEIGHT, WIDTH, 3), np.nan, np.float32)}, "not finite"),
        ({}, "at least one"),
    ],
)
def test_ticks_that_cannot_be_read_are_refused_and_change_nothing(images: Any, message: str) -> None:
    owner = segmenter()
    session = owner.open((), (HEIGHT, WIDTH))
    with pytest.raises(SessionError, match=message):
        session.push(Tick(frame_index=0, pts_us=0, images=images))
    session.push(tick((RGB,), frame=0))
    session.end()
    work_off(owner, session)
    assert [found.frame_index for found in session.take()] == [0]


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(PromptError, match="takes none"):
        segmenter().open([Prompt(object_id=1, text="a car")], (HEIGHT, WIDTH))
    with pytest.raises(ConfigError, match="bf16"):
        segmenter(precision="bf16")
    with pytest.raises(ConfigError, match="image_size 48"):
        segmenter(image_size=48)
    with pytest.raises(ValueError, match="twice"):
        MemorySamConfig(modalities=(RGB, RGB))
    with pytest.raises(WeightsError, match="neither weights nor"):
        segmenter(ModelSpec(name="nothing", architecture={}, tensors=None))
    with pytest.raises(WeightsError, match="do not fit"):
        segmenter(ModelSpec(name="other", architecture=ARCHITECTURES["tiny-multimodal"], tensors=MODEL.tensors))
    state = segmenter().open((), (HEIGHT, WIDTH)).state_dict()
    with pytest.raises(SessionError, match="config"):
        segmenter(fit="stretch").restore(state)


def test_another_image_size_runs_with_the_same_weights() -> None:
    (small,), (large,) = (labelled(segmenter(image_size=side), tick((RGB, "depth"))) for side in (64, 96))
    assert small.objects[0].mask.shape == large.objects[0].mask.shape == (HEIGHT, WIDTH)


def test_random_weights_are_told(caplog: pytest.LogCaptureFixture) -> None:
    config, model = mini()
    build_segmenter(config, model, "cpu")
    assert "untrained weights" in caplog.text
