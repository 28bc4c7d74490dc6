"""Runs of the tracking bench joined: means weighted by seeds, rules judged on the whole, mixed runs refused."""

from typing import Any

import pytest

from tests.bench.track_report import joined, markdown
from tests.bench.track_runs import Measures


def part(seeds: list[int], j: dict[str, float], *, suite: str = "static", **changes: Any) -> dict[str, Any]:
    values = {
        name: Measures(j=v, j_and_f=v, j_and_f_last=v, j_second=v, recall=None, switches=0.0, ms=1.0).as_dict()
        for name, v in j.items()
    }
    return {
        "core": "toy",
        "frames": 64,
        "prompt": "mask",
        "commit": "c",
        "seeds": seeds,
        "suites": {suite: values},
        **changes,
    }


def test_means_are_weighted_by_the_number_of_seeds_and_rules_judged_on_them() -> None:
    report = joined([part([1, 2], {"full": 0.9, "sam2": 0.9}), part([3], {"full": 0.6, "sam2": 0.9})])
    assert report["suites"]["static"]["full"]["j"] == pytest.approx(0.8)
    assert report["seeds"]["static"]["full"] == [1, 2, 3]
    verdicts = {rule["rule"]: rule["verdict"] for rule in report["rules"]}
    assert verdicts["J of full and sam2 within 0.01"] == "FAIL"
    assert verdicts["J of full >= mgp_off - 0.02"] == "not run"
    assert "| static | full | 0.800 | 0.800 | 0.800 | 0.800 | - | 0.0 | 1, 2, 3 |" in markdown(report)


def test_suites_of_separate_runs_stand_side_by_side() -> None:
    report = joined([part([1], {"full": 0.9}), part([1], {"full": 0.5}, suite="flash")])
    assert {suite: found["full"]["j"] for suite, found in report["suites"].items()} == {"static": 0.9, "flash": 0.5}


def test_runs_that_do_not_belong_together_are_refused() -> None:
    with pytest.raises(ValueError, match="different core"):
        joined([part([1], {"full": 0.9}), part([2], {"full": 0.9}, core="tiny")])
    with pytest.raises(ValueError, match=r"seeds \[2\] come twice"):
        joined([part([1, 2], {"full": 0.9}), part([2, 3], {"full": 0.9})])
