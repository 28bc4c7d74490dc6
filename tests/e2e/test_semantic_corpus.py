"""semantic_corpus end to end in this process: class regions by name, a network that changed, NaN, and refusals."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from jobs.semantic_corpus import SemanticCorpus
from pipeline.cluster.job import EXIT_NO_WEIGHTS, EXIT_OK, EXIT_TOO_MANY_FAILURES, EXIT_USAGE, main
from pipeline.query import open_run
from tests.drawn_video import write_video
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


def run(manifest: Path, lake: Path, *more: str) -> int:
    fixed = ["--runner", "local", "--quiet", "--sam2-vss.proposals.points-per-side", "2", "--sam2-vss.report", "both"]
    loose = ["--sam2-vss.proposals.min-predicted-iou", "0", "--sam2-vss.proposals.min-stability", "0"]
    arguments = ["--manifest", str(manifest), "--output", str(lake), *fixed, *loose, *more]
    return main(SemanticCorpus, arguments, prog="semantic_corpus")


def test_class_regions_come_out_by_name_and_cover_every_frame(manifest: Path, network: Path, tmp_path: Path) -> None:
    assert run(manifest, tmp_path / "lake", "--mode", "refine", "--network", str(network)) == EXIT_OK
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


def test_another_network_in_the_same_folder_is_another_run(manifest: Path, network: Path, tmp_path: Path) -> None:
    copy, lake = tmp_path / "network", tmp_path / "lake"
    copy.mkdir()
    for file in network.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    assert run(manifest, lake, "--network", str(copy)) == EXIT_OK
    tensors = load_file(copy / "model.safetensors")
    tensors["decode_head.classifier.bias"] = tensors["decode_head.classifier.bias"] + 1
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    assert run(manifest, lake, "--network", str(copy)) == EXIT_USAGE


def test_a_network_that_gives_nan_fails_the_video_with_a_message(manifest: Path, network: Path, tmp_path: Path) -> None:
    broken, lake = tmp_path / "network", tmp_path / "lake"
    broken.mkdir()
    for file in network.iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    tensors = load_file(broken / "model.safetensors")
    tensors["decode_head.classifier.bias"] = torch.full_like(tensors["decode_head.classifier.bias"], torch.nan)
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    assert run(manifest, lake, "--network", str(broken)) == EXIT_TOO_MANY_FAILURES
    with open_run(str(lake)) as opened:
        ((stage, kind, message),) = opened.sql("SELECT stage, class, message FROM errors").fetchall()
    assert (stage, kind) == ("segment", "WeightsError")
    assert "not finite" in message


@pytest.mark.parametrize(
    ("flags", "code", "told"),
    [
        (["--mode", "classify"], EXIT_USAGE, "classifier checkpoint"),
        ([], EXIT_USAGE, "no semantic network"),
        (["--network", "no/such/folder"], EXIT_NO_WEIGHTS, "no such folder"),
        (["--network", "s3://bucket/network", "--offline"], EXIT_NO_WEIGHTS, "offline"),
        (["--network", "math:no_such"], EXIT_USAGE, "no_such"),
        (["--network", "labels"], EXIT_USAGE, "class_names"),
    ],
)
def test_bad_networks_end_in_a_message_and_leave_no_run(
    flags: list[str], code: int, told: str, manifest: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(manifest, tmp_path / "lake", *flags) == code
    assert told in capfd.readouterr().err
    assert not list((tmp_path / "lake").rglob("*.json"))
