"""A closer look at trained cells: ``probe``, ``watch-rollout``, ``tensorboard``, ``export-table``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from cad.cli.arguments import RUNS, AllowUnequal, Device, ExperimentFile, Overrides, Reference, Root
from cad.cli.outputs import require_output
from cad.cli.terminal import say


def probe(
    experiment: ExperimentFile, overrides: Overrides = None, root: Root = RUNS, device: Device = "auto"
) -> None:
    """Measure what the latents of finished cells encode; `cad report` then shows it.

    Example: cad probe experiments/quickstart.yaml
    """
    from cad.experiments.analysis.probe import probe_cell
    from cad.experiments.plan.experiment import open_experiment
    from cad.interrupt import stop_on_signals

    opened = open_experiment(experiment, overrides or [], root)
    with stop_on_signals() as stop:
        for number, cell in enumerate(opened.cells, start=1):
            stop.raise_if_set(f"probing (cell {number} of {len(opened.cells)})")
            with opened.naming_repair():
                outcome = probe_cell(opened.root, cell, device, stop)
            say(f"cell {number}, {cell.label}, seed {cell.config.seed}: {outcome}")


def watch_rollout(
    experiment: ExperimentFile,
    cell: Annotated[int, typer.Argument(help="The cell's number in `cad status`.")],
    overrides: Overrides = None,
    root: Root = RUNS,
    task: Annotated[
        int | None,
        typer.Option(help="Canonical id, held out or not; default: the first that was evaluated."),
    ] = None,
    rollout: Annotated[int, typer.Option(min=1, help="Which roll-out of the task.")] = 1,
    episodes: Annotated[
        int | None, typer.Option(min=1, help="How many; default: as many as the evaluation has.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="X.gif (an animation) or X.png (a strip); default: a GIF beside the report."),
    ] = None,
) -> None:
    """Draw a roll-out of a trained cell: its path on the grid by episode, and its compressions.

    Example: cad watch-rollout experiments/quickstart.yaml 3 --task 5
    """
    from cad.cluster.table import pick_cell
    from cad.experiments.analysis.draw_rollout import draw_rollout
    from cad.experiments.plan.experiment import open_experiment

    opened = open_experiment(experiment, overrides or [], root)
    picked = pick_cell(opened, cell)
    task = picked.config.evaluated_tasks[0] if task is None else task
    name = f"cell-{cell}-task-{task}-rollout-{rollout}.gif"
    if out is not None:
        require_output("--out", out, opened.inputs)
    target = out or opened.folder / "rollouts" / name
    with opened.naming_repair():
        drawn, source = draw_rollout(opened.root, picked, task, rollout, episodes, target)
    say(f"{drawn.title}: {source}")
    say(target)


def tensorboard(
    experiment: ExperimentFile,
    overrides: Overrides = None,
    root: Root = RUNS,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port on this machine; 0: any free one.")
    ] = 6006,
) -> None:
    """Open TensorBoard on all trainings of an experiment, by their names in the report.

    Example: cad tensorboard experiments/quickstart.yaml
    """
    from cad.experiments.plan.experiment import open_experiment
    from cad.experiments.reporting.tensorboard import link_boards, open_tensorboard

    open_tensorboard(link_boards(open_experiment(experiment, overrides or [], root)), port)


def export_table(
    experiment: ExperimentFile,
    overrides: Overrides = None,
    form: Annotated[
        Literal["latex", "markdown"], typer.Option("--format", help="For a paper, or for a repository.")
    ] = "markdown",
    out: Annotated[Path | None, typer.Option(help="File to write; default: the terminal.")] = None,
    reference: Reference = None,
    allow_unequal: AllowUnequal = False,
    root: Root = RUNS,
) -> None:
    """Print the results of an experiment as one table.

    Example: cad export-table experiments/quickstart.yaml --format latex
    """
    from cad.experiments.plan.experiment import open_experiment
    from cad.experiments.reporting.report import experiment_study
    from cad.reports import export_table as as_text
    from cad.storage import write_text

    opened = open_experiment(experiment, overrides or [], root)
    if out is not None:
        require_output("--out", out, opened.inputs)
    text = as_text(experiment_study(opened, reference=reference, allow_unequal=allow_unequal), form)
    if out is None:
        typer.echo(text, nl=False)
        return
    write_text(out, text)
    say(out)
