"""What the io tests run against: a disk, memory, an S3 server and a web server on loopback, a stand-in for the hub."""

import logging
import os
import threading
import uuid
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

from tests.io.weights_world import FakeHub, WeightServer

BUCKET = "lake"


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """A moto server with one bucket, found through the environment as a user's own endpoint would be."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    settings = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "dummy",
        "AWS_SECRET_ACCESS_KEY": "dummy",
        "AWS_DEFAULT_REGION": "us-east-1",
        "NO_PROXY": "127.0.0.1",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
        for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL_S3", "AWS_SESSION_TOKEN"):
            patch.delenv(name, raising=False)
        boto3.client("s3").create_bucket(Bucket=BUCKET)
        yield settings["AWS_ENDPOINT_URL"]
    server.stop()


@pytest.fixture
def s3_root(s3_endpoint: str) -> str:
    """An empty place in an S3 bucket."""
    return f"s3://{BUCKET}/{uuid.uuid4().hex}"


@pytest.fixture
def memory_root() -> str:
    """An empty place in this process's memory."""
    return f"memory://lake/{uuid.uuid4().hex}"


@pytest.fixture(params=["local", "memory", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty place to keep a lake, on each kind of store."""
    if request.param == "local":
        return os.fspath(tmp_path / "lake")
    return str(request.getfixturevalue(f"{request.param}_root"))


@pytest.fixture(scope="module")
def weights_web() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), WeightServer)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    """No test asks the real hub, or reads this machine's own cache and settings."""
    import huggingface_hub

    for name in ("MASKLAKE_MODELS", "MASKLAKE_MIRROR", "MASKLAKE_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MASKLAKE_CACHE", str(tmp_path / "cache"))
    fake = FakeHub(tmp_path / "hub")
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fake.hf_hub_download)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fake.snapshot_download)
    return fake
