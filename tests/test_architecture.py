"""The layout's rules, checked: file lengths, first sentences, empty packages, import contracts, light imports."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import scope_of

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("schemas", "pipeline", "jobs", "tests")
MAX_LINES = 400
MAX_FUNCTION_LINES = 60
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
PRODUCT = [path for path in SOURCES if path.relative_to(ROOT).parts[0] != "tests"]


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_a_file_has_at_most_400_lines(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= MAX_LINES


@pytest.mark.parametrize("path", PRODUCT, ids=name_of)
def test_a_file_begins_with_a_sentence_or_is_an_empty_package_file(path: Path) -> None:
    text = path.read_text()
    if path.name == "__init__.py":
        assert text == ""
        return
    sentence = (ast.get_docstring(ast.parse(text)) or "").split("\n\n")[0]
    assert sentence.endswith("."), f"{name_of(path)}: the first sentence says what the file is"


@pytest.mark.parametrize("path", PRODUCT, ids=name_of)
def test_a_function_fits_a_screen(path: Path) -> None:
    tree = ast.parse(path.read_text())
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    long = {node.name: (node.end_lineno or 0) - node.lineno + 1 for node in functions}
    assert {name: lines for name, lines in long.items() if lines > MAX_FUNCTION_LINES} == {}


def test_the_import_contracts_hold() -> None:
    result = subprocess.run(
        [Path(sys.executable).with_name("lint-imports")], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("module", ["schemas.mask_table", "pipeline.query", "pipeline.io.plan", "pipeline.cli"])
def test_reading_tables_imports_neither_torch_nor_ray(module: str) -> None:
    code = f"import sys, {module}; print(sorted({{'torch', 'ray', 'sam2', 'transformers'}} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_transformers_is_imported_where_it_is_used_and_never_with_a_module() -> None:
    """Importing it takes as long as all the rest of a worker, and most workers have no use for it."""
    early = [
        f"{name_of(path)}:{node.lineno}"
        for path in PRODUCT
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.Import | ast.ImportFrom) and "transformers" in _packages_of(node)
    ]
    assert early == []


def _packages_of(node: ast.Import | ast.ImportFrom) -> set[str]:
    names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
    return {name.partition(".")[0] for name in names}


def test_two_processes_share_no_file_and_one_of_them_runs_all_of_ray(request: pytest.FixtureRequest) -> None:
    for item in request.session.items:
        file = item.nodeid.partition("::")[0]
        wanted = "ray" if item.get_closest_marker("cluster") else file
        assert scope_of(item.nodeid) == wanted, f"{item.nodeid}: mark the whole file with `cluster`, or nothing of it"
    assert "--dist loadscope" in (ROOT / "Makefile").read_text()


def test_no_tracked_file_is_named_after_a_drawer() -> None:
    drawers = {"utils.py", "helpers.py", "misc.py", "common.py", "manager.py"}
    assert [name_of(path) for path in PRODUCT if path.name in drawers] == []


def test_the_readme_tells_the_tree_as_it_is() -> None:
    from tests.readme_tree import with_tree

    readme = (ROOT / "README.md").read_text()
    assert with_tree(readme) == readme, "run `make readme`"


def test_the_source_version_is_the_package_version() -> None:
    import tomllib

    from pipeline.code_version import SOURCE_VERSION

    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"] == SOURCE_VERSION
