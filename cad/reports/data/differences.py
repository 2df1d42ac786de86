"""Paired differences from a reference, on the same seeds and the same tasks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Protocol, TypeVar

import numpy as np

from cad.reports.data.model_result import ModelResult
from cad.reports.data.model_returns import FEW_SEEDS
from cad.reports.data.results import FloatArray
from cad.reports.data.statistics import holm, mean_interval, p_values
from cad.reports.data.study import Study
from cad.reports.data.tables import Table, Value, finite, table_if_any

_ALPHA = 0.05
_COLUMNS = (
    "reference", "label", "difference", "low_95", "high_95", "p_holm", "n_seeds", "seeds",
    "differences_by_seed",
)  # fmt: skip


@dataclass(frozen=True)
class Difference:
    """One model minus a reference: normalised return over the last episodes."""

    model: ModelResult
    reference: ModelResult
    seeds: tuple[int, ...]  # that both have
    by_seed: tuple[float, ...]
    mean: float
    low: float
    high: float
    p_holm: float | None  # adjusted for all models being compared; None with too few seeds for a test

    @property
    def claimed(self) -> bool:
        """Whether a difference is claimed: with more than three seeds, corrected for all comparisons."""
        return self.p_holm is not None and self.p_holm < _ALPHA


def paired(first: FloatArray, second: FloatArray) -> tuple[float, float, float, float | None]:
    """Mean difference of two (seeds, tasks), its 95% interval, and p where there are enough seeds."""
    differences = first - second
    many = len(differences) > FEW_SEEDS
    low, high = mean_interval(differences[..., None], many)
    p = float(p_values(differences[..., None])[0]) if many and differences.shape[1] > 1 else None
    return float(differences.mean()), float(low[0]), float(high[0]), p


class _WithSeeds(Protocol):
    @property
    def seeds(self) -> tuple[int, ...]: ...


P = TypeVar("P", bound=_WithSeeds)


def sharing_seeds(pairs: Sequence[P]) -> tuple[list[P], tuple[int, ...]]:
    """The first of some pairs and those that can be drawn with it, and the seeds that all of these have."""
    kept, shared = [pairs[0]], set(pairs[0].seeds)
    for pair in pairs[1:]:
        if shared & set(pair.seeds):
            kept.append(pair)
            shared &= set(pair.seeds)
    return kept, tuple(seed for seed in pairs[0].seeds if seed in shared)


def differences_from(models: Sequence[ModelResult], reference: ModelResult) -> list[Difference]:
    """Each model minus the reference, on the seeds that both have; models without such are left out."""
    differences = []
    for model in models:
        seeds = tuple(seed for seed in model.seeds if seed in reference.seeds)
        if model is reference or not seeds:
            continue
        ours, theirs = model.scores_of(seeds), reference.scores_of(seeds)
        by_seed = tuple(float(value) for value in (ours - theirs).mean(axis=1))
        differences.append(Difference(model, reference, seeds, by_seed, *paired(ours, theirs)))
    tested = [i for i, difference in enumerate(differences) if difference.p_holm is not None]
    for i, p in zip(tested, holm([differences[i].p_holm or 0.0 for i in tested]), strict=True):
        differences[i] = replace(differences[i], p_holm=p)
    return differences


@lru_cache(maxsize=1)  # figure, table, sentence and CSV ask for the same
def all_differences(study: Study) -> tuple[Difference, ...]:
    """Every model minus every reference; empty where nothing can be compared."""
    if not study.comparable:
        return ()
    return tuple(d for reference in study.references for d in differences_from(study.scored, reference))


def difference_tables(study: Study) -> dict[str, Table]:
    """``differences``, where there are any."""
    rows: list[tuple[Value, ...]] = [
        (d.reference.label, d.model.label, d.mean, *(v if np.isfinite(v) else None for v in (d.low, d.high)),
         d.p_holm, len(d.seeds), " ".join(map(str, d.seeds)), " ".join(map(repr, d.by_seed)))
        for d in all_differences(study)
    ]  # fmt: skip
    return table_if_any("differences", _COLUMNS, rows)


@dataclass(frozen=True)
class SharedModel:
    """A model in one of several experiments that have it, paired with the first of them."""

    label: str  # without the experiment's name
    experiment: str
    model: ModelResult
    minus: str  # the first experiment
    difference: float | None  # None for the first experiment itself, or without shared seeds
    low: float | None
    high: float | None
    n_shared_seeds: int


def experiments(study: Study) -> tuple[str, ...]:
    """Names of the experiments that a report compares, in order; none in a report on one."""
    return tuple(dict.fromkeys(e for cell in study.cells if (e := cell.result.experiment)))


def shared_models(study: Study) -> dict[str, list[SharedModel]]:
    """Label -> its result in each experiment, for the labels that several experiments have."""
    by_label: dict[str, dict[str, ModelResult]] = {}
    for model in study.scored if study.comparable and experiments(study) else ():
        experiment = model.cells[0].result.experiment
        by_label.setdefault(model.label.removeprefix(f"{experiment}: "), {}).setdefault(experiment, model)
    return {
        label: [_shared(label, experiment, model, models) for experiment, model in models.items()]
        for label, models in by_label.items()
        if len(models) > 1
    }


def _shared(label: str, experiment: str, model: ModelResult, models: dict[str, ModelResult]) -> SharedModel:
    minus, first = next(iter(models.items()))
    seeds = tuple(seed for seed in model.seeds if seed in first.seeds)
    if model is first or not seeds:
        return SharedModel(label, experiment, model, minus, None, None, None, len(seeds))
    mean, low, high, _ = paired(model.scores_of(seeds), first.scores_of(seeds))
    return SharedModel(label, experiment, model, minus, mean, finite(low), finite(high), len(seeds))


def shared_model_tables(study: Study) -> dict[str, Table]:
    """``side_by_side``, where several experiments share a model."""
    columns = ("model", "experiment", "mean", "low_95", "high_95", "n_seeds", "minus", "difference",
               "difference_low_95", "difference_high_95", "n_shared_seeds")  # fmt: skip
    rows: list[tuple[Value, ...]] = [
        (entry.label, entry.experiment, entry.model.score, *map(finite, entry.model.returns.score_interval),
         len(entry.model.done), entry.minus, entry.difference, entry.low, entry.high, entry.n_shared_seeds)
        for entries in shared_models(study).values()
        for entry in entries
    ]  # fmt: skip
    return table_if_any("side_by_side", columns, rows)
