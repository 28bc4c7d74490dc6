"""Weight files found, fetched once, and their hashes checked; the network is a server on loopback."""

import multiprocessing
import os
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import WeightsError
from pipeline.io.storage import open_store
from pipeline.io.weights import resolve_model, verify_model
from tests.io.weights_world import SHA256, TENSORS, FakeHub, WeightServer, checkpoint, put, registry_of

pytestmark = pytest.mark.usefixtures("hub")


def test_a_file_from_the_web_is_fetched_once_and_checked(weights_web: str, tmp_path: Path) -> None:
    WeightServer.requests.clear()
    registry = registry_of(checkpoint(f"{weights_web}/model.pt", bytes=len(TENSORS)))
    for _ in range(2):
        model = resolve_model("m", registry=registry)
        assert model.files["checkpoint"] == tmp_path / "cache/m/model.pt"
        assert model.files["checkpoint"].read_bytes() == TENSORS
        assert model.sha256 == SHA256
        assert (model.kind, model.architecture, model.tokenizer_dir) == ("samwise", {"width": 8}, None)
    assert WeightServer.requests == ["/model.pt"]
    assert [path.name for path in (tmp_path / "cache/m").iterdir() if path.suffix == ".part"] == []


def test_sources_are_tried_in_their_order(
    weights_web: str, tmp_path: Path, s3_root: str, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = registry_of(checkpoint("hf:o/m@v1/model.pt", f"{weights_web}/model.pt"))
    WeightServer.requests.clear()

    def source() -> str:
        for place in ("cache/m/model.pt", "cache/weights.lock.json"):
            (tmp_path / place).unlink(missing_ok=True)
        asked = len(hub.asked), len(WeightServer.requests)
        path = resolve_model("m", registry=registry).files["checkpoint"]
        if len(WeightServer.requests) > asked[1]:
            return "web"
        return "asked hub" if len(hub.asked) > asked[0] else str(path)

    assert source() == "web"
    put(tmp_path / "hub/o/m/model.pt")
    assert source() == "asked hub"
    assert source() == str(tmp_path / "hub/o/m/model.pt"), "the hub client's own cache"
    hub.cached.clear()
    store = open_store(s3_root)
    store.write_whole("m/model.pt", TENSORS)
    monkeypatch.setenv("MASKLAKE_MIRROR", s3_root)
    assert source() == str(tmp_path / "cache/m/model.pt"), "the mirror, without asking a hub"
    put(tmp_path / "models/model.pt")
    monkeypatch.setenv("MASKLAKE_MODELS", str(tmp_path / "models"))
    assert source() == str(tmp_path / "models/model.pt")
    put(tmp_path / "models/m/model.pt")
    assert source() == str(tmp_path / "models/m/model.pt")


@pytest.mark.parametrize("variable", ["MASKLAKE_OFFLINE", "HF_HUB_OFFLINE", "argument"])
def test_offline_asks_nobody_and_says_where_to_put_the_file(
    variable: str, weights_web: str, tmp_path: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    WeightServer.requests.clear()
    if variable != "argument":
        monkeypatch.setenv(variable, "1")
    registry = registry_of(checkpoint("hf:o/m@v1/model.pt", f"{weights_web}/model.pt", bytes=200_000))
    with pytest.raises(WeightsError) as caught:
        resolve_model("m", registry=registry, offline=variable == "argument")
    told = str(caught.value)
    assert (
        f"model m: model.pt (200000 bytes, sha256 {SHA256}) is not on this machine, and this machine is offline" in told
    )
    assert [line.strip() for line in told.splitlines()[-3:]] == [
        "$MASKLAKE_MODELS/m/model.pt",
        f"{tmp_path}/cache/m/model.pt",
        "$MASKLAKE_MIRROR/m/model.pt",
    ]
    assert hub.asked == WeightServer.requests == []
    put(tmp_path / "cache/m/model.pt")
    assert resolve_model("m", registry=registry, offline=variable == "argument").sha256 == SHA256


def test_a_mirror_is_asked_also_when_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "mirror/m/model.pt")
    monkeypatch.setenv("MASKLAKE_MIRROR", str(tmp_path / "mirror"))
    assert resolve_model("m", registry=registry_of(checkpoint()), offline=True).sha256 == SHA256


@pytest.mark.parametrize(
    ("file", "fields", "said"),
    [
        ("other.pt", {}, rf"other\.pt: sha256 [0-9a-f]{{64}}, expected {SHA256}\. What came was deleted"),
        ("cut.pt", {"bytes": 200_000}, r"cut\.pt: 100000 bytes came, expected 200000\. What came was deleted"),
    ],
)
def test_a_damaged_download_is_deleted_and_told(
    file: str, fields: dict[str, Any], said: str, weights_web: str, tmp_path: Path
) -> None:
    with pytest.raises(WeightsError, match=said):
        resolve_model("m", registry=registry_of(checkpoint(f"{weights_web}/{file}", **fields)))
    assert [path.name for path in (tmp_path / "cache/m").iterdir() if not path.name.endswith(".lock")] == []


def test_a_file_that_is_nowhere_says_what_was_tried(weights_web: str) -> None:
    registry = registry_of(checkpoint("hf:o/m@v1/model.pt", f"{weights_web}/absent.pt", "gdrive:1Abc-d"))
    with pytest.raises(WeightsError) as caught:
        resolve_model("m", registry=registry)
    tried = [line.strip() for line in str(caught.value).splitlines() if line.startswith("  tried")]
    assert tried[0] == "tried hf:o/m@v1/model.pt: ConnectionError: 404 Client Error: o/m@v1/model.pt"
    assert tried[1] == f"tried {weights_web}/absent.pt: no such file"
    assert "https://drive.google.com/file/d/1Abc-d/view and save it as model.pt" in tried[2]


def test_an_unpinned_file_needs_trust_once_and_is_held_to_it_ever_after(weights_web: str, tmp_path: Path) -> None:
    registry = registry_of(checkpoint(f"{weights_web}/model.pt", sha256=None))
    WeightServer.requests.clear()
    with pytest.raises(WeightsError, match=r"nobody has pinned the hash of model\.pt.*weights pull m --trust-unpinned"):
        resolve_model("m", registry=registry)
    assert WeightServer.requests == [], "not fetched before it is trusted"
    resolve_model("m", registry=registry, trust_unpinned=True)
    assert resolve_model("m", registry=registry).sha256 == SHA256
    put(tmp_path / "cache/m/model.pt", TENSORS[::-1])
    for trust in (False, True):
        with pytest.raises(
            WeightsError, match=rf"model\.pt: sha256 .*weights\.lock\.json says {SHA256} for m/model\.pt"
        ):
            resolve_model("m", registry=registry, trust_unpinned=trust)
    (tmp_path / "cache/m/model.pt").unlink()
    changed = registry_of(checkpoint(f"{weights_web}/other.pt", sha256=None))
    with pytest.raises(WeightsError, match=f"expected {SHA256}"):
        resolve_model("m", registry=changed, trust_unpinned=True)


def test_a_file_is_hashed_again_only_when_it_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.io import weights_pins

    hashed: list[Path] = []
    hash_file = weights_pins.hash_file
    monkeypatch.setattr(weights_pins, "hash_file", lambda path: hashed.append(path) or hash_file(path))
    path = put(tmp_path / "cache/m/model.pt")
    registry = registry_of(checkpoint())
    for _ in range(3):
        resolve_model("m", registry=registry)
    assert hashed == [path]
    os.utime(path, ns=(1, 1))
    resolve_model("m", registry=registry)
    assert hashed == [path, path]
    assert [check.state for check in verify_model("m", registry=registry)] == ["ok"]
    assert hashed == [path, path, path]


def test_two_processes_at_once_download_once(weights_web: str, tmp_path: Path) -> None:
    WeightServer.requests.clear()
    context = multiprocessing.get_context("spawn")
    barrier, answers = context.Barrier(2), context.Queue()
    processes = [context.Process(target=_resolve_at, args=(barrier, answers, weights_web)) for _ in range(2)]
    for process in processes:
        process.start()
    assert {answers.get(timeout=60) for _ in processes} == {(str(tmp_path / "cache/m/model.pt"), SHA256)}
    for process in processes:
        process.join()
    assert WeightServer.requests == ["/model.pt"]


def _resolve_at(barrier: Any, answers: Any, weights_web: str) -> None:
    registry = registry_of(checkpoint(f"{weights_web}/model.pt", sha256=None))
    barrier.wait()
    model = resolve_model("m", registry=registry, trust_unpinned=True)
    answers.put((str(model.files["checkpoint"]), model.sha256))


def test_a_broken_lock_file_is_an_error_and_not_a_fresh_start(tmp_path: Path) -> None:
    put(tmp_path / "cache/m/model.pt")
    put(tmp_path / "cache/weights.lock.json", b'{"pins": {"m/mod')
    with pytest.raises(WeightsError, match=r"weights\.lock\.json: not a lock file that can be read"):
        resolve_model("m", registry=registry_of(checkpoint(sha256=None)), trust_unpinned=True)
