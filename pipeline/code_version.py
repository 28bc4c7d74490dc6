"""Which code wrote a row: package version and, in a source tree, the commit."""

import subprocess
from importlib import metadata
from pathlib import Path

SOURCE_VERSION = "0.1.0"
"""For a source tree that is run without being installed; a test keeps it equal to pyproject.toml's."""


def package_version() -> str:
    """Version of the installed package, or of the source tree."""
    try:
        return metadata.version("masklake")
    except metadata.PackageNotFoundError:
        return SOURCE_VERSION


def code_version() -> str:
    """ "0.1.0+g1a2b3c4" in a git checkout (".dirty" when it has changes), else the package version alone."""
    root = Path(__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return package_version()
    described = _git(root, "rev-parse", "--short=10", "HEAD")
    if not described:
        return package_version()
    dirty = ".dirty" if _git(root, "status", "--porcelain", "--untracked-files=no") else ""
    return f"{package_version()}+g{described}{dirty}"


def _git(root: Path, *arguments: str) -> str:
    try:
        result = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return result.stdout.strip() if result.returncode == 0 else ""
