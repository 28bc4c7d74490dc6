"""The model card tells the measured numbers, all of them, and of one set of weights."""

from typing import Any

import pytest

from pipeline.evaluate.tiny_slices import SLICES
from tests.model_card import BEGIN, CARD, END, MEASUREMENTS, numbers, read_reports, with_numbers

LINEAGE = {"clips": 200, "model": "tiny", "weights_sha256": "ab", "settings": {}, "commit": "0.1.0+g1"}


def slices_report(seed: int, j: float) -> dict[str, Any]:
    entry = {"J": j, "J_interval": [j - 0.01, j + 0.01], "F": 0.9, "F_interval": [0.8, 1.0], "n": 321, "clips": 200}
    return {**LINEAGE, "seed": seed, "slices": {"attribute": entry}}


def test_the_card_is_what_its_reports_make_of_it() -> None:
    card = CARD.read_text()
    assert with_numbers(card, read_reports(sorted(MEASUREMENTS.glob("tiny_*.json")))) == card, (
        "run `python -m tests.model_card --write`"
    )


def test_each_seed_has_a_column_and_each_slice_its_rows() -> None:
    lines = numbers([slices_report(9, 0.8136), slices_report(4, 0.7777)]).splitlines()
    assert lines[0] == "| slice |  | held to | seed 4 | seed 9 | n |"
    assert lines[2] == "| `attribute` | J | >= 0.80 | 0.778 [0.768, 0.788] | 0.814 [0.804, 0.824] | 321 / 321 |"
    assert lines[3].startswith("|  | F |  | 0.900 [0.800, 1.000] |")
    assert sum(f"`{name}`" in line for name in SLICES for line in lines) == len(SLICES)
    assert "weights ab" in lines[-1]


def test_ablations_and_calibration_are_told() -> None:
    found = {"as_is": [0.5, 0.4, 0.6], "changed": [0.3, 0.2, 0.35], "difference": [-0.2, -0.3, -0.1]}
    ablations = {
        "cme_off": {
            "told": "",
            "slices": {"tracking_bias": {"J_since": {**found, "intervals_overlap": False, "n": 9}}},
        },
        "trained_without_hsa": {"told": "", "not_measured": "needs weights"},
    }
    errors = {"before": 0.25, "after": 0.03125}
    calibration = {**LINEAGE, "seed": 1, "masks": 77, "calibration_error": errors, "brier_score": errors}
    told = numbers([{**LINEAGE, "seed": 1, "ablations": ablations}, calibration])
    assert "| `cme_off` | tracking_bias | J_since | 0.500 [0.400, 0.600] | 0.300 [0.200, 0.350] | -0.200 " in told
    assert "| apart |" in told
    assert "not measured: needs weights" in told
    assert "77 masks" in told
    assert "0.2500 before the calibration and 0.0312 with it" in told


def test_numbers_of_different_weights_do_not_share_a_card() -> None:
    with pytest.raises(ValueError, match="different models, weights or settings"):
        numbers([slices_report(1, 0.5), {**slices_report(2, 0.5), "weights_sha256": "cd"}])
    with pytest.raises(ValueError, match="the card lacks"):
        with_numbers(f"{END}{BEGIN}", [])
