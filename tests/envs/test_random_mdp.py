"""Random decision processes: what an id names, the optimum against brute force, what learners reach."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from pydantic import ValidationError

from cad.envs.batched import BatchedEnv
from cad.envs.families.random_mdp import random_process
from cad.envs.family import AnyFamily
from cad.envs.registry import env_config, task_family


def family(**settings: object) -> AnyFamily:
    return task_family(env_config({"name": "random_mdp", "n_tasks": 10, **settings}))


def brute_force_optimum(rules: AnyFamily, task: int) -> float:
    """Expectimax over the transitions themselves: chance takes each of its thousand values once."""
    goals, noise = rules.goals(np.full(1000, task)), (np.arange(1000) + 0.5) / 1000
    nothing = np.zeros(1000, dtype=np.int64)

    @cache
    def value(state: int, left: int) -> float:
        if not left:
            return 0.0
        best = 0.0
        for action in range(rules.spaces.n_actions):
            here, act = np.full((1000, 1), state), np.full(1000, action)
            after, rewards, _ = rules.transition(goals, here, nothing, act, noise)
            follows = [value(int(s), left - 1) for s in range(rules.config.n_states)]
            best = max(best, float((rewards + np.array(follows)[after[:, 0]]).mean()))
        return best

    return value(0, rules.horizon)


@pytest.mark.parametrize(
    "settings",
    [
        {"n_states": 4, "n_actions": 2, "horizon": 5},
        {"n_states": 4, "n_actions": 3, "branching": 3, "rewards": "dense", "horizon": 4},
        {"n_states": 3, "n_actions": 2, "branching": 1, "horizon": 6},
    ],
    ids=str,
)
def test_value_iteration_equals_brute_force(settings: dict[str, object]) -> None:
    rules = family(**settings)
    for task in rules.task_ids[:5]:
        assert rules.optimal_return(task) == pytest.approx(brute_force_optimum(rules, task), rel=1e-12)
        assert rules.optimal_return(task) > 0


def test_a_process_is_a_pure_function_of_its_id() -> None:
    """Recorded: ids name tasks for good."""
    process = random_process(family(n_states=6, n_actions=2).config, 7)
    assert process.after[:2].tolist() == [[[1, 5], [5, 4]], [[5, 0], [3, 4]]]
    assert process.shares[:2].tolist() == [[[123, 877], [745, 255]], [[814, 186], [251, 749]]]
    assert sorted({int(s) for s in process.after[process.rewards > 0]}) == [1]


def test_branches_are_other_states_and_shares_a_partition() -> None:
    rules = family(n_states=20, n_actions=4, branching=3)
    uniform = []
    for task in rules.task_ids:
        after, shares, rewards = random_process(rules.config, task)
        assert (after != np.arange(20)[:, None, None]).all()
        assert (np.sort(after, axis=2)[..., 1:] != np.sort(after, axis=2)[..., :-1]).all()
        assert (shares.sum(axis=2) == 1000).all() and (shares >= 0).all()
        assert len(set(after[rewards > 0])) == 1
        uniform.append(shares.mean(axis=(0, 1)))
    assert np.mean(uniform, axis=0) == pytest.approx([1000 / 3] * 3, rel=0.1)
    assert len({rules.goals([task])[0, 1:].tobytes() for task in rules.task_ids}) == 10
    with pytest.raises(ValidationError, match="leaves 1"):
        family(n_states=2, branching=2)


def test_dense_rewards_are_whole_numbers_up_to_four() -> None:
    rules = family(rewards="dense")
    assert rules.spaces.n_rewards == 5
    env = BatchedEnv(rules, np.repeat(rules.task_ids, 100))
    rng, seen = np.random.default_rng(0), set()
    for _ in range(rules.horizon):
        seen |= set(env.step(rng.integers(0, 4, len(env)))[1].tolist())
    assert seen == {0, 1, 2, 3, 4}


def test_learners_come_close_to_the_optimum() -> None:
    rules, n = family(n_states=8), 40
    shares = {}
    for name in rules.scripted_learners:
        env = BatchedEnv(rules, np.resize(rules.task_ids, n))
        optima = np.array([rules.optimal_return(int(task)) for task in env.task_ids])
        learner, returns = rules.new_learner(name, n, 0.0, np.random.default_rng(0)), np.zeros((60, n))
        for episode in range(60):
            states = env.reset()
            for _ in range(rules.horizon):
                after, rewards, _ = env.step(learner.act(states))
                learner.learn(states, rewards, after)
                returns[episode] += rewards
                states = after
        shares[name] = (returns / optima).mean(axis=1)
        assert shares[name][0] < 0.6
    assert shares["posterior_sampling"][-20:].mean() > 0.95
    assert shares["q_learning"][-20:].mean() > 0.75
