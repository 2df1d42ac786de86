"""Where a command may write: over an earlier output, but not over what it reads or what stages keep."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from cad.errors import UsageError


def require_output(option: str, out: Path, inputs: Iterable[Path] = ()) -> None:
    """Refuse to write ``out``, which ``option`` names, where it is an input or a stage's own.

    ``inputs`` are files and folders that the command reads: a file itself and all in a folder are refused.
    Raises :class:`UsageError`, before anything is read or computed.
    """
    from cad.experiments.plan.directory import stage_around

    for given in inputs:
        require_not_input(option, out, given)
        if given.is_dir() and Path(os.path.realpath(given)) in Path(os.path.realpath(out)).parents:
            raise UsageError(f"{option} {out}: it lies in {given}, which the command reads; choose another")
    stage = stage_around(out)
    if stage is not None:
        raise UsageError(
            f"{option} {out}: it lies in the directory of the stage {stage.name}, where only the program "
            "writes; choose another path"
        )


def require_not_input(option: str, out: Path, file: Path) -> None:
    """Refuse an output that would replace ``file``, the input; :class:`UsageError` names ``option``."""
    if _is_same(out, file):
        raise UsageError(f"{option} {out}: that is what the command reads; choose another file")


def _is_same(out: Path, given: Path) -> bool:
    try:
        return os.path.realpath(out) == os.path.realpath(given) or out.samefile(given)
    except OSError:  # one of them is not there
        return False
