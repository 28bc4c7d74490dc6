"""Checkpoints of every layout read without running code; devices and configs refused where they do not exist."""

import argparse
import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import BaseModel, ConfigDict, Field
from safetensors.torch import save_file

from pipeline.engine.load_model import build_segmenter, chosen_device, load_model, read_tensors
from pipeline.errors import ConfigError, WeightsError
from pipeline.io.weights import resolve_model
from pipeline.segmenter import SEGMENTERS, ModelSpec
from tests.fakes import FakeOptions, FakeSegmenter

pytestmark = pytest.mark.timeout(60)

TENSORS = {"encoder.weight": torch.arange(6.0).reshape(2, 3), "head.bias": torch.ones(4, dtype=torch.bfloat16)}
NO_WEIGHTS = ModelSpec(name="none", architecture={}, tensors=None)


def assert_same_tensors(given: Mapping[str, torch.Tensor]) -> None:
    assert sorted(given) == sorted(TENSORS)
    for name, tensor in TENSORS.items():
        assert given[name].dtype == tensor.dtype
        assert torch.equal(given[name], tensor)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("wrapped", [False, True])
def test_pytorch_files_old_and_new_bare_and_wrapped_are_read(tmp_path: Path, legacy: bool, wrapped: bool) -> None:
    content: Any = {"model": TENSORS, "args": argparse.Namespace(lr=1e-5), "epoch": 3} if wrapped else TENSORS
    torch.save(content, tmp_path / "m.pth", _use_new_zipfile_serialization=not legacy)
    assert_same_tensors(read_tensors(tmp_path / "m.pth"))


def test_safetensors_are_read(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "m.safetensors")
    assert_same_tensors(read_tensors(tmp_path / "m.safetensors"))


def test_a_models_calibration_comes_along(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "m.safetensors")
    assert load_model(resolve_model(str(tmp_path))).calibration is None
    (tmp_path / "model.json").write_text('{"calibration": "sure.json"}')
    (tmp_path / "sure.json").write_text('{"feature": "f"}')
    assert load_model(resolve_model(str(tmp_path))).calibration == {"feature": "f"}
    for broken, told in (("{", "cannot be read as JSON"), ("[]", "list; expected an object")):
        (tmp_path / "sure.json").write_text(broken)
        with pytest.raises(WeightsError, match=told):
            load_model(resolve_model(str(tmp_path)))


class Trap:
    """Pickles to a call that leaves a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_file_that_would_run_code_is_refused_and_runs_none(tmp_path: Path, legacy: bool) -> None:
    file, sprung = tmp_path / "m.pt", tmp_path / "sprung"
    torch.save({**TENSORS, "trap": Trap(sprung)}, file, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(WeightsError, match=r"m\.pt: refused to unpickle.*safetensors"):
        read_tensors(file)
    file.write_bytes(pickle.dumps(Trap(sprung)))
    with pytest.raises(WeightsError, match=r"m\.pt"):
        read_tensors(file)
    assert not sprung.exists()


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"\x80\x02", b"PK\x03\x04 broken zip"])
def test_a_file_that_is_no_checkpoint_is_told_by_name(tmp_path: Path, suffix: str, content: bytes) -> None:
    file = tmp_path / f"m.{suffix}"
    file.write_bytes(content)
    with pytest.raises(WeightsError, match=rf"m\.{suffix}"):
        read_tensors(file)


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_a_file_that_was_cut_short_is_told(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"m.{suffix}"
    if suffix == "pt":
        torch.save(TENSORS, file)
    else:
        save_file(TENSORS, file)
    file.write_bytes(file.read_bytes()[:-50])
    with pytest.raises(WeightsError, match="fetch it again"):
        read_tensors(file)


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no such file"):
        read_tensors(tmp_path / "m.pt")


@pytest.mark.parametrize("content", [{"epoch": 3, "model": {"lr": 1.0}}, [1, 2], {}])
def test_a_checkpoint_without_tensors_is_refused(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "m.pt")
    with pytest.raises(WeightsError, match="expected tensors by name"):
        read_tensors(tmp_path / "m.pt")


def test_a_model_without_files_becomes_a_spec_of_seeded_weights() -> None:
    model = load_model(resolve_model("tiny", offline=True), seed=7)
    assert (model.name, model.seed) == ("tiny", 7)
    assert model.architecture_name or model.architecture or model.tensors


def test_cuda_is_never_replaced_by_the_cpu_in_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert chosen_device("auto") == "cpu"
    assert chosen_device("cpu") == "cpu"
    with pytest.raises(ConfigError, match="no CUDA device"):
        chosen_device("cuda")
    with pytest.raises(ConfigError, match="expected auto, cpu, cuda"):
        chosen_device("gpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert chosen_device("auto") == "cuda"
    assert chosen_device("cuda:1") == "cuda:1"


def test_a_method_is_built_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SEGMENTERS, "fake", "tests.fakes:build_segmenter")
    segmenter = build_segmenter("fake", {"clip": 5}, NO_WEIGHTS, "cpu")
    assert isinstance(segmenter, FakeSegmenter)
    assert segmenter.options.clip == 5
    with pytest.raises(ConfigError, match="'fakee' is not registered"):
        build_segmenter("fakee", {}, NO_WEIGHTS, "cpu")


class StrictConfig(BaseModel):
    """A method's config, as the methods write theirs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    clip: int = Field(default=3, ge=1)


def build_strict(config: StrictConfig, model: ModelSpec, device: str) -> FakeSegmenter:
    return FakeSegmenter(FakeOptions(clip=config.clip))


def test_plain_values_become_the_config_class_that_the_factory_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SEGMENTERS, "strict", f"{__name__}:build_strict")
    segmenter = build_segmenter("strict", {"clip": 5}, NO_WEIGHTS, "cpu")
    assert isinstance(segmenter, FakeSegmenter)
    assert segmenter.options.clip == 5
    for config in ({"clipp": 5}, {"clip": 0}):
        with pytest.raises(ConfigError, match=r"method config: clipp?: .*got"):
            build_segmenter("strict", config, NO_WEIGHTS, "cpu")
