"""Stores that the io tests run against: a disk, memory, and an S3 server on loopback."""

import logging
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

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
