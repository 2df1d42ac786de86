"""The map of ``cad.reports``: data flows one way."""

from __future__ import annotations

import ast
from pathlib import Path

import cad.reports

ROOT = Path(cad.reports.__file__).parent
FOLDERS = ("data", "plotting", "questions", "output")


def imports(path: Path) -> list[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module]


def test_imports_go_forward_and_through_the_folders_names() -> None:
    for number, folder in enumerate(FOLDERS):
        earlier = {f"cad.reports.{name}" for name in FOLDERS[:number]}
        for path in (ROOT / folder).glob("*.py"):
            inside = {name for name in imports(path) if name.startswith("cad.reports")}
            across = {name for name in inside if not name.startswith(f"cad.reports.{folder}")}
            assert across <= earlier, path


def test_other_rooms_import_from_the_front() -> None:
    for path in ROOT.parent.rglob("*.py"):
        if ROOT not in path.parents:
            assert not [name for name in imports(path) if name.startswith("cad.reports.")], path


def test_every_question_is_listed_once() -> None:
    from cad.reports.questions import SECTIONS

    modules = {path.stem for path in (ROOT / "questions").glob("*.py")} - {
        "__init__",
        "drawing_pool",
        "section",
    }
    assert len(SECTIONS) == len(modules) == len({section.anchor for section in SECTIONS})
