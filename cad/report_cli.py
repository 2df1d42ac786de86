"""The commands that make something of a report's numbers; :mod:`cad.cli` takes them in."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from cad.command_words import RUNS, Experiment, Overrides, Root

Reference = Annotated[
    str | None,
    typer.Option(help="Label of a model that all others are compared with, beside the best AD."),
]
AllowUnequal = Annotated[
    bool,
    typer.Option(
        "--allow-unequal",
        help="Compare cells with unequal tasks or numbers of episodes on what they share.",
    ),
]


def add_report_commands(app: typer.Typer, console: Console) -> None:
    """Add ``export-table`` to the command line."""

    @app.command("export-table")
    def export_table(
        experiment: Experiment,
        overrides: Overrides = None,
        form: Annotated[
            Literal["latex", "markdown"], typer.Option("--format", help="For a paper, or for a repository.")
        ] = "markdown",
        out: Annotated[Path | None, typer.Option(help="File to write; default: the terminal.")] = None,
        reference: Reference = None,
        allow_unequal: AllowUnequal = False,
        root: Root = RUNS,
    ) -> None:
        """Print the results of an experiment as one table."""
        from cad.experiments.opened import open_experiment
        from cad.experiments.session import experiment_study
        from cad.reports.export import export_table as as_text
        from cad.storage import write_text

        opened = open_experiment(experiment, overrides or [], root)
        text = as_text(experiment_study(opened, reference=reference, allow_unequal=allow_unequal), form)
        if out is None:
            typer.echo(text, nl=False)
            return
        write_text(out, text)
        console.print(f"{out}", highlight=False, soft_wrap=True)
