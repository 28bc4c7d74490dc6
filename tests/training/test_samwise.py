"""SAMWISE's training: what is trained, in which mode, on which path, and that it learns."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from pipeline.errors import ConfigError
from pipeline.methods.samwise import SamwiseConfig, build_segmenter
from pipeline.models.samwise_architecture import SamwiseArchitecture
from pipeline.models.samwise_checkpoint import checkpoint_tensors, official_name
from pipeline.models.samwise_init import random_samwise
from pipeline.models.samwise_network import FusedClip, SamwiseNetwork
from pipeline.models.samwise_variants import ARCHITECTURES
from pipeline.models.tokenizers import ClosedVocabularyTokenizer, TokenizedText
from pipeline.segmenter import ModelSpec
from pipeline.ticks import RGB, Prompt, Tick
from pipeline.training.clips import ClipBatch
from pipeline.training.gradients import BatchLosses
from pipeline.training.loop import LoopConfig, train
from pipeline.training.losses import cme_loss
from pipeline.training.samwise import SamwiseLearner, clip_losses, segment_clips, set_mode, trained_parameters
from pipeline.training.samwise_recipes import (
    PRESETS,
    SamwiseTraining,
    mevis,
    pretrain,
    ref_youtube_vos,
    trained_architecture,
)
from pipeline.training.schedule import ScheduleConfig
from tests.training.small_samwise import END_ID, mini, mini_clip, small_world

SIX_FRAMES = SamwiseTraining(num_frames=6, dropout="none", freeze_batch_norm=True)
TWO_FRAMES = SamwiseTraining(num_frames=2, cme=False, dropout="none")


def count(parameters: Iterator[nn.Parameter]) -> int:
    return sum(parameter.numel() for parameter in parameters)


def shallow(architecture: SamwiseArchitecture) -> SamwiseArchitecture:
    """The same widths on one block a stage and one text layer: what is trained does not depend on depth."""
    values = architecture.model_dump()
    values["sam2"] |= {"stages": (1, 1, 1, 1), "global_att_blocks": (2,)}
    values["text"] |= {"num_layers": 1, "vocabulary_size": 10}
    values["text_fusion_layers"] = (1, 1, 1)
    return SamwiseArchitecture.model_validate(values)


OFFICIAL = SamwiseArchitecture.model_validate(ARCHITECTURES["samwise-base"])


@pytest.fixture(scope="module")
def official_shallow() -> SamwiseNetwork:
    return SamwiseNetwork(shallow(OFFICIAL))


def test_the_official_sizes_train_5_235_906_parameters(official_shallow: SamwiseNetwork) -> None:
    trained = trained_parameters(official_shallow, "adapters")
    assert count(iter(trained.values())) == 5_235_906
    assert count(p for name, p in trained.items() if not name.startswith("project_text")) == 4_907_458
    assert {name for name, p in official_shallow.named_parameters() if p.requires_grad} == set(trained)


def test_they_are_those_that_the_published_code_picks_by_name(official_shallow: SamwiseNetwork) -> None:
    marks = ("adapter", "conditional_memory_encoder", "project_text")
    names = [name for name, _ in official_shallow.named_parameters() if "token_type_embeddings" not in name]
    by_mark = {name for name in names if any(mark in official_name(name) for mark in marks)}
    assert set(trained_parameters(official_shallow, "adapters")) == by_mark


def test_pre_training_trains_4_225_986_parameters() -> None:
    network = SamwiseNetwork(trained_architecture(shallow(OFFICIAL), pretrain()))
    assert count(iter(trained_parameters(network, "adapters").values())) == 4_225_986
    assert not any("obj_score" in name for name, _ in network.named_parameters())


@pytest.mark.slow
def test_the_whole_official_network_has_the_published_sizes() -> None:
    network = SamwiseNetwork(OFFICIAL)
    assert count(iter(trained_parameters(network, "adapters").values())) == 5_235_906


def test_presets_are_the_released_recipes() -> None:
    still, videos, motion = pretrain(), ref_youtube_vos(), mevis()
    assert (still.num_frames, still.hsa, still.pred_obj_scores, still.cme, still.epochs) == (1, False, False, False, 6)
    assert (still.loop.learning_rate, still.loop.clip_norm, still.loop.batch_size) == (1e-4, 0.1, 32)
    for preset, epochs in ((videos, 4), (motion, 1)):
        assert (preset.num_frames, preset.hsa, preset.cme, preset.epochs) == (8, True, True, epochs)
        assert (preset.loop.learning_rate, preset.loop.clip_norm, preset.loop.batch_size) == (1e-5, 1.0, 4)
        assert preset.loop.schedule == ScheduleConfig(kind="multistep", milestones=(60_000,), gamma=0.1)
        assert (preset.dropout, preset.mask_text_padding, preset.trained) == ("all", False, "adapters")
    assert set(PRESETS) == {"pretrain", "ref_youtube_vos", "mevis", "shapesref"}


def test_epochs_become_steps_of_the_data() -> None:
    training = mevis().for_source(small_world(num_clips=10))
    assert (training.epochs, training.loop.num_steps) == (None, 2)
    with pytest.raises(ConfigError, match="without end"):
        mevis().for_source(small_world())


def test_a_cme_that_would_never_be_questioned_is_refused() -> None:
    with pytest.raises(ValidationError, match="no frame would be questioned"):
        SamwiseTraining(num_frames=5)


def learner_of(training: SamwiseTraining, *, seed: int = 0, **world: object) -> SamwiseLearner:
    architecture = trained_architecture(mini(), training)
    world = {"num_frames": max(2, training.num_frames), **world}
    tokenizer = ClosedVocabularyTokenizer(architecture.vocabulary)
    return SamwiseLearner(random_samwise(architecture, seed=seed), tokenizer, small_world(**world), training)


def gradients_of(learner: SamwiseLearner, losses: BatchLosses) -> dict[str, Tensor]:
    learner.module.zero_grad()
    total = sum(losses.means.values(), torch.zeros(())) + sum(r.numerator for r in losses.ratios.values())
    torch.autograd.backward(total)
    return {name: p.grad for name, p in learner.module.named_parameters() if p.grad is not None}


def test_every_trained_parameter_gets_a_gradient_and_no_frozen_one() -> None:
    learner = learner_of(SIX_FRAMES)
    gradients = gradients_of(learner, learner.losses([0, 1]))
    # The last layer norm of the CME is in the checkpoints, and unused.
    assert set(gradients) == set(learner.trained()) - {
        "cme.transformerBlock.norm2.weight",
        "cme.transformerBlock.norm2.bias",
    }
    silent = {name for name, gradient in gradients.items() if not gradient.any()}
    assert not silent


def test_gradients_reach_the_first_frame_through_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    learner = learner_of(SIX_FRAMES)
    fuse, leaves = learner.module.fuse, []

    def cut_before_memory(*arguments: Any, **options: Any) -> FusedClip:
        fused = fuse(*arguments, **options)
        leaves.append(fused.features.map_BDhw.detach().requires_grad_(True))
        return replace(fused, features=replace(fused.features, map_BDhw=leaves[0]))

    # From here on frames meet in the memory alone, no longer in the adapters.
    monkeypatch.setattr(learner.module, "fuse", cut_before_memory)
    logits_BTHW = segment_clips(learner.module, learner.batch([0]), SIX_FRAMES).mask_logits_BTHW
    for frame in (0, 3, 5):
        (gradient,) = torch.autograd.grad(logits_BTHW[0, frame].sum(), leaves[0], retain_graph=True)
        assert [bool(of_frame.any()) for of_frame in gradient] == [place <= frame for place in range(6)]


@pytest.mark.parametrize("world", [{"height": 48, "num_frames": 6}])
def test_a_training_clip_gives_the_masks_of_inference_when_nothing_drops_out(world: dict[str, object]) -> None:
    learner = learner_of(SIX_FRAMES, seed=3, **world)
    network = learner.module
    # Every object in view: training leaves masks of absent ones, inference paints them out.
    with torch.no_grad():
        network.core.model.sam_mask_decoder.pred_obj_score_head.layers[-1].bias += 50.0
    batch = learner.batch([1])
    with torch.no_grad():
        logits = segment_clips(network, batch, SIX_FRAMES).mask_logits_BTHW[0]
    sample = learner._reader.read([1])[0]
    model = ModelSpec(
        name="mini",
        architecture=network.architecture.model_dump(mode="json"),
        tensors=checkpoint_tensors(network),
        seed=0,
    )
    segmenter = build_segmenter(SamwiseConfig(use_cme=False, clip_length=6), model, "cpu")
    session = segmenter.open([Prompt(object_id=1, text=sample.expression)], (48, 64))
    for index, frame in enumerate(sample.frames):
        session.push(Tick(frame_index=index, pts_us=index, images={RGB: frame}))
    session.end()
    while (work := session.next_work()) is not None:
        segmenter.run(work.stage, [session])
    masks = np.stack([tick.objects[0].mask for tick in session.take()])
    assert masks.shape == logits.shape == (6, 48, 64)
    assert 0.02 < masks.mean() < 0.98
    assert (masks == (logits > 0).numpy()).mean() > 0.9999


def test_clips_of_a_batch_do_not_see_each_other() -> None:
    training = SIX_FRAMES.model_copy(update={"mask_text_padding": True})
    learner = learner_of(training)
    batch = learner.batch([0, 1])
    assert not batch.keep_BL.all()  # expressions of different length
    with torch.no_grad():
        together = segment_clips(learner.module, batch, training).mask_logits_BTHW
        alone = [segment_clips(learner.module, learner.batch([p]), training).mask_logits_BTHW for p in (0, 1)]
    assert torch.allclose(together, torch.cat(alone), atol=1e-4)


def with_padding(batch: ClipBatch, pad_id: int) -> ClipBatch:
    padding = torch.full((len(batch.sample_ids), 3), pad_id)
    return ClipBatch(
        images_FCHW=batch.images_FCHW,
        targets_BTHW=batch.targets_BTHW,
        token_ids_BL=torch.cat([batch.token_ids_BL, padding], dim=1),
        keep_BL=torch.cat([batch.keep_BL, torch.zeros_like(padding, dtype=torch.bool)], dim=1),
        sample_ids=batch.sample_ids,
    )


def test_padded_text_is_read_by_vision_unless_masked() -> None:
    learner = learner_of(TWO_FRAMES)
    set_mode(learner.module, dropout="none", freeze_batch_norm=True)
    batch = learner.batch([0])

    def logits(batch: ClipBatch, *, masked: bool) -> Tensor:
        training = TWO_FRAMES.model_copy(update={"mask_text_padding": masked})
        with torch.no_grad():
            return segment_clips(learner.module, batch, training).mask_logits_BTHW

    padded = with_padding(batch, pad_id=1)
    assert torch.allclose(logits(padded, masked=True), logits(batch, masked=True), atol=1e-4)
    assert not torch.allclose(logits(padded, masked=False), logits(batch, masked=False), atol=1e-3)


def test_the_cme_ratio_is_its_loss_where_one_batch_is_all() -> None:
    learner = learner_of(SIX_FRAMES)
    batch = learner.batch([0, 1, 2])
    output = segment_clips(learner.module, batch, SIX_FRAMES)
    assert output.decisions_R2 is not None
    assert output.labels_R is not None
    assert output.decisions_R2.shape == (3, 2)  # of six frames only the last is questioned
    ratio = clip_losses(output, batch, SIX_FRAMES).ratios["cme"]
    expected = cme_loss(output.decisions_R2, output.labels_R)
    assert ratio.denominator > 0
    assert torch.isclose(ratio.numerator / ratio.denominator, expected)


def modes(network: SamwiseNetwork) -> dict[str, bool]:
    core: Any = network.core.model
    return {
        "text": network.text_encoder.training,
        "memory attention": core.memory_attention.layers[0].dropout1.training,
        "hsa": network.adapters[0].hsa.self_attn.training,  # type: ignore[union-attr]
        "batch norm": network.adapters[0].proj_vis_down[1].training,  # type: ignore[index, union-attr]
    }


@pytest.mark.parametrize(
    ("dropout", "frozen_norm", "expected"),
    [
        ("all", False, (True, True, True, True)),
        ("trained", False, (False, False, True, True)),
        ("none", False, (False, False, False, True)),
        ("all", True, (True, True, True, False)),
    ],
)
def test_modes_decide_who_drops_out(dropout: Any, frozen_norm: bool, expected: tuple[bool, ...]) -> None:
    network = SamwiseNetwork(mini())
    set_mode(network, dropout=dropout, freeze_batch_norm=frozen_norm)
    assert tuple(modes(network).values()) == expected


def test_a_training_updates_trained_weights_and_batch_norm_and_nothing_else() -> None:
    learner = learner_of(TWO_FRAMES.model_copy(update={"dropout": "all"}))
    before = {name: tensor.clone() for name, tensor in learner.module.state_dict().items()}
    train(learner, LoopConfig(num_steps=2, batch_size=2, learning_rate=1e-3))
    changed = {name for name, tensor in learner.module.state_dict().items() if not torch.equal(tensor, before[name])}
    own = (*learner.trained(), *learner.trained_buffers())
    assert changed <= set(own)
    assert {name for name in own if name.startswith(("adapters.", "project_text."))} <= changed
    assert any("running_mean" in name for name in changed)


def test_clip_is_trained_by_the_same_recipe() -> None:
    def tokenizer(text: str) -> TokenizedText:
        words = text.split()
        ids = (0, *(3 + len(word) for word in words), END_ID)
        return TokenizedText(text=text, ids=ids, spans=((0, 0),) * len(ids))

    training = TWO_FRAMES.model_copy(update={"dropout": "all"})
    learner = SamwiseLearner(random_samwise(mini_clip(), seed=0), tokenizer, small_world(), training)  # type: ignore[arg-type]
    set_mode(learner.module, dropout="none", freeze_batch_norm=True)
    batch = learner.batch([0])
    losses = clip_losses(segment_clips(learner.module, batch, training), batch, training)
    gradients = gradients_of(learner, losses)
    assert {name for name in learner.trained() if not name.startswith("cme.")} == set(gradients)
    with torch.no_grad():
        masked = training.model_copy(update={"mask_text_padding": True})
        plain = segment_clips(learner.module, batch, masked).mask_logits_BTHW
        padded = segment_clips(learner.module, with_padding(batch, END_ID), masked).mask_logits_BTHW
    assert torch.allclose(plain, padded, atol=1e-4)


def mean_j(learner: SamwiseLearner, positions: range) -> float:
    with torch.no_grad():
        return float(learner.losses(positions).metrics["train_j"])


@pytest.mark.slow
def test_adapters_alone_learn_a_small_world_between_frozen_random_parts() -> None:
    schedule = ScheduleConfig(kind="cosine", warmup_steps=10, final_factor=0.05)
    loop = LoopConfig(num_steps=70, batch_size=8, learning_rate=1e-2, schedule=schedule)
    learner = learner_of(TWO_FRAMES.model_copy(update={"loop": loop}), num_clips=4)
    frozen_before = {name: p.clone() for name, p in learner.module.named_parameters() if not p.requires_grad}
    before = mean_j(learner, range(8))
    scalars = train(learner, loop).scalars
    assert all(torch.equal(p, frozen_before[n]) for n, p in learner.module.named_parameters() if n in frozen_before)
    assert scalars[69]["loss"] < 0.6 * scalars[0]["loss"]
    # Both discs together would be a J of at most a half: colour words are read.
    assert mean_j(learner, range(8)) > max(0.45, before + 0.3)
