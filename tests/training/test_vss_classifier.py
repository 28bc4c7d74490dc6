"""The masklet classifier learns textures, and nothing from shuffled labels; more frames make it surer."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from pipeline.models.masklet_classifier import MaskletClassifier
from pipeline.models.masklet_features import FeatureSchema
from pipeline.models.sam2_core import Sam2Core
from pipeline.models.vss_classes import ClassifyRules, MaskletClasses
from pipeline.models.vss_frames import Poll
from pipeline.models.vss_polls import masks_on_frame
from pipeline.training.loop import train
from pipeline.training.masklet_cache import MaskletVectors, true_classes
from pipeline.training.vss_classifier import ClassifierLearner, ClassifierTraining, sample_weights
from tests.models.texture_world import (
    HEIGHT,
    TEXTURES,
    WIDTH,
    draw_patches,
    flight_of,
    texture_core,
    vectors_of,
)

CPU = torch.device("cpu")
NOISE = 12.0
"""Of pixels, in 255ths."""

EMBEDDING_NOISE = 1.8
"""Standard deviation, three times that of the embedding itself."""


@pytest.fixture(scope="module")
def core() -> Sam2Core:
    return texture_core()


@pytest.fixture(scope="module")
def textures(core: Sam2Core) -> tuple[MaskletVectors, MaskletVectors]:
    return vectors(core, seed=0, pictures=60), vectors(core, seed=1, pictures=25)


def vectors(core: Sam2Core, *, seed: int, pictures: int) -> MaskletVectors:
    random = np.random.default_rng(seed)
    drawn = [draw_patches(random, noise=NOISE) for _ in range(pictures)]
    classes = np.array([class_id for patches in drawn for class_id in patches.classes])
    return MaskletVectors(
        class_names=TEXTURES,
        schema=FeatureSchema.of(core),
        features_ND=np.concatenate([vectors_of(core, patches) for patches in drawn]),
        classes_N=classes,
        areas_N=np.full(len(classes), 1 / 6, np.float32),
    )


def trained(found: MaskletVectors, *, epochs: int = 25) -> MaskletClassifier:
    recipe = ClassifierTraining(epochs=epochs, width=64)
    recipe = recipe.model_copy(update={"loop": recipe.loop.model_copy(update={"batch_size": 60})})
    training = recipe.for_vectors(len(found.classes_N))
    learner = ClassifierLearner(found, training, device=CPU)
    train(learner, training.loop)
    return learner.module.eval()


@pytest.fixture(scope="module")
def classifier(textures: tuple[MaskletVectors, MaskletVectors]) -> MaskletClassifier:
    return trained(textures[0])


def accuracy(classifier: MaskletClassifier, held_out: MaskletVectors) -> float:
    with torch.inference_mode():
        scores = classifier(torch.from_numpy(held_out.features_ND))
    return float((scores.argmax(dim=1).numpy() == held_out.classes_N).mean())


def test_separable_textures_are_told_apart_on_pictures_never_seen(
    textures: tuple[MaskletVectors, MaskletVectors], classifier: MaskletClassifier
) -> None:
    assert accuracy(classifier, textures[1]) >= 0.95


def test_shuffled_labels_leave_chance(textures: tuple[MaskletVectors, MaskletVectors]) -> None:
    learned, held_out = textures
    shuffled = replace(learned, classes_N=np.random.default_rng(9).permutation(learned.classes_N))
    assert accuracy(trained(shuffled), held_out) < 0.45, "a quarter is chance; with 150 vectors 0.45 is 5 sigma away"


def fused(core: Sam2Core, classifier: MaskletClassifier, fuse: str) -> float:
    """Share of patches whose class is right after 8 frames, each with noise of its own in SAM2's embedding."""
    classes = MaskletClasses(classifier=classifier, rules=ClassifyRules(fuse=fuse))  # type: ignore[arg-type]
    random, right = np.random.default_rng(4), []
    for _ in range(10):
        patches, polls = draw_patches(random), dict[int, Poll]()
        clean = flight_of(core, patches)
        assert clean.features is not None
        for _ in range(8):
            noise = torch.from_numpy(random.normal(0, EMBEDDING_NOISE, clean.features.map_BDhw.shape)).float()
            features = replace(clean.features, map_BDhw=clean.features.map_BDhw + noise)
            masks = masks_on_frame(clean.masklets, (HEIGHT, WIDTH), CPU)
            with torch.inference_mode():
                polls = classes.polled(polls, masks, replace(clean, features=features))
        verdicts, _ = classes.verdicts(polls, sorted(polls))
        right += (verdicts.winner_O.numpy() == np.array(patches.classes)).tolist()
    return float(np.mean(right))


def test_classes_fused_over_frames_beat_the_last_frames_under_noise_of_each_frame(
    core: Sam2Core, classifier: MaskletClassifier
) -> None:
    last = fused(core, classifier, "last")
    assert 0.3 < last < 0.95, "noise hurts, but leaves something to fuse"
    assert fused(core, classifier, "mean_logit") > last + 0.05


def test_rare_and_large_masklets_count_more() -> None:
    classes: NDArray[np.int64] = np.array([0, 0, 0, 0, 1])
    areas = np.array([0.01, 0.04, 0.04, 0.5, 0.04], np.float32)
    found = sample_weights(classes, areas, max_area_weight=0.3)
    assert found.mean() == pytest.approx(1.0, abs=1e-6)
    relative = found / found[1]
    np.testing.assert_allclose(relative, [0.5, 1.0, 1.0, 1.5, 2.0], rtol=1e-5)


def test_the_true_class_of_a_masklet_needs_most_of_its_known_pixels() -> None:
    labels = np.full((4, 10), 255, np.uint8)
    labels[0], labels[1, :5], labels[1, 5:] = 2, 1, 0
    masks = torch.zeros(4, 4, 10, dtype=torch.bool)
    masks[0, 0], masks[1, 1], masks[2, :2, 5:], masks[3, 3] = True, True, True, True
    masks[0, 3] = True  # void pixels do not count
    found = true_classes(masks, labels, num_classes=3, min_purity=0.7)
    assert found == [(2, 1.0, 0.5), (3, 0.5, 0.25), (3, 0.5, 0.25), (None, 0.0, 0.25)]
    assert true_classes(masks[2:3], labels, num_classes=3, min_purity=0.5) == [(0, 0.5, 0.25)]
