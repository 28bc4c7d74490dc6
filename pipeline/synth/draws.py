"""Random draws that are the same on every platform and with every numpy: integers from a raw PCG64 stream."""

from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T")

_CHANCE_STEPS = 1 << 30


class Draws:
    """One stream of draws, named by integers (seed, split, index, ...): equal names give equal streams.

    numpy promises the raw bits of a bit generator for ever, but not what `Generator` makes of them, so every draw
    here is integer arithmetic on raw bits (NEP 19, "Compatibility policy").
    """

    def __init__(self, *name: int) -> None:
        self._bits = np.random.PCG64(np.random.SeedSequence(name))

    def below(self, bound: int) -> int:
        """An integer in [0, bound)."""
        return (int(self._bits.random_raw()) * bound) >> 64

    def between(self, low: int, high: int) -> int:
        """An integer in [low, high], both ends included; `low` where the range is empty."""
        return low + self.below(max(high - low, 0) + 1)

    def chance(self, probability: float) -> bool:
        """True with `probability`, in steps of 2^-30."""
        return self.below(_CHANCE_STEPS) < round(probability * _CHANCE_STEPS)

    def pick(self, choices: Sequence[T]) -> T:
        """One of `choices`, each as likely as the other."""
        return choices[self.below(len(choices))]

    def weighted(self, weights: Mapping[T, float]) -> T:
        """One key of `weights`, as likely as its share of their sum."""
        return self.by_weight(weights)[0]

    def by_weight(self, weights: Mapping[T, float]) -> list[T]:
        """The keys of positive weight in a random order: each next one is drawn by its share of what is left."""
        left = {key: round(weight * _CHANCE_STEPS) for key, weight in weights.items() if weight > 0}
        order: list[T] = []
        while left:
            ticket = self.below(sum(left.values()))
            for key, share in left.items():
                ticket -= share
                if ticket < 0:
                    order.append(key)
                    break
            del left[order[-1]]
        return order

    def shuffled(self, values: Sequence[T]) -> list[T]:
        """The values in a random order."""
        left, order = list(values), []
        while left:
            order.append(left.pop(self.below(len(left))))
        return order

    def lattice(self, rows: int, columns: int) -> NDArray[np.int32]:
        """Independent integers 0..255, int32 (rows, columns)."""
        raw = self._bits.random_raw(rows * columns)
        return (np.asarray(raw) >> np.uint64(56)).astype(np.int32).reshape(rows, columns)

    def noise(self, *shape: int) -> NDArray[np.uint8]:
        """Independent bytes, uint8 of that shape; eight to a raw draw, for whole pictures of them."""
        size = int(np.prod(shape))
        raw = np.asarray(self._bits.random_raw(-(-size // 8)), dtype="<u8")
        return raw.view(np.uint8)[:size].reshape(shape)
