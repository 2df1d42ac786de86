"""What is stored of an experiment as arrays, data frames and figures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from cad.errors import CadError, UsageError
from cad.experiments.plan.directory import StageDirectory
from cad.experiments.plan.experiment import Experiment
from cad.experiments.reporting.gather import gather_cell, gather_source
from cad.reports import Study, Table, data_tables, figures, make_study
from cad.schema import Config

_RETURNS = "returns"
_COLUMNS = ("label", "seed", "task", "rollout", "episode", "return", "normalised")


@dataclass(frozen=True, eq=False)
class CellOutcome:
    """One cell of an experiment, as far as it got.

    Examples:
        >>> cell = cad.load_results("small.yaml").cells[1]
        >>> cell.label, cell.seed, cell.returns.shape
        ('CompressedAD', 0, (3, 2, 4))
    """

    label: str
    seed: int
    config: Config
    status: str
    """``done``, ``missing`` or ``failed: <message>``; what follows is None unless it is done."""

    task_ids: tuple[int, ...]
    returns: npt.NDArray[np.float32] | None
    """(tasks, roll-outs, episodes): sums of rewards."""

    normalised: npt.NDArray[np.float64] | None
    """As ``returns``, divided by each task's optimum (0 and 1 are what ``env`` states, if it does)."""

    compressions: npt.NDArray[np.int64] | None
    """(tasks, roll-outs)."""

    training: Path
    """Directory of the training, with ``model.safetensors`` where it is done; for ``cad.load_agent``."""

    metrics: Mapping[str, npt.NDArray[np.float64]]
    """What the training recorded so far, by name, with ``step``; NaN where an update has no such value."""


class Results:
    """What is stored of an experiment.

    Examples:
        >>> results = cad.load_results("small.yaml")
        >>> sorted(results.table("returns")) == sorted(
        ...     ["label", "seed", "task", "rollout", "episode", "return", "normalised"])
        True
        >>> axes = results.figure("learning").axes[0]
        >>> axes.get_xlabel()
        'episode in context'
    """

    def __init__(self, experiment: Experiment) -> None:
        self.name = experiment.config.name
        self._root, self._planned = experiment.root, experiment.cells
        report = experiment.config.report
        with experiment.naming_repair():
            gathered = [gather_cell(experiment.root, cell) for cell in experiment.cells]
            source = gather_source(experiment.root, experiment.cells)
        self._study: Study = make_study(
            self.name, report.title, report.question, gathered, source, reference=report.reference
        )

    @cached_property
    def cells(self) -> tuple[CellOutcome, ...]:
        """All cells, in the experiment's order."""
        return tuple(
            CellOutcome(
                label=cell.result.label,
                seed=cell.result.config.seed,
                config=cell.result.config,
                status=cell.status,
                task_ids=cell.result.task_ids,
                returns=cell.result.returns,
                normalised=cell.normalised,
                compressions=cell.result.compressions,
                training=StageDirectory(self._root, planned.training.name).path,
                metrics=_columns(cell.result.metrics or []),
            )
            for cell, planned in zip(self._study.cells, self._planned, strict=True)
        )

    @property
    def labels(self) -> tuple[str, ...]:
        """The models: cells that differ only by their seed have one label."""
        return tuple(dict.fromkeys(cell.label for cell in self.cells))

    @cached_property
    def _tables(self) -> dict[str, Table]:
        return {_RETURNS: Table(_COLUMNS, self._returns()), **data_tables(self._study)}

    def _returns(self) -> list[tuple[Any, ...]]:
        rows: list[tuple[Any, ...]] = []
        for cell in self.cells:
            if cell.returns is None or cell.normalised is None:
                continue
            rows.extend(
                (cell.label, cell.seed, cell.task_ids[task], rollout, episode, float(value),
                 float(cell.normalised[task, rollout, episode]))
                for (task, rollout, episode), value in np.ndenumerate(cell.returns)
            )  # fmt: skip
        return rows

    @property
    def tables(self) -> tuple[str, ...]:
        """Names of all tables: ``returns``, an episode a row, and those of the report's CSV files."""
        return tuple(self._tables)

    def table(self, name: str = _RETURNS) -> dict[str, npt.NDArray[Any]]:
        """A table as arrays by column; unknown numbers are NaN.  Roll-outs and episodes count from 0."""
        table = _pick("table", name, self._tables)
        columns = zip(*table.rows, strict=True) if table.rows else [()] * len(table.columns)
        return {column: _array(list(values)) for column, values in zip(table.columns, columns, strict=True)}

    def frame(self, name: str = _RETURNS) -> Any:
        """A table as a ``pandas.DataFrame``; :class:`CadError` where pandas is not installed."""
        try:
            pandas = import_module("pandas")
        except ImportError as error:
            raise CadError("frame() needs pandas: pip install pandas; table() gives NumPy arrays") from error
        return pandas.DataFrame(self.table(name))

    @cached_property
    def figures(self) -> Mapping[str, Figure]:
        """The report's figures by name; see :meth:`figure`."""
        return figures(self._study)

    def figure(self, name: str = "learning") -> Figure:
        """A figure of the report; its ``axes`` can be changed, and it is saved by ``savefig``."""
        figure: Figure = _pick("figure", name, self.figures)
        return figure


def _pick(what: str, name: str, given: Mapping[str, Any]) -> Any:
    if name not in given:
        raise UsageError(f"there is no {what} {name!r}; choose one of: {', '.join(given)}")
    return given[name]


def _array(values: list[Any]) -> npt.NDArray[Any]:
    if any(isinstance(value, str) for value in values):
        return np.array(["" if value is None else value for value in values], dtype=object)
    if None in values:
        return np.array([np.nan if value is None else value for value in values], dtype=np.float64)
    return np.array(values)


def _columns(records: Any) -> dict[str, npt.NDArray[np.float64]]:
    names = dict.fromkeys(key for record in records for key in record)
    return {
        name: np.array([record.get(name, np.nan) for record in records], dtype=np.float64) for name in names
    }
