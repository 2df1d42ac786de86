"""The commands for a Slurm cluster, one thin function each; :mod:`cad.cli` takes them in."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from cad.command_words import RUNS, Experiment, Overrides, Root, split_words


def add_cluster_commands(app: typer.Typer, console: Console) -> None:
    """Add ``submit``, ``status``, ``logs``, ``cancel``, ``retry`` and ``profile`` to the command line."""

    @app.command()
    def submit(
        experiment: Experiment,
        profile: Annotated[Path, typer.Option(help="What the cluster offers (slurm/profiles/*.yaml).")],
        overrides: Overrides = None,
        root: Root = RUNS,
        dry_run: Annotated[
            bool, typer.Option("--dry-run", help="Write and print the job scripts; submit nothing.")
        ] = False,
        max_hours: Annotated[
            float | None,
            typer.Option(min=0, help="Ask before spending more core-hours or GPU-hours than this."),
        ] = None,
    ) -> None:
        """Submit an experiment's unfinished stages as Slurm job arrays, and return at once."""
        from cad.config import load
        from cad.experiments.opened import open_experiment
        from cad.launch.profile import Profile

        opened = open_experiment(experiment, overrides or [], root)
        settings = load(Profile, [profile]).value
        from cad.launch.cost import require_approval, submission_cost
        from cad.launch.dry_run import dry_run as show_scripts
        from cad.launch.submit import Plan, plan_submission
        from cad.launch.submit import submit as submit_experiment

        if dry_run:
            plan = plan_submission(opened, settings)
            typer.echo(show_scripts(opened, settings, plan))
            if plan.arrays:
                typer.echo(f"estimate: {submission_cost(plan.arrays, settings, opened.root)}")
            return

        def approve(plan: Plan) -> None:
            cost = submission_cost(plan.arrays, settings, opened.root)
            typer.echo(f"estimate: {cost}")
            require_approval(cost, max_hours, typer.confirm if sys.stdin.isatty() else None)

        _tell(submit_experiment(opened, settings, approve=approve), opened.file)

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

        opened = open_experiment(experiment, overrides or [], root)
        cells = commands.cell_statuses(opened)
        if as_json:
            typer.echo(commands.as_json(cells))
            return
        console.print(commands.status_table(cells, opened.root))
        for line in commands.problems(cells):
            typer.echo(line)

    @app.command()
    def logs(
        experiment: Experiment,
        cell: Annotated[int, typer.Argument(help="The cell's number in `cad status`.")],
        overrides: Overrides = None,
        root: Root = RUNS,
        stage: Annotated[str | None, typer.Option(help="Kind of stage; default: the latest one.")] = None,
        follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as the log grows.")] = False,
    ) -> None:
        """Print the log of a cell's job."""
        from cad.experiments.opened import open_experiment
        from cad.launch import commands

        path = commands.log_of(open_experiment(experiment, overrides or [], root), cell, stage)
        typer.echo(f"{path}:", err=True)
        if follow:
            commands.follow(path)
        typer.echo(path.read_text(encoding="utf-8", errors="replace"), nl=False)

    @app.command()
    def cancel(
        experiment: Experiment,
        words: Annotated[
            list[str] | None,
            typer.Argument(
                metavar="[CELL]... [KEY=VALUE]...", help="Numbers of cells in `cad status`; default: all."
            ),
        ] = None,
        root: Root = RUNS,
    ) -> None:
        """Cancel queued and running jobs; what they had saved stays."""
        from cad.experiments.opened import open_experiment
        from cad.launch import commands

        numbers, overrides = split_words(words)
        cells = commands.cell_numbers(numbers)
        own, foreign = commands.cancel(open_experiment(experiment, overrides, root), cells)
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
    from cad.launch.dry_run import left_out
    from cad.launch.submit import Submission

    assert isinstance(submission, Submission)
    for entry in submission.arrays:
        n = len(entry.array.stages)
        typer.echo(f"submitted {entry.array.kind}: job {entry.job_id} ({n} task{'s' if n > 1 else ''})")
    for line in left_out(submission.plan):
        typer.echo(line)
    if not submission.arrays:
        typer.echo("nothing to submit")
        return
    typer.echo(f"logs: {submission.folder}")
    typer.echo(f"then: cad status {file}")
