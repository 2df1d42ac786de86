"""The map in the README holds: every module is on it, and none imports from below its own line."""

from __future__ import annotations

import ast
import fnmatch
import functools
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
GROUND = tuple(
    f"cad{name and '.'}{name}"
    for name in (
        "",
        "errors",
        "storage",
        "checksums",
        "locks",
        "hdf5",
        "process",
        "interrupt",
        "packages",
        "surroundings",
    )
)
# Within a folder of the map, too, imports go one way.
INSIDE = {
    "cad.experiments": ("plan", "reporting", "run", "cost", "analysis"),
    "cad.reports": ("data", "plotting", "questions", "output"),
}
# A package's own face: what others import, and what it may import from all of itself.
FACES = {"cad.reports"}


def map_entries() -> list[str]:
    """Packages and modules of the map, in its order: ``cad/config/`` is ``cad.config``."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    actual = re.findall(r"^    (cad/[a-z_]+)(?:/|\.py) ", text[text.index("## The map") :], flags=re.M)
    return [path.replace("/", ".") for path in actual]


@functools.cache
def modules() -> dict[str, Path]:
    """Every module of the package by its dotted name."""
    names = {}
    for path in sorted((ROOT / "cad").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return names


@functools.cache
def imports(path: Path) -> set[str]:
    """The package's own modules that a file imports, late ones too; not those for type checkers alone."""
    targets: set[str] = set()
    known = modules()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            for other in node.orelse:
                visit(other)
            return
        if isinstance(node, ast.Import):
            targets.update(alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                targets.add(inner if inner in known else node.module)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(path.read_text(encoding="utf-8")))
    return {target for target in targets if target == "cad" or target.startswith("cad.")}


def place(module: str, entries: list[str]) -> int:
    """The line of the map that a module belongs to; the ground is above the first one."""
    if module in GROUND:
        return -1
    owners = [i for i, entry in enumerate(entries) if module == entry or module.startswith(f"{entry}.")]
    assert owners, f"{module} is not on the map in README.md"
    return owners[0]


def upward(package: str) -> list[str]:
    """Imports within a package that go against its folders' order."""
    order, wrong = INSIDE[package], []
    for module, path in modules().items():
        if not module.startswith(f"{package}.") or module.count(".") < 3:
            continue
        own = order.index(module.split(".")[2])
        for target in imports(path):
            if target.startswith(f"{package}.") and target.split(".")[2] in order:
                if order.index(target.split(".")[2]) > own:
                    wrong.append(f"{module} imports {target}")
            elif target in FACES and target == package:
                wrong.append(f"{module} imports {target}")
    return wrong


def test_every_entry_of_the_map_exists() -> None:
    entries = map_entries()
    assert len(entries) >= 12
    assert set(entries) <= set(modules()) | {"cad.presets"}


def test_no_module_imports_from_below_its_line_of_the_map() -> None:
    entries = map_entries()
    wrong = [
        f"{module} imports {target}"
        for module, path in modules().items()
        for target in imports(path)
        if place(target, entries) > place(module, entries)
    ]
    assert not wrong


@pytest.mark.parametrize("package", INSIDE)
def test_folders_inside_a_package_keep_their_order(package: str) -> None:
    assert not upward(package)


def test_late_imports_are_listed_by_file() -> None:
    """Only files that pyproject.toml lists import late, and each of them does."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    listed = set(re.findall(r'^"(cad/[^"]+\.py)" = \[[^\]]*"PLC0415"', text, flags=re.M))
    used = set()
    for path in modules().values():
        text = path.read_text(encoding="utf-8")
        if not re.search(r"^ +(import|from) ", text, flags=re.M):
            continue
        tree = ast.parse(text)
        functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
        if any(isinstance(n, ast.Import | ast.ImportFrom) for f in functions for n in ast.walk(f)):
            name = path.relative_to(ROOT).as_posix()
            matches = {pattern for pattern in listed if fnmatch.fnmatch(name, pattern)}
            assert matches, f"{name} imports late"
            used |= matches
    assert used == listed
