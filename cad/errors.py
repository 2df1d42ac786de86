"""Errors for the person who has to act: what is wrong, where, what is allowed, what to do.

The command line turns them into one message and an exit code; a traceback is shown with
``--debug`` only.  Anything else that escapes is a bug of ours and is reported as one.
"""

from __future__ import annotations


class CadError(Exception):
    """A run that cannot go on: a damaged file, a full disk, a diverged training (exit code 1)."""

    exit_code = 1


class UsageError(CadError):
    """A request that cannot be carried out as written: unknown key, wrong type (exit code 2)."""

    exit_code = 2
