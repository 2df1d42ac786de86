"""docs/errors.md: every message that it explains is one of the program's, word for word."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "errors.md"
GAP = "…"


def _text(node: ast.AST) -> str | None:
    """A text as it is written in the code, with ``GAP`` for what is filled in."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part) or GAP for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return (_text(node.left) or GAP) + (_text(node.right) or GAP)
    return None


def texts() -> set[str]:
    """All texts in the package's code."""
    files = [ast.parse(file.read_text(encoding="utf-8")) for file in (ROOT / "cad").rglob("*.py")]
    return {text for tree in files for node in ast.walk(tree) if (text := _text(node))}


TEXTS = texts()
MESSAGES = re.findall(r"^> (.+)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)


@pytest.mark.parametrize("message", MESSAGES)
def test_a_message_of_the_page_is_the_programs(message: str) -> None:
    parts = [part.strip() for part in message.split(GAP) if part.strip(" .:;,")]
    pattern = re.compile(".*".join(map(re.escape, parts)), re.DOTALL)
    assert len("".join(parts)) > 11
    assert any(pattern.search(text) for text in TEXTS)


def test_there_are_messages_and_each_has_an_answer() -> None:
    assert len(MESSAGES) > 30
    blocks = PAGE.read_text(encoding="utf-8").split("\n\n")
    unanswered = [
        one for one, after in zip(blocks, [*blocks[1:], ""], strict=True)
        if one.startswith(">") and (not after or after.startswith((">", "#")))
    ]  # fmt: skip
    assert unanswered == []


def test_a_message_that_the_program_lost_is_noticed() -> None:
    with pytest.raises(AssertionError):
        test_a_message_of_the_page_is_the_programs("training does not learn anything: loss … after …")
