"""The numbers of one cell: a point of the grid with one seed."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from cad.envs.registry import task_family
from cad.reports.data.results import CellResult, FloatArray
from cad.reports.data.statistics import iqm

LAST_EPISODES = 10
_COMMON = 0.9  # share of roll-outs that a mean by compressions has to be of


@dataclass(frozen=True)
class TaskScore:
    """One evaluated task of one cell."""

    task_id: int
    goal: tuple[int, ...]
    optimum: float
    normalised_last10: float
    never_found: float  # share of roll-outs without a single reward; NaN where returns do not tell, or
    # where the first episodes were demonstrated


@dataclass(frozen=True, eq=False)
class CellSummary:
    """A cell and its numbers in the report; all None unless it is done.

    Demonstrated episodes (``evaluation.demonstrated_episodes``) are in ``normalised`` alone: the numbers are
    of those in which the model acted, and None where that would be others than of a model without.
    """

    result: CellResult
    status: str
    normalised: FloatArray | None  # (tasks, rollouts, episodes), return / optimum
    return_first_episode: float | None
    return_last10: float | None
    normalised_last10: float | None
    normalised_iqm: float | None  # of the tasks' scores over the last ten episodes
    normalised_history10: float | None  # last ten of as many episodes as a source history has
    per_task: tuple[TaskScore, ...]
    compressions: float | None  # mean over tasks and roll-outs
    returns_sha256: str | None

    @property
    def demonstrated(self) -> int:
        """How many of the first episodes were demonstrated."""
        return self.result.config.evaluation.demonstrated_episodes

    @property
    def history(self) -> int:
        """See :func:`history_episodes`."""
        return history_episodes(self.result)

    @property
    def done(self) -> bool:
        """Whether its numbers count."""
        return self.status == "done"

    @cached_property
    def compressions_before(self) -> npt.NDArray[np.int64] | None:
        """Compressions before each episode (tasks, roll-outs, episodes); None where not known."""
        normalised = self.normalised
        return None if normalised is None else _compressions_before(self.result, normalised.shape)

    @cached_property
    def by_compressions(self) -> list[tuple[int, float, int]]:
        """(compressions before an episode's start, mean normalised return, episodes), by rising count.

        Means over roll-outs and episodes first, then over the tasks that have such episodes: if the
        model chooses when to compress, not all tasks reach the highest counts.
        """
        normalised, counts = self.normalised, self.compressions_before
        if counts is None or normalised is None:
            return []
        n_tasks = len(normalised)
        most = int(counts.max()) + 1
        keys = (np.arange(n_tasks)[:, None, None] * most + counts).ravel()
        size = np.bincount(keys, minlength=n_tasks * most).reshape(n_tasks, most)
        total = np.bincount(keys, normalised.ravel(), minlength=n_tasks * most).reshape(n_tasks, most)
        return [
            (k, float((total[has, k] / size[has, k]).mean()), int(size[:, k].sum()))
            for k in range(most)
            if (has := size[:, k] > 0).any()
        ]

    @cached_property
    def common_compressions(self) -> int:
        """How often nine of ten roll-outs at least had compressed before their last episode; 0 if unknown.

        Where episodes differ in length, only roll-outs of long ones get further: a mean over those few is of
        others than the means before it.
        """
        counts = self.compressions_before
        if counts is None:
            return 0
        return int(np.quantile(counts[..., -1], 1 - _COMMON, method="lower"))


def _compressions_before(result: CellResult, shape: tuple[int, ...]) -> npt.NDArray[np.int64] | None:
    """Compressions before each episode, of ``shape`` (tasks, roll-outs, episodes); None where not known."""
    compression_steps = result.compression_steps
    if compression_steps is None or compression_steps.size == 0:
        return None
    n_tasks, n_rollouts, n_episodes = shape
    n, horizon = n_tasks * n_rollouts, result.config.evaluated_env.steps_per_episode
    # A compression after step m comes before every episode that starts at step m or later.
    if result.lengths is None:
        first = -(-compression_steps // horizon)
    else:
        starts = result.lengths.cumsum(axis=2) - result.lengths
        first = (starts[:, :, None] < compression_steps[..., None]).sum(axis=3)
    first = np.where(compression_steps > 0, first, n_episodes).reshape(n, -1)
    index = np.arange(n)[:, None] * (n_episodes + 1) + np.minimum(first, n_episodes)
    new = np.bincount(index.ravel(), minlength=n * (n_episodes + 1)).reshape(n, n_episodes + 1)
    counts: npt.NDArray[np.int64] = new[:, :-1].cumsum(axis=1).reshape(shape)
    return counts


def _defect(cell: CellResult) -> str | None:
    """Why a done cell cannot be used; None if it can."""
    returns = cell.returns
    if returns is None:
        return "no returns stored"
    if returns.ndim != 3 or 0 in returns.shape:
        return f"returns have shape {returns.shape}, not (tasks, rollouts, episodes)"
    return _useless(cell, returns)


def _useless(cell: CellResult, returns: npt.NDArray[Any]) -> str | None:
    """Why returns of the right number of dimensions cannot be used; None if they can."""
    shown = cell.config.evaluation.demonstrated_episodes
    if returns.shape[2] <= shown:
        return f"of its {returns.shape[2]} episodes the first {shown} are demonstrated: none is its own"
    if not len(cell.task_ids) == len(cell.goals) == len(cell.optimal) == returns.shape[0]:
        return (
            f"returns of {returns.shape[0]} tasks, but {len(cell.task_ids)} task ids, "
            f"{len(cell.goals)} goals, {len(cell.optimal)} optima"
        )
    bad = np.argwhere(~np.isfinite(returns.astype(np.float64)))
    if len(bad):
        task, rollout, episode = (int(i) for i in bad[0])
        return (
            f"{len(bad)} returns are NaN or infinite; the first: task {cell.task_ids[task]}, "
            f"roll-out {rollout + 1}, episode {episode + 1}"
        )
    base = task_family(cell.config.evaluated_env).random_return
    for task_id, optimum in zip(cell.task_ids, cell.optimal, strict=True):
        if not (math.isfinite(optimum) and optimum > base):
            return f"the optimum of task {task_id} is {optimum}; returns cannot be normalised by it"
    return None


def last_episodes(n_episodes: int) -> int:
    """How many final episodes are averaged: ten, or all where there are fewer."""
    return min(LAST_EPISODES, n_episodes)


def history_episodes(cell: CellResult) -> int:
    """Episodes of the longest source history; training saw no later ones."""
    if cell.history_episodes is not None:
        return cell.history_episodes
    return cell.config.source.steps_per_stream // cell.config.env.steps_per_episode


def summarise_cell(cell: CellResult) -> CellSummary:
    """Compute the numbers of one cell; a done cell with unusable returns becomes a failed one."""
    status = cell.status
    if status == "done" and (defect := _defect(cell)) is not None:
        status = f"failed: {defect}"
    if status != "done" or cell.returns is None:
        return CellSummary(cell, status, None, None, None, None, None, None, (), None, None)
    returns = np.ascontiguousarray(cell.returns, dtype=np.float64)
    optima = np.asarray(cell.optimal)[:, None, None] if cell.optima is None else cell.optima
    family = task_family(cell.config.evaluated_env)
    normalised = family.score(returns, optima)
    n_episodes = returns.shape[2]
    shown = cell.config.evaluation.demonstrated_episodes
    last = last_episodes(n_episodes - shown)
    task_last = normalised[:, :, -last:].mean(axis=(1, 2))  # (tasks,)
    never = (returns == 0).all(axis=2).mean(axis=1)  # (tasks,)
    if shown or not family.rewards_tell:
        never = np.full(len(returns), np.nan)
    history = history_episodes(cell)
    start = max(0, history - LAST_EPISODES)
    within = normalised[:, :, start:history]
    return CellSummary(
        result=cell,
        status=status,
        normalised=normalised,
        return_first_episode=None if shown else float(returns[:, :, 0].mean(axis=1).mean()),
        return_last10=float(returns[:, :, -last:].mean(axis=(1, 2)).mean()),
        normalised_last10=float(task_last.mean()),
        normalised_iqm=iqm(task_last[None]),
        normalised_history10=(
            float(within.mean(axis=(1, 2)).mean()) if n_episodes >= history and start >= shown else None
        ),
        per_task=tuple(
            TaskScore(task_id, goal, float(optimum), float(score), float(share))
            for task_id, goal, optimum, score, share in zip(
                cell.task_ids, cell.goals, cell.optimal, task_last, never, strict=True
            )
        ),
        compressions=None if cell.compressions is None else float(np.mean(cell.compressions)),
        returns_sha256=hashlib.sha256(returns.astype("<f8").tobytes()).hexdigest(),
    )
