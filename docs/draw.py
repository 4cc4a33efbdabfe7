"""Draws the packages and who imports whom into docs/architecture.md, from the source: `python docs/draw.py`.

`--check` changes nothing and ends with 1 where the drawing is no longer the source's.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).absolute().parent.parent
PAGE = ROOT / "docs" / "architecture.md"
BEGIN, END = "<!-- drawing: begin -->", "<!-- drawing: end -->"
# Folders that are no part of what is installed, or hold no code of it.
OTHERS = {"bench", "build", "docs", "examples", "out", "tests", "train", "web"}

Imports = dict[str, set[str]]
"""Package or top-level module -> those that it imports."""
Files = dict[str, list[Path]]
"""Package or top-level module -> its files."""


def parts() -> Files:
    """The files of every package, and of every module that stands at top level, by name."""
    found = {path.stem: [path] for path in sorted(ROOT.glob("*.py"))}
    for folder in sorted(path.parent for path in ROOT.glob("*/__init__.py") if path.parent.name not in OTHERS):
        found[folder.name] = sorted(folder.rglob("*.py"))
    return found


def imports(files: Files, conditional: bool = False) -> Imports:
    """Who imports whom directly, always or, if `conditional`, under a condition. What a package imports of its own is
    not told."""
    return {
        name: {other for path in paths for other in _imported(path, conditional)} & files.keys() - {name}
        for name, paths in files.items()
    }


def _imported(path: Path, conditional: bool) -> Iterator[str]:
    """The first names, below the root, of what a file imports relatively, inside functions, too: within an `if` of the
    file's own where `conditional`, else outside of any."""
    folder = path.parent.relative_to(ROOT).parts
    statements = ast.parse(path.read_text(encoding="utf-8")).body
    wanted = [statement for statement in statements if isinstance(statement, ast.If) == conditional]
    for node in (node for statement in wanted for node in ast.walk(statement)):
        if isinstance(node, ast.ImportFrom) and node.level:
            parent = folder[: len(folder) - node.level + 1]
            module = tuple((node.module or "").split(".")) if node.module else ()
            yield from ((*parent, *module, alias.name)[0] for alias in node.names)


def without_implied(direct: Imports) -> Imports:
    """Only the arrows that no longer way implies. Raises `ValueError` where imports go round in a circle."""
    below: Imports = {}

    def reached(name: str, way: tuple[str, ...] = ()) -> set[str]:
        if name in way:
            raise ValueError(f"imports go round in a circle: {' -> '.join([*way, name])}")
        if name not in below:
            below[name] = direct[name].union(*(reached(other, (*way, name)) for other in direct[name]))
        return below[name]

    for name in direct:
        reached(name)
    return {name: others - set().union(*(below[other] for other in others)) for name, others in direct.items()}


def drawing(files: Files) -> str:
    """The text of a Mermaid flowchart, which GitHub and most editors show as a picture."""
    always, sometimes = imports(files), imports(files, conditional=True)
    arrows = without_implied(always)
    dashed = {name: others - always[name] for name, others in sometimes.items()}
    lines = ["```mermaid", "flowchart TD"]
    lines += [f'    {_id(name)}["{_title(paths[0], name)}"]' for name, paths in files.items()]
    lines += [f"    {_id(name)} --> {_id(other)}" for name in files for other in sorted(arrows[name])]
    lines += [f"    {_id(name)} -.-> {_id(other)}" for name in files for other in sorted(dashed[name])]
    return "\n".join([*lines, "```"])


def _id(name: str) -> str:
    return name.strip("_")


def _title(path: Path, name: str) -> str:
    """The name, and what the docstring says first. The first file of a package is its `__init__.py`."""
    told = re.split(r"[:,.;]", ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "")[0]
    return f"{name}{'.py' if path.parent == ROOT else '/'}<br/>{told}"


def main() -> None:
    files = parts()
    page = PAGE.read_text(encoding="utf-8")
    before, rest = page.split(BEGIN)
    after = rest.split(END)[1]
    drawn = f"{before}{BEGIN}\n\n{drawing(files)}\n\n{END}{after}"
    if sys.argv[1:] == ["--check"]:
        sys.exit(0 if drawn == page else "the drawing is out of date; `python docs/draw.py` draws it anew")
    PAGE.write_text(drawn, encoding="utf-8")


if __name__ == "__main__":
    main()
