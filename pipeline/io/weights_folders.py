"""Networks that are folders, as transformers writes them: found or fetched, and hashed file by file."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import StorageError, WeightsError
from pipeline.io.storage import open_store
from pipeline.io.uris import absolute_uri, readable_uri
from pipeline.io.weights_fetch import Places, find_places
from pipeline.io.weights_pins import combined_sha256, file_lock

FOLDER_FILES = (".json", ".safetensors", ".txt", ".bin")
"""Endings of the files that make up such a folder."""

_HUB_REPOSITORY = re.compile(r"hf:(?P<repository>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?")


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedFolder:
    """A folder on this machine and the hash of all its files together."""

    path: Path
    sha256: str


def resolve_folder(name: str, *, offline: bool | None = None, trust_unpinned: bool = False) -> ResolvedFolder:
    """Find a folder, download it once per machine if it is elsewhere, and check its hash.

    Args:
        name: a local folder, trusted as it is; hf:ORG/NAME[@REVISION]; or the URI of a folder in a store.
        offline: ask no hub and no store.
        trust_unpinned: accept what nobody has pinned, and pin what came.

    Raises:
        WeightsError: no such folder, nothing like a network in it, or a hash that differs or that nobody has pinned.
    """
    places = find_places(offline=offline)
    if "://" not in name and not name.startswith("hf:"):
        path = Path(name).expanduser().absolute()
        if not path.is_dir():
            raise WeightsError(f"network {name!r}: no such folder. Give a folder, hf:ORG/NAME, or a store's URI.")
        return ResolvedFolder(path=path, sha256=_sha256_of(path, name, places))
    path = _from_hub(name, places) if name.startswith("hf:") else _from_store(name, places)
    sha256 = _sha256_of(path, name, places)
    expected = places.pins.pinned(name)
    if expected is None and not trust_unpinned:
        raise WeightsError(
            f"network {readable_uri(name)}: nobody has pinned its hash yet. Run once with --trust-unpinned to accept "
            f"what came and pin it in {places.pins.path}, or name a local folder."
        )
    if expected is None:
        places.pins.pin(name, sha256, source=str(path))
    elif expected != sha256:
        raise WeightsError(
            f"network {readable_uri(name)}: sha256 {sha256}, but {places.pins.path} says {expected}. Name the revision "
            "that was pinned; if the change is wanted, remove the pin."
        )
    return ResolvedFolder(path=path, sha256=sha256)


def resolve_folders(
    names: Mapping[str, str], *, offline: bool | None = None, trust_unpinned: bool = False
) -> dict[str, ResolvedFolder]:
    """Each role's folder. Raises WeightsError as `resolve_folder` does."""
    return {role: resolve_folder(name, offline=offline, trust_unpinned=trust_unpinned) for role, name in names.items()}


def _sha256_of(path: Path, name: str, places: Places) -> str:
    files = sorted(file for file in path.iterdir() if file.is_file() and file.name.endswith(FOLDER_FILES))
    hashes = {file.name: places.pins.sha256_of(file) for file in files}
    if "config.json" not in hashes:
        raise WeightsError(f"network {readable_uri(name)}: no config.json in {path}. Give what save_pretrained wrote.")
    return str(combined_sha256(hashes))


def _from_hub(name: str, places: Places) -> Path:
    matched = _HUB_REPOSITORY.fullmatch(name)
    if matched is None:
        raise WeightsError(f"{name}: expected hf:ORG/NAME or hf:ORG/NAME@REVISION.")
    try:
        import huggingface_hub

        return Path(
            huggingface_hub.snapshot_download(
                matched["repository"],
                revision=matched["revision"],
                allow_patterns=[f"*{ending}" for ending in FOLDER_FILES],
                local_files_only=places.offline,
            )
        )
    except Exception as error:  # httpx's, the disk's and the client's own
        lines = str(error).strip().splitlines() or [""]
        raise WeightsError(f"network {name}: {lines[0]}") from error


def _from_store(name: str, places: Places) -> Path:
    uri = absolute_uri(name)
    target = places.cache_dir / f"folder-{hashlib.sha256(uri.encode()).hexdigest()[:16]}"
    if (target / "config.json").is_file():
        return target
    if places.offline:
        raise WeightsError(f"network {readable_uri(uri)}: not on this machine, and the run is offline.")
    target.parent.mkdir(parents=True, exist_ok=True)
    with file_lock(target):
        try:
            store = open_store(uri)
            files = [file.path for file in store.list() if "/" not in file.path and file.path.endswith(FOLDER_FILES)]
            target.mkdir(parents=True, exist_ok=True)
            # config.json last: it says that the folder is whole.
            for path in sorted(files, key=lambda path: path == "config.json"):
                (target / path).write_bytes(store.read_bytes(path))
        except (StorageError, OSError) as error:
            raise WeightsError(f"network {readable_uri(uri)}: {error}") from error
    return target
