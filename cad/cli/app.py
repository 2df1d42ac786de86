"""All commands in one program, and how it ends: errors become one message and an exit code."""

from __future__ import annotations

import gc
import io
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text
from typer.main import get_command_name

import cad
from cad.cli import analysis, cluster, config, doctor, experiments, families, histories, stages
from cad.cli.terminal import errors
from cad.errors import CadError, printable
from cad.storage import disk_error, user_path
from cad.surroundings import leave_out

_LONGEST = 20_000  # characters of a message
Commands = tuple[Callable[..., None], ...]
_PANELS: tuple[tuple[str, Commands], ...] = (
    ("Experiments", (experiments.run, experiments.report, experiments.repair)),
    (
        "Experiments on a cluster",
        (cluster.submit, cluster.status, cluster.logs, cluster.cancel, cluster.retry, cluster.profile),
    ),
    (
        "Stages of one cell",
        (stages.collect, stages.pretrain, stages.train, stages.evaluate, stages.export),
    ),
    ("Analysis", (analysis.probe, analysis.watch_rollout, analysis.tensorboard, analysis.export_table)),
    ("Settings and checks", (doctor.doctor, families.families)),
)
_GROUPS: tuple[tuple[str, str, Commands], ...] = (
    ("config", "Show settings and what they mean.", (config.show, config.schema)),
    (
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


def build(chosen: str | None = None) -> typer.Typer:
    """The program: with all its commands, or with ``chosen`` alone, if that is a command.

    To build all of them takes a tenth of the time of `cad status`.
    """
    program = typer.Typer(
        help="Compressed algorithm distillation: histories, models, evaluation, ablation reports.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    program.callback()(_options)
    single = {get_command_name(command.__name__): command for _, commands in _PANELS for command in commands}
    if chosen in single:
        program.command()(single[chosen])
        return program
    for panel, commands in _PANELS:
        for command in commands:
            program.command(rich_help_panel=panel)(command)
    for name, text, commands in _GROUPS:
        group = typer.Typer(help=text, no_args_is_help=True)
        for command in commands:
            group.command(command.__name__.rstrip("_"))(command)
        program.add_typer(group, name=name, rich_help_panel="Settings and checks")
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
        build(words[0] if words else None)(args=words, prog_name="cad")
    except (CadError, OSError, MemoryError) as error:
        if debug:
            raise
        if isinstance(error, OSError) and error.errno and error.filename:
            error = disk_error(error, Path(str(error.filename)), "reach")
        message = printable(str(error) or type(error).__name__, _LONGEST, keep="\n\t")
        errors.print(Text.assemble(("error:", "bold red"), " ", message), soft_wrap=True)
        sys.exit(error.exit_code if isinstance(error, CadError) else CadError.exit_code)
