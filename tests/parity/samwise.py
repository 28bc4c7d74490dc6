"""Golden cases of the published SAMWISE code through our classes: one line per check, 1 if any differs."""

import argparse
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.parity.comparison import Check, failed, guarded
from tests.parity.samwise_modules import check_indivisible, check_module_case
from tests.parity.samwise_videos import check_video_case


def main(argv: Sequence[str]) -> int:
    """Check every case of a directory that looks as the golden vectors' open/ does; a missing file is a failure."""
    parser = argparse.ArgumentParser(prog="python -m tests.parity samwise", description=__doc__)
    parser.add_argument("--cases", type=Path, required=True, help="folder with modules/ and e2e_*/")
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
    """The checks of all cases whose name holds one of the words, or of all."""
    modules = sorted((directory / "modules").glob("*.npz"))
    videos = sorted(path for path in directory.glob("e2e_*") if path.is_dir())
    if not modules and not words:
        yield failed("modules", f"missing: no {directory}/modules/*.npz")
    if not videos and not words:
        yield failed("e2e", f"missing: no {directory}/e2e_*")
    for path in (p for p in modules if _is_wanted(p.stem, words)):
        yield from guarded(path.stem, lambda path=path: check_module_case(path))  # type: ignore[misc]
    if _is_wanted("hsa", words):
        yield from guarded("hsa", check_indivisible)
    for path in (p for p in videos if _is_wanted(p.name, words)):
        yield from guarded(path.name, lambda path=path: check_video_case(path))  # type: ignore[misc]


def _is_wanted(name: str, words: Sequence[str]) -> bool:
    return not words or any(word in name for word in words)
