"""Errors for the user: what is wrong, where, what is allowed, what to do.

The command line turns them into one message and an exit code, and shows a traceback only with
``--debug``.  Any other exception is a bug and is reported as one.

Exit codes: 0 success, 1 failure, 2 usage error, 130 stopped by a signal.
"""

from __future__ import annotations

import re

# What a terminal, a page or a file's reader may act on: control characters, marks that turn the direction
# of writing or are not seen, and halves of characters, which cannot be written at all.
_UNFIT = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb\ud800-\udfff]"
)


def printable(text: object, limit: int | None = None, keep: str = "") -> str:
    """Foreign text that any terminal, page or file can show: one line, at most ``limit`` characters.

    Characters that are not printed are written as Python would, such as ``\\x1b``, but for those to
    ``keep``; of a longer text the end is left out.
    """
    shown = str(text)
    if limit is not None and len(shown) > limit:
        shown = shown[: limit - 3] + "..."
    return _UNFIT.sub(
        lambda found: found[0] if found[0] in keep else found[0].encode("unicode_escape").decode(), shown
    )


class CadError(Exception):
    """A failure, such as a damaged file, a full disk or a diverged training (exit code 1)."""

    exit_code = 1


class UsageError(CadError):
    """A usage error, such as an unknown key or a wrong type (exit code 2)."""

    exit_code = 2


def first_line(error: BaseException) -> str:
    """First line of an error: messages of libraries are long."""
    text: str = error.args[0] if isinstance(error, KeyError) and error.args else str(error)
    return (str(text).splitlines() or [type(error).__name__])[0][:160]
