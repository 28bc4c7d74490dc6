"""Licence, citation, changelog and third-party tables agree with the package and with what is installed."""

import hashlib
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.infra.licences import Package, declared_licence, runtime_packages

ROOT = Path(__file__).resolve().parents[2]
APACHE_2_0_SHA256 = "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"
"""Of the licence's text as the Apache Software Foundation publishes it; Debian's common-licenses has the same."""


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def project() -> dict[str, Any]:
    found: dict[str, Any] = tomllib.loads(text_of("pyproject.toml"))["project"]
    return found


def third_party_rows() -> dict[str, list[str]]:
    """First cell to the others, of every table row of THIRD_PARTY.md."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text_of("THIRD_PARTY.md").splitlines()]
    return {row[0]: row[1:] for row in rows if len(row) > 1}


def test_the_licence_is_apache_2_0_to_the_letter() -> None:
    assert hashlib.sha256((ROOT / "LICENSE").read_bytes()).hexdigest() == APACHE_2_0_SHA256
    assert project()["license"] == "Apache-2.0"


@pytest.fixture(scope="module")
def installed() -> list[Package]:
    return runtime_packages()


def test_every_package_that_a_run_needs_is_listed_under_the_licence_it_declares(installed: list[Package]) -> None:
    rows = third_party_rows()
    wrong = {p.name: (p.licence, rows.get(p.name)) for p in installed if rows.get(p.name, [""])[-1] != p.licence}
    assert wrong == {}, "python -m tests.infra.licences prints the tables anew"


def test_a_package_is_listed_as_asked_for_where_pyproject_asks_for_it(installed: list[Package]) -> None:
    rows = third_party_rows()
    asked = {p.name: ", ".join(p.asked_by) for p in installed if p.asked_by}
    assert {name: rows[name][0] for name in asked} == asked
    assert {"torch", "ray", "sam2", "duckdb"} <= set(asked)


def test_no_runtime_package_is_under_a_licence_that_binds_the_whole(installed: list[Package]) -> None:
    strong = re.compile(r"\b(?:A?GPL|Affero|General Public License)\b")
    assert [p.name for p in installed if strong.search(p.licence) and "Lesser" not in p.licence] == []


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"License-Expression": "MIT", "License": "BSD"}, "MIT"),
        ({"Classifier": "License :: OSI Approved :: MIT License", "License": "see file"}, "MIT License"),
        ({"Classifier": "License :: OSI Approved", "License": "Apache 2.0\nand more"}, "Apache 2.0"),
        ({}, "not declared"),
    ],
)
def test_the_declared_licence_is_the_most_exact_statement(fields: dict[str, str], expected: str) -> None:
    from email.message import Message

    metadata = Message()
    for key, value in fields.items():
        metadata[key] = value
    assert declared_licence(metadata) == expected  # type: ignore[arg-type]


def test_every_development_package_is_named() -> None:
    text = text_of("THIRD_PARTY.md")
    names = [re.split(r"[\[><=; ]", requirement)[0] for requirement in project()["optional-dependencies"]["dev"]]
    assert [name for name in names if name not in text] == []


def citation() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(text_of("CITATION.cff"))
    return found


def test_the_citation_is_of_this_version_and_licence() -> None:
    cited = citation()
    assert (cited["version"], cited["license"]) == (project()["version"], project()["license"])
    assert cited["cff-version"] == "1.2.0"


def test_the_citation_names_every_paper_that_third_party_names() -> None:
    cited = {
        found["value"].removeprefix("arXiv:") for paper in citation()["references"] for found in paper["identifiers"]
    }
    assert cited == set(re.findall(r"arXiv (\d{4}\.\d{5})", text_of("THIRD_PARTY.md")))
    assert len(cited) == 5


def test_the_changelog_has_a_place_for_what_comes_next() -> None:
    headings = re.findall(r"^## \[(.+?)\]", text_of("CHANGELOG.md"), re.MULTILINE)
    assert headings[0] == "Unreleased"
    assert project()["version"] in text_of("CHANGELOG.md")


@pytest.mark.parametrize("name", ["CONTRIBUTING.md", "SECURITY.md", "infra/README.md"])
def test_every_make_target_that_a_document_names_exists(name: str) -> None:
    targets = set(re.findall(r"^([a-z]+):", text_of("Makefile"), re.MULTILINE))
    assert {word for line in re.findall(r"`make ([a-z ]+)", text_of(name)) for word in line.split()} <= targets


def test_every_environment_variable_of_ours_in_infra_is_one_that_the_package_reads() -> None:
    named = {found for path in (ROOT / "infra").rglob("*") if path.is_file() for found in _variables(path)}
    read = {found for path in (ROOT / "pipeline").rglob("*.py") for found in _variables(path)}
    assert named <= read


def _variables(path: Path) -> set[str]:
    return set(re.findall(r"\bMASKLAKE_[A-Z_]+", path.read_text(encoding="utf-8")))
