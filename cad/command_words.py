"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Experiment = Annotated[Path, typer.Argument(help="Experiment file.")]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...")]
Root = Annotated[Path, typer.Option(help="Folder that holds all runs.")]
Device = Annotated[str, typer.Option(help="cpu, cuda or auto.")]
RUNS = Path("runs")


def split_words(words: list[str] | None) -> tuple[list[str], list[str]]:
    """Words without and with a ``=``: files or numbers, and overrides."""
    return [w for w in words or [] if "=" not in w], [w for w in words or [] if "=" in w]
