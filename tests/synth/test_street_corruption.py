"""The stand-in network makes the faults it was asked for, where it was asked for them, and no others."""

import numpy as np
import pytest

from pipeline.synth.street_corruption import (
    NETWORK_FAULTS,
    Corruption,
    corrupt_labels,
    corrupt_probabilities,
)

T, H, W = 12, 40, 64


def planted() -> tuple[np.ndarray, np.ndarray]:
    """Six boxes of class 3 .. 8 on a floor of class 1 under a sky of class 0; box k has instance id k + 1."""
    labels = np.zeros((T, H, W), dtype=np.uint8)
    labels[:, 20:] = 1
    instances = np.zeros((T, H, W), dtype=np.uint16)
    for box in range(6):
        place = np.s_[:, 12:28, 4 + 10 * box : 11 + 10 * box]
        labels[place], instances[place] = 3 + box, box + 1
    return labels, instances


def test_without_faults_labels_stay() -> None:
    labels, instances = planted()
    faulty = corrupt_labels(labels, instances, Corruption(), 1)
    assert np.array_equal(faulty, labels)
    assert faulty is not labels


def test_salt_hits_its_share_with_wrong_labels_of_every_class() -> None:
    labels, instances = planted()
    faulty = corrupt_labels(labels, instances, Corruption(salt=0.1), 1)
    wrong = faulty != labels
    assert wrong.mean() == pytest.approx(0.1, abs=0.006)
    assert wrong.any(axis=0).mean() > 0.6, "anew in each frame"
    said = np.bincount(faulty[wrong], minlength=10)
    assert said.min() > 0.05 * said.sum()
    assert faulty.max() < 10


@pytest.mark.parametrize("rim_px", [1, 3])
def test_rim_noise_stays_within_its_distance_of_borders(rim_px: int) -> None:
    labels, instances = planted()
    faulty = corrupt_labels(labels, instances, Corruption(rim_px=rim_px), 1)
    padded = np.pad(labels, ((0, 0), (rim_px, rim_px), (rim_px, rim_px)), mode="edge")
    around = np.lib.stride_tricks.sliding_window_view(padded, (2 * rim_px + 1, 2 * rim_px + 1), (1, 2))
    rim = around.max(axis=(3, 4)) != around.min(axis=(3, 4))
    wrong = faulty != labels
    assert not (wrong & ~rim).any()
    assert 0.2 < wrong[rim].mean() < 0.6
    nearby = around[wrong].reshape(wrong.sum(), -1)
    assert (faulty[wrong][:, None] == nearby).any(axis=1).all(), "a label from nearby"


def test_flicker_takes_whole_objects_in_every_third_frame() -> None:
    labels, instances = planted()
    faulty = corrupt_labels(labels, instances, Corruption(flicker_objects=1.0, flicker_every=3), 1)
    for box in range(6):
        mask = instances == box + 1
        said = [np.unique(faulty[frame][mask[frame]]).tolist() for frame in range(T)]
        wrong = said[2][0]
        assert wrong != 3 + box
        assert said == [[wrong] if frame % 3 == 2 else [3 + box] for frame in range(T)]
    assert np.array_equal(faulty[instances == 0], labels[instances == 0])
    some = corrupt_labels(labels, instances, Corruption(flicker_objects=0.5), 3)
    hit = {box for box in range(6) if (some != labels)[instances == box + 1].any()}
    assert 0 < len(hit) < 6


def test_a_swap_lasts_and_hits_its_share_of_the_object() -> None:
    labels, instances = planted()
    whole = corrupt_labels(labels, instances, Corruption(swap_objects=1.0), 1)
    most = corrupt_labels(labels, instances, Corruption(swap_objects=1.0, swap_pixels=0.8), 1)
    for box in range(6):
        mask = instances == box + 1
        (wrong,) = np.unique(whole[mask])
        assert wrong != 3 + box
        assert set(np.unique(most[mask])) == {wrong, 3 + box}
        assert (most[mask] == wrong).mean() == pytest.approx(0.8, abs=0.04)


def test_probabilities_say_what_the_labels_say() -> None:
    labels, instances = planted()
    labels[:, :2] = 255
    faults = NETWORK_FAULTS.model_copy(update={"rim_px": 0})
    faulty = corrupt_labels(labels, instances, faults, 4)
    assert (faulty[:, :2] == 255).all()
    assert (faulty[:, 2:] < 10).all()
    probabilities = corrupt_probabilities(labels, instances, faults, 4)
    assert probabilities.shape == (T, 10, H, W)
    assert probabilities.dtype == np.float32
    assert np.allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    assert np.array_equal(probabilities.argmax(axis=1)[:, 2:], faulty[:, 2:])
    assert np.allclose(probabilities.max(axis=1)[:, 2:], 0.8)
    assert np.allclose(probabilities[:, :, :2], 0.1)


def test_a_seed_names_the_faults_and_a_frame_does_not_depend_on_later_ones() -> None:
    labels, instances = planted()
    one, again, other = (corrupt_labels(labels, instances, NETWORK_FAULTS, seed) for seed in (1, 1, 2))
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)
    assert np.array_equal(one[:5], corrupt_labels(labels[:5], instances[:5], NETWORK_FAULTS, 1))


def test_what_cannot_be_corrupted_says_so() -> None:
    labels, instances = planted()
    with pytest.raises(ValueError, match=r"\(12, 40, 64\) and instances \(40, 64\)"):
        corrupt_labels(labels, instances[0], Corruption(), 1)
    with pytest.raises(ValueError, match=r"more than 0\.100"):
        Corruption(confidence=0.1)
