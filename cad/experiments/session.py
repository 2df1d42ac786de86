"""A command's worth of work on an experiment: open, run with a live table, report."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

from rich.console import Console
from rich.live import Live

from cad.errors import CadError
from cad.evaluation.compression_steps import replay
from cad.evaluation.results import load_results
from cad.experiments.directory import StageDirectory
from cad.experiments.estimate import Allocation, Estimate, estimate
from cad.experiments.gather import gather_cell, gather_source
from cad.experiments.measure import measured_paces
from cad.experiments.opened import OpenExperiment
from cad.experiments.plan import Cell, StageKind, distinct_stages
from cad.experiments.provenance import gather_provenance
from cad.experiments.ranks import require_ranks_of_cells
from cad.experiments.runner import Run, Show, run_in_processes, run_inline
from cad.experiments.stages import RESULTS_FILE, Resources, pick_device
from cad.experiments.table import ChangeLines, run_table
from cad.interrupt import stop_on_signals
from cad.reports import write_report
from cad.reports.aggregate import Study, Unequal, make_study
from cad.storage import folder_lock, write_json

log = logging.getLogger(__name__)


def dry_run_text(
    experiment: OpenExperiment, first: StageKind = "histories", last: StageKind = "evaluate"
) -> str:
    """Cells and stages of the kinds from ``first`` to ``last``, and which of them are done."""
    lines = [f"{experiment.config.name}: {len(experiment.cells)} cells"]
    lines += [f"  {cell.label}, seed {cell.config.seed}" for cell in experiment.cells]
    stages = distinct_stages(experiment.cells, first, last)
    lines.append(f"{len(stages)} stages under {experiment.root / 'stages'}")
    for stage in stages:
        state = "done" if StageDirectory(experiment.root, stage).done else "to do"
        lines.append(f"  {stage.name}  {state}")
    return "\n".join(lines)


def run_cost(
    experiment: OpenExperiment,
    workers: int,
    device: str,
    first: StageKind = "histories",
    last: StageKind = "evaluate",
) -> Estimate | None:
    """What :func:`run_experiment` would take; None where all is done."""
    stages = [
        stage
        for stage in distinct_stages(experiment.cells, first, last)
        if not StageDirectory(experiment.root, stage).done
    ]
    if not stages:
        return None
    kind = pick_device(device).type
    given = Allocation(device=kind, gpus=int(kind == "cuda"))
    # A collection has all workers, and nothing runs beside it.
    alone = Allocation(cores=workers, workers=workers, pool="histories")
    return estimate(
        stages,
        lambda stage: alone if stage.kind == "histories" else given,
        measured_paces(experiment.root, stages, lambda _: kind),
        {"": workers, "histories": 1},
    )


def run_experiment(
    experiment: OpenExperiment,
    *,
    resources: Resources,
    inline: bool,
    console: Console,
    first: StageKind = "histories",
    last: StageKind = "evaluate",
) -> Path:
    """Run what is not done, then report; the path of the report's page.

    Only stages of the kinds from ``first`` to ``last`` are run; those before have to be done.
    Raises :class:`CadError` when stages failed (the report says which, and is written first), when
    the experiment is running already, or when it was asked to stop.
    """
    require_ranks_of_cells(experiment.cells, resources.ranks)
    with folder_lock(experiment.folder, f"experiment {experiment.config.name}"), stop_on_signals() as stop:
        write_json(experiment.folder / "experiment.json", experiment.record())
        run = Run(experiment.root, experiment.cells)
        run.limit(first, last)
        with _live_table(run, console) as show:
            if inline:
                run_inline(run, resources, stop, show)
            else:
                run_in_processes(run, resources, resources.workers, experiment.folder / "jobs", stop, show)
        page = write_experiment_report(experiment)
    if run.failures:
        reasons = "\n".join(f"  {entry.directory.path}: {entry.message}" for entry in run.failures)
        raise CadError(f"{len(run.failures)} of {len(run.stages)} stages failed (report: {page}):\n{reasons}")
    return page


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

    With ``trace`` every compression of its evaluation is printed as it happens; those of an
    evaluation that was done before, from its results.
    """
    require_ranks_of_cells([cell], ranks)
    run = Run(root.absolute(), (cell,))
    wanted = [stage for stage in cell.stages if stage.kind == last][-1]
    needed = cell.stages[: cell.stages.index(wanted) + 1]
    run.stages = {stage.name: run.stages[stage.name] for stage in needed}
    path = StageDirectory(run.root, wanted).path
    traced = _printer(console) if trace else None
    done_before = run.stages[wanted.name].state == "done"
    with stop_on_signals() as stop, _live_table(run, console) as show:
        run_inline(run, Resources(workers=workers, device=device, ranks=ranks, trace=traced), stop, show)
    for entry in run.failures:
        raise CadError(f"{entry.directory.path}: {entry.message}")
    if traced:
        _end_trace(cell, path / RESULTS_FILE, traced, again=done_before)
    return path


def _printer(console: Console) -> Callable[[str], None]:
    return lambda line: console.print(line, markup=False, highlight=False, soft_wrap=True)


def _end_trace(cell: Cell, file: Path, tell: Callable[[str], None], *, again: bool) -> None:
    """The last line of a trace, and before it all others where the evaluation was not run now."""
    result = load_results(file)
    if result.compression_steps is None or result.chosen is None:
        tell(f"{file} is of an earlier version, which did not record when it compressed")
        return
    if again:
        tell(f"evaluated before; from {file}:")
        replay(
            (result.compression_steps, result.chosen),
            result.task_ids,
            result.horizon,
            lambda event: tell(str(event)),
        )
    total, chosen = int(result.compressions.sum()), int(result.chosen.sum())
    config = cell.config.model
    if config.kind == "ad":
        why = f": ad does not compress, it drops the oldest {config.steps_dropped} steps of a full window"
    elif config.kind == "compressed_ad" and not config.max_compression_depth:
        why = ": at max_compression_depth=0 a full window is forgotten"
    else:
        why = f", {chosen} by </compress>, {total - chosen} because a window was full"
    tell(f"{total} compressions in {result.compressions.size} roll-outs{why}")


def experiment_study(
    experiment: OpenExperiment, *, reference: str | None = None, allow_unequal: bool = False
) -> Study:
    """An experiment's numbers from what is stored; see :func:`cad.reports.aggregate.make_study`."""
    report = experiment.config.report
    results = [gather_cell(experiment.root, cell) for cell in experiment.cells]
    reference = reference or report.reference
    unequal: Unequal = "cut" if allow_unequal else "refuse"
    return make_study(
        experiment.config.name, report.title, report.question, results, None, reference=reference,
        unequal=unequal,
    )  # fmt: skip


def write_experiment_report(
    experiment: OpenExperiment,
    *,
    public: bool = False,
    reference: str | None = None,
    allow_unequal: bool = False,
) -> Path:
    """Write ``report/`` from what is stored; works on an unfinished experiment.

    A report for the ``public`` names no processor, job or absolute path.  A comparison that was asked
    for, with a reference or with another experiment, is refused where cells were evaluated on unequal
    tasks or episodes, unless that is allowed.
    """
    asked = reference is not None or bool(experiment.made_of)
    return write_report(
        experiment.config.name,
        experiment.config.report,
        [gather_cell(experiment.root, cell) for cell in experiment.cells],
        gather_source(experiment.root, experiment.cells),
        gather_provenance(experiment, public=public),
        experiment.folder / "report",
        reference=reference or experiment.config.report.reference,
        unequal="cut" if allow_unequal else "refuse" if asked else "apart",
    )


@contextlib.contextmanager
def _live_table(run: Run, console: Console) -> Iterator[Show]:
    """Yield a function that shows where a run stands: a live table, or in a log file a line a change."""
    if not console.is_terminal:
        yield ChangeLines(run, console)
        return
    # Drawn again at every refresh, from the stages' own notes: also while a stage runs inline.
    with Live(get_renderable=lambda: run_table(run), console=console, refresh_per_second=2):
        yield lambda _: None
