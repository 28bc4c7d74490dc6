"""`python -m tests.parity METHOD`: run ours beside the original and print one line per case; 1 if any differs."""

import sys
from importlib import import_module

SUITES = {
    "sam2": "tests.parity.sam2",
    "samwise": "tests.parity.samwise",
    "memorysam": "tests.parity.memorysam",
}


def main(argv: list[str]) -> int:
    """Exit status of the suite named first; the rest of the arguments are its own."""
    if not argv or argv[0] not in SUITES:
        print(f"usage: python -m tests.parity {{{','.join(SUITES)}}} [arguments of the suite]", file=sys.stderr)
        return 2
    status: int = import_module(SUITES[argv[0]]).main(argv[1:])
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
