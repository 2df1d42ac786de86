"""What is lost on the way to the optimum, beside what programs lose that are known to lose little."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from cad.envs.config import EnvConfig
from cad.envs.registry import task_family
from cad.evaluation.scripted import cumulative_regret, play
from cad.reports.data.cells import CellSummary
from cad.reports.data.model_result import ModelResult
from cad.reports.data.results import FloatArray
from cad.reports.data.study import Study
from cad.reports.data.tables import Table, Value, table_if_any

# Roll-outs a task of a reference: more would make a report slow and its means no different.
_MOST_ROLLOUTS = 8
_COLUMNS = ("label", "seed", "episode", "regret")


@dataclass(frozen=True, eq=False)
class Regret:
    """Cumulative regret (episodes,) in rewards, mean over roll-outs, then tasks (then seeds)."""

    label: str
    curve: FloatArray


def cell_regret(cell: CellSummary) -> FloatArray:
    """Cumulative regret (episodes,) of a done cell."""
    result = cell.result
    assert result.returns is not None
    optima = np.asarray(result.optimal)[:, None, None] if result.optima is None else result.optima
    curve: FloatArray = cumulative_regret(result.returns, optima).mean(axis=1).mean(axis=0)
    return curve


def model_regret(model: ModelResult) -> Regret:
    """Mean over the seeds of a model."""
    return Regret(model.label, np.mean([cell_regret(cell) for cell in model.done], axis=0))


def reference_regrets(study: Study) -> tuple[Regret, ...]:
    """Of the family's reference learners in the evaluated tasks; empty where a family has none."""
    if not study.comparable or not study.scored:
        return ()
    cell = study.scored[0].done[0]
    assert cell.normalised is not None
    config, (_, n_rollouts, n_episodes) = cell.result.config, cell.normalised.shape
    return _played(
        config.evaluated_env,
        cell.result.task_ids,
        min(n_rollouts, _MOST_ROLLOUTS),
        n_episodes,
        config.evaluation.seed,
    )


@lru_cache(maxsize=4)
def _played(
    env: EnvConfig, task_ids: tuple[int, ...], n_rollouts: int, n_episodes: int, seed: int
) -> tuple[Regret, ...]:
    family, regrets = task_family(env), []
    optima = np.array([family.optimal_return(task) for task in task_ids])[:, None, None]
    for name in family.reference_learners:
        returns = play(family, task_ids, name, n_rollouts=n_rollouts, n_episodes=n_episodes, seed=seed)
        curve = cumulative_regret(returns, optima).mean(axis=1).mean(axis=0)
        regrets.append(Regret(family.scripted_learners[name].title, curve))
    return tuple(regrets)


def regret_tables(study: Study) -> dict[str, Table]:
    """``regret``: by episode, of each model and seed, and of the reference learners (no seed)."""
    references = reference_regrets(study)
    if not references:
        return {}
    curves = [
        (cell.result.label, cell.result.config.seed, cell_regret(cell))
        for model in study.scored
        for cell in model.done
    ]
    rows: list[tuple[Value, ...]] = [
        (label, seed, episode, float(value))
        for label, seed, curve in [*curves, *((item.label, None, item.curve) for item in references)]
        for episode, value in enumerate(curve, start=1)
    ]
    return table_if_any("regret", _COLUMNS, rows)
