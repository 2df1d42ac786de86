"""Whole experiments on this machine: ``run``, ``repair``, ``report`` and ``open``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from cad.cli.arguments import (
    CORES,
    RUNS,
    AllowUnequal,
    Device,
    ExperimentFile,
    Figures,
    Overrides,
    Ranks,
    Reference,
    Root,
    Workers,
    split_files,
)
from cad.cli.outputs import require_output
from cad.cli.terminal import console, say
from cad.errors import CadError, UsageError

Kind = Literal["histories", "pretrain", "train", "evaluate"]


def run(
    experiment: ExperimentFile,
    overrides: Overrides = None,
    root: Root = RUNS,
    workers: Workers = CORES,
    device: Device = "auto",
    ranks: Ranks = 1,
    pack: Annotated[
        str,
        typer.Option(
            "--pack", help="Trainings of one shape that a process works on together; auto: by memory."
        ),
    ] = "1",
    inline: Annotated[
        bool, typer.Option("--inline", help="One stage after the other, in this process.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print cells, stages and an estimate; run nothing.")
    ] = False,
    until: Annotated[Kind, typer.Option("--until", help="Stop after the stages of this kind.")] = "evaluate",
    first: Annotated[
        Kind, typer.Option("--from", help="Start from this kind; earlier stages must be done.")
    ] = "histories",
    report: Annotated[
        bool, typer.Option("--report/--no-report", help="Write the report at the end, also of a part.")
    ] = True,
    figures: Figures = True,
) -> None:
    """Run an experiment on this machine, skip what is done, and report on it.

    Example: cad run experiments/quickstart.yaml
    """
    from cad.experiments.cost.local_cost import run_cost
    from cad.experiments.plan.experiment import open_experiment
    from cad.experiments.plan.stage import STAGE_KINDS
    from cad.experiments.run.local_run import dry_run_text, run_experiment
    from cad.experiments.run.pack_size import local_limit, pack_size
    from cad.experiments.run.resources import Resources

    if STAGE_KINDS.index(first) > STAGE_KINDS.index(until):
        raise UsageError(f"--from {first} comes after --until {until}: nothing is left to run")
    opened = open_experiment(experiment, overrides or [], root)
    most, memory = local_limit(pack_size(pack), device, 1 if inline else workers)
    if dry_run:
        say(dry_run_text(opened, first, until, most, memory, ranks))
        if (cost := run_cost(opened, workers, device, first, until)) is not None:
            say(f"estimate: {cost}")
        return
    page = run_experiment(
        opened,
        resources=Resources(workers=workers, device=device, ranks=ranks, pack=most, pack_memory=memory),
        inline=inline,
        console=console,
        first=first,
        last=until,
        report=report,
        figures=figures,
    )
    if page is not None:
        say(f"report: {page}")


def repair(
    experiment: Annotated[Path, typer.Argument(help="Experiment file, or a stage's directory.")],
    overrides: Overrides = None,
    root: Root = RUNS,
    workers: Workers = CORES,
    device: Device = "auto",
    ranks: Ranks = 1,
    inline: Annotated[
        bool, typer.Option("--inline", help="One stage after the other, in this process.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what is damaged.")] = False,
) -> None:
    """Set damaged files of finished stages aside, and make them again.

    Example: cad repair experiments/quickstart.yaml --dry-run
    """
    from cad.experiments.plan.directory import StageDirectory
    from cad.experiments.plan.experiment import open_experiment
    from cad.experiments.run.local_run import repair_experiment, repair_lines
    from cad.experiments.run.repair import repair_stage
    from cad.experiments.run.resources import Resources

    if not experiment.is_dir():
        opened = open_experiment(experiment, overrides or [], root)
        resources = Resources(workers=workers, device=device, ranks=ranks)
        done = repair_experiment(opened, resources=resources, inline=inline, console=console, dry_run=dry_run)
        for line in done:
            say(line)
        return
    path = experiment.absolute()
    if path.parent.name != "stages":
        raise UsageError(f"{experiment} is no stage's directory; give one, or an experiment file")
    found = repair_stage(StageDirectory(path.parent.parent, path.name), change=not dry_run)
    if found is None:
        say(f"{experiment}: nothing is damaged")
        return
    for line in repair_lines(found, moved=not dry_run):
        say(line)
    if found.again and not dry_run:
        say("run the command that made it once more: it makes it again")


def report(
    experiment: ExperimentFile,
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[FILE.yaml]... [KEY=VALUE]...")] = None,
    root: Root = RUNS,
    public: Annotated[
        bool, typer.Option("--public", help="Leave out processors, jobs and absolute paths.")
    ] = False,
    publish_to: Annotated[
        Path | None,
        typer.Option(
            "--publish", help="Also copy it, --public and made small, into this folder of a repository."
        ),
    ] = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Update it while the experiment runs; end with the experiment.")
    ] = False,
    every: Annotated[float, typer.Option(min=0.1, help="With --watch: seconds between two checks.")] = 10.0,
    reference: Reference = None,
    allow_unequal: AllowUnequal = False,
    figures: Figures = True,
    compare: Annotated[
        bool, typer.Option("--compare", help="Compare several experiment files in one report.")
    ] = False,
) -> None:
    """Write the report from what is stored, also for an unfinished experiment.

    Example: cad report experiments/quickstart.yaml
    """
    from cad.experiments.plan.cells import distinct_stages
    from cad.experiments.plan.environments import unfinished
    from cad.experiments.plan.experiment import open_experiment
    from cad.experiments.reporting.comparison import side_by_side
    from cad.experiments.reporting.report import require_no_fuller_report, write_experiment_report

    if watch and compare:
        raise UsageError("--watch follows one experiment; leave out --compare")
    if watch and publish_to:
        raise UsageError("--publish is for a report that no longer changes; leave out --watch")
    if publish_to and not figures:
        raise UsageError("--publish copies the figures; leave out --no-figures")
    if publish_to is not None:
        from cad.reports import publish, require_free

        require_output("--publish", publish_to)
        require_free(publish_to)
    files, settings = split_files(overrides)
    if files and not compare:
        raise UsageError(f"{len(files) + 1} experiment files: add --compare to put them side by side")
    all_opened = [open_experiment(file, settings, root) for file in (experiment, *files)]
    opened = side_by_side(all_opened) if compare else all_opened[0]

    def n_undone() -> int:
        left = {stage.name for stage in unfinished(opened, distinct_stages(opened.cells))}
        return sum(any(stage.name in left for stage in cell.stages) for cell in opened.cells)

    undone = 0 if watch else n_undone()
    if undone == len(opened.cells):
        require_no_fuller_report(opened)

    def write(figures: bool = figures) -> Path:
        return write_experiment_report(
            opened, public=public or publish_to is not None, reference=reference,
            allow_unequal=allow_unequal, figures=figures,
        )  # fmt: skip

    if watch:
        from cad.experiments.reporting.report_watcher import keep_reporting
        from cad.interrupt import stop_on_signals

        with stop_on_signals() as stop:
            # Files for paper when nothing changes any more: they take half of the time.
            keep_reporting(opened, lambda: write(figures=False), every, stop, say)
        page = write() if figures else opened.page
        undone = n_undone()
    else:
        page = write()
    if undone:
        say(f"not done: {undone} of {len(opened.cells)} cells, which the report names")
    say(f"report: {page}")
    if publish_to is not None:
        large = publish(page.parent, publish_to)
        without = f" (without the large {', '.join(large)})" if large else ""
        say(f"published: {publish_to / 'report.md'}{without}")


def open_(experiment: ExperimentFile, overrides: Overrides = None, root: Root = RUNS) -> None:
    """Open an experiment's report in the browser, and print its path.

    Example: cad open experiments/quickstart.yaml
    """
    import webbrowser

    from cad.experiments.plan.experiment import open_experiment

    opened = open_experiment(experiment, overrides or [], root)
    if not opened.page.is_file():
        raise CadError(f"{opened.page}: there is no report yet; '{opened.command('report')}' writes it")
    say(f"report: {opened.page}")
    if not webbrowser.open(opened.page.as_uri()):
        say("there is no browser here: open the file by hand, or copy it; it needs no other file")
