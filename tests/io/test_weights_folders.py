"""Networks that are folders: local ones trusted, others pinned on first use, hashes of all files together."""

from pathlib import Path

import pytest

from pipeline.errors import WeightsError
from pipeline.io.weights_folders import resolve_folder, resolve_folders


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASKLAKE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)


@pytest.fixture
def network(tmp_path: Path) -> Path:
    folder = tmp_path / "network"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "notes.md").write_text("not a part of it")
    return folder


def test_a_local_folder_is_taken_as_it_is_and_named_by_its_files(network: Path) -> None:
    found = resolve_folders({"network": str(network)})["network"]
    assert found.path == network
    (network / "notes.md").write_text("another word")
    assert resolve_folder(str(network)).sha256 == found.sha256
    (network / "model.safetensors").write_bytes(b"other weights")
    assert resolve_folder(str(network)).sha256 != found.sha256


def test_a_folder_in_a_store_is_copied_once_and_pinned_on_first_use(network: Path) -> None:
    uri = network.as_uri()
    with pytest.raises(WeightsError, match="--trust-unpinned"):
        resolve_folder(uri)
    found = resolve_folder(uri, trust_unpinned=True)
    assert found.path != network
    assert {file.name for file in found.path.iterdir()} == {"config.json", "model.safetensors"}
    assert found.sha256 == resolve_folder(str(network)).sha256
    assert resolve_folder(uri, offline=True) == found
    (found.path / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(WeightsError, match="says"):
        resolve_folder(uri)


@pytest.mark.parametrize("name", ["no/such/folder", "hf:name-without-organisation"])
def test_what_is_no_folder_is_refused(name: str) -> None:
    with pytest.raises(WeightsError, match=r"no such folder|ORG/NAME"):
        resolve_folder(name)


def test_a_folder_without_a_network_and_an_unfetched_one_offline_are_refused(network: Path) -> None:
    (network / "config.json").unlink()
    with pytest.raises(WeightsError, match=r"no config\.json"):
        resolve_folder(str(network))
    with pytest.raises(WeightsError, match="offline"):
        resolve_folder("s3://bucket/network", offline=True)
