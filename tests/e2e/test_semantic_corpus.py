"""semantic_corpus end to end in this process: class regions by name, a network that changed, NaN, and refusals."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from jobs.semantic_corpus import SemanticCorpus
from pipeline.cluster.job import EXIT_NO_WEIGHTS, EXIT_OK, EXIT_TOO_MANY_FAILURES, EXIT_USAGE, main
from pipeline.engine.load_model import load_model
from pipeline.io.weights import resolve_model
from pipeline.masks import rle
from pipeline.models.masklet_classifier import MaskletClassifier, new_config, save_classifier
from pipeline.models.masklet_features import FeatureSchema
from pipeline.models.mosam_model import load_tracking_core
from pipeline.query import open_run
from tests.drawn_video import write_video
from tests.models.random_sam2 import save_random_sam2
from tests.models.small_networks import LABELS, save_network


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_network("segformer", tmp_path_factory.mktemp("network"))


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    write_video(folder / "one.mp4", num_frames=4, height=64, width=96)
    file = folder / "manifest.jsonl"
    file.write_text(json.dumps({"video_uri": str(folder / "one.mp4"), "video_id": "one"}) + "\n")
    return file


@pytest.fixture(scope="module")
def sam2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_random_sam2(tmp_path_factory.mktemp("sam2"))


@pytest.fixture
def run(manifest: Path, sam2: Path) -> Callable[..., int]:
    """Run the job over the manifest into a lake, with more flags, and return its exit code."""
    return partial(run_job, manifest, sam2)


def run_job(manifest: Path, sam2: Path, lake: Path, *more: str) -> int:
    fixed = ["--runner", "local", "--quiet", "--sam2-vss.proposals.points-per-side", "2", "--sam2-vss.report", "both"]
    loose = ["--sam2-vss.proposals.min-predicted-iou", "0", "--sam2-vss.proposals.min-stability", "0"]
    arguments = ["--manifest", str(manifest), "--model", str(sam2), "--output", str(lake), *fixed, *loose, *more]
    return main(SemanticCorpus, arguments, prog="semantic_corpus")


def test_class_regions_come_out_by_name_and_cover_every_frame(
    run: Callable[..., int], network: Path, tmp_path: Path
) -> None:
    assert run(tmp_path / "lake", "--mode", "refine", "--network", str(network)) == EXIT_OK
    with open_run(str(tmp_path / "lake")) as opened:
        question = (
            "SELECT frame_index, sum(area) FROM masks WHERE object_id <= 3 GROUP BY frame_index ORDER BY frame_index"
        )
        assert opened.sql(question).fetchall() == [(frame, 64 * 96) for frame in range(4)]
        labels = {label for (label,) in opened.sql("SELECT DISTINCT label FROM masks WHERE object_id <= 3").fetchall()}
        masklets = opened.sql("SELECT count(DISTINCT object_id) FROM masks WHERE object_id > 3").fetchall()
    assert labels <= set(LABELS.values())
    assert labels
    assert masklets[0][0] > 0


def test_another_network_in_the_same_folder_is_another_run(
    run: Callable[..., int], network: Path, tmp_path: Path
) -> None:
    copy, lake = tmp_path / "network", tmp_path / "lake"
    copy.mkdir()
    for file in network.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    assert run(lake, "--network", str(copy)) == EXIT_OK
    tensors = load_file(copy / "model.safetensors")
    tensors["decode_head.classifier.bias"] = tensors["decode_head.classifier.bias"] + 1
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    assert run(lake, "--network", str(copy)) == EXIT_USAGE


def save_one_sided_classifier(folder: Path, sam2: Path, *, names: tuple[str, ...], always: int) -> Path:
    """A classifier that calls everything the same: its last layer is nothing but a bias."""
    core = load_tracking_core(load_model(resolve_model(str(sam2), offline=True)))
    config = new_config(names, FeatureSchema.of(core), width=8)
    tensors = MaskletClassifier(config).state_dict()
    weight, bias = list(tensors)[-2:]
    tensors[weight], tensors[bias] = torch.zeros_like(tensors[weight]), torch.zeros_like(tensors[bias])
    tensors[bias][always] = 9.0
    save_classifier(folder, config, tensors)
    return folder


def test_what_the_classifier_calls_a_car_is_a_car_in_the_tables(
    run: Callable[..., int], sam2: Path, tmp_path: Path
) -> None:
    folder = save_one_sided_classifier(tmp_path / "classifier", sam2, names=("road", "car"), always=1)
    flags = ["--mode", "classify", "--classifier", str(folder), "--sam2-vss.classes.fill-px", "0"]
    assert run(tmp_path / "lake", *flags) == EXIT_OK
    with open_run(str(tmp_path / "lake")) as opened:
        rows = opened.sql(
            "SELECT frame_index, object_id, class_id, label, confidence, rle FROM masks WHERE present"
        ).fetchall()
    assert {row[0] for row in rows} == set(range(4))
    assert {row[2:4] for row in rows} == {(1, "car")}
    assert all(row[4] == pytest.approx(1.0, abs=1e-3) for row in rows)
    for frame in range(4):
        mine = {row[1]: rle.decode(row[5], 64, 96) for row in rows if row[0] == frame}
        masklets = [mask for object_id, mask in mine.items() if object_id > 2]
        assert set(mine) >= {2}
        assert masklets
        np.testing.assert_array_equal(mine[2], np.any(masklets, axis=0))


def test_a_classifier_that_calls_all_mixed_paints_nothing(run: Callable[..., int], sam2: Path, tmp_path: Path) -> None:
    folder = save_one_sided_classifier(tmp_path / "classifier", sam2, names=("road", "car"), always=2)
    assert run(tmp_path / "lake", "--mode", "classify", "--classifier", str(folder)) == EXIT_OK
    with open_run(str(tmp_path / "lake")) as opened:
        rows = opened.sql("SELECT DISTINCT object_id > 2, class_id FROM masks WHERE present").fetchall()
    assert rows == [(True, None)]


def test_a_classifier_of_other_classes_than_the_network_is_refused(
    run: Callable[..., int], sam2: Path, network: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = save_one_sided_classifier(tmp_path / "classifier", sam2, names=("road", "car"), always=1)
    flags = ["--mode", "classify", "--network", str(network), "--classifier"]
    assert run(tmp_path / "other", *flags, str(folder)) == EXIT_USAGE
    assert "3 classes, the checkpoint has 2" in capfd.readouterr().err
    assert run(tmp_path / "other", *flags, str(network)) == EXIT_NO_WEIGHTS
    assert "masklet_classifier" in capfd.readouterr().err


def test_a_network_that_gives_nan_fails_the_video_with_a_message(
    run: Callable[..., int], network: Path, tmp_path: Path
) -> None:
    broken, lake = tmp_path / "network", tmp_path / "lake"
    broken.mkdir()
    for file in network.iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    tensors = load_file(broken / "model.safetensors")
    tensors["decode_head.classifier.bias"] = torch.full_like(tensors["decode_head.classifier.bias"], torch.nan)
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    assert run(lake, "--network", str(broken)) == EXIT_TOO_MANY_FAILURES
    with open_run(str(lake)) as opened:
        ((stage, kind, message),) = opened.sql("SELECT stage, class, message FROM errors").fetchall()
    assert (stage, kind) == ("segment", "WeightsError")
    assert "not finite" in message


def test_a_checkpoint_that_was_cut_off_is_told(
    run: Callable[..., int], network: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    cut = tmp_path / "network"
    cut.mkdir()
    for file in network.iterdir():
        (cut / file.name).write_bytes(file.read_bytes())
    (cut / "model.safetensors").write_bytes((network / "model.safetensors").read_bytes()[:2000])
    assert run(tmp_path / "lake", "--network", str(cut)) == EXIT_NO_WEIGHTS
    assert "cannot be loaded" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("flags", "code", "told"),
    [
        (["--mode", "classify"], EXIT_USAGE, "classifier checkpoint"),
        (["--mode", "classify", "--classifier", "no/such/folder"], EXIT_NO_WEIGHTS, "no such folder"),
        (["--mode", "classify", "--sam2-vss.propagator", "iou"], EXIT_USAGE, "object pointers"),
        ([], EXIT_USAGE, "no semantic network"),
        (["--network", "no/such/folder"], EXIT_NO_WEIGHTS, "no such folder"),
        (["--network", "s3://bucket/network", "--offline"], EXIT_NO_WEIGHTS, "offline"),
        (["--network", "math:no_such"], EXIT_USAGE, "no_such"),
        (["--network", "labels"], EXIT_USAGE, "class_names"),
    ],
)
def test_bad_networks_end_in_a_message_and_leave_no_run(
    flags: list[str], code: int, told: str, run: Callable[..., int], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path / "lake", *flags) == code
    assert told in capfd.readouterr().err
    assert not list((tmp_path / "lake").rglob("*.json"))
