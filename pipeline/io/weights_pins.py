"""Hashes of weight files: computed once per file, pinned on first use, compared ever after."""

import hashlib
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pipeline.errors import WeightsError

_BLOCK_BYTES = 2**20
_LOCK_TIMEOUT_SECONDS = 3600.0
"""A first download of a large file over a slow line; whoever waits for it waits that long."""


class Pins:
    """The lock file of a cache directory: pinned hashes by name, and which files were hashed already.

    Attributes:
        path: the lock file, `weights.lock.json`.
    """

    def __init__(self, cache_dir: Path) -> None:
        self.path = cache_dir / "weights.lock.json"

    def pinned(self, key: str) -> str | None:
        """The pinned sha256 of "model/file", or None."""
        pin = self._read()["pins"].get(key)
        return None if pin is None else str(pin["sha256"])

    def pin(self, key: str, sha256: str, *, source: str) -> None:
        """Trust what came: from now on "model/file" must have this hash.

        Raises:
            WeightsError: the cache directory cannot be written.
        """
        try:
            with self._changed() as content:
                content["pins"][key] = {"sha256": sha256, "source": source, "pinned_at": round(time.time())}
        except OSError as error:
            raise WeightsError(
                f"{self.path}: cannot pin {key} ({error}). Give a cache directory that can be written."
            ) from error

    def sha256_of(self, path: Path, *, again: bool = False) -> str:
        """The file's hash; read from disk once, then remembered as long as size and time stay.

        Args:
            again: read the file whatever is remembered.
        """
        status = path.stat()
        known = self._read()["hashed"].get(str(path))
        if not again and known and (known["bytes"], known["mtime_ns"]) == (status.st_size, status.st_mtime_ns):
            return str(known["sha256"])
        sha256 = hash_file(path)
        with suppress(OSError), self._changed() as content:  # only saves time: a cache may be read-only
            content["hashed"][str(path)] = {
                "sha256": sha256,
                "bytes": status.st_size,
                "mtime_ns": status.st_mtime_ns,
            }
        return sha256

    def _read(self) -> dict[str, Any]:
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
            return {"pins": dict(content["pins"]), "hashed": dict(content["hashed"])}
        except FileNotFoundError:
            return {"pins": {}, "hashed": {}}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise WeightsError(
                f"{self.path}: not a lock file that can be read ({error}). Restore or remove it."
            ) from error

    @contextmanager
    def _changed(self) -> Iterator[dict[str, Any]]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with file_lock(self.path):
            content = self._read()
            yield content
            temporary = self.path.with_suffix(f".{os.getpid()}.tmp")
            temporary.write_text(json.dumps(content, indent=1, sort_keys=True), encoding="utf-8")
            os.replace(temporary, self.path)


@contextmanager
def file_lock(path: Path) -> Iterator[None]:
    """One process at a time, on all that see the directory.

    Raises:
        WeightsError: another process held the lock for an hour.
    """
    from filelock import FileLock, Timeout

    try:
        with FileLock(f"{path}.lock", timeout=_LOCK_TIMEOUT_SECONDS):
            yield
    except Timeout as error:
        raise WeightsError(
            f"{path}.lock: held by another process for an hour. End that process and try again."
        ) from error


def hash_file(path: Path) -> str:
    """sha256 of a file in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def combined_sha256(hashes: dict[str, str]) -> str | None:
    """One hash for several files by role: of one file its own, of none None."""
    if len(hashes) <= 1:
        return next(iter(hashes.values()), None)
    return hashlib.sha256("".join(f"{role} {hashes[role]}\n" for role in sorted(hashes)).encode()).hexdigest()
