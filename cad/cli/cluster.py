"""Experiments on a Slurm cluster: ``submit``, ``status``, ``logs``, ``cancel``, ``retry``, ``profile``."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cad.cli.arguments import RUNS, ExperimentFile, Overrides, Root, split_words
from cad.cli.terminal import console, say
from cad.errors import UsageError, printable

if TYPE_CHECKING:
    from cad.cluster.submit import Submission
    from cad.experiments.cost.estimate import Estimate


def submit(
    profile: Annotated[Path, typer.Option(help="What the cluster offers (slurm/profiles/*.yaml).")],
    experiment: Annotated[str | None, typer.Argument(help="Experiment file; not with --model.")] = None,
    overrides: Overrides = None,
    root: Root = RUNS,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Write the job scripts, print what they ask for; submit nothing."),
    ] = False,
    max_hours: Annotated[
        float | None,
        typer.Option(min=0, help="Ask before spending more core-hours or GPU-hours than this."),
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(help="Evaluate this file of `cad export` instead; only evaluation.* can be set."),
    ] = None,
    pack: Annotated[
        str | None,
        typer.Option(help="Trainings that a task works on together; auto: by memory (pack: of a profile)."),
    ] = None,
) -> None:
    """Submit an experiment's unfinished stages as Slurm job arrays, and return at once.

    Example: cad submit experiments/ablation.yaml --profile slurm/profiles/cpu.yaml
    """
    from cad.cluster.profile import Profile
    from cad.config import load
    from cad.experiments.plan.experiment import open_experiment

    settings = load(Profile, [profile], [] if pack is None else [f"stages.train.pack={pack}"]).value
    if model is not None:
        from cad.experiments.analysis.exported import experiment_of

        words = [*([experiment] if experiment else []), *(overrides or [])]
        experiment, overrides = str(experiment_of(model, words, root)), None
        say(f"experiment: {experiment}")
    if experiment is None:
        raise UsageError("name an experiment file, or an exported model with --model")
    opened = open_experiment(Path(experiment), overrides or [], root)
    from cad.cluster.cost import pack_times, require_approval, submission_cost
    from cad.cluster.dry_run import dry_run as show_scripts
    from cad.cluster.submit import Plan, plan_submission
    from cad.cluster.submit import submit as submit_experiment
    from cad.errors import CadError

    def tell(cost: Estimate) -> None:
        say(f"estimate: {cost.in_words(' without queueing')}")
        if (packs := pack_times(cost, settings)) is not None:
            say(packs)

    if dry_run:
        plan = plan_submission(opened, settings)
        text, refused = show_scripts(opened, settings, plan)
        typer.echo(text)
        if refused:
            raise CadError("\n".join(refused))
        if plan.arrays:
            tell(submission_cost(plan.arrays, settings, opened.root))
        return

    def approve(plan: Plan) -> None:
        cost = submission_cost(plan.arrays, settings, opened.root)
        tell(cost)
        require_approval(cost, max_hours, _confirm if sys.stdin.isatty() else None)

    _report(submit_experiment(opened, settings, approve=approve), _again(opened.file, overrides, root))


def _confirm(question: str) -> bool:
    from cad.interrupt import InterruptedRun

    try:
        return typer.confirm(question)
    except typer.Abort as stopped:
        raise InterruptedRun("nothing was submitted") from stopped


def status(
    experiment: ExperimentFile,
    overrides: Overrides = None,
    root: Root = RUNS,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything that is known, as JSON.")] = False,
    used: Annotated[
        bool, typer.Option("--usage", help="Show time and memory as used, and what would have done.")
    ] = False,
) -> None:
    """Show where every stage of every cell stands; change nothing.

    Exit code 0: all is done. 1: something failed or died. 3: nothing did, and something is still to come.

    Example: cad status experiments/quickstart.yaml
    """
    from cad.cluster import table
    from cad.cluster.sending import adopt_lost
    from cad.experiments.plan.experiment import open_experiment

    opened = open_experiment(experiment, overrides or [], root)
    adopt_lost(opened.root)
    cells = table.cell_statuses(opened)
    if as_json:
        typer.echo(table.as_json(cells))
    elif used:
        from cad.cluster.usage import usage, usage_table

        names = [stage.stage for cell in cells for stage in cell.stages]
        console.print(usage_table(usage(opened.root, names)))
    else:
        console.print(table.status_table(cells, opened.root))
        for line in table.problems(cells):
            say(line)
        stages = [stage for cell in cells for stage in cell.stages]
        if any(stage.state in ("failed", "dead") and stage.job_id for stage in stages):
            say(f"then: {opened.command('retry')}")
    raise typer.Exit(table.exit_code(cells))


def logs(
    experiment: ExperimentFile,
    cell: Annotated[int, typer.Argument(help="The cell's number in `cad status`.")],
    overrides: Overrides = None,
    root: Root = RUNS,
    stage: Annotated[str | None, typer.Option(help="Kind of stage; default: the latest one.")] = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Keep printing until its stage has ended.")
    ] = False,
) -> None:
    """Print the log of a cell's job.

    Example: cad logs experiments/quickstart.yaml 3 --follow
    """
    from cad.cluster import jobs
    from cad.experiments.plan.experiment import open_experiment

    log = jobs.log_of(open_experiment(experiment, overrides or [], root), cell, stage)
    typer.echo(f"{printable(log.path)}:", err=True)
    if follow:
        state = jobs.follow(log, lambda text: typer.echo(text, nl=False))
        typer.echo(f"{log.stage.name}: {state}", err=True)
        return
    typer.echo(log.path.read_text(encoding="utf-8", errors="replace"), nl=False)


def cancel(
    experiment: ExperimentFile,
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[CELL]... [KEY=VALUE]...", help="Numbers of cells in `cad status`; default: all."
        ),
    ] = None,
    root: Root = RUNS,
) -> None:
    """Cancel queued and running jobs; what they saved stays.

    Example: cad cancel experiments/quickstart.yaml 3
    """
    from cad.cluster import jobs
    from cad.experiments.plan.experiment import open_experiment

    numbers, overrides = split_words(words)
    cells = jobs.cell_numbers(numbers)
    own, foreign = jobs.cancel(open_experiment(experiment, overrides, root), cells)
    say(f"cancelled {len(own)} jobs{': ' if own else ''}{' '.join(own)}")
    if foreign:
        say(f"left alone because others need them: {' '.join(foreign)}")


def retry(
    experiment: ExperimentFile,
    overrides: Overrides = None,
    root: Root = RUNS,
    failed: Annotated[
        bool, typer.Option("--failed", help="Only what failed or died, not what was never submitted.")
    ] = False,
    mem: Annotated[str, typer.Option(help="Factor on the memory of what ran out of it.")] = "x1",
    time: Annotated[str, typer.Option(help="Factor on the time limit of what ran out of it.")] = "x1",
) -> None:
    """Submit again what failed or is missing, with the profile of the last submission.

    Example: cad retry experiments/quickstart.yaml --failed --mem x2
    """
    from cad.cluster.retry import factor, last_submission, multiplier_for
    from cad.cluster.submit import submit as submit_experiment
    from cad.experiments.plan.experiment import open_experiment

    opened = open_experiment(experiment, overrides or [], root)
    factors = factor(mem, "--mem"), factor(time, "--time")
    last, clusters = last_submission(opened)
    submission = submit_experiment(
        opened,
        last,
        choose=lambda stage: not failed or stage.state in ("failed", "dead"),
        multiplier=multiplier_for(opened.root, last, *factors),
        clusters=clusters,
    )
    _report(submission, _again(opened.file, overrides, root))


def profile(
    files: Annotated[list[Path] | None, typer.Argument(help="Profile files.")] = None,
    keys: Annotated[bool, typer.Option("--keys", help="List every key with its meaning.")] = False,
) -> None:
    """Check a cluster profile and print it resolved, with where each value came from.

    Example: cad profile slurm/profiles/gpu.yaml
    """
    from cad.cluster.profile import Profile
    from cad.config import describe, load, show

    if keys:
        for row in describe(Profile):
            say(f"{row.key} ({row.type}, default {row.default}): {row.description}")
        return
    typer.echo(show(load(Profile, files or [])))


def _again(file: Path, overrides: list[str] | None, root: Path) -> str:
    """The words of the command line that name this experiment, for a shell."""
    words = [str(file), *(overrides or [])]
    return shlex.join([*words, *(["--root", str(root)] if root != Path(RUNS) else [])])


def _report(submission: Submission, words: str) -> None:
    from cad.cluster.dry_run import left_out

    for entry in submission.arrays:
        n, trained = len(entry.array.tasks), len(entry.array.stages)
        tasks = f"{n} task{'s' if n > 1 else ''}" + (f", packs of {trained} trainings" if trained > n else "")
        say(f"submitted {entry.array.kind}: job {entry.job_id} ({tasks})")
    for line in left_out(submission.plan):
        say(line)
    if not submission.arrays:
        say("nothing to submit")
        return
    say(f"logs: {submission.folder}")
    say(f"then: cad status {words}")
