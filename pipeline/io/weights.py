"""Models by name, path or URI: their files on this machine, hashes checked, nothing loaded."""

import hashlib
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pipeline.errors import WeightsError
from pipeline.io.nearest_name import did_you_mean
from pipeline.io.uris import absolute_uri, name_of, readable_uri
from pipeline.io.weights_fetch import Places, fetch, fetch_hub_repository, find_local, find_places
from pipeline.io.weights_local import (
    CHECKPOINT_SUFFIXES,
    LocalModel,
    ModelCard,
    is_tokenizer_folder,
    read_local_model,
    tokenizer_hashes,
)
from pipeline.io.weights_pins import combined_sha256
from pipeline.io.weights_registry import (
    CALIBRATION,
    CHECKPOINT,
    TOKENIZER,
    ModelEntry,
    ModelKind,
    Registry,
    WeightFile,
    load_registry,
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedModel:
    """A model whose files are on this machine and are what they should be.

    Attributes:
        architecture: its sizes; empty where `architecture_name` or the tensors tell them.
        architecture_name: a name among the architectures that pipeline.models knows, or None.
        files: role to path; "checkpoint" is missing where weights are random.
        sha256: of the checkpoint, or of checkpoint, tokenizer and calibration together; None where weights are random.
        trained: False means that its masks mean nothing.
        tokenizer_dir: folder of a tokenizer's files; None for a closed vocabulary, or where none was found.
    """

    name: str
    kind: ModelKind
    architecture: Mapping[str, Any]
    architecture_name: str | None
    files: Mapping[str, Path]
    sha256: str | None
    trained: bool
    tokenizer_dir: str | None
    licence: str
    trained_on: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class FileCheck:
    """One file of a model, looked at anew.

    Attributes:
        state: "ok"; "missing" from this machine; "unpinned": there, but nobody has said what its hash should be;
            "differs" from what was pinned.
        path, bytes, sha256: None where it is missing.
        expected_sha256: pinned by the registry or the lock file.
    """

    role: str
    name: str
    state: Literal["ok", "missing", "unpinned", "differs"]
    path: Path | None
    bytes: int | None
    sha256: str | None
    expected_sha256: str | None


def resolve_model(
    model: str,
    *,
    offline: bool | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    trust_unpinned: bool = False,
    tokenizer_dir: str | None = None,
    registry: Registry | None = None,
) -> ResolvedModel:
    """Find a model, download what is missing once per machine, and check every file's hash.

    Args:
        model: a name of the registry; a local file or folder; the URI of a file, with `#sha256=HEX` if its hash is
            known; or `hf:ORG/NAME[@REVISION]`. What is named by a local path is trusted as it is.
        offline: ask no hub and no web server; also by MASKLAKE_OFFLINE or HF_HUB_OFFLINE.
        cache_dir: where downloads go; also by MASKLAKE_CACHE.
        trust_unpinned: accept a file whose hash nobody has pinned, and pin what came.
        tokenizer_dir: folder of the tokenizer's files, instead of the model's own.
        registry: instead of the package's own.

    Raises:
        WeightsError: unknown name, a file that is nowhere, a hash that differs or that nobody has pinned.
    """
    known = load_registry() if registry is None else registry
    places = find_places(offline=offline, cache_dir=cache_dir)
    if tokenizer_dir is not None and not is_tokenizer_folder(Path(tokenizer_dir)):
        raise WeightsError(f"{tokenizer_dir}: neither tokenizer.json, nor vocab.json and merges.txt, in this folder.")
    if model in known:
        return _from_registry(known[model], known, places, trust_unpinned, tokenizer_dir)
    local = read_local_model(_on_this_machine(model, known, places, trust_unpinned))
    if model.startswith("hf:"):
        _check_pin(f"{model}/{local.checkpoint.name}", local.checkpoint, None, places, trust_unpinned)
    return _from_files(local, known, places, trust_unpinned, tokenizer_dir)


def resolve_file(model: str, file: WeightFile, places: Places, *, trust_unpinned: bool) -> Path:
    """A file on this machine whose hash is that of the registry or of the lock file.

    Raises:
        WeightsError: it is nowhere, its hash differs, or nobody has pinned it and `trust_unpinned` is False.
    """
    key = f"{model}/{file.name}"
    path = find_local(model, file, places)
    if path is None:
        expected = file.sha256 or places.pins.pinned(key)
        if expected is None and not trust_unpinned and not places.offline:
            raise WeightsError(_unpinned(key, places))
        path = fetch(model, file, places, expected_sha256=expected)
    _check_pin(key, path, file.sha256, places, trust_unpinned)
    return path


def verify_model(
    model: str, *, cache_dir: str | os.PathLike[str] | None = None, registry: Registry | None = None
) -> tuple[FileCheck, ...]:
    """Read every file of a model again and compare its hash; fetches nothing.

    Raises:
        WeightsError: no such model.
    """
    known = load_registry() if registry is None else registry
    places = find_places(cache_dir=cache_dir)
    if model not in known:
        local = read_local_model(_existing_path(model, known))
        file = WeightFile(role=CHECKPOINT, name=local.checkpoint.name)
        return (_check_file(model, file, local.checkpoint, places),)
    entry = known[model]
    return tuple(_check_file(model, file, find_local(model, file, places), places) for file in entry.files)


def _from_registry(
    entry: ModelEntry, registry: Registry, places: Places, trust_unpinned: bool, tokenizer_dir: str | None
) -> ResolvedModel:
    wanted = [file for file in entry.files if file.role != TOKENIZER or tokenizer_dir is None]
    files = {file.role: resolve_file(entry.name, file, places, trust_unpinned=trust_unpinned) for file in wanted}
    if tokenizer_dir is None and TOKENIZER in files:
        tokenizer_dir = str(files[TOKENIZER].parent)
    elif tokenizer_dir is None and entry.tokenizer is not None:
        tokenizer_dir = _tokenizer_of(entry.tokenizer, registry, places, trust_unpinned)
    card = ModelCard(**entry.model_dump(include={"name", "kind", "architecture", "trained", "licence", "trained_on"}))
    return _resolved(card, files, tokenizer_dir, places)


def _from_files(
    local: LocalModel, registry: Registry, places: Places, trust_unpinned: bool, tokenizer_dir: str | None
) -> ResolvedModel:
    if tokenizer_dir is None and local.tokenizer_dir is not None:
        tokenizer_dir = str(local.tokenizer_dir)
    elif tokenizer_dir is None and local.card.tokenizer is not None:
        tokenizer_dir = _tokenizer_of(local.card.tokenizer, registry, places, trust_unpinned)
    card = local.card.model_copy(update={"name": local.card.name or local.checkpoint.stem})
    files = {CHECKPOINT: local.checkpoint}
    if local.calibration is not None:
        files[CALIBRATION] = local.calibration
    return _resolved(card, files, tokenizer_dir, places)


def _resolved(card: ModelCard, files: Mapping[str, Path], tokenizer_dir: str | None, places: Places) -> ResolvedModel:
    hashes = {role: places.pins.sha256_of(files[role]) for role in (CHECKPOINT, CALIBRATION) if role in files}
    if hashes and tokenizer_dir is not None:
        hashes |= tokenizer_hashes(Path(tokenizer_dir), places.pins)
    if not card.trained:
        logger.warning("model %s is not trained: its masks mean nothing.", card.name)
    return ResolvedModel(
        name=card.name or "unnamed",
        kind=card.kind,
        architecture=card.architecture if isinstance(card.architecture, dict) else {},
        architecture_name=card.architecture if isinstance(card.architecture, str) else None,
        files=files,
        sha256=combined_sha256(hashes),
        trained=card.trained,
        tokenizer_dir=tokenizer_dir,
        licence=card.licence,
        trained_on=card.trained_on,
    )


def _tokenizer_of(name: str, registry: Registry, places: Places, trust_unpinned: bool) -> str:
    """The folder of another entry's tokenizer; its checkpoint is not fetched."""
    if name not in registry:
        raise WeightsError(f"tokenizer {name!r}: no such model. {did_you_mean(name, registry)}")
    files = [file for file in registry[name].files if file.role == TOKENIZER]
    if not files:
        raise WeightsError(f"tokenizer {name!r}: that model has none.")
    return str(resolve_file(name, files[0], places, trust_unpinned=trust_unpinned).parent)


def _on_this_machine(model: str, registry: Registry, places: Places, trust_unpinned: bool) -> Path:
    """What is named by path, URI or hub repository, as a local path."""
    if model.startswith("hf:"):
        return fetch_hub_repository(model, offline=places.offline)
    if "://" not in model or model.startswith("file://"):
        return _existing_path(model, registry)
    uri, _, pin = model.partition("#sha256=")
    uri = absolute_uri(uri)
    name = name_of(uri)
    if not name.endswith(CHECKPOINT_SUFFIXES):
        raise WeightsError(f"{readable_uri(uri)}: expected the URI of a {', '.join(CHECKPOINT_SUFFIXES)} file.")
    folder = f"uri-{hashlib.sha256(uri.encode()).hexdigest()[:16]}"
    try:
        file = WeightFile(role=CHECKPOINT, name=name, urls=(uri,), sha256=pin.lower() or None)
    except ValueError as error:
        raise WeightsError(f"{readable_uri(uri)}: {error}") from error
    return resolve_file(folder, file, places, trust_unpinned=trust_unpinned)


def _existing_path(model: str, registry: Registry) -> Path:
    path = Path(os.path.expanduser(model.removeprefix("file://")))
    if path.exists():
        return path.absolute()
    if os.sep in model or path.suffix in CHECKPOINT_SUFFIXES:
        raise WeightsError(f"{model}: no such file or folder. Name a checkpoint, or a model: {', '.join(registry)}.")
    raise WeightsError(f"model {model!r}: no such name, file or folder. {did_you_mean(model, registry)}")


def _check_pin(key: str, path: Path, registered: str | None, places: Places, trust_unpinned: bool) -> None:
    """Raises WeightsError unless the file has the hash that it should have; pins it if it is to be trusted."""
    expected = registered or places.pins.pinned(key)
    if expected is None and not trust_unpinned:
        raise WeightsError(_unpinned(key, places))
    sha256 = places.pins.sha256_of(path)
    if expected is None:
        places.pins.pin(key, sha256, source=str(path))
        logger.warning("%s: sha256 %s pinned on first use", key, sha256)
    elif sha256 != expected:
        by = "the registry" if registered else str(places.pins.path)
        raise WeightsError(
            f"{path}: sha256 {sha256}, but {by} says {expected} for {key}. The file is damaged or another one. "
            "Remove it to fetch it again; if the change is wanted, remove the pin."
        )


def _unpinned(key: str, places: Places) -> str:
    model, _, name = key.rpartition("/")
    return (
        f"model {model}: nobody has pinned the hash of {name} yet, and upstream publishes none. Run "
        f"`masklake weights pull {model} --trust-unpinned` once to accept what comes and pin it in "
        f"{places.pins.path}, or name a local file's path instead of the model."
    )


def _check_file(model: str, file: WeightFile, path: Path | None, places: Places) -> FileCheck:
    expected = file.sha256 or places.pins.pinned(f"{model}/{file.name}")
    sha256 = None if path is None else places.pins.sha256_of(path, again=True)
    state: Literal["ok", "missing", "unpinned", "differs"] = "ok"
    if path is None:
        state = "missing"
    elif expected is None:
        state = "unpinned"
    elif sha256 != expected:
        state = "differs"
    return FileCheck(
        role=file.role,
        name=file.name,
        state=state,
        path=path,
        bytes=None if path is None else path.stat().st_size,
        sha256=sha256,
        expected_sha256=expected,
    )
