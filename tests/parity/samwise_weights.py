"""Rebuilds a golden case's weights from its manifest, by the recipe that the golden vectors' README states."""

import json
import zlib
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def golden_weights(manifest: Path, salt: str) -> dict[str, Tensor]:
    """Official key to tensor; tied keys share one tensor.

    Args:
        manifest: JSON rows [key, shape, dtype, kind, a, b].
        salt: of the case; with the key it seeds the draw.
    """
    rows = json.loads(manifest.read_text())
    own = {key: _draw(key, shape, dtype, kind, a, b, salt) for key, shape, dtype, kind, a, b in rows if kind != "alias"}
    weights = {key: torch.from_numpy(value) for key, value in own.items()}
    weights.update({row[0]: weights[row[4]] for row in rows if row[3] == "alias"})
    return weights


def part_of(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors under a prefix, without it."""
    return {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}


def _draw(
    key: str, shape: list[int], dtype: str, kind: str, a: float | list[float], b: float, salt: str
) -> NDArray[np.generic]:
    if kind == "const":
        return np.full(shape, a, dtype=np.float32).astype(dtype)
    if kind == "list":
        return np.array(a, dtype=np.float32).reshape(shape).astype(dtype)
    if kind not in ("affine", "exp"):
        raise ValueError(f"{key}: manifest kind {kind!r}; expected affine, exp, const, list or alias.")
    bits = np.random.PCG64(zlib.crc32(f"{salt}:{key}".encode()))
    normal = np.random.Generator(bits).standard_normal(int(np.prod(shape, dtype=np.int64)), dtype=np.float32)
    value = np.float32(a) + np.float32(b) * normal.reshape(shape)
    return (np.exp(value) if kind == "exp" else value).astype(dtype)
