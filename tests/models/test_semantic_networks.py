"""Semantic networks: every family against the library's own post-processing, callables, labels of ticks, refusals."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers
from numpy.typing import NDArray

from pipeline.errors import ConfigError, SessionError, WeightsError
from pipeline.models.semantic_checkpoints import families, load_network
from pipeline.models.semantic_networks import (
    LABELS,
    LabelsOfTheTick,
    TransformersNetwork,
    combine_queries,
    import_callable,
    resized,
)
from tests.models import small_networks

HEIGHT, WIDTH = 40, 72
CPU = torch.device("cpu")
CLASSES = ("sky", "road", "car")


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def pictures(count: int = 1) -> list[NDArray[np.uint8]]:
    chance = np.random.default_rng(4)
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    found = []
    for place in range(count):
        image = chance.integers(0, 60, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        image[(y - 20) ** 2 + (x - 20 - 9 * place) ** 2 < 150] = [240, 30, 60]
        image[28:, 40:] = [20, 200, 250]
        found.append(image)
    return found


def raw(network: TransformersNetwork, image: NDArray[np.uint8]) -> Any:
    """What the network itself gives for a picture."""
    inputs = network._processor(images=[image], return_tensors="pt")
    outputs = network._model(pixel_values=inputs["pixel_values"])
    outputs.patch_offsets = inputs.get("patch_offsets")
    return outputs


def official(network: TransformersNetwork, outputs: Any) -> torch.Tensor:
    """Labels by the processor's own post-processing."""
    (labels,) = network._processor.post_process_semantic_segmentation(outputs, target_sizes=[(HEIGHT, WIDTH)])
    return torch.as_tensor(labels)


@torch.inference_mode()
@pytest.mark.parametrize("model_type", sorted(small_networks.PIXELS))
def test_networks_of_pixels_label_as_their_own_processors_do(model_type: str, tmp_path: Path) -> None:
    network = load_network(small_networks.save_network(model_type, tmp_path), CPU)
    (image,) = pictures()
    (found,) = network.predict([{"rgb": image}])
    assert network.class_names == CLASSES
    assert found.probabilities_CHW is not None
    assert found.probabilities_CHW.shape == (3, HEIGHT, WIDTH)
    torch.testing.assert_close(found.probabilities_CHW.sum(0), torch.ones(HEIGHT, WIDTH))
    assert torch.equal(found.labels_HW, official(network, raw(network, image)))
    assert len(found.labels_HW.unique()) > 1, "a map of one class would show nothing"


@torch.inference_mode()
@pytest.mark.parametrize("model_type", sorted(small_networks.QUERIES))
def test_networks_of_queries_are_combined_at_their_own_resolution(model_type: str, tmp_path: Path) -> None:
    network = load_network(small_networks.save_network(model_type, tmp_path), CPU)
    (image,) = pictures()
    (found,) = network.predict([{"rgb": image}])
    assert network.class_names == CLASSES
    assert found.probabilities_CHW is not None
    assert found.probabilities_CHW.shape == (3, HEIGHT, WIDTH)
    torch.testing.assert_close(found.probabilities_CHW.sum(0), torch.ones(HEIGHT, WIDTH))
    assert len(found.labels_HW.unique()) > 1, "a map of one class would show nothing"
    if model_type == "oneformer":
        return
    # The library resizes masks before it combines them, to these sizes; with the same step before, the labels agree.
    outputs = raw(network, image)
    size = {"mask2former": (384, 384), "eomt": (64, 64), "maskformer": outputs.masks_queries_logits.shape[-2:]}
    enlarged = resized(outputs.masks_queries_logits, size[model_type])
    combined = combine_queries(outputs.class_queries_logits, enlarged)
    if model_type == "eomt":
        where = [tuple(offset.tolist()) for offset in outputs.patch_offsets]
        combined = network._joined_patches(combined, (64, 64), where, (HEIGHT, WIDTH), 1)
    labels = resized(combined, (HEIGHT, WIDTH))[0].argmax(dim=0)
    assert (labels == official(network, outputs)).float().mean() > 0.999
    if model_type == "maskformer":
        # But for pixels that no query claims, where rounding decides.
        assert (labels == found.labels_HW).float().mean() > 0.99


def test_a_query_counts_for_its_class_where_its_mask_is() -> None:
    certain = torch.tensor([[[9.0, -9.0, -9.0], [-9.0, 9.0, -9.0], [-9.0, -9.0, 9.0]]])
    masks = torch.full((1, 3, 2, 4), -9.0)
    masks[0, 0, :, :2] = 9.0
    masks[0, 1, :, 1:3] = 9.0
    masks[0, 2] = 9.0
    scores = combine_queries(certain, masks)[0]
    # The third query is of no class; in the second column both others are.
    torch.testing.assert_close(scores[:, 0], torch.tensor([[1.0, 1, 0, 0], [0, 1, 1, 0]]), atol=1e-3, rtol=0)


def test_all_documented_families_are_known_and_video_networks_are_not() -> None:
    known = families()
    assert set(small_networks.PIXELS) <= {name for name, family in known.items() if family == "pixels"}
    assert set(small_networks.QUERIES) <= {name for name, family in known.items() if family == "queries"}
    assert "videomt" not in known


@torch.inference_mode()
def test_a_frame_is_labelled_alike_at_every_place_of_a_full_batch(tmp_path: Path) -> None:
    network = load_network(small_networks.save_network("segformer", tmp_path), CPU)
    one, two = ({"rgb": image} for image in pictures(2))
    maps = [network.predict(batch)[place] for batch, place in (([one, two], 0), ([two, one], 1), ([one, one], 1))]
    for other in maps[1:]:
        assert torch.equal(maps[0].probabilities_CHW, other.probabilities_CHW)


def test_a_type_that_gives_no_semantic_labels_is_refused_with_those_that_do(tmp_path: Path) -> None:
    transformers.BertConfig().save_pretrained(tmp_path)
    with pytest.raises(WeightsError, match=r"'bert'.*Supported: beit, .*segformer"):
        load_network(tmp_path, CPU, name="words")


def test_missing_tensors_are_refused_instead_of_made_up(tmp_path: Path) -> None:
    small_networks.save_network("segformer", tmp_path)
    file = tmp_path / "model.safetensors"
    from safetensors.torch import load_file, save_file

    tensors = {key: value for key, value in load_file(file).items() if "classifier" not in key}
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(WeightsError, match=r"2 tensors are missing \(decode_head.classifier"):
        load_network(tmp_path, CPU)


def test_a_folder_without_a_network_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"no config\.json"):
        load_network(tmp_path, CPU)
    small_networks.save_network("segformer", tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"not tensors")
    with pytest.raises(WeightsError, match="cannot be loaded"):
        load_network(tmp_path, CPU)


@torch.inference_mode()
def test_a_network_that_gives_nan_is_told(tmp_path: Path) -> None:
    network = load_network(small_networks.save_network("segformer", tmp_path), CPU, name="broken")
    next(network._model.decode_head.classifier.parameters()).fill_(torch.nan)
    with pytest.raises(WeightsError, match=r"'broken': \d+ of \d+ output values are not finite"):
        network.predict([{"rgb": pictures()[0]}])


def thirds(images: Sequence[NDArray[np.uint8]]) -> list[NDArray[np.float32]]:
    """Probabilities that are the shares of red, green and blue."""
    return [(image.transpose(2, 0, 1) + 1.0).astype(np.float32) / (image.sum(-1) + 3) for image in images]


def brightest(images: Sequence[NDArray[np.uint8]]) -> list[Any]:
    return [image.argmax(axis=2) for image in images]


def spoilt(images: Sequence[NDArray[np.uint8]]) -> list[Any]:
    maps = thirds(images)
    maps[0][0, 0, 0] = np.nan
    return maps


def outside(images: Sequence[NDArray[np.uint8]]) -> list[Any]:
    return [np.full(image.shape[:2], 7) for image in images]


def turned(images: Sequence[NDArray[np.uint8]]) -> list[Any]:
    return [image.argmax(axis=2).T for image in images]


brightest.class_names = CLASSES  # type: ignore[attr-defined]


def test_a_callable_gives_probabilities_or_labels() -> None:
    (image,) = pictures()
    soft = import_callable(f"{__name__}:thirds", CLASSES, CPU).predict([{"rgb": image}])[0]
    hard = import_callable(f"{__name__}:brightest", None, CPU).predict([{"rgb": image}])[0]
    assert soft.probabilities_CHW is not None
    torch.testing.assert_close(soft.probabilities_CHW.sum(0), torch.ones(HEIGHT, WIDTH))
    assert torch.equal(soft.labels_HW, hard.labels_HW)
    assert torch.equal(hard.labels_HW, torch.from_numpy(image.argmax(axis=2)))
    assert torch.equal(hard.confidence_HW, torch.ones(HEIGHT, WIDTH))
    torch.testing.assert_close(soft.confidence_HW, F.normalize(soft.probabilities_CHW, p=1, dim=0).amax(0))


@pytest.mark.parametrize(
    ("function", "error", "told"),
    [
        ("spoilt", WeightsError, "1 of 8640 output values are not finite"),
        ("outside", SessionError, "label 7, expected 0 to 2"),
        ("turned", SessionError, r"\(72, 40\); expected integer labels \(40, 72\)"),
    ],
)
def test_what_a_callable_gives_is_checked(function: str, error: type[Exception], told: str) -> None:
    network = import_callable(f"{__name__}:{function}", CLASSES, CPU)
    with pytest.raises(error, match=told):
        network.predict([{"rgb": pictures()[0]}])


@pytest.mark.parametrize("name", ["no.such:function", f"{__name__}:no_such", f"{__name__}:HEIGHT"])
def test_a_callable_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="network"):
        import_callable(name, CLASSES, CPU)
    with pytest.raises(ConfigError, match="class_names"):
        import_callable(f"{__name__}:thirds", None, CPU)


def test_labels_of_the_tick_are_taken_as_they_are_and_checked() -> None:
    network = LabelsOfTheTick(class_names=CLASSES, device=CPU)
    labels = np.random.default_rng(1).choice(np.array([0, 1, 2, 255], np.uint8), (HEIGHT, WIDTH))
    (found,) = network.predict([{LABELS: labels}])
    assert found.labels_HW.tolist() == labels.tolist()
    labels[3, 4] = 9
    with pytest.raises(SessionError, match="label 9"):
        network.predict([{LABELS: labels}])
