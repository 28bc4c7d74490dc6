"""Checkpoints of a training in any store: each whole or not there, the latest by pointer, the oldest deleted."""

import io
import json
import pickle
from collections.abc import Mapping
from typing import Any

import torch

from pipeline.errors import ConfigError, WeightsError
from pipeline.io.storage import MissingFile, Store

FOLDER = "checkpoints"
LATEST = f"{FOLDER}/latest.json"

Checkpoint = dict[str, Any]
"""Nested dicts, lists and tuples of tensors, numbers, strings, None: what torch.load reads with weights_only."""


def save_checkpoint(store: Store, step: int, content: Mapping[str, Any], *, keep_last: int) -> str:
    """Write a checkpoint, then point at it, then delete all but the newest `keep_last`.

    A crash in between leaves the last pointer good: it always names a file that is whole.

    Returns:
        Its path in the store.
    """
    path = checkpoint_path(step)
    buffer = io.BytesIO()
    torch.save(dict(content), buffer)
    store.write_whole(path, buffer.getvalue())
    store.write_whole(LATEST, json.dumps({"path": path, "step": step}).encode())
    kept = sorted(file.path for file in store.list(FOLDER) if file.path.endswith(".pt"))
    # Names sort by step; a run begun anew over longer old ones must not delete what it just wrote.
    store.delete([old for old in kept[:-keep_last] if old != path])
    return path


def load_latest(store: Store) -> Checkpoint | None:
    """The checkpoint that was saved last, on the CPU; None if there is none.

    Raises:
        WeightsError: the pointer or the file cannot be read as one.
    """
    try:
        pointer = json.loads(store.read_bytes(LATEST))
    except MissingFile:
        return None
    except ValueError as error:
        raise WeightsError(f"{store.uri(LATEST)}: not JSON: {error}. Delete it to begin anew.") from error
    path = str(pointer["path"])
    try:
        content = torch.load(io.BytesIO(store.read_bytes(path)), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise WeightsError(f"{store.uri(path)}: cannot be read as a checkpoint: {error}") from error
    if not isinstance(content, dict):
        raise WeightsError(f"{store.uri(path)}: holds a {type(content).__name__}, expected a training checkpoint.")
    return content


def has_checkpoint(store: Store) -> bool:
    """Whether a training left a checkpoint here."""
    return store.exists(LATEST)


def checkpoint_path(step: int) -> str:
    """Where the checkpoint after `step` updates lies in a store."""
    return f"{FOLDER}/step-{step:09d}.pt"


def check_same_recipe(then: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise unless a checkpoint was made under the recipe that would go on from it.

    Raises:
        ConfigError: names every setting that differs.
    """
    differ = [
        f"{key} was {then.get(key)!r}, is {now.get(key)!r}"
        for key in sorted({*then, *now})
        if then.get(key) != now.get(key)
    ]
    if differ:
        raise ConfigError(
            f"the training to resume ran under another recipe: {'; '.join(differ)}. Take the old settings, or begin "
            "a new training from its weights: another output, and the checkpoint as init."
        )
