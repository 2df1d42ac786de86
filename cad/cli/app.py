"""All commands in one program, and how it ends: errors become one message and an exit code."""

from __future__ import annotations

import gc
import io
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text
from typer.core import TyperGroup
from typer.main import get_command_name

import cad
from cad.cli import analysis, cluster, config, doctor, experiments, families, histories, stages
from cad.cli.terminal import console, errors
from cad.errors import CadError, printable
from cad.storage import disk_error, user_path
from cad.surroundings import leave_out

_LONGEST = 20_000  # characters of a message
Commands = tuple[Callable[..., None], ...]
_FIRST_HOUR, _TASKS = "The first hour", "Tasks and histories"
_PANELS: tuple[tuple[str, Commands], ...] = (
    (_FIRST_HOUR, (experiments.run, experiments.open_, experiments.report, doctor.doctor)),
    (
        "More about an experiment",
        (
            experiments.repair,
            analysis.probe,
            analysis.watch_rollout,
            analysis.export_table,
            analysis.tensorboard,
        ),
    ),
    (
        "On a Slurm cluster",
        (cluster.submit, cluster.status, cluster.logs, cluster.cancel, cluster.retry, cluster.profile),
    ),
    (
        "Stages of one cell",
        (stages.collect, stages.pretrain, stages.train, stages.evaluate, stages.export),
    ),
    (_TASKS, (families.families,)),
)
_GROUPS: tuple[tuple[str, str, str, Commands], ...] = (
    (_FIRST_HOUR, "config", "Show settings and what they mean.", (config.show, config.schema)),
    (
        _TASKS,
        "histories",
        "Check, draw, import and export learning histories.",
        (histories.audit, histories.plot, histories.import_, histories.export),
    ),
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"cad {cad.__version__}")
        raise typer.Exit


def _options(
    context: typer.Context,
    _debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    _version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    if context.invoked_subcommand != "status":
        gc.enable()
    if errors.is_terminal:
        from rich.logging import RichHandler

        handler = RichHandler(console=errors, show_path=False)
        logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[handler])
    else:
        logging.basicConfig(
            level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S"
        )


class _Program(TyperGroup):
    """The whole program; its help has a line a command, those of the first hour first."""

    def format_help(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002 - click's
        """Print it: on a terminal within its width, in a pipe a command a line."""
        parts: dict[str, list[tuple[str, str]]] = {}
        for name in self.list_commands(ctx):
            command: Any = self.get_command(ctx, name)
            parts.setdefault(command.rich_help_panel, []).append((name, command.help.partition("\n")[0]))
        records = [param.get_help_record(ctx) for param in self.get_params(ctx)]
        parts["Options"] = [record for record in records if record is not None]
        width = max(len(name) for rows in parts.values() for name, _ in rows)
        console.print("Usage: cad COMMAND ...; cad COMMAND --help has its options and an example.\n")
        console.print(self.help)
        for heading, rows in parts.items():
            console.print(Text(f"\n{heading}", "bold"))
            table = Table.grid(padding=(0, 2, 0, 0))
            table.add_column(width=width + 2, no_wrap=True)
            for name, about in rows:
                table.add_row(f"  {name}", about)
            console.print(table)


def _name(command: Callable[..., None]) -> str:
    """A command's name: its function's, which may end in ``_`` where Python has that name."""
    return get_command_name(command.__name__.rstrip("_"))


def build(chosen: str | None = None) -> typer.Typer:
    """The program: with all its commands, or with ``chosen`` alone, if that is a command.

    To build all of them takes a tenth of the time of `cad status`.
    """
    program = typer.Typer(
        cls=_Program,
        help="Compressed algorithm distillation: histories, models, evaluation, ablation reports.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    program.callback()(_options)
    single = {_name(command): command for _, commands in _PANELS for command in commands}
    if chosen in single:
        program.command(chosen)(single[chosen])
        return program
    for panel, commands in _PANELS:
        for command in commands:
            program.command(_name(command), rich_help_panel=panel)(command)
    for panel, name, text, commands in _GROUPS:
        group = typer.Typer(help=text, no_args_is_help=True)
        for command in commands:
            group.command(_name(command))(command)
        program.add_typer(group, name=name, rich_help_panel=panel)
    return program


def _with_home(word: str) -> str:
    """``--root=~/runs`` as the shell would write ``--root ~/runs``; it leaves the former alone."""
    option, equals, value = word.partition("=")
    if option.startswith("--") and value.startswith("~"):
        return option + equals + str(user_path(value))
    return word


def main() -> None:
    """Entry point: run the command that the command line names."""
    # Start-up and `cad status` make many objects and no garbage: collecting it costs them 7% of their time.
    gc.disable()
    leave_out()
    # A character that the terminal's encoding lacks must not end a command.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    # --debug is accepted anywhere on the line.
    debug = "--debug" in sys.argv
    try:
        words = [_with_home(word) for word in sys.argv[1:] if word != "--debug"]
        build(words[0] if words else None)(args=words or ["--help"], prog_name="cad")
    except (CadError, OSError, MemoryError) as error:
        if debug:
            raise
        if isinstance(error, OSError) and error.errno and error.filename:
            error = disk_error(error, Path(str(error.filename)), "reach")
        message = printable(str(error) or type(error).__name__, _LONGEST, keep="\n\t")
        errors.print(Text.assemble(("error:", "bold red"), " ", message), soft_wrap=True)
        sys.exit(error.exit_code if isinstance(error, CadError) else CadError.exit_code)
