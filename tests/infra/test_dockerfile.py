"""The Dockerfile keeps its rules, a Dockerfile that breaks one is refused, and its context holds what it copies."""

import fnmatch
import re
import tomllib
from pathlib import Path

import pytest

from tests.infra.dockerfile_rules import dockerfile_problems, instructions, lineage, parents

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "infra" / "Dockerfile").read_text(encoding="utf-8")


def test_the_rules_have_nothing_against_our_dockerfile() -> None:
    assert dockerfile_problems(TEXT) == []


FAULTS = {
    "a target under another name": ("AS cuda", "AS gpu", "no target cuda"),
    "the newest image of a name": ("python:3.11-slim-bookworm", "python:latest", "give a tag"),
    "an image without a tag": ("python:3.11-slim-bookworm", "python", "give a tag"),
    "root at the end": ("USER 1000:1000\n\n# ---- cpu", "USER 0:0\n\n# ---- cpu", "cuda: runs as 0:0"),
    "a user by name": ("USER 1000:1000\nCMD", "USER ray\nCMD", "cpu: runs as ray"),
    "no user": ("USER ", "LABEL user=", "cpu: runs as root"),
    "source before the lock": ("COPY ${LOCK}", "COPY pipeline ./pipeline\nCOPY ${LOCK}", "installs everything anew"),
    "the lock without hashes": ("--require-hashes ", "", "without --require-hashes"),
    "a package that no lock names": ("CMD [", "RUN pip install torchcodec\nCMD [", "no lock names"),
    "source in the first layer": (
        "COPY --from=dependencies /opt/venv /opt/venv",
        "COPY jobs /opt/jobs\nCOPY --from=dependencies /opt/venv /opt/venv",
        "not its first layer",
    ),
    "an archive by address": ("CMD [", "ADD https://example.org/weights.tar /w\nCMD [", "names the host"),
    "an index by address": ("--no-deps --no-index", "--no-deps --no-index --find-links x.example.org", "the host"),
    "a token as argument": ("ARG UV_VERSION=0.13.8", "ARG HF_TOKEN", "HF_TOKEN would stay readable"),
    "a key in the environment": ("PYTHONUNBUFFERED=1", "AWS_SECRET_ACCESS_KEY=x", "would stay readable"),
    "package lists left behind": ("    && rm -rf /var/lib/apt/lists/* \\\n", "", "lists"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_rules_refuse(fault: str) -> None:
    was, becomes, told = FAULTS[fault]
    assert was in TEXT
    problems = dockerfile_problems(TEXT.replace(was, becomes))
    assert any(told in problem for problem in problems), problems


def test_continuation_lines_and_comments_are_read_as_docker_reads_them() -> None:
    read = instructions("FROM a:1 AS x\nRUN one \\\n    # between\n    && two\n# after\nFROM x AS y\nUSER 1:1\n")
    assert [(i.stage, i.word, i.rest) for i in read] == [
        ("x", "FROM", "a:1 AS x"),
        ("x", "RUN", "one && two"),
        ("y", "FROM", "x AS y"),
        ("y", "USER", "1:1"),
    ]
    assert parents(read) == {"x": "a:1", "y": "x"}
    assert [i.word for i in lineage(read, "y")] == ["FROM", "RUN", "FROM", "USER"]


def test_the_python_of_the_images_is_one_that_the_package_supports() -> None:
    version = re.search(r"PYTHON_IMAGE=python:3\.(\d+)", TEXT)
    assert version is not None
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["requires-python"]
    assert int(version[1]) >= int(wanted.removeprefix(">=3."))


def test_the_uv_of_the_images_is_the_makefiles() -> None:
    made_with = re.search(r"^UV_VERSION := (\S+)", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert made_with is not None
    assert set(re.findall(r"ARG UV_VERSION=(\S+)", TEXT)) == {made_with[1]}


def context_patterns() -> tuple[list[str], list[str]]:
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*", "everything is kept out unless let in"
    return [rule[1:] for rule in rules if rule.startswith("!")], [r for r in rules[1:] if not r.startswith("!")]


def test_everything_that_is_copied_exists_and_is_let_into_the_context() -> None:
    let_in, _ = context_patterns()
    for i in instructions(TEXT.replace("${LOCK}", "requirements.lock")):
        if i.word == "COPY" and not i.rest.startswith("--from"):
            for source in i.rest.split()[:-1]:
                assert (ROOT / source).exists(), source
                assert any(fnmatch.fnmatch(source, pattern) for pattern in let_in), source


@pytest.mark.parametrize("path", [".git", ".venv", ".env", "tests", "infra", "out", "id_rsa", "notes.txt"])
def test_the_context_keeps_out(path: str) -> None:
    let_in, _ = context_patterns()
    assert not any(fnmatch.fnmatch(path, pattern) for pattern in let_in)
