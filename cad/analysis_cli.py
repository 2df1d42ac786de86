"""The commands that look into finished cells, one thin function each; :mod:`cad.cli` takes them in."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from cad.command_words import RUNS, Device, Experiment, Overrides, Root


def add_analysis_commands(app: typer.Typer, console: Console) -> None:
    """Add ``probe`` and ``watch-rollout`` to the command line."""

    @app.command()
    def probe(
        experiment: Experiment, overrides: Overrides = None, root: Root = RUNS, device: Device = "auto"
    ) -> None:
        """Ask what the latents of finished cells hold; `cad report` then shows it."""
        from cad.experiments.opened import open_experiment
        from cad.experiments.probe import probe_cell
        from cad.interrupt import stop_on_signals

        opened = open_experiment(experiment, overrides or [], root)
        with stop_on_signals() as stop:
            for number, cell in enumerate(opened.cells, start=1):
                stop.raise_if_set(f"probing (cell {number} of {len(opened.cells)})")
                outcome = probe_cell(opened.root, cell, device, stop)
                line = f"cell {number}, {cell.label}, seed {cell.config.seed}: {outcome}"
                console.print(line, markup=False, highlight=False, soft_wrap=True)

    @app.command("watch-rollout")
    def watch_rollout(
        experiment: Experiment,
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
        """Draw a roll-out of a trained cell: its path on the grid by episode, and when it compressed."""
        from cad.envs import evaluated_tasks
        from cad.experiments.opened import open_experiment
        from cad.experiments.watch import watch
        from cad.launch.commands import pick_cell

        opened = open_experiment(experiment, overrides or [], root)
        picked = pick_cell(opened, cell)
        task = evaluated_tasks(picked.config)[0] if task is None else task
        name = f"cell-{cell}-task-{task}-rollout-{rollout}.gif"
        target = out or opened.folder / "rollouts" / name
        watched, origin = watch(opened.root, picked, task, rollout, episodes, target)
        console.print(f"{watched.title}: {origin}", markup=False, highlight=False, soft_wrap=True)
        console.print(f"{target}", markup=False, highlight=False, soft_wrap=True)
