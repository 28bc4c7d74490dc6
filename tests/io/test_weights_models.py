"""Models named by a registry, a path, a URI or a hub repository, and what is told of them."""

import hashlib
import json
import os
from pathlib import Path

import pytest

from pipeline.errors import ConfigError, WeightsError
from pipeline.io.storage import open_store
from pipeline.io.weights import resolve_model, verify_model
from pipeline.io.weights_registry import load_registry, parse_registry
from pipeline.io.weights_report import weights_report
from tests.io.weights_world import SHA256, TENSORS, TOKENIZER, FakeHub, checkpoint, put, registry_of

pytestmark = pytest.mark.usefixtures("hub")


def test_a_models_tokenizer_comes_along_without_its_checkpoint(tmp_path: Path, hub: FakeHub) -> None:
    put(tmp_path / "hub/o/words/tokenizer.json", TOKENIZER)
    put(tmp_path / "cache/m/model.pt")
    registry = registry_of(checkpoint(), tokenizer="words")
    model = resolve_model("m", registry=registry, trust_unpinned=True)
    assert model.tokenizer_dir == str(tmp_path / "hub/o/words")
    assert list(model.files) == ["checkpoint"]
    assert hub.asked == ["o/words@v1/tokenizer.json"]
    assert model.sha256 not in (None, SHA256), "the tokenizer is part of what decides the masks"
    own = put(tmp_path / "mine/tokenizer.json", TOKENIZER).parent
    other = resolve_model("m", registry=registry, tokenizer_dir=str(own))
    assert other.tokenizer_dir == str(own)
    assert other.sha256 == model.sha256
    with pytest.raises(WeightsError, match=r"neither tokenizer\.json, nor"):
        resolve_model("m", registry=registry, tokenizer_dir=str(tmp_path))


def test_a_local_path_is_trusted_as_it_is(tmp_path: Path) -> None:
    path = put(tmp_path / "mine/run7.pt")
    model = resolve_model(str(path), registry=registry_of(checkpoint()))
    assert (model.name, model.kind, model.architecture, model.sha256) == ("run7", "unknown", {}, SHA256)
    assert model.files == {"checkpoint": path}
    assert resolve_model(str(path.parent), registry={}).files == {"checkpoint": path}


def test_a_card_names_the_calibration_that_is_part_of_the_model(tmp_path: Path) -> None:
    folder = put(tmp_path / "mine/a.pt").parent
    put(folder / "model.json", json.dumps({"kind": "samwise", "calibration": "sure.json"}).encode())
    with pytest.raises(WeightsError, match=r"names the calibration 'sure\.json', which is not there"):
        resolve_model(str(folder))
    put(folder / "sure.json", b"{}")
    model = resolve_model(str(folder))
    assert model.files == {"checkpoint": folder / "a.pt", "calibration": folder / "sure.json"}
    assert model.sha256 not in (None, SHA256), "the calibration is part of what decides the confidences"


def test_a_folder_says_in_its_card_what_it_holds(tmp_path: Path) -> None:
    folder = put(tmp_path / "trained/a.safetensors").parent
    put(folder / "b.safetensors", b"other")
    put(folder / "tokenizer/vocab.json", b"{}")
    put(folder / "tokenizer/merges.txt", b"")
    with pytest.raises(WeightsError, match=r"checkpoints found: a\.safetensors, b\.safetensors\. Expected one"):
        resolve_model(str(folder))
    card = {"name": "mine", "checkpoint": "a.safetensors", "kind": "samwise", "architecture": "tiny", "trained": False}
    put(folder / "model.json", json.dumps(card).encode())
    model = resolve_model(str(folder))
    assert (model.name, model.kind, model.architecture_name, model.trained) == ("mine", "samwise", "tiny", False)
    assert model.files["checkpoint"].name == "a.safetensors"
    assert model.tokenizer_dir == str(folder / "tokenizer")
    assert resolve_model(str(folder / "a.safetensors")).name == "mine"
    assert resolve_model(str(folder / "b.safetensors")).name == "b", "the card is about the other file"
    put(folder / "model.json", b'{"knd": "samwise"}')
    with pytest.raises(WeightsError, match=r"model\.json: not a model card[\s\S]*knd"):
        resolve_model(str(folder))


def test_a_uri_needs_its_hash_or_trust(s3_root: str, tmp_path: Path) -> None:
    uri = f"{s3_root}/weights/run7.safetensors"
    open_store(s3_root).write_whole("weights/run7.safetensors", TENSORS)
    with pytest.raises(WeightsError, match=r"nobody has pinned the hash of run7\.safetensors"):
        resolve_model(uri)
    model = resolve_model(f"{uri}#sha256={SHA256.upper()}")
    assert (model.name, model.sha256) == ("run7", SHA256)
    assert model.files["checkpoint"].read_bytes() == TENSORS
    (model.files["checkpoint"]).unlink()
    with pytest.raises(WeightsError, match=f"sha256 {SHA256}, expected {'0' * 64}"):
        resolve_model(f"{uri}#sha256={'0' * 64}")
    assert resolve_model(uri, trust_unpinned=True).sha256 == SHA256
    assert resolve_model(uri).sha256 == SHA256
    with pytest.raises(WeightsError, match="expected the URI of a"):
        resolve_model(f"{s3_root}/weights")
    with pytest.raises(WeightsError, match="sha256"):
        resolve_model(f"{uri}#sha256=123")


def test_a_hub_repository_is_a_folder_that_is_pinned(tmp_path: Path, hub: FakeHub) -> None:
    put(tmp_path / "hub/o/mine/model.safetensors")
    put(tmp_path / "hub/o/mine/tokenizer.json", TOKENIZER)
    with pytest.raises(WeightsError, match="nobody has pinned the hash"):
        resolve_model("hf:o/mine@v2")
    model = resolve_model("hf:o/mine@v2", trust_unpinned=True)
    assert hub.asked[-1] == "o/mine@v2"
    assert model.files["checkpoint"].read_bytes() == TENSORS
    assert model.tokenizer_dir == str(tmp_path / "hub/o/mine")
    put(tmp_path / "hub/o/mine/model.safetensors", TENSORS[::-1])
    with pytest.raises(WeightsError, match=f"says {SHA256} for hf:o/mine@v2/model.safetensors"):
        resolve_model("hf:o/mine@v2", trust_unpinned=True)
    with pytest.raises(WeightsError, match="LocalEntryNotFoundError"):
        resolve_model("hf:o/absent")
    with pytest.raises(WeightsError, match="expected hf:ORG/NAME"):
        resolve_model("hf:mine")


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("samwise-mevi", "Did you mean 'samwise-mevis'"),
        ("./absent.pt", "no such file or folder"),
        ("absent.safetensors", "no such file or folder"),
    ],
)
def test_an_unknown_model_says_what_is_known(model: str, said: str) -> None:
    with pytest.raises(WeightsError, match=said):
        resolve_model(model)


def test_verify_reads_the_files_again(tmp_path: Path) -> None:
    registry = registry_of(checkpoint())
    assert [check.state for check in verify_model("m", registry=registry)] == ["missing"]
    path = put(tmp_path / "cache/m/model.pt")
    status = path.stat()
    resolve_model("m", registry=registry)
    put(path, TENSORS[::-1])
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    (check,) = verify_model("m", registry=registry)
    assert (check.state, check.expected_sha256, check.bytes) == ("differs", SHA256, len(TENSORS))
    (check,) = verify_model(str(path))
    assert (check.state, check.sha256) == ("unpinned", hashlib.sha256(TENSORS[::-1]).hexdigest())


def test_reports_tell_what_is_here_and_fail_where_something_is_wrong(tmp_path: Path) -> None:
    registry = registry_of(checkpoint("gdrive:1A"), tokenizer="words")
    lines = weights_report("list", registry=registry).splitlines()
    assert [line.split()[:4] for line in lines] == [
        ["name", "kind", "here", "trained"],
        ["m", "samwise", "no", "yes"],
        ["words", "text_encoder", "no", "yes"],
    ]
    assert f"sha256 {SHA256}" in weights_report("info", "m", registry=registry)
    with pytest.raises(WeightsError, match=r"model\.pt: not on this machine"):
        weights_report("verify", "m", registry=registry)
    put(tmp_path / "cache/m/model.pt")
    put(tmp_path / "cache/words/tokenizer.json", TOKENIZER)
    assert (
        weights_report("verify", "m", registry=registry)
        == f"model.pt: ok, sha256 {SHA256} ({tmp_path}/cache/m/model.pt)"
    )
    pulled = weights_report("pull", "m", registry=registry, trust_unpinned=True)
    assert f"tokenizer folder: {tmp_path}/cache/words" in pulled
    assert weights_report("path", "m", registry=registry) == f"{tmp_path}/cache/m/model.pt"
    assert weights_report("list", registry=registry).splitlines()[1].split()[2] == "yes"
    with pytest.raises(ConfigError, match="expected a model's name"):
        weights_report("verify")
    random = {**registry, "m": registry["m"].model_copy(update={"files": (), "trained": False})}
    with pytest.raises(WeightsError, match="has no file; its weights are random"):
        weights_report("path", "m", registry=random)


@pytest.mark.parametrize(
    ("name", "architecture"), [("tiny", "tiny"), ("tiny-streets", "tiny"), ("tiny-multimodal", "tiny-multimodal")]
)
def test_an_embedded_model_is_in_the_package_and_is_what_the_registry_says(name: str, architecture: str) -> None:
    model = resolve_model(name, offline=True)
    file = model.files["checkpoint"]
    assert model.trained
    assert model.architecture_name == architecture
    assert model.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    assert file.stat().st_size < 8 << 20


@pytest.mark.slow  # imports torch and sam2
def test_the_registry_names_architectures_that_exist() -> None:
    from pipeline.models.memorysam_architecture import ARCHITECTURES as MEMORYSAM_ARCHITECTURES
    from pipeline.models.sam2_variants import SAM2_VARIANTS
    from pipeline.models.samwise_variants import ARCHITECTURES

    registry = load_registry()
    for entry in registry.values():
        known = {"samwise": ARCHITECTURES, "sam2": SAM2_VARIANTS, "memorysam": MEMORYSAM_ARCHITECTURES}
        names = set(known.get(entry.kind, {}))
        assert entry.architecture is None or entry.architecture in names, entry.name
    assert {name for name, entry in registry.items() if entry.kind == "sam2"} == set(SAM2_VARIANTS)


def test_a_shipped_file_is_used_where_it_lies() -> None:
    from importlib import resources

    shipped = resources.files("pipeline") / "io/weights_registry.yaml"
    pin = hashlib.sha256(shipped.read_bytes()).hexdigest()
    model = resolve_model("m", registry=registry_of(checkpoint("package:io/weights_registry.yaml", sha256=pin)))
    assert model.files["checkpoint"].samefile(str(shipped))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- {name: m", "not a registry"),
        ("- {name: m, kind: samwise}", "Field required"),
        ("- [1, 2]", "not a registry"),
    ],
)
def test_a_registry_that_is_wrong_says_so(text: str, said: str) -> None:
    with pytest.raises(WeightsError, match=said):
        parse_registry(text, "here.yaml")
