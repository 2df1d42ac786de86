"""Join several experiments to one, for a report that shows them side by side."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from cad.errors import UsageError
from cad.experiments.plan.experiment import Experiment


def side_by_side(experiments: Sequence[Experiment]) -> Experiment:
    """All cells of all experiments, labelled with their experiment's name; its folder is named after all.

    Raises :class:`UsageError` unless there are two or more, with different names.
    """
    names = [experiment.config.name for experiment in experiments]
    if len(experiments) < 2:
        raise UsageError("--compare needs two or more experiment files")
    if len(set(names)) < len(names):
        raise UsageError(f"--compare: two of the experiments share a name ({', '.join(names)}); rename one")
    cells = tuple(
        dataclasses.replace(cell, experiment=name, label=f"{name}: {cell.label}", arm=f"{name}: {cell.arm}")
        for name, experiment in zip(names, experiments, strict=True)
        for cell in experiment.cells
    )
    first = experiments[0]
    report = first.config.report.model_copy(
        update={"title": " against ".join(names), "question": "What differs between the experiments?"}
    )
    config = first.config.model_copy(update={"name": "-vs-".join(names), "report": report})
    return dataclasses.replace(first, config=config, cells=cells, compared=tuple(experiments))
