"""Missing modalities: which subsets to run under each published protocol, how to average them, what each one adds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluate.semantic import VOID, Labels

MissingProtocol = Literal["zero_filled", "skipped"]
"""What a method gets in a missing modality's place: zeros, or nothing. Scores of the two do not compare.

Source: "zero_filled" is Liao et al., arXiv 2503.18445 (entirely missing modalities, EMM); "skipped" leaves the branch
out, as MAGIC, Any2Seg, AnySeg and CHARM are scored.
"""

Subset = tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SubsetRun:
    """One run of a protocol.

    Attributes:
        present: modalities with their recorded content, in the method's order.
        absent: the others.
        order: what the method sees; under "zero_filled" all modalities.
    """

    protocol: MissingProtocol
    present: Subset
    absent: Subset
    order: Subset

    @property
    def name(self) -> str:
        """Such as "rgb+depth"."""
        return "+".join(self.present)

    @property
    def zero_filled(self) -> Subset:
        """Modalities to be given as zeros, for `BundleOptions.zero_filled`."""
        return self.absent if self.protocol == "zero_filled" else ()

    def row(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """A manifest row as this run reads it."""
        return {**row, "modality_order": list(self.order)}


def subset_runs(modalities: Sequence[str], protocol: MissingProtocol) -> tuple[SubsetRun, ...]:
    """A run for each non-empty subset, the complete one last: 15 for four modalities.

    Args:
        modalities: all of them, in the order in which the method is to see them.

    Raises:
        ValueError: none, or one is there twice.
    """
    names = tuple(modalities)
    if not names or len(set(names)) != len(names):
        raise ValueError(f"modalities {list(names)}: expected at least one, none of them twice.")
    return tuple(
        SubsetRun(
            protocol=protocol,
            present=present,
            absent=tuple(name for name in names if name not in present),
            order=names if protocol == "zero_filled" else present,
        )
        for size in range(1, len(names) + 1)
        for present in combinations(names, size)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SubsetScores:
    """What one metric says over all subsets, in the metric's own unit.

    Attributes:
        mean: over all subsets alike, the complete one included: mIoU-Avg.
        complete: with nothing missing.
        worst: the least, and the subset that it is of.
        by_num_missing: mean over the subsets that lack so many modalities.
        expected: failure probability p to the mean that each modality's failing by itself with p gives: mIoU-E.
    """

    protocol: MissingProtocol
    mean: float
    complete: float
    worst: float
    worst_subset: Subset
    by_num_missing: Mapping[int, float]
    expected: Mapping[float, float]


def average_subsets(
    runs: Sequence[SubsetRun], scores: Mapping[str, float], *, failure_probabilities: Sequence[float] = (0.1, 0.3, 0.5)
) -> SubsetScores:
    """The protocol's averages.

    Args:
        runs: all of `subset_runs`.
        scores: run name to score.
        failure_probabilities: each in [0, 1). A scene whose every modality failed cannot be scored, so the
            probabilities of the others are divided by 1 - p^M.

    Raises:
        ValueError: a run has no score or a score no run, the runs are of several protocols, or a probability is out of
            range.
    """
    if {run.name for run in runs} != scores.keys() or len({run.protocol for run in runs}) != 1:
        raise ValueError(
            f"{len(runs)} runs of protocols {sorted({run.protocol for run in runs})} and scores of "
            f"{sorted(scores)}: expected one protocol and a score for each of {[run.name for run in runs]}."
        )
    if any(not 0 <= probability < 1 for probability in failure_probabilities):
        raise ValueError(f"failure probabilities {list(failure_probabilities)}: expected 0 <= p < 1.")
    missing = np.array([len(run.absent) for run in runs])
    present = np.array([len(run.present) for run in runs])
    values = np.array([scores[run.name] for run in runs], dtype=np.float64)
    return SubsetScores(
        protocol=runs[0].protocol,
        mean=float(values.mean()),
        complete=float(values[missing == 0][0]),
        worst=float(values.min()),
        worst_subset=runs[int(values.argmin())].present,
        by_num_missing={int(count): float(values[missing == count].mean()) for count in np.unique(missing)},
        expected={p: _expected(values, p**missing * (1 - p) ** present) for p in failure_probabilities},
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ModalityContribution:
    """What one modality does to a scene's labels, as shares of the scored pixels, 0..1.

    Attributes:
        changed: whose label is another without it.
        helped, harmed: right only with it, right only without it; None where the truth is unknown.
    """

    modality: str
    changed: float
    helped: float | None = None
    harmed: float | None = None


def modality_contribution(
    fused: Labels, without: Mapping[str, Labels], *, truth: Labels | None = None
) -> tuple[ModalityContribution, ...]:
    """How the label map changes without each modality.

    Args:
        fused: class ids (H, W), of all modalities together.
        without: modality to class ids (H, W) of the others together.
        truth: class ids (H, W); pixels of VOID are left out.

    Raises:
        ValueError: sizes differ, or no pixel is scored.
    """
    for name, labels in {**without, **({} if truth is None else {"truth": truth})}.items():
        if labels.shape != fused.shape:
            raise ValueError(f"{name}: labels of shape {labels.shape}, expected {fused.shape} as the fused ones.")
    is_scored = np.ones(fused.shape, dtype=np.bool_) if truth is None else truth != VOID
    if not is_scored.any():
        raise ValueError("no pixel to score: every one is void.")
    kept = None if truth is None else truth[is_scored]
    return tuple(_contribution(name, fused[is_scored], labels[is_scored], kept) for name, labels in without.items())


def _contribution(name: str, fused: Labels, without: Labels, truth: Labels | None) -> ModalityContribution:
    changed = float((fused != without).mean())
    if truth is None:
        return ModalityContribution(modality=name, changed=changed)
    right_with, right_without = fused == truth, without == truth
    return ModalityContribution(
        modality=name,
        changed=changed,
        helped=float((right_with & ~right_without).mean()),
        harmed=float((~right_with & right_without).mean()),
    )


def _expected(values: NDArray[np.float64], weights: NDArray[np.float64]) -> float:
    return float((values * weights).sum() / weights.sum())
