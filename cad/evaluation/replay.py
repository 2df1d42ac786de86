"""Replay actions: with an environment's key they determine states and rewards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cad.envs.batched import BatchedEnv
from cad.envs.family import AnyFamily
from cad.envs.noise import Keys, noise_keys


@dataclass(frozen=True)
class Trajectories:
    """B roll-outs of T steps, a whole number of episodes.

    ``states`` and ``after`` (B, T, fields) are observations before and after each step; ``actions``,
    ``rewards`` and ``hidden`` (the hidden part of the state after the step, see
    :class:`cad.envs.family.TaskFamily`) are (B, T).
    """

    family: AnyFamily
    task_ids: tuple[int, ...]
    states: npt.NDArray[np.int64]
    actions: npt.NDArray[np.uint8]
    rewards: npt.NDArray[np.int64]
    after: npt.NDArray[np.int64]
    hidden: npt.NDArray[np.int64]

    @property
    def returns(self) -> npt.NDArray[np.int64]:
        """(B, episodes): sums of rewards."""
        by_episode = self.rewards.reshape(len(self.rewards), -1, self.family.horizon)
        total: npt.NDArray[np.int64] = by_episode.sum(axis=2)
        return total


def replay_actions(
    family: AnyFamily, task_ids: npt.ArrayLike, actions: npt.NDArray[np.uint8], keys: Keys
) -> Trajectories:
    """Replay ``actions`` (B, T) in the tasks (B,), in environments with ``keys`` (B,).

    Raises ``ValueError`` if T is not a whole number of episodes.
    """
    env = BatchedEnv(family, task_ids, keys)
    B, T = actions.shape
    if T % family.horizon:
        raise ValueError(f"{T} steps are not a whole number of episodes of {family.horizon}")
    states, after = np.zeros((2, B, T, family.spaces.n_fields), dtype=np.int64)
    rewards = np.zeros((B, T), dtype=np.int64)
    hidden = np.zeros((B, T), dtype=np.int64)
    here = states[:, 0]
    for t in range(T):
        if t % family.horizon == 0:
            here = env.reset()
        states[:, t] = here
        here, reward, _ = env.step(actions[:, t].astype(np.int64))
        after[:, t], rewards[:, t], hidden[:, t] = here, reward, env.hidden
    return Trajectories(family, tuple(map(int, env.task_ids)), states, actions, rewards, after, hidden)


def rollout_keys(seed: int, task_ids: Sequence[int], n_rollouts: int, first: int = 0) -> Keys:
    """Keys of the environments of roll-outs ``first``, ``first`` + 1, ... in each task, tasks first."""
    members = np.tile(np.arange(first, first + n_rollouts), len(task_ids))
    return noise_keys("rollout", seed, np.repeat(np.asarray(task_ids), n_rollouts), members)
