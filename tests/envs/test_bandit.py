"""Bandits: ids, payments, and what their learners lose on the way."""

from __future__ import annotations

import math

import numpy as np
import pytest

from cad.envs.batched import BatchedEnv
from cad.envs.family import AnyFamily
from cad.envs.noise import noise_keys
from cad.envs.registry import env_config, task_family


def family(n_arms: int = 5, horizon: int = 20) -> AnyFamily:
    return task_family(env_config({"name": "bandit", "n_arms": n_arms, "horizon": horizon, "n_tasks": 20}))


def test_ids_are_digits_and_beyond_2_to_53_drawn() -> None:
    assert family(3).goal(2 * 100**2 + 30 * 100 + 99) == (3, 31, 100)
    assert family(3).describe(0) == "arms 1 1 1 %, best 0"
    large = family(20)
    goals = [large.goal(task) for task in large.task_ids]
    assert len(set(goals)) == 20
    assert all(len(goal) == 20 and min(goal) >= 1 and max(goal) <= 100 for goal in goals)
    assert large.bits_to_remember == pytest.approx(math.log2(20))
    # Recorded: ids name tasks for good.
    assert large.goal(7)[:6] == (21, 97, 46, 83, 55, 33)


def test_arms_pay_with_their_probability_whatever_was_drawn_before() -> None:
    rules, n = family(3), 20_000
    task = 9 * 100**2 + 49 * 100 + 99  # 10, 50 and 100 %
    env = BatchedEnv(rules, np.full(n, task), noise_keys("test", 0, np.zeros(n), np.arange(n)))
    shares = [float(env.step(np.full(n, arm))[1].mean()) for arm in range(3)]
    assert shares == pytest.approx([0.1, 0.5, 1.0], abs=0.015)
    again = BatchedEnv(rules, np.full(n, task), noise_keys("test", 0, np.zeros(n), np.arange(n)))
    for arm in (2, 2):
        again.step(np.full(n, arm))
    assert again.step(np.full(n, 2))[1].min() == 1  # its own third number, below 100 %


def test_learners_lose_ever_less() -> None:
    """90 against 50 per cent: UCB1 stays below its bound (Auer et al., 2002, theorem 1), Thompson below."""
    rules, n, pulls = family(2, horizon=500), 200, 500
    task, gap = 89 * 100 + 49, 0.4
    regrets = {}
    for name in rules.scripted_learners:
        env = BatchedEnv(rules, np.full(n, task), noise_keys("test", 0, np.zeros(n), np.arange(n)))
        learner = rules.new_learner(name, n, 0.0, np.random.default_rng(0))
        wrong = np.zeros((pulls, n))
        states = env.reset()
        for pull in range(pulls):
            actions = learner.act(states)
            wrong[pull] = actions == 1
            after, rewards, _ = env.step(actions)
            learner.learn(states, rewards, after)
        regrets[name] = gap * wrong.sum(axis=0).mean()
        assert wrong[-100:].mean() < 0.5 * wrong[:100].mean()
    bound = 8 * math.log(pulls) / gap + (1 + math.pi**2 / 3) * gap
    assert 1 < regrets["thompson"] < 0.5 * regrets["ucb1"] < 0.5 * bound
