"""``cad doctor``: does this installation work?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cad.cli.arguments import RUNS, Root
from cad.cli.terminal import console
from cad.errors import CadError, printable


def doctor(
    root: Root = RUNS,
    presets: Annotated[Path | None, typer.Option(help="Folder of presets; default: the package's.")] = None,
) -> None:
    """Check the installation: packages, devices, every model preset, Slurm, Apptainer, disk."""
    from rich.table import Table
    from rich.text import Text

    from cad.config.presets import PRESETS
    from cad.doctor import examine

    style = {"ok": "green", "missing": "yellow", "broken": "bold red"}
    table = Table("check", "state", "detail", "what to do")
    broken = []
    with console.status("checking"):
        for check in examine(root, presets or PRESETS):
            state = Text(check.state, style[check.state])
            table.add_row(check.name, state, printable(check.detail), printable(check.advice))
            broken += [check.name] if check.state == "broken" else []
    console.print(table)
    if broken:
        raise CadError(f"broken: {', '.join(broken)}; the table says what to do")
