"""Reads the declared licence of every package a run needs; `python -m tests.infra.licences` prints the tables."""

import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageMetadata, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
RUNTIME_EXTRAS = ("run", "s3", "train", "report")


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """One installed package: which of our extras name it ("" for none), and the licence its metadata declares."""

    name: str
    asked_by: tuple[str, ...]
    licence: str


def declared_licence(metadata: PackageMetadata) -> str:
    """The licence expression, else the classifiers, else the first line of the licence field, else "not declared"."""
    if "License-Expression" in metadata:
        return metadata["License-Expression"]
    texts = [text for text in metadata.get_all("Classifier") or [] if text.startswith("License ::")]
    if named := {text.split("::")[-1].strip() for text in texts} - {"OSI Approved", "DFSG approved"}:
        return ", ".join(sorted(named))
    lines = metadata["License"].strip().splitlines() if "License" in metadata else []
    return lines[0].strip() if lines else "not declared"


def runtime_packages() -> list[Package]:
    """Everything installed that pyproject's dependencies and runtime extras reach, by name."""
    asked = _asked_for()
    seen: set[tuple[str, frozenset[str]]] = set()
    names = {name for _, requirement in asked for name in _reached(requirement, seen)}
    return [
        Package(
            name=name,
            asked_by=tuple(dict.fromkeys(extra for extra, r in asked if canonicalize_name(r.name) == name)),
            licence=declared_licence(distribution(name).metadata),
        )
        for name in sorted(names)
    ]


def _asked_for() -> list[tuple[str, Requirement]]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    texts = [("base", text) for text in project["dependencies"]]
    texts += [(extra, text) for extra in RUNTIME_EXTRAS for text in project["optional-dependencies"][extra]]
    return [(extra, Requirement(text)) for extra, text in texts if not text.startswith("masklake")]


def _reached(requirement: Requirement, seen: set[tuple[str, frozenset[str]]]) -> Iterator[str]:
    """Name of the required package and, through the markers that hold here, of all it needs.

    Raises:
        PackageNotFoundError: one of them is not installed.
    """
    name = canonicalize_name(requirement.name)
    key = (name, frozenset(requirement.extras))
    if key in seen or (requirement.marker is not None and not requirement.marker.evaluate({"extra": ""})):
        return
    seen.add(key)
    yield name
    for text in distribution(name).requires or []:
        needed = Requirement(text)
        environments = [{"extra": extra} for extra in ("", *requirement.extras)]
        if needed.marker is None or any(needed.marker.evaluate(environment) for environment in environments):
            needed.marker = None
            yield from _reached(needed, seen)


def tables() -> str:
    """The two tables of THIRD_PARTY.md."""
    packages = runtime_packages()
    lines = ["| package | asked for by | licence as declared |", "|---|---|---|"]
    lines += [f"| {p.name} | {', '.join(p.asked_by)} | {p.licence} |" for p in packages if p.asked_by]
    lines += ["", "| package | licence as declared |", "|---|---|"]
    lines += [f"| {p.name} | {p.licence} |" for p in packages if not p.asked_by]
    return "\n".join(lines)


if __name__ == "__main__":
    print(tables())
