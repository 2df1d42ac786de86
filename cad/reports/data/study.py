"""Everything that figures and text are made from: all cells of a report, aggregated.

A return is normalised by the optimum of its own task before anything is averaged over tasks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from cad.envs.registry import task_family
from cad.errors import CadError, UsageError
from cad.reports.data.cells import CellSummary, summarise_cell
from cad.reports.data.comparability import cut_to_shared, evaluated_on
from cad.reports.data.measure import OPTIMUM, Measure, measure_of
from cad.reports.data.model_result import ModelResult, model_results
from cad.reports.data.results import CellResult, FloatArray, SourceCurve
from cad.schema import Config

Unequal = Literal["apart", "refuse", "cut"]


@dataclass(frozen=True, eq=False)
class Study:
    """The cells of a report and the models that they make up."""

    name: str
    title: str
    question: str
    cells: tuple[CellSummary, ...]
    models: tuple[ModelResult, ...]
    source: FloatArray | None  # (tasks, episodes), normalised
    n_evaluations: int  # different sets of tasks and episodes; above 1 nothing is compared
    reference_label: str | None = None  # model that others are compared with, beside the best AD
    trimmed: str = ""  # what was left out so that unequal cells could be compared

    @cached_property
    def intact(self) -> tuple[ModelResult, ...]:
        """Models that act themselves, with the memory and in the environment of their training.

        Only they are compared; others have ``evaluation.knock_out``, ``env`` or ``demonstrated_episodes``.
        """
        changes = ((model, model.config.evaluation) for model in self.models)
        return tuple(
            model
            for model, each in changes
            if each.knock_out is None and each.env is None and not each.demonstrated_episodes
        )

    def beside(self, model: ModelResult, **evaluation: object) -> ModelResult | None:
        """The same model with some settings of ``evaluation`` changed, if it has a done seed."""
        config = _as_rolled_out(model.config, **evaluation)
        return next(
            (
                other
                for other in self.models
                if other.experiment == model.experiment
                and other.done
                and _as_rolled_out(other.config) == config
            ),
            None,
        )

    @property
    def demonstrated(self) -> bool:
        """Whether some models were shown their first episodes; no score counts these."""
        return any(model.config.evaluation.demonstrated_episodes for model in self.models)

    @cached_property
    def scored(self) -> tuple[ModelResult, ...]:
        """Intact models with at least one done seed."""
        return tuple(model for model in self.intact if model.score is not None)

    @cached_property
    def measure(self) -> Measure:
        """The words for scores; those of the first cell, as others are not compared with it."""
        return measure_of(self.cells[0].result.config) if self.cells else OPTIMUM

    @property
    def comparable(self) -> bool:
        """Whether all done cells were evaluated on the same tasks and episodes."""
        return self.n_evaluations == 1

    def source_curve(self, n_episodes: int) -> FloatArray | None:
        """Mean over tasks of the source's first ``n_episodes``, (episodes,); None where it is not known."""
        return None if self.source is None else self.source.mean(axis=0)[:n_episodes]

    def best(self, ad: bool) -> ModelResult | None:
        """Highest score among AD or the other models, of those with the most seeds; None if none is done.

        A model with one seed is no headline beside models with three.
        """
        return self._best([model for model in self.scored if model.facts.is_ad == ad])

    @property
    def best_compressed(self) -> ModelResult | None:
        """:meth:`best` of the models that compress; None if none is done."""
        return self._best([model for model in self.scored if model.facts.depth is not None])

    @staticmethod
    def _best(scored: Sequence[ModelResult]) -> ModelResult | None:
        most = max((len(model.done) for model in scored), default=0)
        candidates = [model for model in scored if len(model.done) == most]
        return max(candidates, key=lambda model: model.score or 0.0, default=None)

    @property
    def lead(self) -> ModelResult | None:
        """The model that sentences are about: the best one, or the best AD where there is no other."""
        return self.best(ad=False) or self.best(ad=True)

    @property
    def best_first(self) -> list[ModelResult]:
        """:attr:`scored`, from the highest score down."""
        return sorted(self.scored, key=lambda model: -(model.score or 0.0))

    def featured(self, most: int) -> tuple[ModelResult, ...]:
        """The references and the best other models, at most ``most``, in the report's order."""
        best = sorted(self.scored, key=lambda model: (model not in self.references, -(model.score or 0.0)))
        return tuple(model for model in self.scored if model in best[:most])

    @property
    def references(self) -> tuple[ModelResult, ...]:
        """Models that others are compared with: the best AD, and the chosen one where it has a result."""
        best = self.best(ad=True)
        chosen = [model for model in self.scored if model.label == self.reference_label]
        return tuple(dict.fromkeys([*([best] if best is not None else []), *chosen]))

    @property
    def task_kind(self) -> str:
        """Name of the evaluated tasks: ``held-out``, or ``validation`` if all of them are."""
        kinds = {cell.result.config.evaluation.tasks for cell in self.cells}
        return "validation" if kinds == {"validation"} else "held-out"

    @property
    def shared_config(self) -> Config | None:
        """Config of the first cell, for what all cells share."""
        return self.cells[0].result.config if self.cells else None


def _as_rolled_out(config: Config, **changes: object) -> Config:
    """A config with settings of ``evaluation`` changed, and without one that nothing follows from."""
    evaluation = config.evaluation.model_copy(update=changes)
    if evaluation.knock_out is None:
        default = type(evaluation)().knock_out_episode
        evaluation = evaluation.model_copy(update={"knock_out_episode": default})
    return config.model_copy(update={"evaluation": evaluation})


def make_study(
    name: str,
    title: str,
    question: str,
    results: Sequence[CellResult],
    source: SourceCurve | None,
    *,
    reference: str | None = None,
    unequal: Unequal = "apart",
) -> Study:
    """Aggregate cells; ``reference`` is the label of a model to compare with, beside the best AD.

    Cells that were evaluated on unequal tasks or numbers of episodes are not compared ("apart"), refused,
    or cut to what they share.  Raises :class:`CadError` on a cell given twice, and on cells that are
    refused or share no task; :class:`UsageError` on an unknown reference.
    """
    labels = dict.fromkeys(result.label for result in results)
    if reference is not None and reference not in labels:
        raise UsageError(
            f"reference {reference!r} (--reference or report.reference) is no model of {name}; "
            f"choose one of: {'; '.join(labels)}"
        )
    cells, trimmed = tuple(summarise_cell(result) for result in results), ""
    if (n_evaluations := _n_evaluations(cells)) > 1 and unequal == "refuse":
        raise CadError(
            f"the cells of {name} were evaluated on {n_evaluations} different sets of tasks or numbers of "
            "episodes, so their means do not compare; --allow-unequal compares them on what they share"
        )
    if unequal == "cut":
        cells, trimmed = cut_to_shared(cells)
    return Study(
        name=name,
        title=title or name,
        question=question,
        cells=cells,
        models=model_results(cells),
        source=None if source is None else _normalised(source, cells),
        n_evaluations=_n_evaluations(cells),
        reference_label=reference,
        trimmed=trimmed,
    )


def _n_evaluations(cells: Sequence[CellSummary]) -> int:
    return len({evaluation for cell in cells if (evaluation := evaluated_on(cell)) is not None})


def _normalised(source: SourceCurve, cells: Sequence[CellSummary]) -> FloatArray | None:
    """(tasks, episodes) of the evaluated tasks; None where none is known or a value is not finite."""
    optimum = {task.task_id: task.optimum for cell in cells for task in cell.per_task}
    known = [i for i, task_id in enumerate(source.task_ids) if task_id in optimum]
    curve: FloatArray = np.asarray(source.returns, dtype=np.float64)[known]
    if not known or not np.isfinite(curve).all():
        return None
    family = task_family(cells[0].result.config.env)
    return family.score(curve, np.array([optimum[source.task_ids[i]] for i in known])[:, None])
