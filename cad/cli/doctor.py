"""``cad doctor``: does this installation work?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cad.cli.arguments import RUNS, ConfigWords, Root, split_files
from cad.cli.terminal import console
from cad.errors import CadError, UsageError, printable


def doctor(
    words: ConfigWords = None,
    root: Root = RUNS,
    presets: Annotated[Path | None, typer.Option(help="Folder of presets; default: the package's.")] = None,
    family: Annotated[
        str | None, typer.Option(help="Check this task family instead (a name, or module:Class).")
    ] = None,
) -> None:
    """Check the installation: packages, devices, every model preset, Slurm, Apptainer, disk.

    With an experiment file, --family or settings of a cell, check the task family that they name instead:
    its spaces, tasks, split, steps, seeds, tables and optimum.

    Example: cad doctor
    """
    from rich.table import Table
    from rich.text import Text

    from cad.config.presets import PRESETS
    from cad.doctor import examine, examine_family
    from cad.schema import holds_experiment

    style = {"ok": "green", "missing": "yellow", "broken": "bold red"}
    table = Table("check", "state", "detail", "what to do")
    broken = []
    files, settings = split_files(words)
    if family is not None:
        if any(holds_experiment(file) for file in files):
            raise UsageError("an experiment names its task families itself; leave out --family")
        settings = [*settings, f"env.name={family}"]
    checks = examine_family(files, settings) if files or settings else examine(root, presets or PRESETS)
    with console.status("checking"):
        for check in checks:
            state = Text(check.state, style[check.state])
            table.add_row(check.name, state, printable(check.detail), printable(check.advice))
            broken += [check.name] if check.state == "broken" else []
    console.print(table)
    if broken:
        raise CadError(f"broken: {', '.join(broken)}; the table says what to do")
