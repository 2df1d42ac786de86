"""Rules, canonical ids and exact optima of the task families."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from cad.envs.family import AnyFamily
from cad.envs.registry import env_config, task_family

MOVES = ((1, 0), (-1, 0), (0, 1), (0, -1), (0, 0))


def brute_force_optimum(family: AnyFamily, task_id: int) -> float:
    """Finite-horizon dynamic programming over (row, column, found), rules written out once more."""
    goal, size = family.goal(task_id), family.spaces.field_sizes[0]

    def outcome(row: int, column: int, actual: int, action: int) -> tuple[int, tuple[int, int, int]]:
        if family.name == "darkroom_permuted":
            action = goal[action]
        row = min(max(row + MOVES[action][0], 0), size - 1)
        column = min(max(column + MOVES[action][1], 0), size - 1)
        if family.name == "darkroom":
            return int((row, column) == goal), (row, column, 0)
        if family.name == "darkroom_permuted":
            return int((row, column) == (size - 1, size - 1)), (row, column, 0)
        reward = int(
            (actual == 0 and (row, column) == goal[:2]) or (actual == 1 and (row, column) == goal[2:])
        )
        return reward, (row, column, actual + reward)

    states = list(itertools.product(range(size), range(size), range(3)))
    value = dict.fromkeys(states, 0)
    for _ in range(family.horizon):
        value = {
            state: max(
                reward + value[after] for reward, after in (outcome(*state, action) for action in range(5))
            )
            for state in states
        }
    return float(value[(*family.start, 0)])


@pytest.mark.parametrize(
    ("name", "size", "horizon"),
    [
        ("darkroom", 5, 6),
        ("darkroom", 5, 2),
        ("darkroom_permuted", 3, 10),
        ("darkroom_permuted", 3, 3),
        ("dark_key_to_door", 3, 4),
        ("dark_key_to_door", 3, 1),
    ],
)
def test_optimal_return_equals_dynamic_programming(name: str, size: int, horizon: int) -> None:
    family = task_family(env_config({"name": name, "size": size, "horizon": horizon}))
    for task in family.task_ids[:: max(1, len(family.task_ids) // 30)]:
        assert family.optimal_return(task) == brute_force_optimum(family, task), family.describe(task)


def test_published_optima() -> None:
    darkroom = task_family(env_config({}))
    assert round(np.mean([darkroom.optimal_return(task) for task in darkroom.task_ids]), 2) == 16.54
    assert darkroom.optimal_return(4 * 9 + 4) == 20
    permuted = task_family(env_config({"name": "darkroom_permuted"}))
    assert {permuted.optimal_return(task) for task in permuted.task_ids} == {35}
    doors = task_family(env_config({"name": "dark_key_to_door"}))
    assert {doors.optimal_return(task) for task in doors.task_ids} == {2}
    assert len(doors.task_ids) == 6561


def test_canonical_ids() -> None:
    darkroom = task_family(env_config({}))
    assert darkroom.goal(4 * 9 + 2) == (4, 2)
    doors = task_family(env_config({"name": "dark_key_to_door"}))
    assert doors.goal(((1 * 9 + 2) * 9 + 3) * 9 + 4) == (1, 2, 3, 4)
    permuted = task_family(env_config({"name": "darkroom_permuted"}))
    assert permuted.goal(0) == (0, 1, 2, 3, 4)
    assert permuted.goal(119) == (4, 3, 2, 1, 0)
    for family in (darkroom, doors, permuted):
        assert len({family.goal(task) for task in family.task_ids}) == len(family.task_ids)
        for wrong in (-1, max(family.task_ids) + 1):
            with pytest.raises(ValueError, match="has ids 0 to"):
                family.goal(wrong)


def test_goals_keeps_order_and_repeats() -> None:
    family = task_family(env_config({}))
    assert family.goals([80, 0, 80]).tolist() == [[8, 8], [0, 0], [8, 8]]


def test_key_then_door_rewards_once_each() -> None:
    family = task_family(env_config({"name": "dark_key_to_door", "size": 3, "horizon": 9}))
    goals = np.array([[1, 1, 1, 2]])  # the key lies on the start, the door right of it
    states, hidden = family.begin(goals, np.zeros(1, dtype=np.int64))
    rewards = []
    for action in (2, 3, 4, 2, 2, 3):  # over the door first (no key yet), back to the key, ...
        states, reward, hidden = family.transition(goals, states, hidden, np.array([action]))
        rewards.append(float(reward[0]))
    assert rewards == [0, 1, 0, 1, 0, 0]


def test_subset_is_drawn_by_the_split_seed() -> None:
    first, second = (task_family(env_config({"n_tasks": 20, "split_seed": seed})).task_ids for seed in (0, 1))
    assert first == task_family(env_config({"n_tasks": 20, "split_seed": 0})).task_ids
    assert first != second
    assert len(set(first)) == 20
    assert first == tuple(sorted(first))
    assert set(first) <= set(range(81))
