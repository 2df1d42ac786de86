"""Several experiments as one, for a report that shows them side by side."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from cad.errors import UsageError
from cad.experiments.opened import OpenExperiment


def side_by_side(experiments: Sequence[OpenExperiment]) -> OpenExperiment:
    """All cells of all experiments, each labelled with its experiment's name; its folder is their names.

    Raises :class:`UsageError` unless there are two or more, with names of their own.
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
    return dataclasses.replace(first, config=config, cells=cells, made_of=tuple(experiments))
