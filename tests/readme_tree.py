"""The source tree of README.md, made from the files' first sentences: `python -m tests.readme_tree --write`."""

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- tree: make readme -->", "<!-- end of tree -->"


def source_tree() -> str:
    """One line a file: its place and its first sentence."""
    lines = []
    for package in ("schemas", "pipeline", "jobs"):
        folders: dict[str, list[str]] = {}
        for path in sorted((ROOT / package).rglob("*.py")):
            if path.name != "__init__.py":
                folders.setdefault(path.parent.relative_to(ROOT).as_posix(), []).append(_line(path))
        for folder in sorted(folders):
            lines += [f"{folder}/", *folders[folder]]
    return "\n".join(lines)


def _line(path: Path) -> str:
    sentence = (ast.get_docstring(ast.parse(path.read_text())) or "").split("\n\n")[0]
    return f"  {path.name:26} {' '.join(sentence.split())}"


def with_tree(readme: str) -> str:
    """The README's text with its tree made anew. Raises ValueError if the markers are missing."""
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"README.md lacks {BEGIN} or {END}")
    return f"{before}{BEGIN}\n```\n{source_tree()}\n```\n{END}{after}"


if __name__ == "__main__":
    readme = ROOT / "README.md"
    made = with_tree(readme.read_text())
    if "--write" in sys.argv:
        readme.write_text(made)
    sys.exit(0 if made == readme.read_text() else "README.md's tree is out of date: make readme")
