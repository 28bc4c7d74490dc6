"""Classes of masklets: fusion over frames against sums written out, "mixed", absent frames, and filling of gaps."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.errors import WeightsError
from pipeline.models.masklet_classifier import MaskletClassifier, load_classifier, new_config, save_classifier
from pipeline.models.masklet_features import FeatureSchema
from pipeline.models.vss_classes import ClassifyRules, MaskletClasses, masklet_views
from pipeline.models.vss_frames import Poll
from pipeline.models.vss_painting import filled
from pipeline.models.vss_polls import masks_on_frame
from pipeline.models.vss_votes import NO_CLASS, VOID, PaintedFrame
from tests.models.texture_world import HEIGHT, TEXTURES, WIDTH, draw_patches, flight_of, texture_core

SCHEMA = FeatureSchema(embedding=32, pointer=32, image_size=128, sam2="any")


def random_classifier(*, seed: int = 0, gain: float = 6.0) -> MaskletClassifier:
    torch.manual_seed(seed)
    classifier = MaskletClassifier(new_config(TEXTURES, SCHEMA, width=16)).eval()
    with torch.no_grad():
        for parameter in classifier.layers[4].parameters():
            parameter.mul_(gain)
    return classifier


@pytest.mark.parametrize("fuse", ["mean_logit", "mean_feature", "last", "none"])
def test_frames_are_fused_as_the_formula_says_and_absent_ones_say_nothing(fuse: str) -> None:
    core, random, classifier = texture_core(), np.random.default_rng(1), random_classifier()
    classes = MaskletClasses(classifier=classifier, rules=ClassifyRules(fuse=fuse))  # type: ignore[arg-type]
    polls: dict[int, Poll] = {}
    seen, weights = [], []
    for position, score in enumerate((0.5, 2.0, -1.0)):
        flight = flight_of(core, draw_patches(random), position=position, object_score=score)
        masks = masks_on_frame(flight.masklets, (HEIGHT, WIDTH), torch.device("cpu"))
        with torch.inference_mode():
            polls = classes.polled(polls, masks, flight)
        seen.append(masklet_views(flight).features_OD)
        share = [(masklet.logits_hw > 0).float().mean().sqrt().item() for masklet in flight.masklets]
        weights.append([0.9 * part / (1 + np.exp(-score)) for part in share])
    before = {number: poll.votes_C for number, poll in polls.items()}
    gone = torch.full((32, 32), -9.0)
    unseen = flight_of(core, draw_patches(random), position=3)
    unseen = unseen.with_masklets({0: replace(unseen.masklets[0], logits_hw=gone)})
    with torch.inference_mode():
        polls = classes.polled(polls, masks_on_frame(unseen.masklets, (HEIGHT, WIDTH), torch.device("cpu")), unseen)
        verdicts, _ = classes.verdicts(polls, [1, 2])
        logs = [classifier.log_probabilities(features[:1])[0] for features in seen]
        weight = torch.tensor([row[0] for row in weights], dtype=torch.float64)
        if fuse == "mean_logit":
            expected = (torch.stack(logs) * weight[:, None]).sum(0) / weight.sum()
        elif fuse == "mean_feature":
            mean = (torch.stack([f[0].double() for f in seen]) * weight[:, None]).sum(0) / weight.sum()
            expected = classifier.log_probabilities(mean.float()[None])[0]
        else:
            expected = logs[-1]
    assert polls[1].votes_C.tolist() == before[1].tolist(), "a frame on which it cannot be seen"
    assert polls[2].votes_C.tolist() != before[2].tolist()
    assert verdicts.winner_O[0] == expected.argmax()
    assert verdicts.margin_O[0] == pytest.approx(float(expected.softmax(0).max()), abs=1e-6)


def test_mixed_masklets_and_unlikely_ones_paint_nothing() -> None:
    classes = MaskletClasses(classifier=random_classifier(), rules=ClassifyRules(min_probability=0.6))
    shares = {1: [0.7, 0.1, 0.1, 0.05, 0.05], 2: [0.1, 0.1, 0.1, 0.1, 0.6], 3: [0.1, 0.55, 0.25, 0.05, 0.05]}
    polls = {
        number: Poll(votes_C=torch.tensor(share).double().log() * 3, probability_C=torch.zeros(0), weight=3.0)
        for number, share in shares.items()
    }
    polls[4] = Poll(votes_C=torch.zeros(5).double(), probability_C=torch.zeros(0), weight=0.0)
    verdicts, _ = classes.verdicts(polls, [1, 2, 3, 4])
    assert verdicts.winner_O.tolist() == [0, 4, 1, NO_CLASS]
    assert verdicts.painted_O.tolist() == [0, NO_CLASS, NO_CLASS, NO_CLASS]
    assert verdicts.margin_O.tolist() == pytest.approx([0.7, 0.6, 0.55, 0.0])


def test_gaps_take_the_nearest_painted_pixel_within_reach() -> None:
    random = np.random.default_rng(5)
    painter = torch.from_numpy(np.where(random.random((23, 31)) < 0.01, random.integers(0, 3, (23, 31)), -1))
    labels = torch.where(painter >= 0, painter + 10, VOID)
    labels[4, 4] = 2  # a fallback network's label stays
    found = filled(PaintedFrame(labels_HW=labels, painter_HW=painter), 4)
    places = (painter >= 0).nonzero().numpy()
    for y in range(23):
        for x in range(31):
            distances = np.hypot(places[:, 0] - y, places[:, 1] - x)
            nearest = {int(labels[tuple(place)]) for place in places[distances == distances.min()]}
            if painter[y, x] < 0 and labels[y, x] == VOID and distances.min() <= 4:
                assert int(found.labels_HW[y, x]) in nearest
                assert int(found.painter_HW[y, x]) + 10 in nearest
            else:
                assert found.labels_HW[y, x] == labels[y, x]
    nothing = PaintedFrame(labels_HW=torch.full((3, 4), VOID), painter_HW=torch.full((3, 4), -1))
    assert filled(nothing, 8) is nothing


def test_a_checkpoint_comes_back_and_a_damaged_or_foreign_one_is_refused(tmp_path: Path) -> None:
    classifier = random_classifier()
    save_classifier(tmp_path, classifier.config, classifier.state_dict())
    again, vectors = load_classifier(tmp_path), torch.randn(3, SCHEMA.size)
    assert again.config == classifier.config
    assert torch.equal(again(vectors), classifier(vectors))
    file = tmp_path / "config.json"
    said = file.read_text()
    file.write_text(said.replace('"embedding": 32', '"embedding": 33').replace('"embedding":32', '"embedding":33'))
    with pytest.raises(WeightsError, match="feature schema"):
        load_classifier(tmp_path)
    file.write_text(said.replace("checks", 'checks","more'))
    with pytest.raises(WeightsError, match="size mismatch"):
        load_classifier(tmp_path)
    file.unlink()
    with pytest.raises(WeightsError, match=r"config\.json"):
        load_classifier(tmp_path)
    with torch.no_grad():
        classifier.layers[1].weight[0, 0] = torch.nan
    with pytest.raises(WeightsError, match="not finite"):
        classifier.log_probabilities(vectors)
