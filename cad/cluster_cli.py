"""The commands for a Slurm cluster, one thin function each; :mod:`cad.cli` takes them in."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

Experiment = Annotated[Path, typer.Argument(help="Experiment file.")]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...")]
Root = Annotated[Path, typer.Option(help="Folder that holds all runs.")]
RUNS = Path("runs")


def add_cluster_commands(app: typer.Typer, console: Console) -> None:
    """Add ``submit``, ``status``, ``logs``, ``cancel``, ``retry`` and ``profile`` to the command line."""

    @app.command()
    def submit(
        experiment: Experiment,
        overrides: Overrides = None,
        profile: Annotated[Path, typer.Option(help="What the cluster offers (slurm/profiles/*.yaml).")] = ...,  # type: ignore[assignment]
        root: Root = RUNS,
        dry_run: Annotated[
            bool, typer.Option("--dry-run", help="Write and print the job scripts; submit nothing.")
        ] = False,
    ) -> None:
        """Submit an experiment's unfinished stages as Slurm job arrays, and return at once."""
        from cad.config import load
        from cad.experiments.opened import open_experiment
        from cad.launch.profile import Profile

        opened = open_experiment(experiment, overrides or [], root)
        settings = load(Profile, [profile]).value
        from cad.launch.submit import dry_run as show_scripts
        from cad.launch.submit import submit as submit_experiment

        if dry_run:
            typer.echo(show_scripts(opened, settings))
            return
        _tell(submit_experiment(opened, settings), opened.file)

    @app.command()
    def status(
        experiment: Experiment,
        overrides: Overrides = None,
        root: Root = RUNS,
        as_json: Annotated[bool, typer.Option("--json", help="All that is known, as JSON.")] = False,
    ) -> None:
        """Where every stage of every cell stands; changes nothing."""
        from cad.experiments.opened import open_experiment
        from cad.launch import commands

        cells = commands.cell_statuses(open_experiment(experiment, overrides or [], root))
        if as_json:
            typer.echo(commands.as_json(cells))
            return
        console.print(commands.status_table(cells))
        for line in commands.problems(cells):
            typer.echo(line)

    @app.command()
    def logs(
        experiment: Experiment,
        cell: Annotated[int, typer.Argument(help="The cell's number in `cad status`.")],
        root: Root = RUNS,
        stage: Annotated[str | None, typer.Option(help="Kind of stage; default: the latest one.")] = None,
        follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as the log grows.")] = False,
    ) -> None:
        """Print the log of a cell's job."""
        from cad.experiments.opened import open_experiment
        from cad.launch import commands

        path = commands.log_of(open_experiment(experiment, [], root), cell, stage)
        typer.echo(f"{path}:", err=True)
        if follow:
            commands.follow(path)
        typer.echo(path.read_text(encoding="utf-8", errors="replace"), nl=False)

    @app.command()
    def cancel(
        experiment: Experiment,
        cells: Annotated[
            list[int] | None, typer.Argument(help="Numbers of cells in `cad status`; default: all.")
        ] = None,
        root: Root = RUNS,
    ) -> None:
        """Cancel queued and running jobs; what they had saved stays."""
        from cad.experiments.opened import open_experiment
        from cad.launch import commands

        own, foreign = commands.cancel(open_experiment(experiment, [], root), cells or [])
        typer.echo(f"cancelled {len(own)} jobs{': ' if own else ''}{' '.join(own)}")
        if foreign:
            typer.echo(f"left alone, since others need them: {' '.join(foreign)}")

    @app.command()
    def retry(
        experiment: Experiment,
        overrides: Overrides = None,
        root: Root = RUNS,
        failed: Annotated[
            bool, typer.Option("--failed", help="Only what failed or died, not what was never submitted.")
        ] = False,
        mem: Annotated[str, typer.Option(help="Factor on the memory of what ran out of it.")] = "x1",
        time: Annotated[str, typer.Option(help="Factor on the time limit of what ran out of it.")] = "x1",
    ) -> None:
        """Submit again what failed or is missing, with the profile of the last submission."""
        from cad.experiments.opened import open_experiment
        from cad.launch import commands

        opened = open_experiment(experiment, overrides or [], root)
        settings = commands.last_profile(opened)
        factors = commands.factor(mem, "--mem"), commands.factor(time, "--time")
        from cad.launch.submit import scale_of
        from cad.launch.submit import submit as submit_experiment

        submission = submit_experiment(
            opened,
            settings,
            choose=lambda stage: not failed or stage.state in ("failed", "dead"),
            scale=scale_of(opened.root, *factors),
        )
        _tell(submission, opened.file)

    @app.command()
    def profile(
        files: Annotated[list[Path] | None, typer.Argument(help="Profile files.")] = None,
        keys: Annotated[bool, typer.Option("--keys", help="List every key with its meaning.")] = False,
    ) -> None:
        """Check a cluster profile and print it resolved, with where each value came from."""
        from cad.config import describe, load, show
        from cad.launch.profile import Profile

        if keys:
            for row in describe(Profile):
                typer.echo(f"{row.key} ({row.type}, default {row.default}): {row.description}")
            return
        typer.echo(show(load(Profile, files or [])))


def _tell(submission: object, file: Path) -> None:
    from cad.launch.submit import Submission

    assert isinstance(submission, Submission)
    for entry in submission.arrays:
        n = len(entry.array.stages)
        typer.echo(f"submitted {entry.array.kind}: job {entry.job_id} ({n} task{'s' if n > 1 else ''})")
    if submission.joined:
        typer.echo(f"joined: {len(submission.joined)} stages that are queued or running already")
    if not submission.arrays:
        typer.echo("nothing to submit")
        return
    typer.echo(f"logs: {submission.folder}")
    typer.echo(f"then: cad status {file}")
