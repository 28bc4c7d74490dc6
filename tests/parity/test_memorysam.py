"""Our MemorySAM beside golden vectors of the published code, and the checker beside planted mistakes."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.parity.memorysam import check_directory, main
from tests.parity.memorysam_mutations import MUTATIONS, run_mutation

MODULES = ("lora_qkv", "spmm_a", "spmm_b", "loss_lr", "metrics", "prep_deliver")


@pytest.fixture
def cases(golden_dir: Path, tmp_path: Path) -> Path:
    """A writable copy of the module cases."""
    for name in MODULES:
        shutil.copyfile(golden_dir / "memorysam" / "open" / f"{name}.npz", tmp_path / f"{name}.npz")
    return tmp_path


def test_every_module_case_agrees(golden_dir: Path) -> None:
    checks = list(check_directory(golden_dir / "memorysam" / "open", MODULES))
    assert len(checks) > 60
    assert [str(check) for check in checks if not check.ok] == []


@pytest.mark.slow
def test_two_scenes_of_two_modalities_agree(golden_dir: Path) -> None:
    """The smallest case with memory and a batch; `make parity` runs all of them, half a minute of one core."""
    checks = list(check_directory(golden_dir / "memorysam" / "open", ["model_t128_m2_b2"]))
    assert len(checks) == 12
    assert [str(check) for check in checks if not check.ok] == []


def test_changed_values_and_unknown_cases_fail(cases: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, key in (("lora_qkv", "stage__y"), ("spmm_a", "s2_global_proto"), ("metrics", "k25_hist")):
        with np.load(cases / f"{name}.npz") as file:
            content = {key: file[key] for key in file.files}
        content[key] = content[key] + np.asarray(1, content[key].dtype)
        np.savez(cases / f"{name}.npz", **content)
    np.savez(cases / "surprise.npz", something=np.zeros(3))
    assert main(["--cases", str(cases)]) == 1
    lines = capsys.readouterr().out.splitlines()
    wrong = {line.split(" max difference")[0].strip() for line in lines if "DIFFERS" in line}
    assert wrong == {
        "model",  # no model_*.npz at all
        "lora_qkv stage adapted",
        "lora_qkv stage folded",
        "metrics k25 counts",
        "spmm_a step 2 global / (1e-08 + 1e-05 |x|)",
        "surprise",
    }
    assert "6 failed" in lines[-1]


def test_an_empty_directory_fails(tmp_path: Path) -> None:
    assert main(["--cases", str(tmp_path)]) == 1


@pytest.mark.slow
def test_the_smallest_planted_mistake_is_noticed(golden_dir: Path) -> None:
    """The other seven: `python -m tests.parity.memorysam_mutations --cases DIR`."""
    result = run_mutation(golden_dir / "memorysam" / "open", MUTATIONS["object pointers zeroed"])
    assert "fused_low" in result.failed
    assert 1e-3 < result.moved < 0.1
