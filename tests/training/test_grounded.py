"""The tiny model's first stage: what a batch says of its clips, its losses by hand, and that it learns."""

import math

import numpy as np
import torch

from pipeline.models.closed_vocabulary import WORDS
from pipeline.models.grounded_fusion import Evidence
from pipeline.models.tokenizers import ClosedVocabularyTokenizer
from pipeline.synth.clip import sample_clip
from pipeline.synth.presets import TRAIN
from pipeline.training.grounded import ReferLearner
from pipeline.training.grounded_clips import GroundedBatch, cell_owners, grounded_batch
from pipeline.training.grounded_losses import expression_loss, word_loss
from pipeline.training.loop import train
from pipeline.training.mask_losses import RowScores, row_losses
from pipeline.training.tiny_stages import ReferStage
from tests.training.small_samwise import WORLD
from tests.training.small_tiny import small_loop, small_network

SURE = 30.0


def drawn_batch() -> GroundedBatch:
    """Three clips, higher than wide, with up to four objects."""
    config = TRAIN.derive(name="odd", height=96, width=64, num_frames=3)
    return grounded_batch([sample_clip(config, 5, "train", i) for i in range(3)], ClosedVocabularyTokenizer(WORDS))


def test_a_cell_belongs_to_the_object_that_covers_half_of_it() -> None:
    labels = torch.zeros(1, 1, 16, 24, dtype=torch.uint8)
    labels[0, 0, :8, :5] = 2  # 40 of 64 pixels
    labels[0, 0, :8, 8:11] = 1  # 24
    labels[0, 0, 8:, 16:] = 3
    assert cell_owners(labels, num_objects=3)[0, 0].tolist() == [[2, 0, 0], [0, 0, 3]]


def test_words_stand_one_token_later_than_in_the_expression() -> None:
    config = TRAIN.derive(name="odd", num_frames=4)
    clips = [sample_clip(config, 5, "train", i) for i in range(6)]
    batch = grounded_batch(clips, ClosedVocabularyTokenizer(WORDS))
    said = [(clip, expression) for clip in clips for expression in clip.expressions]
    for row, (clip, expression) in enumerate(said):
        for place, truths in enumerate(expression.word_truth):
            assert batch.word_truth_BLN[row, place + 1, 1 : clip.num_objects + 1].tolist() == list(truths)
        assert (batch.word_truth_BLN[row, [0, len(expression.words) + 1]] == -1).all()
        told = set(batch.motion_BL[row].nonzero()[:, 0].tolist())
        assert told == {place + 1 for place in expression.motion_word_positions}
        np.testing.assert_array_equal(batch.targets_BTHW[row], clip.expression_mask(expression))


def test_a_window_is_the_batch_of_the_frames_in_it() -> None:
    config = TRAIN.derive(name="odd", height=96, width=64, num_frames=5)
    clips = [sample_clip(config, 5, "train", i) for i in range(3)]
    whole = grounded_batch(clips, ClosedVocabularyTokenizer(WORDS))
    part = whole.window(1, 3)
    assert part.num_frames == 3
    images = whole.images_F3HW.view(3, 5, 3, 96, 64)
    assert torch.equal(part.images_F3HW.view(3, 3, 3, 96, 64), images[:, 1:4])
    for row, (clip, expression) in enumerate((c, e) for c in clips for e in c.expressions):
        np.testing.assert_array_equal(part.targets_BTHW[row], clip.expression_mask(expression)[1:4])
    for index, clip in enumerate(clips):
        np.testing.assert_array_equal(part.objects_CTHW[index], clip.labels[1:4])
        moved = part.velocities_CTN2[index, :, 1 : clip.num_objects + 1]
        np.testing.assert_allclose(moved, clip.truth.velocities_px[1:4], rtol=1e-6)
    again = cell_owners(part.objects_CTHW, num_objects=max(clip.num_objects for clip in clips))
    assert torch.equal(part.cells_CThw, again)


def perfect_evidence(batch: GroundedBatch, *, sign: float) -> Evidence:
    """Words and expression as sure as can be, right (1) or wrong (-1)."""
    owner = batch.cells_CThw.repeat_interleave(batch.num_expressions, dim=0)
    truth = torch.stack(
        [
            torch.stack([batch.word_truth_BLN[row][:, owner[row, frame]] for frame in range(batch.num_frames)])
            for row in range(len(owner))
        ]
    ).flatten(0, 1)
    words = torch.where(truth == 1, SURE, -SURE) * sign
    meant = torch.nn.functional.avg_pool2d(batch.targets_BTHW.flatten(0, 1).float()[:, None], 8)
    probability = (meant if sign > 0 else 1 - meant).clamp(1e-6, 1 - 1e-4)
    return Evidence(word_logits_FLhw=words, log_evidence_F1hw=probability.log())


def test_evidence_losses_vanish_for_what_is_true_and_not_for_the_opposite() -> None:
    batch = drawn_batch()
    right, wrong = perfect_evidence(batch, sign=1), perfect_evidence(batch, sign=-1)
    assert float(word_loss(right, batch)) < 1e-6
    assert math.isclose(float(word_loss(wrong, batch)), SURE, rel_tol=1e-3)
    # Cells at the rim of a mask are meant in part, which costs their entropy.
    assert float(expression_loss(right, batch)) < 0.25 < 1.0 < float(expression_loss(wrong, batch))


def test_only_the_best_candidate_is_taught_its_mask_but_all_their_iou() -> None:
    targets = torch.zeros(2, 4, 6, dtype=torch.bool)
    targets[0, :2] = True
    logits = torch.full((2, 2, 4, 6), -SURE)
    logits[0, 1][targets[0]] = SURE
    logits.requires_grad_()
    iou = torch.tensor([[0.3, 0.4], [0.9, 0.9]], requires_grad=True)
    score = torch.tensor([2.0, -2.0], requires_grad=True)
    losses = row_losses(RowScores(logits_RKHW=logits, predicted_iou_RK=iou, object_score_R=score, targets_RHW=targets))
    sum(losses.values(), torch.tensor(0.0)).backward()
    losses = {name: value.detach() for name, value in losses.items()}
    assert float(losses["focal"]) < 1e-6
    assert float(losses["dice"]) < 1e-6
    # Row 1 shows nothing: no dice, no IoU. Candidate 0 of row 0 is empty (IoU 0), candidate 1 right (IoU 1).
    assert math.isclose(float(losses["iou"]), 0.5 * (0.3 + 0.6) / 2, rel_tol=1e-5)
    assert math.isclose(float(losses["presence"]), 0.5 * math.log1p(math.exp(-2.0)), rel_tol=1e-5)
    assert iou.grad is not None
    assert iou.grad[0].tolist() == [0.25, -0.25]
    assert not iou.grad[1].any()


def test_a_few_steps_lower_the_loss_on_clips_never_drawn_before() -> None:
    """Against the same network with its weights as they were; that J rises, test_samwise shows."""
    stage = ReferStage(
        early_clips=WORLD,
        late_clips=WORLD,
        num_early_steps=100_000,
        loop=small_loop(24, 4, learning_rate=2e-3, betas=(0.9, 0.98)),
    )
    learner = ReferLearner(small_network(), stage)
    unseen = range(90_000, 90_008)
    before = {name: float(value.detach()) for name, value in learner.losses(unseen).means.items()}
    train(learner, stage.loop)
    after = {name: float(value.detach()) for name, value in learner.losses(unseen).means.items()}
    assert sum(after.values()) < 0.7 * sum(before.values())
    assert after["words"] < 0.8 * before["words"]
