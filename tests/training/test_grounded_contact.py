"""The contact stage: whose turn it is, which part of a clip is seen, and streets as regions that can be tracked."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from pipeline.models.letterbox import MEAN, STD
from pipeline.synth.street import sample_street
from pipeline.synth.street_config import StreetConfig
from pipeline.training.grounded_contact import MIN_REGION_PX, ContactLearner, street_batch
from pipeline.training.tiny_recipes import choosing, touching
from pipeline.training.tiny_stages import ContactStage
from tests.training.small_tiny import small_contact, small_network

CPU = torch.device("cpu")
SQUARE = StreetConfig(name="square_street", height=96, width=96, num_frames=3)


def test_every_turn_is_taken_on_clips_of_its_kind() -> None:
    stage = small_contact(5)
    learner = ContactLearner(small_network(), stage)
    size = stage.loop.batch_size
    losses = [learner.losses(range(size * step, size * (step + 1))) for step in range(5)]
    names = [{sample_id.rsplit("_train_", 1)[0] for sample_id in found.sample_ids} for found in losses]
    assert names == [{"small_street"}, {"small4"}, {"small"}, {"small4"}, {"small4"}]
    assert [len(found.sample_ids) for found in losses] == [stage.streets_per_step, size, 2 * size, size, size]
    assert ["words" in found.means for found in losses] == [False, True, True, False, False]
    again = learner.losses(range(size * 3, size * 4))
    assert torch.equal(again.means["focal"], losses[3].means["focal"])


def test_a_guided_turn_is_a_tracked_one_with_motion_prompts() -> None:
    stage = small_contact(5)
    positions = range(stage.loop.batch_size)
    told, untold, never = (
        ContactLearner(small_network(), stage.model_copy(update=changes)).losses(positions)
        for changes in (
            {"turns": ("guided",)},
            {"turns": ("track",)},
            {"turns": ("guided",), "forecast_share": 1e-9},
        )
    )
    assert told.sample_ids == untold.sample_ids
    assert not torch.equal(told.means["focal"], untold.means["focal"])
    assert torch.equal(never.means["focal"], untold.means["focal"])


def test_a_tracking_turn_can_take_longer_parts_of_fewer_clips_by_drawn_memories() -> None:
    stage = small_contact(5).model_copy(update={"turns": ("track", "refer"), "starts": (0, 0)})
    size = stage.loop.batch_size
    longer = stage.model_copy(update={"num_tracked_frames": 4, "tracked_clips_per_step": 1})
    learner = ContactLearner(small_network(), longer)
    assert [len(learner.losses(range(size * step, size * (step + 1))).sample_ids) for step in (0, 1)] == [1, size]
    recent, drawn = (
        ContactLearner(small_network(), longer.model_copy(update={"drawn_share": share})).losses(range(size))
        for share in (0.0, 1.0)
    )
    assert recent.sample_ids == drawn.sample_ids
    assert not torch.equal(recent.means["focal"], drawn.means["focal"])


def test_parts_longer_than_the_clips_are_refused() -> None:
    with pytest.raises(ValidationError, match="8 at most"):
        ContactStage.model_validate({"num_tracked_frames": 16})
    assert choosing().num_tracked_frames == 12


def test_a_part_begins_where_the_stage_says() -> None:
    stage = small_contact(4)
    learner = ContactLearner(small_network(), stage)
    part, _ = learner.part(stage.track_clips, range(2), starts=stage.starts)
    whole = learner.draw(stage.track_clips, range(2))
    assert torch.equal(part.objects_CTHW, whole.objects_CTHW[:, 1:4])
    size = stage.loop.batch_size
    for step in (1, 3):
        positions = range(size * step, size * (step + 1))
        for start in (0, 1):
            moved = ContactLearner(small_network(), stage.model_copy(update={"starts": (start, start)}))
            same = torch.equal(learner.losses(positions).means["focal"], moved.losses(positions).means["focal"])
            assert same == (start == 1)


def test_starts_beyond_the_clips_are_refused() -> None:
    with pytest.raises(ValidationError, match="16 at most"):
        ContactStage(starts=(3, 17))
    with pytest.raises(ValidationError, match="lowest and highest"):
        ContactStage(starts=(4, 3))
    assert touching().starts[1] <= 16


def test_regions_of_a_street_are_its_instances_and_else_its_classes() -> None:
    streets = [sample_street(SQUARE, 7, "train", index) for index in range(2)]
    batch = street_batch(streets, image_size=96, device=CPU)
    assert (batch.num_clips, batch.num_frames) == (2, 3)
    assert batch.sample_ids == tuple(street.video_id for street in streets)
    pixels = batch.images_F3HW[4].permute(1, 2, 0) * torch.tensor(STD) + torch.tensor(MEAN)
    np.testing.assert_allclose(pixels * 255, streets[1].rgb()[1], atol=1e-3)
    for street, regions_THW in zip(streets, batch.objects_CTHW.numpy(), strict=True):
        labels, instances = street.labels(), street.instances()
        for number in np.unique(regions_THW[regions_THW > 0]):
            region = regions_THW == number
            assert region[0].sum() >= MIN_REGION_PX
            assert len(np.unique(labels[region])) == 1
            (instance,) = np.unique(instances[region])
            same = instances == instance if instance else (labels == labels[region][0]) & (instances == 0)
            np.testing.assert_array_equal(region, same)
        dropped = regions_THW[0] == 0
        for instance in np.unique(instances[0][dropped]):
            assert instance == 0 or (instances[0] == instance).sum() < MIN_REGION_PX


def test_streets_that_are_wider_are_stretched_as_frames_are() -> None:
    street = sample_street(SQUARE.derive(width=192, name="wide_street"), 7, "train", 0)
    batch = street_batch([street], image_size=64, device=CPU)
    assert batch.objects_CTHW.shape == (1, 3, 64, 64)
    sky = street.labels()[0] == 0
    assert sky.any()
    assert (batch.objects_CTHW[0, 0] == 1).float().mean().item() == pytest.approx(sky.mean(), abs=0.03)
