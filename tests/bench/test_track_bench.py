"""The tracking bench runs on a model named as the jobs name one, and writes the columns that the toy's table has."""

import json
from pathlib import Path

import pytest

from tests.bench.track import main
from tests.bench.track_report import COLUMNS, joined, markdown
from tests.models.random_sam2 import save_random_sam2


def test_a_checkpoint_by_its_path_is_measured_like_the_toy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, table = save_random_sam2(tmp_path / "model"), tmp_path / "table.json"
    asked = ["--core", str(folder), "--suites", "disappearance", "--variants", "full", "sam2"]
    status = main([*asked, "--height", "128", "--prompt", "box", "--json", str(table)])
    report = json.loads(table.read_text())
    assert report["core"] == str(folder)
    found = report["suites"]["disappearance"]
    assert list(found) == ["full", "sam2"]
    assert all(0 <= found[variant][name] <= 1 for variant in found for name in COLUMNS.values())
    assert found["full"]["ms"] > 0
    assert {rule["verdict"] for rule in report["rules"]} == {"not run"}
    assert status == 0
    printed = capsys.readouterr().out
    assert f"core {folder}" in printed
    assert markdown(joined([report])).count("| disappearance |") == 2
