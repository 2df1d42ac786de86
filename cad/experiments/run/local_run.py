"""Run an experiment, or one cell, on this machine with a live table, then report."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.live import Live

from cad.errors import CadError, printable
from cad.experiments.plan.cells import Cell, distinct_stages
from cad.experiments.plan.directory import StageDirectory, StageFile, stages_folder
from cad.experiments.plan.environments import require_environments, unfinished
from cad.experiments.plan.experiment import Experiment
from cad.experiments.plan.own_code import warn_of_changed_code
from cad.experiments.plan.stage import StageKind
from cad.experiments.reporting.report import no_cell_counts, write_experiment_report
from cad.experiments.run.pack_plan import planned_packs
from cad.experiments.run.pruning import pruning_of
from cad.experiments.run.repair import Repair, repair_stage, run_to_repair
from cad.experiments.run.resources import Resources, require_ranks_of_cells
from cad.experiments.run.runner import Run, Show, run_in_processes, run_inline
from cad.experiments.run.table import ChangeLines, run_table, used
from cad.experiments.run.trace import end_trace
from cad.interrupt import stop_on_signals
from cad.locks import folder_lock
from cad.storage import require_dirs_can_be_made, write_json

Display = Callable[[Run, Console], AbstractContextManager[Show]]
"""Shows the state of a run on a console for as long as a block lasts."""


def dry_run_text(
    experiment: Experiment,
    first: StageKind = "histories",
    last: StageKind = "evaluate",
    pack: int = 1,
    pack_memory: float | None = None,
    ranks: int = 1,
) -> str:
    """Cells and stages of the kinds from ``first`` to ``last``, and which of them are done.

    With ``pack`` above one, also which trainings would go together.  Raises :class:`UsageError` where the
    environments that are still needed cannot be made, or trainings not shared by as many ``ranks``.
    """
    require_ranks_of_cells(experiment.cells, ranks)
    require_dirs_can_be_made(stages_folder(experiment.root))
    stages = distinct_stages(experiment.cells, first, last)
    to_do = unfinished(experiment, stages)
    require_environments(to_do, str(experiment.file))
    warn_of_changed_code(experiment.root, stages)
    n = len(experiment.cells)
    lines = [f"{experiment.config.name}: {n} cell{'' if n == 1 else 's'}"]
    for cell in experiment.cells:
        chosen = f" ({cell.equal_state.in_words()})" if cell.equal_state else ""
        lines.append(f"  {cell.label}, seed {cell.config.seed}{chosen}")
    lines.append(f"{len(stages)} stages under {stages_folder(experiment.root)}")
    names = {stage.name for stage in to_do}
    lines += [f"  {stage.name}  {'to do' if stage.name in names else 'done'}" for stage in stages]
    if pack > 1:
        packs = planned_packs(to_do, pack, pack_memory)
        lines.append(
            f"{len(packs)} packs of up to {pack} trainings of one shape, fewer where workers are idle"
        )
        lines += [f"  {' '.join(stage.name for stage in together)}" for together in packs]
    return "\n".join(lines)


def run_experiment(
    experiment: Experiment,
    *,
    resources: Resources,
    inline: bool,
    console: Console,
    first: StageKind = "histories",
    last: StageKind = "evaluate",
    report: bool = True,
    figures: bool = True,
    display: Display | None = None,
) -> Path | None:
    """Run what is not done, then write the ``report``, with ``figures`` for paper; the path of its page.

    ``display`` shows the run's state on the console; default: a live table, or a line a change in a file.
    Only stages of the kinds from ``first`` to ``last`` are run; earlier ones must be done.
    Raises :class:`CadError` when stages failed (after the report, which names them) or when the
    experiment is running already, :class:`UsageError` when an environment that it needs cannot be made,
    and :class:`~cad.interrupt.InterruptedRun` when it was stopped.
    """
    resources.require_device()
    require_ranks_of_cells(experiment.cells, resources.ranks)
    stages = distinct_stages(experiment.cells, first, last)
    to_do = unfinished(experiment, stages)
    require_environments(to_do, str(experiment.file))
    warn_of_changed_code(experiment.root, stages)
    with folder_lock(experiment.folder, f"experiment {experiment.config.name}"), stop_on_signals() as stop:
        write_json(experiment.folder / "experiment.json", experiment.record())
        resources = replace(resources, pruning=pruning_of(experiment))
        run = Run(experiment.root, experiment.cells, prunes=experiment.config.prune is not None)
        run.limit(first, last)
        with (display or _live_table)(run, console) as show:
            if inline:
                run_inline(run, resources, stop, show)
            else:
                run_in_processes(run, resources, resources.workers, experiment.folder / "jobs", stop, show)
        if spent := used(run):
            console.print(f"used: {spent}", soft_wrap=True)
        reasons = "".join(f"\n  {entry.directory.path}: {entry.message}" for entry in run.failures)
        failed = f"{len(run.failures)} of {len(run.stages)} stages failed"
        try:
            page = write_experiment_report(experiment, figures=figures) if report else None
        except CadError as error:
            if run.failures:
                raise CadError(f"{failed}, and there is no report ({error}):{reasons}") from error
            raise
    if run.failures:
        where = "" if page is None else f" (report: {page})"
        raise CadError(f"{failed}{where}:{reasons}")
    if page is not None and last == "evaluate" and (defect := no_cell_counts(experiment)) is not None:
        raise CadError(f"no cell has a result that counts (report: {page}); the first one: {defect}")
    return page


def repair_experiment(
    experiment: Experiment,
    *,
    resources: Resources,
    inline: bool,
    console: Console,
    dry_run: bool = False,
) -> list[str]:
    """Set damaged files of the experiment's stages aside and make them again; what happened, line by line.

    Only stages that were done, and what they need, are run.  With ``dry_run`` nothing is written.
    Raises :class:`CadError` where a file cannot be read, or where a stage failed.
    """
    resources.require_device()
    require_ranks_of_cells(experiment.cells, resources.ranks)
    names = [stage.name for stage in distinct_stages(experiment.cells)]
    looked = [repair_stage(StageDirectory(experiment.root, name), change=not dry_run) for name in names]
    repairs = [found for found in looked if found is not None]
    lines = [line for found in repairs for line in repair_lines(found, moved=not dry_run)]
    if not repairs:
        return [f"{len(names)} stages: nothing is damaged"]
    if dry_run:
        return [*lines, "nothing was changed"]
    for line in lines:
        console.print(printable(line, keep="\n\t"), soft_wrap=True)
    again = [found for found in repairs if found.again]
    if not again:
        return ["set aside; nothing has to run again"]
    run = run_to_repair(experiment.root, experiment.cells, repairs)
    jobs = experiment.folder / "jobs"
    with stop_on_signals() as stop, _live_table(run, console) as show:
        if inline:
            run_inline(run, resources, stop, show)
        else:
            run_in_processes(run, resources, resources.workers, jobs, stop, show)
    for entry in run.failures:
        raise CadError(f"{entry.directory.path}: {entry.message}")
    return [f"{found.directory.name}: {found.compared()}" for found in again]


def repair_lines(found: Repair, *, moved: bool) -> list[str]:
    """What was damaged in a stage, and where it was ``moved``, for the user."""
    lines = [f"{damage.path}: damaged ({damage.why})" for damage in found.damages]
    if moved:
        lines.append(f"  set aside in {found.directory.file(StageFile.SET_ASIDE)}")
        if any(damage.path.name == StageFile.PROBE for damage in found.damages):
            lines.append("  'cad probe' with the experiment makes the probe again")
    return lines


def run_cell(
    cell: Cell,
    last: str,
    root: Path,
    workers: int,
    device: str,
    console: Console,
    *,
    trace: bool = False,
    ranks: int = 1,
) -> Path:
    """Run one cell's stages up to the one of kind ``last``; that stage's directory.

    With ``trace`` every compression of its evaluation is printed as it happens.  If the evaluation was
    done before, they are printed from its results.
    """
    traced = _printer(console) if trace else None
    resources = Resources(workers=workers, device=device, ranks=ranks, trace=traced)
    resources.require_device()
    require_ranks_of_cells([cell], ranks)
    run = Run(root.absolute(), (cell,))
    wanted = [stage for stage in cell.stages if stage.kind == last][-1]
    needed = cell.stages[: cell.stages.index(wanted) + 1]
    require_environments(stage for stage in needed if not StageDirectory(run.root, stage.name).done)
    run.stages = {stage.name: run.stages[stage.name] for stage in needed}
    directory = StageDirectory(run.root, wanted.name)
    done_before = run.stages[wanted.name].state == "done"
    with stop_on_signals() as stop, _live_table(run, console) as show:
        run_inline(run, resources, stop, show)
    for entry in run.failures:
        raise CadError(f"{entry.directory.path}: {entry.message}")
    if traced:
        end_trace(cell.config.model, directory, traced, again=done_before)
    return directory.path


def _printer(console: Console) -> Callable[[str], None]:
    return lambda line: console.print(printable(line, keep="\n\t"), soft_wrap=True)


@contextlib.contextmanager
def _live_table(run: Run, console: Console) -> Iterator[Show]:
    """Yield a function that shows the run's state: a live table, or in a log file a line a change."""
    # FORCE_COLOR calls a file a terminal; a table that redraws itself is no use there.
    if not (console.is_terminal and console.file.isatty()):
        yield ChangeLines(run, console)
        return
    # Every refresh reads the stages' own notes, so that it works while a stage runs inline.
    with Live(get_renderable=lambda: run_table(run, console.width), console=console, refresh_per_second=2):
        yield lambda _: None
