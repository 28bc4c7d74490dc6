"""Training frame by frame against what runs in production: the session, and SAM2's tracker."""

import numpy as np
import pytest
import torch

from pipeline.methods.samwise import SamwiseConfig, build_segmenter
from pipeline.models.closed_vocabulary import WORDS
from pipeline.models.sam2_core import Sam2Core
from pipeline.models.samwise_checkpoint import checkpoint_tensors
from pipeline.models.tokenizers import ClosedVocabularyTokenizer
from pipeline.models.tracking import Tracker
from pipeline.segmenter import ModelSpec, finish, step
from pipeline.synth.clip import sample_clip
from pipeline.ticks import Prompt, Tick
from pipeline.training.grounded import fuse_batch
from pipeline.training.grounded_clips import grounded_batch
from pipeline.training.grounded_memory import switch_labels
from pipeline.training.rollout import CmeRows, PromptedObjects, choose_objects, refer_through, track_through
from pipeline.training.tiny_stages import ShownBy, TrackPhase
from tests.training.small_tiny import CLIPS, small_network


def test_referring_in_training_gives_the_masks_of_the_session() -> None:
    network = small_network()
    clip = sample_clip(CLIPS.derive(num_frames=6, name="six"), 4, "train", 0)
    batch = grounded_batch([clip], ClosedVocabularyTokenizer(WORDS))
    with torch.inference_mode():
        _, fused = fuse_batch(network, batch)
        scores = refer_through(network, fused, batch)
    inside = (scores.logits_RKHW[:, 0] > 0) & (scores.object_score_R[:, None, None] > 0)
    trained = inside.view(6, len(clip.expressions), 64, 64).numpy()

    architecture = network.architecture.model_dump(mode="json")
    model = ModelSpec(name="small", architecture=architecture, tensors=checkpoint_tensors(network))
    segmenter = build_segmenter(SamwiseConfig(use_cme=False), model, "cpu")
    prompts = [Prompt(object_id=i + 1, text=said.text) for i, said in enumerate(clip.expressions)]
    session = segmenter.open(prompts, (64, 64))
    masks = []
    for index, frame in enumerate(clip.frames):
        masks += step(segmenter, [session], [Tick(frame_index=index, pts_us=index, images={"rgb": frame})])[0]
    masks += finish(segmenter, session)
    produced = np.stack([[thing.mask for thing in tick.objects] for tick in masks])
    assert produced.any()
    assert (produced != trained).mean() < 1e-3


def test_tracking_in_training_gives_the_masks_of_the_tracker() -> None:
    network = small_network(binarize_mask_from_pts_for_mem_enc=True)
    clip = sample_clip(CLIPS.derive(num_frames=5, name="five"), 4, "train", 1)
    batch = grounded_batch([clip], ClosedVocabularyTokenizer(WORDS))
    kinds = set()
    for seed in range(6):
        objects = choose_objects(batch, per_clip=2, generator=np.random.default_rng(seed))
        kinds.add("mask" if objects.mask_B1HW is not None else "points")
        with torch.inference_mode():
            scores = track_through(network.core, batch.images_F3HW, objects, num_frames=5)
            expected = _tracker_logits(network.core, batch.images_F3HW, objects)
        num_scored = len(scores.object_score_R) // 2
        chosen = scores.predicted_iou_RK.argmax(dim=1)
        logits = scores.logits_RKHW[torch.arange(len(chosen)), chosen].view(num_scored, 2, 64, 64)
        seen = scores.object_score_R.view(num_scored, 2) > 0
        inside = (logits > 0) & seen[..., None, None]
        assert ((expected[5 - num_scored :] > 0) != inside).float().mean() < 2e-3
    assert kinds == {"mask", "points"}


def test_objects_are_shown_in_the_ways_asked_for_and_a_single_frame_needs_no_memory() -> None:
    network = small_network()
    clip = sample_clip(CLIPS, 4, "train", 1)
    batch = grounded_batch([clip], ClosedVocabularyTokenizer(WORDS))
    shown: tuple[tuple[ShownBy, list[int]], ...] = (("box", [2, 3]), ("point", [1]))
    for kind, labels in shown:
        objects = choose_objects(batch, per_clip=2, generator=np.random.default_rng(0), kinds=(kind,), num_frames=1)
        assert objects.labels_BP is not None
        assert objects.labels_BP.tolist() == [labels] * 2
        assert objects.targets_BTHW.shape[1] == 1
        scores = track_through(network.core, batch.images_F3HW[:1], objects, num_frames=1)
        assert torch.equal(scores.targets_RHW, objects.targets_BTHW[:, 0])


def test_a_mask_needs_a_second_frame_and_a_phase_no_more_than_a_clip_has() -> None:
    TrackPhase(num_steps=1, clips=CLIPS, num_frames=1, kinds=("box",))
    with pytest.raises(ValueError, match="1 of 2 frames"):
        TrackPhase(num_steps=1, clips=CLIPS, num_frames=1, kinds=("box", "mask"))
    with pytest.raises(ValueError, match="3 of 2 frames"):
        TrackPhase(num_steps=1, clips=CLIPS, num_frames=3)


def _tracker_logits(core: Sam2Core, images: torch.Tensor, objects: PromptedObjects) -> torch.Tensor:
    tracker = Tracker(core, frame_size=(64, 64))
    first = core.encode_image(images[:1])
    for row in range(2):
        if objects.mask_B1HW is not None:
            shown = tracker.prompt_mask(first, 0, row + 1, objects.mask_B1HW[row, 0] > 0)
        elif objects.labels_BP is None or objects.points_BP2 is None:
            raise AssertionError("objects are shown by mask, box or points")
        elif objects.labels_BP[row, 0] == 2:
            shown = tracker.prompt_points(first, 0, row + 1, box_4=objects.points_BP2[row].flatten())
        else:
            shown = tracker.prompt_points(
                first, 0, row + 1, points_P2=objects.points_BP2[row], labels_P=objects.labels_BP[row]
            )
    frames = [shown[:, 0]]
    tracker.track(first, 0)
    for frame in range(1, len(images)):
        logits = tracker.track(core.encode_image(images[frame : frame + 1]), frame)
        frames.append(tracker.to_video(logits)[:, 0])
    return torch.stack(frames)


def test_a_switch_is_right_where_the_memory_less_mask_is_better_by_the_margin() -> None:
    truth = torch.zeros(4, 4, 10, dtype=torch.bool)
    truth[:3, :, :5] = True

    def logits(columns: list[int]) -> torch.Tensor:
        masks = torch.full((4, 1, 4, 10), -1.0)
        for row, count in enumerate(columns):
            masks[row, :, :, :count] = 1.0
        return masks

    rows = CmeRows(
        decisions_R2=torch.zeros(4, 2),
        # IoU with memory: 0.4, 0.8, 0, and 0 where nothing is there; without: 0.8, 0.8, 0.2, and 1.
        with_memory_R1HW=logits([2, 4, 0, 3]),
        alone_R1HW=logits([4, 4, 1, 0]),
        targets_RHW=truth,
    )
    assert switch_labels(rows, margin=0.1).tolist() == [1, 0, 1, 1]
    assert switch_labels(rows, margin=0.3).tolist() == [1, 0, 0, 1]
