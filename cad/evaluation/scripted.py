"""Scripted learners in the tasks of an evaluation: references for what a model does there."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from cad.envs.family import AnyFamily
from cad.evaluation.replay import rollout_keys

# Separates the learners' random numbers from other uses of the same seed.
_STREAM = 0xEF


def play(
    family: AnyFamily, task_ids: Sequence[int], learner: str, *, n_rollouts: int, n_episodes: int, seed: int
) -> npt.NDArray[np.float32]:
    """Returns (tasks, roll-outs, episodes) of a scripted learner that takes no random actions.

    It learns in each environment from scratch, in the very ones that a model's roll-outs with this seed are
    in: what chance decides is the same.
    """
    env = family.environments(
        np.repeat(np.asarray(task_ids), n_rollouts), rollout_keys(seed, task_ids, n_rollouts)
    )
    agent = family.new_learner(learner, len(env), 0.0, np.random.default_rng([seed, _STREAM]))
    returns = np.zeros((len(env), n_episodes), dtype=np.float32)
    states, episode = env.reset(), np.zeros(len(env), dtype=np.int64)
    while (playing := np.flatnonzero(episode < n_episodes)).size:
        outcome = env.advance(agent.act(states))
        agent.learn(states, outcome.rewards, outcome.after)
        returns[playing, episode[playing]] += outcome.rewards[playing]
        episode += outcome.terminated | outcome.truncated
        states = outcome.observed
    return returns.reshape(len(task_ids), n_rollouts, n_episodes)


def cumulative_regret(
    returns: npt.NDArray[np.floating], optima: npt.NDArray[np.floating]
) -> npt.NDArray[np.float64]:
    """What was lost to the optimum up to each episode, in rewards.

    ``returns`` (tasks, roll-outs, episodes); ``optima`` of the same shape, or (tasks, 1, 1).
    """
    lost: npt.NDArray[np.float64] = np.cumsum(optima.astype(np.float64) - returns, axis=2)
    return lost
