"""What the weights tests share: a web server, a stand-in for the hub's client, small registries."""

import hashlib
import os
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from pipeline.io.weights_registry import ModelEntry, Registry

TENSORS = os.urandom(200_000)
SHA256 = hashlib.sha256(TENSORS).hexdigest()
TOKENIZER = b'{"version": "1.0"}'


class WeightServer(BaseHTTPRequestHandler):
    """Serves TENSORS under /model.pt, half of it under /cut.pt, something else under /other.pt."""

    requests: list[str] = []  # noqa: RUF012  one server a module

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self.requests.append(self.path)
        self._answer(with_body=True)

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _answer(self, *, with_body: bool) -> None:
        body = {"/model.pt": TENSORS, "/cut.pt": TENSORS[:100_000], "/other.pt": TENSORS[::-1]}.get(self.path)
        if body is None:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if with_body:
            self.wfile.write(body)


class LocalEntryNotFoundError(FileNotFoundError):
    """What the hub's client raises for a file that it has not, when told not to ask."""


class FakeHub:
    """Stands in for the hub's client: a folder of repositories, and which of its files this machine has."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cached: set[str] = set()
        self.asked: list[str] = []

    def hf_hub_download(
        self, repository: str, name: str, *, revision: str | None = None, local_files_only: bool = False
    ) -> str:
        key = f"{repository}@{revision}/{name}"
        if local_files_only and key not in self.cached:
            raise LocalEntryNotFoundError("not in the cache")
        if not local_files_only:
            self.asked.append(key)
        path = self.folder / repository / name
        if not path.is_file():
            raise ConnectionError(f"404 Client Error: {key}\nmore lines")
        self.cached.add(key)
        return str(path)

    def snapshot_download(
        self, repository: str, *, revision: str | None, allow_patterns: list[str], local_files_only: bool
    ) -> str:
        self.asked.append(f"{repository}@{revision}")
        if local_files_only or not (self.folder / repository).is_dir():
            raise LocalEntryNotFoundError("no such repository")
        return str(self.folder / repository)


def registry_of(*files: dict[str, Any], **fields: Any) -> Registry:
    """A registry with the model "m" and the tokenizer "words"."""
    shared = {"trained": True, "licence": "MIT", "licence_url": "x", "trained_on": "x", "card": "x"}
    model = {"name": "m", "kind": "samwise", "architecture": {"width": 8}, "files": files, **shared, **fields}
    words = {
        "name": "words",
        "kind": "text_encoder",
        "architecture": None,
        "files": [
            {"role": "tokenizer", "name": "tokenizer.json", "urls": ["hf:o/words@v1/tokenizer.json"]},
            {"role": "checkpoint", "name": "text.pt", "urls": ["hf:o/words@v1/text.pt"]},
        ],
        **shared,
    }
    return {entry["name"]: ModelEntry.model_validate(entry) for entry in (model, words)}


def checkpoint(*urls: str, **fields: Any) -> dict[str, Any]:
    return {"role": "checkpoint", "name": "model.pt", "urls": urls, "sha256": SHA256, **fields}


def put(path: Path, content: bytes = TENSORS) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path
