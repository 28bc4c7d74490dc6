"""Our SAMWISE beside golden vectors of the published code, and the checker beside planted mistakes.

Modules only: the whole videos take minutes of a core, and `make parity` runs them, as continuous integration does.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.parity.samwise import check_directory, main


@pytest.fixture
def modules(golden_dir: Path, tmp_path: Path) -> Path:
    """A writable copy of the module cases, in a folder of the same structure."""
    copy = tmp_path / "cases" / "modules"
    copy.mkdir(parents=True)
    for path in (golden_dir / "samwise" / "open" / "modules").iterdir():
        shutil.copyfile(path, copy / path.name)
    return copy


def rewrite(path: Path, **changes: object) -> None:
    with np.load(path) as file:
        content = {key: file[key] for key in file.files}
    np.savez(path, **{**content, **changes})  # type: ignore[arg-type]


def test_every_module_case_agrees(golden_dir: Path) -> None:
    words = [path.stem for path in (golden_dir / "samwise" / "open" / "modules").glob("*.npz")]
    checks = list(check_directory(golden_dir / "samwise" / "open", [*words, "hsa"]))
    assert len(checks) > 40
    assert [str(check) for check in checks if not check.ok] == []


def test_a_changed_value_a_missing_manifest_and_an_unknown_case_fail(
    modules: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with np.load(modules / "d_cme.npz") as file:
        logits = file["logits"].copy()
    logits[0, 0] += 1e-3
    rewrite(modules / "d_cme.npz", logits=logits)
    (modules / "a_hsa_p2.manifest.json").unlink()
    np.savez(modules / "x_surprise.npz", something=np.zeros(3))
    assert main(["--cases", str(modules.parent), "d_cme", "a_hsa_p2", "x_surprise", "h_text"]) == 1
    lines = capsys.readouterr().out.splitlines()
    told = {line.split("  ")[0]: line for line in lines}
    assert "DIFFERS" in told["d_cme logits"]
    assert "missing file" in told["a_hsa_p2"]
    assert "unknown case" in told["x_surprise"]
    assert told["h_text hidden 12"].endswith("ok")
    assert "3 failed" in lines[-1]


def test_a_directory_without_cases_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--cases", str(tmp_path)]) == 1
    told = capsys.readouterr().out
    assert "missing: no" in told
    assert "e2e" in told


def test_an_incomplete_video_case_fails(golden_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = tmp_path / "e2e_broken"
    case.mkdir()
    settings = json.loads((golden_dir / "samwise" / "open" / "e2e_mini" / "case.json").read_text())
    (case / "case.json").write_text(json.dumps(settings))
    assert main(["--cases", str(tmp_path), "e2e_broken"]) == 1
    assert "missing file" in capsys.readouterr().out
