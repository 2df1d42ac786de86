"""Errors for the user: what is wrong, where, what is allowed, what to do.

The command line turns them into one message and an exit code, and shows a traceback only with
``--debug``.  Any other exception is a bug and is reported as one.

Exit codes: 0 success, 1 failure, 2 usage error, 130 stopped by a signal.
"""

from __future__ import annotations


class CadError(Exception):
    """A failure, such as a damaged file, a full disk or a diverged training (exit code 1)."""

    exit_code = 1


class UsageError(CadError):
    """A usage error, such as an unknown key or a wrong type (exit code 2)."""

    exit_code = 2
