"""What `masklake weights` prints: the models, one model, its files, their hashes."""

import os
from typing import Literal

from pipeline.errors import ConfigError, WeightsError
from pipeline.io.nearest_name import did_you_mean
from pipeline.io.weights import FileCheck, resolve_model, verify_model
from pipeline.io.weights_fetch import find_local, find_places
from pipeline.io.weights_registry import CHECKPOINT, ModelEntry, Registry, load_registry

Action = Literal["list", "info", "pull", "verify", "path"]


def weights_report(
    action: Action,
    name: str = "",
    *,
    offline: bool = False,
    trust_unpinned: bool = False,
    cache_dir: str | os.PathLike[str] | None = None,
    registry: Registry | None = None,
) -> str:
    """Do an action on a model and tell the outcome.

    Args:
        action: "list" every model; of one tell all ("info"), fetch it ("pull"), hash it again ("verify"), or tell the
            path of its checkpoint ("path", which fetches it too).

    Raises:
        ConfigError: an action on one model without a name.
        WeightsError: the model is unknown, cannot be had, or (verify) a file is missing or differs.
    """
    known = load_registry() if registry is None else registry
    if action == "list":
        return _table(known, cache_dir)
    if not name:
        raise ConfigError(f"weights {action}: expected a model's name, path or URI. See masklake weights list.")
    if action == "info":
        return _info(name, known, cache_dir)
    if action == "verify":
        return _verified(name, verify_model(name, cache_dir=cache_dir, registry=known))
    model = resolve_model(name, offline=offline, trust_unpinned=trust_unpinned, cache_dir=cache_dir, registry=known)
    if action == "path":
        if CHECKPOINT not in model.files:
            raise WeightsError(f"model {name}: has no file; its weights are random, drawn from the job's seed.")
        return str(model.files[CHECKPOINT])
    lines = [f"{role}: {path}" for role, path in model.files.items()] or ["no file: random weights, by the job's seed"]
    if model.tokenizer_dir is not None:
        lines.append(f"tokenizer folder: {model.tokenizer_dir}")
    return "\n".join([*lines, f"sha256: {model.sha256 or 'none'}", f"licence: {model.licence}"])


def _table(registry: Registry, cache_dir: str | os.PathLike[str] | None) -> str:
    places = find_places(cache_dir=cache_dir)
    rows = [("name", "kind", "here", "trained", "licence")]
    for entry in registry.values():
        found = [find_local(entry.name, file, places) for file in entry.files]
        here = "shipped" if not found else "yes" if all(found) else "no"
        rows.append((entry.name, entry.kind, here, "yes" if entry.trained else "no", entry.licence))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return "\n".join(
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[4]]) for row in rows
    )


def _info(name: str, registry: Registry, cache_dir: str | os.PathLike[str] | None) -> str:
    if name not in registry:
        raise WeightsError(f"model {name!r}: not in the registry. {did_you_mean(name, registry)}")
    entry = registry[name]
    places = find_places(cache_dir=cache_dir)
    lines = [f"{entry.name}: {entry.card}", f"trained on: {entry.trained_on}", f"licence: {entry.licence}"]
    lines += [f"  {entry.licence_url}", *_needs(entry)]
    for file in entry.files:
        size = "unknown" if file.bytes is None else f"{file.bytes:,} bytes"
        sha256 = file.sha256 or places.pins.pinned(f"{name}/{file.name}") or "not pinned"
        lines += [f"{file.role}: {file.name}, {file.format}, size {size}, sha256 {sha256}"]
        lines += [f"  {url}" for url in file.urls]
        lines += [f"  here: {find_local(name, file, places) or 'no'}"]
    return "\n".join(lines)


def _needs(entry: ModelEntry) -> list[str]:
    needs = [f"tokenizer: that of {entry.tokenizer}"] if entry.tokenizer else []
    return [*needs, *(["gated: accept the licence with an account first"] if entry.gated else [])]


def _verified(name: str, checks: tuple[FileCheck, ...]) -> str:
    lines = []
    for check in checks:
        told = {
            "ok": f"ok, sha256 {check.sha256}",
            "missing": "not on this machine",
            "unpinned": f"sha256 {check.sha256}, which nobody has pinned",
            "differs": f"sha256 {check.sha256}, expected {check.expected_sha256}",
        }[check.state]
        lines.append(f"{check.name}: {told}" + (f" ({check.path})" if check.path else ""))
    text = "\n".join(lines) or f"model {name}: no file, random weights"
    if any(check.state in ("missing", "differs") for check in checks):
        raise WeightsError(text)
    return text
