"""Which roll-outs are drawn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from cad.envs.registry import task_family
from cad.envs.split import split_tasks
from cad.evaluation.replay import replay_actions, rollout_keys
from cad.reports import (
    CellResult,
    make_study,
)
from cad.reports.data import (
    chosen_rollouts,
    rollout_tables,
)

Make = Callable[..., CellResult]


def actions(task: int) -> np.ndarray:
    """Eight roll-outs of 50 episodes; the odd ones stay where they are."""
    rng = np.random.default_rng(task)
    drawn = rng.integers(0, 5, (8, 1000), dtype=np.uint8)
    drawn[1::2] = 4
    return drawn


def consistent(result: CellResult) -> CellResult:
    """A cell whose returns are those of its actions."""
    family = task_family(result.config.env)
    returns = [
        replay_actions(family, [task] * 8, actions(task), rollout_keys(0, [task], 8)).returns
        for task in result.task_ids
    ]
    compression_steps = np.tile(np.arange(40, 1000, 40, dtype=np.int32), (8, 8, 1))
    return replace(result, returns=np.array(returns), actions=actions, compression_steps=compression_steps)


def test_the_roll_outs_in_the_middle_of_the_best_and_the_worst_task(cell: Make) -> None:
    best = consistent(cell(depth=1, n_latent=4))
    study = make_study("s", "", "", [best, cell(0.0, kind="ad", actions=actions)], None)
    chosen = chosen_rollouts(study)
    model = study.best(ad=False)
    assert model is not None
    scores = model.done[0].normalised[:, :, -10:].mean(axis=2)
    order = scores.mean(axis=1).argsort(kind="stable")
    assert [c.task_id for c in chosen] == [best.task_ids[order[-1]], best.task_ids[order[0]]]
    for entry, task in zip(chosen, (order[-1], order[0]), strict=True):
        assert scores[task, entry.rollout] == np.sort(scores[task])[3]
        np.testing.assert_array_equal(entry.watched.returns, best.returns[task, entry.rollout])
        assert entry.watched.compression_steps == tuple(range(40, 1000, 40))
    rows = rollout_tables(study)["rollouts"].rows
    assert len(rows) == 2 * 1000
    assert sum(row[-2] for row in rows[:1000]) == chosen[0].watched.returns.sum()
    assert sum(row[-1] for row in rows) == 2 * 24


def test_the_columns_are_the_fields_of_the_familys_observations(cell: Make) -> None:
    result = cell(depth=1, n_latent=4)
    env = result.config.with_overrides(
        {"env": {"name": "cued_darkroom", "n_cues": 2, "n_tasks": 20, "n_heldout": 8, "horizon": 20}}, "test"
    ).env
    family = task_family(env)
    tasks = split_tasks(env).heldout
    cued = replace(
        result,
        config=result.config.model_copy(update={"env": env}),
        task_ids=tasks,
        goals=tuple(family.goal(task) for task in tasks),
        optimal=tuple(family.optimal_return(task) for task in tasks),
    )
    table = rollout_tables(make_study("s", "", "", [consistent(cued)], None))["rollouts"]
    assert table.columns[4:] == (
        "episode", "step", "row", "column", "cue", "action", "reward", "compressed_before",
    )  # fmt: skip
    assert {row[8] for row in table.rows} == {0, 1}


@pytest.mark.parametrize(
    ("env", "drawn"),
    [
        ({"name": "bandit", "n_tasks": 80, "n_heldout": 8}, False),
        ({"name": "cued_darkroom", "n_tasks": 80, "n_heldout": 8}, True),
        ({"name": "frozen_lake", "n_tasks": 80, "n_heldout": 8, "size": 5, "horizon": 20}, True),
    ],
    ids=lambda value: value["name"] if isinstance(value, dict) else "",
)
def test_families_on_a_grid_are_drawn_whatever_else_they_show(cell: Make, env: dict, drawn: bool) -> None:
    config = cell().config.with_overrides({"env": env}, "test")
    family, tasks = task_family(config.env), config.evaluated_tasks
    result = replace(
        cell(depth=1, n_latent=4), config=config, task_ids=tasks,
        goals=tuple(family.goal(task) for task in tasks),
        optimal=tuple(family.optimal_return(task) for task in tasks),
    )  # fmt: skip
    one = consistent(result)
    tables = rollout_tables(make_study("s", "", "", [one], None))
    assert bool(tables) == drawn
    if drawn:
        rows = tables["rollouts"].rows
        assert rows[0][6:8] == family.start[:2]
        assert {row[6] for row in rows} <= set(range(family.grid_size))
