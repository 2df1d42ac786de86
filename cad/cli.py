"""The command line: one thin function a command.

Arguments with a ``=`` are overrides (``model.n_latent=8``), the others are YAML files.
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.logging import RichHandler

import cad
from cad.analysis_cli import add_analysis_commands
from cad.cluster_cli import add_cluster_commands
from cad.command_words import RUNS, Device, Experiment, Overrides, Root, split_words
from cad.config import Config, ExperimentConfig, describe, json_schema, load, show
from cad.errors import CadError, UsageError
from cad.report_cli import AllowUnequal, Reference, add_report_commands

app = typer.Typer(
    help="Compressed algorithm distillation: histories, models, evaluation, ablation reports.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
config_app = typer.Typer(help="Show settings and what they mean.", no_args_is_help=True)
histories_app = typer.Typer(help="Check and draw learning histories.", no_args_is_help=True)
app.add_typer(config_app, name="config")
app.add_typer(histories_app, name="histories")

console = Console()
errors = Console(stderr=True)

Words = Annotated[
    list[str] | None,
    typer.Argument(metavar="[FILE.yaml]... [KEY=VALUE]...", help="Config files, then overrides."),
]
Workers = Annotated[int, typer.Option(min=1, help="Processes at a time.")]
RanksOption = Annotated[
    int,
    typer.Option(
        "--ranks", min=1, help="Processes that share one training (train.engine accelerate or deepspeed)."
    ),
]
Kind = Literal["histories", "pretrain", "train", "evaluate"]
CORES = os.cpu_count() or 1


def _split_words(words: list[str] | None) -> tuple[list[Path], list[str]]:
    files, overrides = split_words(words)
    return [Path(file) for file in files], overrides


@config_app.command("show")
def config_show(
    words: Words = None,
    experiment: Annotated[bool, typer.Option("--experiment", help="The files are experiment files.")] = False,
    keys: Annotated[bool, typer.Option("--keys", help="List every key with type, default, meaning.")] = False,
) -> None:
    """Print the resolved config as YAML, with where each value came from."""
    model: type[Config] | type[ExperimentConfig] = ExperimentConfig if experiment else Config
    if keys:
        for row in describe(model):
            console.print(
                f"[bold]{row.key}[/] ({row.type}, default {row.default}): {row.description}", highlight=False
            )
        return
    typer.echo(show(load(model, *_split_words(words))))


@config_app.command("schema")
def config_schema(
    experiment: Annotated[bool, typer.Option("--experiment", help="Schema of experiment files.")] = False,
) -> None:
    """Print the JSON schema of config files."""
    import json

    typer.echo(json.dumps(json_schema(ExperimentConfig if experiment else Config), indent=2))


@app.command()
def collect(words: Words = None, root: Root = RUNS, workers: Workers = CORES) -> None:
    """Let PPO learn every task and keep its learning histories (HDF5)."""
    _run_cell(words, "histories", root, workers, "cpu", 1)


@app.command()
def pretrain(
    words: Words = None,
    root: Root = RUNS,
    workers: Workers = CORES,
    device: Device = "auto",
    ranks: RanksOption = 1,
) -> None:
    """Pre-train one encoder; cells with pretrain.enabled and the same settings use it."""
    _run_cell([*(words or []), "pretrain.enabled=true"], "pretrain", root, workers, device, ranks)


@app.command()
def train(
    words: Words = None,
    root: Root = RUNS,
    workers: Workers = CORES,
    device: Device = "auto",
    ranks: RanksOption = 1,
) -> None:
    """Train one model, after collecting its histories if they are not there yet."""
    _run_cell(words, "train", root, workers, device, ranks)


@app.command()
def evaluate(
    words: Words = None,
    root: Root = RUNS,
    workers: Workers = CORES,
    device: Device = "auto",
    ranks: RanksOption = 1,
    trace: Annotated[bool, typer.Option("--trace", help="Print every compression as it happens.")] = False,
    model: Annotated[
        Path | None, typer.Option(help="Evaluate this file of `cad export` instead; nothing is trained.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="With --model: keep the returns here (HDF5).")] = None,
) -> None:
    """Put one model into the held-out tasks, after training it if that was not done yet."""
    if model is None:
        if out is not None:
            raise UsageError("--out is for --model; a stage keeps its returns in its own directory")
        _run_cell(words, "evaluate", root, workers, device, ranks, trace=trace)
        return
    files, overrides = _split_words(words)
    if files or ranks > 1:
        raise UsageError("--model brings its config: give only overrides of evaluation.* beside it")
    from cad.experiments.exported import evaluate_exported

    def tell(line: str) -> None:
        console.print(line, markup=False, highlight=False, soft_wrap=True)

    tell(evaluate_exported(model, overrides, device, out, tell if trace else None))


@app.command()
def export(
    stage: Annotated[str, typer.Argument(help="A training: its directory, or its name under --root.")],
    out: Annotated[Path, typer.Option(help="The safetensors file to write.")],
    root: Root = RUNS,
) -> None:
    """Write a training's newest weights, whole, to one file that `cad evaluate --model` reads."""
    from cad.experiments.exported import export_training

    console.print(export_training(stage, root, out), highlight=False, soft_wrap=True)


def _run_cell(
    words: list[str] | None,
    last: str,
    root: Path,
    workers: int,
    device: str,
    ranks: int,
    *,
    trace: bool = False,
) -> None:
    config = load(Config, *_split_words(words)).value
    # Only now: a mistake in the config is told without waiting for torch.
    from cad.experiments.plan import Cell
    from cad.experiments.session import run_cell

    path = run_cell(Cell("", "", config), last, root, workers, device, console, trace=trace, ranks=ranks)
    console.print(f"{path}", highlight=False, soft_wrap=True)


@histories_app.command("audit")
def histories_audit(file: Path) -> None:
    """Re-derive every transition of a history file and say precisely what is wrong, if anything."""
    from cad.histories.audit import audit
    from cad.histories.audit_table import audit_table

    report = audit(file)
    console.print(audit_table(report))
    console.print(
        f"{report.transitions:,} transitions derived again from state, action and goal", highlight=False
    )
    for warning in report.warnings:
        console.print(f"[yellow]warning:[/] {_plain(warning)}", highlight=False, soft_wrap=True)
    for problem in report.problems:
        console.print(f"[red]problem:[/] {_plain(problem)}", highlight=False, soft_wrap=True)
    if not report.ok:
        raise CadError(f"{file} fails the audit: {len(report.problems)} problems, listed above")
    console.print("[green]sound[/]")


@histories_app.command("plot")
def histories_plot(
    file: Path,
    out: Annotated[Path | None, typer.Option(help="PNG file; default: beside the histories.")] = None,
) -> None:
    """Draw the learning curves of a history file."""
    from cad.histories.plot import plot_histories

    target = out or file.with_suffix(".png")
    plot_histories(file, target)
    console.print(f"{target}", highlight=False, soft_wrap=True)


@app.command()
def run(
    experiment: Experiment,
    overrides: Overrides = None,
    root: Root = RUNS,
    workers: Workers = CORES,
    device: Device = "auto",
    ranks: RanksOption = 1,
    inline: Annotated[
        bool, typer.Option("--inline", help="One stage after the other, in this process.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print cells, stages and an estimate; run nothing.")
    ] = False,
    until: Annotated[Kind, typer.Option("--until", help="Stop after the stages of this kind.")] = "evaluate",
    first: Annotated[
        Kind, typer.Option("--from", help="Start from this kind; stages before it have to be done.")
    ] = "histories",
) -> None:
    """Run an experiment on this machine, skipping what is done, and report on it."""
    from cad.experiments.opened import open_experiment
    from cad.experiments.plan import STAGE_KINDS
    from cad.experiments.session import dry_run_text, run_cost, run_experiment
    from cad.experiments.stages import Resources

    if STAGE_KINDS.index(first) > STAGE_KINDS.index(until):
        raise UsageError(f"--from {first} comes after --until {until}: nothing is left to run")
    opened = open_experiment(experiment, overrides or [], root)
    if dry_run:
        typer.echo(dry_run_text(opened, first, until))
        if (cost := run_cost(opened, workers, device, first, until)) is not None:
            typer.echo(f"estimate: {cost}")
        return
    page = run_experiment(
        opened,
        resources=Resources(workers=workers, device=device, ranks=ranks),
        inline=inline,
        console=console,
        first=first,
        last=until,
    )
    console.print(f"report: {page}", highlight=False, soft_wrap=True)


@app.command()
def report(
    experiment: Experiment,
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[FILE.yaml]... [KEY=VALUE]...")] = None,
    root: Root = RUNS,
    public: Annotated[
        bool, typer.Option("--public", help="Name no processor, job or absolute path.")
    ] = False,
    publish_to: Annotated[
        Path | None,
        typer.Option(
            "--publish", help="Also put it, --public and made small, into this folder of a repository."
        ),
    ] = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Write it again as the experiment runs; end when that has ended.")
    ] = False,
    every: Annotated[float, typer.Option(min=0.1, help="With --watch: seconds between two looks.")] = 10.0,
    reference: Reference = None,
    allow_unequal: AllowUnequal = False,
    compare: Annotated[
        bool, typer.Option("--compare", help="Several experiment files: put them side by side.")
    ] = False,
) -> None:
    """Make the report again from what is stored, also of an unfinished experiment."""
    from cad.experiments.comparison import side_by_side
    from cad.experiments.opened import open_experiment
    from cad.experiments.session import write_experiment_report

    if watch and compare:
        raise UsageError("--watch follows one experiment; leave out --compare")
    if watch and publish_to:
        raise UsageError("--publish is for a report that no longer changes; leave out --watch")
    if publish_to is not None:
        from cad.reports.publish import publish, require_free

        require_free(publish_to)
    files, settings = _split_words(overrides)
    if files and not compare:
        raise UsageError(f"{len(files) + 1} experiment files: add --compare to put them side by side")
    all_opened = [open_experiment(file, settings, root) for file in (experiment, *files)]
    opened = side_by_side(all_opened) if compare else all_opened[0]

    def write() -> Path:
        return write_experiment_report(
            opened, public=public or publish_to is not None, reference=reference, allow_unequal=allow_unequal
        )

    if watch:
        from cad.experiments.live import keep_reporting
        from cad.interrupt import stop_on_signals

        with stop_on_signals() as stop:
            keep_reporting(
                opened, write, every, stop, lambda text: console.print(text, highlight=False, soft_wrap=True)
            )
        page = opened.folder / "report" / "report.html"
    else:
        page = write()
    console.print(f"report: {page}", highlight=False, soft_wrap=True)
    if publish_to is not None:
        large = publish(page.parent, publish_to)
        without = f" (without the large {', '.join(large)})" if large else ""
        console.print(f"published: {publish_to / 'report.md'}{without}", highlight=False, soft_wrap=True)


@app.command()
def tensorboard(
    experiment: Experiment,
    overrides: Overrides = None,
    root: Root = RUNS,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port on this machine; 0: any free one.")
    ] = 6006,
) -> None:
    """Open TensorBoard on all trainings of an experiment, by their names in the report."""
    from cad.experiments.board import link_boards, open_tensorboard
    from cad.experiments.opened import open_experiment

    open_tensorboard(link_boards(open_experiment(experiment, overrides or [], root)), port)


@app.command()
def doctor(
    root: Root = RUNS,
    presets: Annotated[Path | None, typer.Option(help="Folder of presets; default: the checkout's.")] = None,
) -> None:
    """Check this installation: packages, devices, every model preset, Slurm, Apptainer, disk."""
    from rich.table import Table

    from cad.doctor import PRESETS, examine

    style = {"well": "green", "absent": "yellow", "broken": "bold red"}
    table = Table("check", "state", "found", "what to do")
    broken = []
    with console.status("examining"):
        for check in examine(root, presets or PRESETS):
            state = f"[{style[check.state]}]{check.state}[/]"
            table.add_row(check.name, state, _plain(check.found), _plain(check.advice))
            broken += [check.name] if check.state == "broken" else []
    console.print(table)
    if broken:
        raise CadError(f"broken: {', '.join(broken)}; the table says what to do")


add_cluster_commands(app, console)
add_analysis_commands(app, console)
add_report_commands(app, console)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"cad {cad.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    _debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    _version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    logging.basicConfig(
        level=logging.INFO, format="%(message)s", handlers=[RichHandler(console=errors, show_path=False)]
    )


def main() -> None:
    """Entry point: errors become one message and an exit code."""
    # --debug is accepted anywhere on the line.
    debug = "--debug" in sys.argv
    try:
        app(args=[word for word in sys.argv[1:] if word != "--debug"], prog_name="cad")
    except (CadError, OSError, MemoryError) as error:
        if debug:
            raise
        errors.print(
            f"[bold red]error:[/] {_plain(error) or type(error).__name__}", highlight=False, soft_wrap=True
        )
        sys.exit(error.exit_code if isinstance(error, CadError) else CadError.exit_code)


def _plain(error: object) -> str:
    from rich.markup import escape

    return escape(str(error))


if __name__ == "__main__":
    main()
