"""What cells were evaluated on: means compare only on the same tasks and episodes."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np

from cad.errors import CadError
from cad.reports.data.cells import CellSummary, summarise_cell
from cad.reports.data.results import CellResult

_Task = tuple[str, int, tuple[int, ...], float]


def _tasks(cell: CellResult) -> list[_Task]:
    """Rules, id, goal and optimum of each task, in the cell's order.

    Rules are those of training: what ``evaluation.env`` changes is a question of its own.
    """
    family = [json.dumps(cell.config.env.rules, sort_keys=True, default=str)] * len(cell.task_ids)
    return list(zip(family, cell.task_ids, cell.goals, cell.optimal, strict=True))


def _episodes(cell: CellSummary) -> int:
    return 0 if cell.normalised is None else cell.normalised.shape[2]


def evaluated_on(cell: CellSummary) -> tuple[object, ...] | None:
    """What must be equal for two means to be comparable: the tasks and the number of episodes."""
    return None if cell.normalised is None else (tuple(sorted(_tasks(cell.result))), _episodes(cell))


def cut_to_shared(cells: tuple[CellSummary, ...]) -> tuple[tuple[CellSummary, ...], str]:
    """Done cells cut to the tasks and the first episodes that all of them have; and what was left out.

    Raises :class:`CadError` where they share no task.
    """
    done = [cell for cell in cells if cell.done]
    if len({evaluated_on(cell) for cell in done}) <= 1:
        return cells, ""
    shared = set.intersection(*(set(_tasks(cell.result)) for cell in done))
    if not shared:
        raise CadError("the cells share no held-out task: there is nothing to compare")
    first, most = min(map(_episodes, done)), max(map(_episodes, done))
    left_out = len(set.union(*(set(_tasks(cell.result)) for cell in done))) - len(shared)
    cut = tuple(summarise_cell(_cut(cell.result, shared, first)) if cell.done else cell for cell in cells)
    return cut, (
        "Cells were evaluated on unequal tasks or numbers of episodes. With --allow-unequal they are "
        f"compared on the {len(shared)} tasks that all share ({left_out} left out) and their first {first} "
        f"episodes (of up to {most})."
    )


def _cut(cell: CellResult, shared: set[_Task], n_episodes: int) -> CellResult:
    own = _tasks(cell)
    # In the same order for every cell, so that a task is paired with itself.
    kept = sorted((i for i, task in enumerate(own) if task in shared), key=own.__getitem__)
    changes: dict[str, Any] = {
        name: tuple(getattr(cell, name)[i] for i in kept) for name in ("task_ids", "goals", "optimal")
    }
    if cell.returns is not None:
        changes["returns"] = cell.returns[kept, :, :n_episodes]
        if n_episodes < cell.returns.shape[2]:
            changes["compressions"] = None  # counted over the whole roll-out
    if "compressions" not in changes and cell.compressions is not None:
        changes["compressions"] = cell.compressions[kept]
    for name in ("facts", "optima", "lengths"):  # shaped as returns
        if (each := getattr(cell, name)) is not None:
            changes[name] = each[kept, :, :n_episodes]
    if cell.compression_steps is not None and cell.chosen is not None:
        end = n_episodes * cell.config.evaluated_env.steps_per_episode
        if cell.lengths is not None:  # of each roll-out its own
            end = changes["lengths"].sum(axis=2, dtype=np.int64)[..., None]
        within = cell.compression_steps[kept] < end
        changes["compression_steps"] = np.where(within, cell.compression_steps[kept], -1)
        changes["chosen"] = cell.chosen[kept] & within
        changes["compressions"] = (changes["compression_steps"] > 0).sum(axis=2)
    return dataclasses.replace(cell, **changes)
