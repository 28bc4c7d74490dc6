"""The semantic training job: a cache, a classifier and a network, each in a form that the method takes."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from jobs.train_semantic import TrainSemantic, read_job
from pipeline.engine.load_model import load_model
from pipeline.errors import ConfigError, WeightsError
from pipeline.io.storage import open_store
from pipeline.io.weights import resolve_model
from pipeline.methods.sam2_vss import CLASSIFIER, NETWORK, Sam2VssConfig, Sam2VssSegmenter, build_segmenter
from pipeline.models.masklet_classifier import load_classifier
from pipeline.models.semantic_checkpoints import load_network
from pipeline.segmenter import ModelSpec, finish, step
from pipeline.synth.layouts_street import write_vspw
from pipeline.synth.street import iter_streets
from pipeline.synth.street_config import street_config
from pipeline.synth.street_world import STREET_CLASSES
from pipeline.ticks import RGB, Tick
from pipeline.training.masklet_cache import ensure_cache, read_cache
from pipeline.training.semantic_sources import open_source
from tests.models.random_sam2 import save_random_sam2

LOOSE = [
    *("--proposals.points-per-side", "3", "--proposals.max-masklets", "6"),
    *("--proposals.min-predicted-iou", "0", "--proposals.min-stability", "0"),
    *("--min-purity", "0"),
]
"""Random weights cut no thing out: few of their masks are of one class for the most part."""
FLAGS = ["--device", "cpu", "--num-threads", "0", "--torch-threads", "1"]


@pytest.fixture(scope="module")
def vspw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("vspw")
    config = street_config("street_train").derive(height=64, width=96, num_frames=2)
    write_vspw({"train": iter_streets(config, 0, "train", range(2))}, root)
    return root


@pytest.fixture(scope="module")
def sam2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_random_sam2(tmp_path_factory.mktemp("sam2"))


def job(output: Path, data: str, *flags: str) -> TrainSemantic:
    return read_job(["--output", str(output), "--data", data, *FLAGS, *flags])


def classifier_job(output: Path, vspw: Path, sam2: Path, *flags: str) -> TrainSemantic:
    steps = ("--classifier.epochs", "2", "--classifier.width", "16")
    return job(output, f"vspw:{vspw}", "--model", str(sam2), *LOOSE, *steps, *flags)


@pytest.fixture(scope="module")
def classifier(vspw: Path, sam2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("classifier")
    assert classifier_job(output, vspw, sam2).run() == 0
    return output


def spec_of(sam2: Path, folder: Path, role: str = CLASSIFIER) -> ModelSpec:
    return replace(load_model(resolve_model(str(sam2), offline=True)), folders={role: str(folder)})


def classify(sam2: Path, folder: Path, **changes: object) -> Sam2VssSegmenter:
    config = Sam2VssConfig.model_validate({"mode": "classify", "classifier": "own", **changes})
    return build_segmenter(config, spec_of(sam2, folder), "cpu")


def test_the_folders_of_vspw_give_back_what_was_drawn(vspw: Path) -> None:
    source = open_source(f"vspw:{vspw}", seed=0)
    assert source.class_names == STREET_CLASSES
    assert source.num_videos == 2
    config = street_config("street_train").derive(height=64, width=96, num_frames=2)
    for number, street in enumerate(iter_streets(config, 0, "train", range(2))):
        read = source.video(number)
        assert read.video_id == street.video_id
        np.testing.assert_array_equal([frame.labels for frame in read.frames], street.labels())
    with pytest.raises(ConfigError, match="expected streets"):
        open_source("davis:/d", seed=0)


def test_the_cache_is_parquet_that_says_what_it_holds_and_is_built_once(
    vspw: Path, sam2: Path, classifier: Path
) -> None:
    table = pq.read_table(classifier / "cache" / "part-0000000.parquet")
    found = read_cache(open_store(classifier))
    assert json.loads(table.schema.metadata[b"class_names"]) == list(STREET_CLASSES)
    assert found.features_ND.shape == (table.num_rows, found.schema.size)
    assert set(table["frame_index"].to_pylist()) == {0, 1}
    lengths = [np.linalg.norm(part, axis=1) for part in np.split(found.features_ND, [32, 64, 96, 128], axis=1)]
    np.testing.assert_allclose(np.stack(lengths)[:3], 1.0, atol=1e-5)
    settings = classifier_job(classifier, vspw, sam2).cache_settings()
    ensure_cache(settings, build=lambda *_: pytest.fail("it is there"))
    with pytest.raises(ConfigError, match="min_purity differ"):
        ensure_cache(settings.model_copy(update={"min_purity": 0.9}))


def test_the_classifier_paints_streets_and_survives_a_restart(sam2: Path, classifier: Path) -> None:
    loose = {"points_per_side": 3, "max_masklets": 6, "min_predicted_iou": 0.0, "min_stability": 0.0}
    segmenter = classify(sam2, classifier / "model", proposals=loose, window=3, emit="window", report="both")
    street = next(iter_streets(street_config("street_train"), 5, "heldout", range(1)))
    ticks = [Tick(frame_index=n, pts_us=n, images={RGB: frame.rgb}) for n, frame in enumerate(street.frames)]
    outputs = []
    for restart in (False, True):
        session, out = segmenter.open((), street.labels().shape[1:]), []
        for tick in ticks:
            if restart:
                session = segmenter.restore(session.state_dict())
            out += step(segmenter, [session], [tick])[0]
        outputs.append(out + finish(segmenter, session))
    assert [masks.frame_index for masks in outputs[0]] == list(range(len(ticks)))
    assert any(seen.object_id <= len(STREET_CLASSES) for masks in outputs[0] for seen in masks.objects)
    for ours, other in zip(*outputs, strict=True):
        assert [(o.object_id, o.class_id, o.confidence) for o in ours.objects] == [
            (o.object_id, o.class_id, o.confidence) for o in other.objects
        ]
        assert all(np.array_equal(a.mask, b.mask) for a, b in zip(ours.objects, other.objects, strict=True))


def test_another_class_list_or_another_sam2_is_refused(sam2: Path, classifier: Path, tmp_path: Path) -> None:
    model = classifier / "model"
    assert classify(sam2, model, class_names=STREET_CLASSES).class_names == dict(enumerate(STREET_CLASSES))
    swapped = (*STREET_CLASSES[:2], STREET_CLASSES[3], STREET_CLASSES[2], *STREET_CLASSES[4:])
    with pytest.raises(ConfigError, match="class 2 is 'road' there and 'vegetation' in the checkpoint"):
        classify(sam2, model, class_names=swapped)
    with pytest.raises(ConfigError, match="9 classes, the checkpoint has 10"):
        classify(sam2, model, class_names=STREET_CLASSES[:-1])
    with pytest.raises(WeightsError, match="another SAM2: sam2"):
        classify(save_random_sam2(tmp_path, seed=1), model)
    with pytest.raises(WeightsError, match="image_size 64 there, 128 here"):
        classify(sam2, model, image_size=128)
    with pytest.raises(ValueError, match="object pointers"):
        classify(sam2, model, propagator="iou")


def test_a_cut_training_resumes_to_the_same_classifier(
    vspw: Path, sam2: Path, classifier: Path, tmp_path: Path
) -> None:
    from pipeline.training.vss_classifier import train_classifier
    from pipeline.training.workers import Workers

    settings = classifier_job(tmp_path, vspw, sam2).settings()
    train_classifier(settings, Workers(), stop_after=1)  # type: ignore[arg-type]
    assert not (tmp_path / "model").exists()
    assert classifier_job(tmp_path, vspw, sam2, "--resume").run() == 0
    whole, cut = (load_classifier(path / "model").state_dict() for path in (classifier, tmp_path))
    assert all(torch.equal(whole[name], cut[name]) for name in whole)


def test_the_network_learns_and_is_a_folder_that_the_method_takes(sam2: Path, tmp_path: Path) -> None:
    loop = ("--network.loop.num-steps", "30", "--network.loop.batch-size", "4", "--network.loop.log-every", "1")
    size = ("--network.height", "32", "--network.width", "64", "--network.hidden-sizes", "8", "16", "16", "16")
    small = ("--network.num-heads", "1", "1", "1", "1", "--network.decoder-size", "16")
    assert job(tmp_path, "streets", "--what", "network", *loop, *size, *small).run() == 0
    network = load_network(tmp_path / "model", torch.device("cpu"))
    assert network.class_names == STREET_CLASSES
    street = next(iter_streets(street_config("street_train"), 7, "heldout", range(1)))
    with torch.inference_mode():
        found = network.predict([{RGB: frame.rgb} for frame in street.frames])
    right = np.mean([one.labels_HW.numpy() == frame.labels for one, frame in zip(found, street.frames, strict=True)])
    counts = np.bincount(street.labels().ravel(), minlength=10) / street.labels().size
    assert right > counts.max() + 0.02, "one class everywhere would be right as often as it is there"
    config = Sam2VssConfig(network="own")
    built = build_segmenter(config, spec_of(sam2, tmp_path / "model", NETWORK), "cpu")
    assert built.class_names == dict(enumerate(STREET_CLASSES))
    wrong = config.model_copy(update={"class_names": ("a", *STREET_CLASSES[1:])})
    with pytest.raises(ConfigError, match="class 0 is 'a' there"):
        build_segmenter(wrong, spec_of(sam2, tmp_path / "model", NETWORK), "cpu")
