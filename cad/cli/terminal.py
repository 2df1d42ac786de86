"""Where commands write: results to standard output, errors to standard error.

Text of users and files is shown as it is: rich interprets neither its markup nor its codes of emoji.
"""

from __future__ import annotations

import sys
from typing import TextIO

from rich.console import Console
from rich.text import Text

from cad.errors import printable

# Characters: nothing is wrapped in a file or a pipe, so that a record is a line there.
_UNLIMITED = 100_000


def _console(stream: TextIO, *, stderr: bool) -> Console:
    width = None if stream.isatty() else _UNLIMITED
    return Console(stderr=stderr, width=width, markup=False, emoji=False, highlight=False)


console = _console(sys.stdout, stderr=False)
errors = _console(sys.stderr, stderr=True)


def say(*parts: object, style: str = "") -> None:
    """Print text that is not wrapped and controls no terminal; the first of several parts in ``style``."""
    first, *rest = (printable(part, keep="\n\t") for part in parts)
    console.print(Text.assemble((first, style), *rest), soft_wrap=True)
