"""Where commands write: results to standard output, errors to standard error."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape

console = Console()
errors = Console(stderr=True)


def say(line: object) -> None:
    """Print one line as it is: not wrapped, not highlighted, without markup."""
    console.print(str(line), markup=False, highlight=False, soft_wrap=True)


def plain(text: object) -> str:
    """Text to put inside rich's markup."""
    return escape(str(text))
