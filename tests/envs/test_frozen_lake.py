"""Frozen Lake: which lakes there are, attempts within an episode, the optimum against brute force."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from pydantic import ValidationError

from cad.envs.batched import BatchedEnv
from cad.envs.families.frozen_lake import all_lakes, can_be_crossed, steps_to_cross
from cad.envs.family import AnyFamily
from cad.envs.registry import env_config, task_family

MOVES = ((1, 0), (-1, 0), (0, 1), (0, -1), (0, 0))


def family(**settings: object) -> AnyFamily:
    split = {"n_heldout": 1, "n_validation": 0}
    return task_family(env_config({"name": "frozen_lake", **split, **settings}))


def brute_force_optimum(holes: set[tuple[int, int]], size: int, horizon: int) -> float:
    """Dynamic programming over cells and steps left, rules written out once more."""
    value = dict.fromkeys(itertools.product(range(size), range(size)), 0.0)
    for _ in range(horizon):
        new = {}
        for row, column in value:
            outcomes = []
            for down, right in MOVES:
                cell = (min(max(row + down, 0), size - 1), min(max(column + right, 0), size - 1))
                goal = cell == (size - 1, size - 1)
                outcomes.append(goal + value[(0, 0) if goal or cell in holes else cell])
            new[row, column] = max(outcomes)
        value = new
    return value[0, 0]


@pytest.mark.parametrize(("size", "n_holes", "horizon"), [(3, 2, 8), (4, 4, 13), (5, 8, 30)])
def test_the_optimum_equals_dynamic_programming(size: int, n_holes: int, horizon: int) -> None:
    rules = family(size=size, n_holes=n_holes, horizon=horizon, n_tasks=10)
    for task in rules.task_ids:
        goal = rules.goal(task)
        holes = set(zip(goal[::2], goal[1::2], strict=True))
        assert len(holes) == n_holes
        assert rules.optimal_return(task) == brute_force_optimum(holes, size, horizon) > 0


def test_lakes_are_those_that_a_search_can_cross() -> None:
    choices = list(itertools.combinations(range(1, 15), 5))
    crossed = [holes for holes in choices if 0 < steps_to_cross(holes, 4)[0] <= 12]
    assert list(all_lakes(4, 5)) == crossed
    assert 0 < len(crossed) < len(choices)
    rules = family(size=4, n_holes=5, n_tasks=None)
    assert rules.config.family_size == len(crossed)
    assert len(rules.task_ids) == 300


def test_large_lakes_are_drawn_from_their_ids() -> None:
    rules = family(size=8, n_tasks=20)
    lakes = [rules.holes(task) for task in rules.task_ids]
    assert len(set(lakes)) == 20
    assert all(len(holes) == 12 and can_be_crossed(holes, 8) for holes in lakes)
    assert rules.bits_to_remember == pytest.approx(math.log2(math.comb(62, 12)))
    # Recorded: ids name tasks for good.
    assert rules.holes(7) == (3, 4, 7, 12, 15, 30, 41, 46, 48, 53, 54, 59)


def test_a_fall_and_a_crossing_begin_the_next_attempt() -> None:
    rules = family(size=3, n_holes=1)
    task = next(task for task in rules.task_ids if rules.goal(task) == (0, 1))
    env = BatchedEnv(rules, [task])
    assert env.reset().tolist() == [[0, 0]]
    seen = [env.step(np.array([action])) for action in (2, 0, 0, 2, 2, 0)]
    assert [states[0].tolist() for states, _, _ in seen] == [[0, 0], [1, 0], [2, 0], [2, 1], [0, 0], [1, 0]]
    assert [float(reward[0]) for _, reward, _ in seen] == [0, 0, 0, 0, 1, 0]
    assert rules.optimal_return(task) == 20 // 4


def test_settings_that_fit_no_lake_are_refused() -> None:
    for n_holes in (9, 24):
        with pytest.raises(ValidationError, match="1 to 8 holes"):
            family(size=5, n_holes=n_holes)
    with pytest.raises(ValidationError, match="may take 16 steps to cross; make it at least that"):
        family(size=5, horizon=15)


def test_the_learner_falls_once_into_a_hole_and_ends_on_a_shortest_way() -> None:
    rules = family(size=5, n_tasks=60)
    env = BatchedEnv(rules, rules.task_ids)
    optima = np.array([rules.optimal_return(task) for task in rules.task_ids])
    learner = rules.new_learner(None, len(env), 0.0, np.random.default_rng(0))
    returns, falls = np.zeros((8, len(env))), np.zeros(len(env))
    for episode in range(8):
        states = env.reset()
        for _ in range(rules.horizon):
            after, rewards, _ = env.step(learner.act(states))
            falls += (rewards == 0) & (after == 0).all(axis=1) & (states.sum(axis=1) > 1)
            learner.learn(states, rewards, after)
            returns[episode] += rewards
            states = after
    assert (returns[-1] == optima).all()
    assert falls.max() <= 5
    assert 0.4 < (returns[0] / optima).mean() < 0.9
