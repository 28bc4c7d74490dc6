"""One compared quantity as a printed line: name, largest difference, tolerance, verdict."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

Values = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """How far one quantity is from its golden values.

    Attributes:
        difference: largest difference, in the tolerance's unit.
        note: what else a reader should know, e.g. why it failed.
    """

    name: str
    difference: float
    tolerance: float
    note: str = ""

    @property
    def ok(self) -> bool:
        return self.difference <= self.tolerance

    def __str__(self) -> str:
        verdict = "ok" if self.ok else "DIFFERS"
        return (
            f"{self.name:68s} max difference {self.difference:9.2e}  tolerance {self.tolerance:8.1e}  {verdict}"
            f"{'  ' + self.note if self.note else ''}"
        )


def close(name: str, ours: object, golden: object, *, absolute: float, per_scale: bool = True) -> Check:
    """Largest difference; the tolerance grows with the largest golden value above 1 if `per_scale`."""
    a, b = as_array(ours), as_array(golden)
    if a.shape != b.shape:
        return failed(name, f"shape {a.shape}, expected {b.shape}", tolerance=absolute)
    scale = max(1.0, float(np.abs(b).max(initial=0))) if per_scale else 1.0
    difference = float(np.abs(a - b).max(initial=0))
    return Check(name=name, difference=_finite(difference), tolerance=absolute * scale)


def same(name: str, ours: object, golden: object) -> Check:
    """Equal in every element; the difference counts those that are not."""
    a, b = as_array(ours), as_array(golden)
    if a.shape != b.shape:
        return failed(name, f"{a.tolist()}, expected {b.tolist()}")
    return Check(name=name, difference=float((a != b).sum()), tolerance=0.0)


def failed(name: str, reason: str, *, tolerance: float = 0.0) -> Check:
    """A check that cannot pass."""
    return Check(name=name, difference=float("inf"), tolerance=tolerance, note=reason)


def guarded(name: str, check: Callable[[], Iterable[Check]]) -> Iterator[Check]:
    """The checks of one case; an error within is a failed check, not the end of the run."""
    try:
        yield from check()
    except FileNotFoundError as error:
        yield failed(name, f"missing file {error.filename}")
    except Exception as error:  # The run must go on and end with a failure.
        yield failed(name, f"{type(error).__name__}: {error}".splitlines()[0])


def as_array(values: object) -> Values:
    """Any tensor, array or number as float64."""
    if isinstance(values, Tensor):
        values = values.detach().to(torch.float64).cpu().numpy()
    array: Values = np.asarray(values, dtype=np.float64)
    return array


def logits_close(name: str, ours: object, golden: ArrayLike, *, outliers: float = 0.0) -> list[Check]:
    """Mask logits: 2e-3 + 1e-3 |x| (golden ones are stored as float16), signs, and absent rows exactly.

    Args:
        outliers: share of elements that may lie outside, for logits that jump where another one changes sign.
    """
    a, b = as_array(ours), as_array(golden)
    if a.shape != b.shape:
        return [failed(name, f"shape {a.shape}, expected {b.shape}")]
    if a.size == 0:
        return [Check(name=name, difference=0.0, tolerance=1.0, note="empty, as it should be")]
    excess = np.abs(a - b) / (2e-3 + 1e-3 * np.abs(b))
    worst = float(np.sort(excess.ravel())[int((1 - outliers) * (excess.size - 1))])
    absent = b == -1024
    return [
        Check(name=f"{name} / (2e-3 + 1e-3 |x|)", difference=_finite(worst), tolerance=1.0),
        Check(name=f"{name} signs", difference=float(np.mean((a > 0) != (b > 0))), tolerance=1e-3),
        Check(name=f"{name} absent rows", difference=float((a[absent] != -1024).sum()), tolerance=0.0),
    ]


def masks_close(name: str, ours: object, golden: object, *, min_iou: float = 0.998) -> Check:
    """One minus the worst IoU over the first axis; two empty masks agree."""
    a, b = as_array(ours) > 0.5, as_array(golden) > 0.5
    if a.shape != b.shape:
        return failed(name, f"shape {a.shape}, expected {b.shape}")
    axes = tuple(range(1, a.ndim))
    shared, either = (a & b).sum(axes), (a | b).sum(axes)
    iou = np.where(either > 0, shared / np.maximum(either, 1), 1.0)
    return Check(name=f"{name} 1 - IoU", difference=float(1 - iou.min(initial=1)), tolerance=1 - min_iou)


def _finite(difference: float) -> float:
    return difference if np.isfinite(difference) else float("inf")
