"""The split that public Darkroom code uses."""

from __future__ import annotations

import random

from cad.envs.registry import env_config, task_family
from cad.envs.split import split_tasks


def test_seed_zero_gives_the_published_heldout_goals_in_order() -> None:
    family, split = task_family(env_config({})), split_tasks(env_config({}))
    goals = [family.goal(task) for task in split.heldout]
    assert goals == [(4, 2), (5, 6), (6, 8), (7, 2), (3, 6), (0, 5), (5, 8), (5, 4)]
    assert sum(family.optimal_return(task) for task in split.heldout) / 8 == 17.25


def test_order_is_random_shuffle() -> None:
    tasks = [(row, column) for row in range(9) for column in range(9)]
    random.seed(3)
    random.shuffle(tasks)
    family, split = task_family(env_config({"split_seed": 3})), split_tasks(env_config({"split_seed": 3}))
    assert [family.goal(task) for task in split.train + split.validation + split.heldout] == tasks


def test_parts_are_disjoint_and_validation_comes_from_training() -> None:
    env = env_config({"n_tasks": 30, "n_heldout": 5, "n_validation": 3})
    split = split_tasks(env)
    assert [len(part) for part in (split.train, split.validation, split.heldout)] == [22, 3, 5]
    assert sorted(split.train + split.validation + split.heldout) == list(task_family(env).task_ids)
    without = split_tasks(env_config({"n_tasks": 30, "n_heldout": 5, "n_validation": 0}))
    assert without.heldout == split.heldout
    assert without.train == split.train + split.validation
