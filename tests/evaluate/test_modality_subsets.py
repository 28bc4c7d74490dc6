"""Missing-modality protocols: every subset once, averages as by hand, and what a modality adds to a label map."""

import numpy as np
import pytest

from pipeline.evaluate.modality_subsets import (
    MissingProtocol,
    average_subsets,
    modality_contribution,
    subset_runs,
)

ORDER = ("rgb", "depth", "event", "lidar")


@pytest.mark.parametrize("protocol", ["zero_filled", "skipped"])
def test_every_subset_is_run_once_in_the_methods_order(protocol: MissingProtocol) -> None:
    runs = subset_runs(ORDER, protocol)
    wanted = {tuple(ORDER[i] for i in range(4) if bits >> i & 1) for bits in range(1, 16)}
    assert len(runs) == 15
    assert {run.present for run in runs} == wanted
    assert all(set(run.present) | set(run.absent) == set(ORDER) for run in runs)
    assert (runs[-1].present, runs[-1].name) == (ORDER, "rgb+depth+event+lidar")


def test_the_protocols_differ_in_what_stands_for_a_missing_modality() -> None:
    zeros = {run.name: run for run in subset_runs(ORDER, "zero_filled")}["depth+lidar"]
    skipped = {run.name: run for run in subset_runs(ORDER, "skipped")}["depth+lidar"]
    assert (zeros.order, zeros.zero_filled) == (ORDER, ("rgb", "event"))
    assert (skipped.order, skipped.zero_filled) == (("depth", "lidar"), ())
    row = {"video_uri": "a.png", "modalities": {"depth": "d.png"}}
    assert skipped.row(row) == {**row, "modality_order": ["depth", "lidar"]}
    assert "modality_order" not in row


def test_averages_are_those_of_counting_by_hand() -> None:
    runs = subset_runs(("a", "b"), "skipped")
    averaged = average_subsets(runs, {"a": 0.2, "b": 0.5, "a+b": 0.8}, failure_probabilities=(0.0, 0.25))
    assert averaged.mean == pytest.approx(0.5)
    assert (averaged.complete, averaged.worst, averaged.worst_subset) == (0.8, 0.2, ("a",))
    assert averaged.by_num_missing == pytest.approx({0: 0.8, 1: 0.35})
    # Both there: 9/16; a alone: 3/16; b alone: 3/16; neither, 1/16, is not scored.
    assert averaged.expected == pytest.approx({0.0: 0.8, 0.25: (9 * 0.8 + 3 * 0.2 + 3 * 0.5) / 15})


def test_the_expectation_is_what_drawing_failures_gives() -> None:
    random = np.random.default_rng(3)
    runs = subset_runs(ORDER, "zero_filled")
    scores = {run.name: float(random.random()) for run in runs}
    is_there = random.random((200_000, 4)) >= 0.3
    is_there = is_there[is_there.any(axis=1)]
    codes = is_there @ (1 << np.arange(4))
    by_code = {code: scores["+".join(ORDER[i] for i in range(4) if code >> i & 1)] for code in range(1, 16)}
    drawn = np.mean([by_code[code] for code in codes])
    assert average_subsets(runs, scores, failure_probabilities=(0.3,)).expected[0.3] == pytest.approx(drawn, abs=2e-3)


def test_what_cannot_be_averaged_is_refused() -> None:
    runs = subset_runs(("a", "b"), "skipped")
    with pytest.raises(ValueError, match="a score for each of"):
        average_subsets(runs, {"a": 0.2, "b": 0.5})
    with pytest.raises(ValueError, match="one protocol"):
        average_subsets([*runs[:2], subset_runs(("a", "b"), "zero_filled")[2]], {"a": 0.2, "b": 0.5, "a+b": 0.8})
    with pytest.raises(ValueError, match="0 <= p < 1"):
        average_subsets(runs, {"a": 0.2, "b": 0.5, "a+b": 0.8}, failure_probabilities=(1.0,))
    with pytest.raises(ValueError, match="none of them twice"):
        subset_runs(("a", "a"), "skipped")


def test_a_contribution_is_the_share_of_labels_that_change() -> None:
    truth = np.array([[0, 0, 1, 1, 2], [2, 2, 0, 255, 255]])
    fused = np.array([[0, 0, 1, 1, 1], [2, 2, 0, 0, 0]])
    without_depth = np.array([[0, 1, 1, 1, 2], [0, 2, 0, 5, 5]])
    depth, event = modality_contribution(fused, {"depth": without_depth, "event": fused}, truth=truth)
    # Of 8 scored pixels depth changes three: two are right only with it, one is right only without it.
    assert (depth.modality, depth.changed, depth.helped, depth.harmed) == ("depth", 3 / 8, 2 / 8, 1 / 8)
    assert (event.changed, event.helped, event.harmed) == (0, 0, 0)
    (blind,) = modality_contribution(fused, {"depth": without_depth})
    assert (blind.changed, blind.helped, blind.harmed) == (5 / 10, None, None)
    with pytest.raises(ValueError, match=r"depth: labels of shape \(1, 5\), expected \(2, 5\)"):
        modality_contribution(fused, {"depth": without_depth[:1]})
    with pytest.raises(ValueError, match="no pixel to score"):
        modality_contribution(fused, {"depth": fused}, truth=np.full_like(truth, 255))
