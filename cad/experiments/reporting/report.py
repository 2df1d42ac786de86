"""Make an experiment's report from what is stored."""

from __future__ import annotations

import json
from pathlib import Path

from cad.errors import CadError
from cad.experiments.plan.experiment import Experiment
from cad.experiments.reporting.gather import gather_cell, gather_source
from cad.experiments.reporting.provenance import gather_provenance
from cad.reports import Study, Unequal, make_study, summarise_cell, write_report


def experiment_study(
    experiment: Experiment, *, reference: str | None = None, allow_unequal: bool = False
) -> Study:
    """The experiment's stored results, aggregated; see :func:`cad.reports.make_study`."""
    report = experiment.config.report
    with experiment.naming_repair():
        results = [gather_cell(experiment.root, cell) for cell in experiment.cells]
    reference = reference or report.reference
    unequal: Unequal = "cut" if allow_unequal else "refuse"
    return make_study(
        experiment.config.name, report.title, report.question, results, None, reference=reference,
        unequal=unequal,
    )  # fmt: skip


def no_cell_counts(experiment: Experiment) -> str | None:
    """What is wrong with the first cell, if no cell's returns can be used; None if some cell's can."""
    defect = None
    for cell in experiment.cells:
        status = summarise_cell(gather_cell(experiment.root, cell)).status
        if status == "done":
            return None
        defect = defect or status
    return defect


def require_no_fuller_report(experiment: Experiment) -> None:
    """Raise :class:`CadError` where a report with results would give way to one without any.

    It would after a change of settings, since reports are named by experiment.
    """
    try:
        text = (experiment.folder / "report" / "report.json").read_text(encoding="utf-8")
        done = sum(cell["status"] == "done" for cell in json.loads(text)["cells"])
    except (OSError, ValueError, KeyError, TypeError):
        return
    if done:
        n = len(experiment.cells)
        raise CadError(
            f"none of the {n} cells is done with these settings, and {experiment.page} has results of "
            f"{done}: it is kept; run the cells first, or take its settings"
        )


def write_experiment_report(
    experiment: Experiment,
    *,
    public: bool = False,
    reference: str | None = None,
    allow_unequal: bool = False,
    figures: bool = True,
) -> Path:
    """Write ``report/`` from what is stored, also for an unfinished experiment; the path of its page.

    A report for the ``public`` names no processor, job or absolute path.  A requested comparison, with a
    reference or with another experiment, is refused where cells were evaluated on unequal tasks or
    episodes, unless ``allow_unequal``.  Without ``figures`` it has a page, and no files for paper.
    """
    requested = reference is not None or bool(experiment.compared)
    with experiment.naming_repair():
        return write_report(
            experiment.config.name,
            experiment.config.report,
            [gather_cell(experiment.root, cell) for cell in experiment.cells],
            gather_source(experiment.root, experiment.cells),
            gather_provenance(experiment, public=public),
            experiment.folder / "report",
            reference=reference or experiment.config.report.reference,
            unequal="cut" if allow_unequal else "refuse" if requested else "apart",
            figures=figures,
        )
