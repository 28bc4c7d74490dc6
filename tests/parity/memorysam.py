"""Golden cases of the published MemorySAM code through our classes: one line per check, 1 if any differs."""

import argparse
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.parity.comparison import Check, failed, guarded
from tests.parity.memorysam_models import check_model_case
from tests.parity.memorysam_modules import check_module_case


def main(argv: Sequence[str]) -> int:
    """Check every case of a directory that looks as the golden vectors' open/ does; a missing file is a failure."""
    parser = argparse.ArgumentParser(prog="python -m tests.parity memorysam", description=__doc__)
    parser.add_argument("--cases", type=Path, required=True, help="folder with *.npz")
    parser.add_argument("words", nargs="*", help="run only cases whose name holds one of these")
    options = parser.parse_args(argv)
    num_checks, num_failed = 0, 0
    started = time.monotonic()
    for check in check_directory(options.cases, options.words):
        print(check, flush=True)
        num_checks += 1
        num_failed += not check.ok
    print(f"{num_checks} checks, {num_failed} failed, {time.monotonic() - started:.0f} s")
    return 1 if num_failed or not num_checks else 0


def check_directory(directory: Path, words: Sequence[str] = ()) -> Iterator[Check]:
    """The checks of all cases whose name holds one of the words, or of all; the models come last."""
    paths = sorted(directory.glob("*.npz"), key=lambda path: (is_model_case(path), path.stat().st_size, path.name))
    if not any(is_model_case(path) for path in paths) and not words:
        yield failed("model", f"missing: no {directory}/model_*.npz")
    if all(is_model_case(path) for path in paths) and not words:
        yield failed("modules", f"missing: no {directory}/*.npz beside models")
    for path in paths:
        if not words or any(word in path.stem for word in words):
            check = check_model_case if is_model_case(path) else check_module_case
            yield from guarded(path.stem, lambda path=path, check=check: check(path))  # type: ignore[misc]


def is_model_case(path: Path) -> bool:
    """Whether a file holds a whole model's outputs, by its name."""
    return path.name.startswith("model_")
