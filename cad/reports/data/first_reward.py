"""When roll-outs get their first reward, and which never do."""

from __future__ import annotations

import numpy as np

from cad.reports.data.cells import CellSummary
from cad.reports.data.family_facts import rewards_tell
from cad.reports.data.labels import goal_text
from cad.reports.data.model_result import ModelResult
from cad.reports.data.results import FloatArray
from cad.reports.data.study import Study
from cad.reports.data.tables import Table, Value, table_if_any

_COLUMNS = ("label", "seed", "task_id", "goal", "n_rollouts", "never_found", "median_first_episode")


def first_rewards(cell: CellSummary) -> FloatArray | None:
    """Episode (from 1) of each roll-out's first reward (tasks, rollouts); infinite where there is none.

    None where a cell is not done, or a return does not tell whether the model found a reward.
    """
    returns = cell.result.returns
    if (
        cell.normalised is None
        or returns is None
        or cell.demonstrated
        or not rewards_tell(cell.result.config)
    ):
        return None
    rewarded = returns > 0
    first: FloatArray = np.where(rewarded.any(axis=2), rewarded.argmax(axis=2) + 1.0, np.inf)
    return first


def rewarded_by_episode(model: ModelResult) -> FloatArray:
    """Share of all roll-outs, seeds and tasks that had a reward by each episode (episodes,)."""
    returns = np.stack([cell.result.returns for cell in model.done if cell.result.returns is not None])
    rewarded = np.maximum.accumulate(returns > 0, axis=3)
    share: FloatArray = rewarded.mean(axis=(0, 1, 2))
    return share


def first_reward_tables(study: Study) -> dict[str, Table]:
    """``never_found`` by task, and ``found`` by episode."""
    rows: list[tuple[Value, ...]] = []
    for cell in study.cells:
        first = first_rewards(cell)
        if first is None:
            continue
        # No median where half of the roll-outs got no reward.
        medians = np.sort(first, axis=1)[:, (first.shape[1] - 1) // 2]
        for task, episodes, median in zip(cell.per_task, first, medians, strict=True):
            rows.append(
                (cell.result.label, cell.result.config.seed, int(task.task_id), goal_text(task.goal),
                 len(episodes), int(np.isinf(episodes).sum()), float(median) if np.isfinite(median) else None)
            )  # fmt: skip
    curves: list[tuple[Value, ...]] = [
        (model.label, i + 1, float(share))
        for model in study.scored
        if rewards_tell(model.config)
        for i, share in enumerate(rewarded_by_episode(model))
    ]
    return table_if_any("never_found", _COLUMNS, rows) | table_if_any(
        "found", ("label", "episode", "share_found"), curves
    )
