"""What roll-outs went through: the environments are deterministic, so that their actions tell all."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cad.envs.batched import BatchedEnv
from cad.envs.tasks import TaskFamily


@dataclass(frozen=True)
class Paths:
    """What B roll-outs of T steps, a whole number of episodes, went through.

    ``states`` and ``after`` (B, T, 2) are row and column before and after each step, ``actions``,
    ``rewards`` and ``found`` (what an episode had found with that step, see
    :attr:`cad.envs.batched.BatchedEnv.found`) are (B, T).
    """

    family: TaskFamily
    task_ids: tuple[int, ...]
    states: npt.NDArray[np.int64]
    actions: npt.NDArray[np.uint8]
    rewards: npt.NDArray[np.int64]
    after: npt.NDArray[np.int64]
    found: npt.NDArray[np.uint8]

    @property
    def returns(self) -> npt.NDArray[np.int64]:
        """(B, episodes): sums of rewards."""
        by_episode = self.rewards.reshape(len(self.rewards), -1, self.family.horizon)
        total: npt.NDArray[np.int64] = by_episode.sum(axis=2)
        return total


def follow(family: TaskFamily, task_ids: npt.ArrayLike, actions: npt.NDArray[np.uint8]) -> Paths:
    """Live through ``actions`` (B, T) in the tasks (B,) again.

    Raises ``ValueError`` where T is no whole number of episodes.
    """
    env = BatchedEnv(family, task_ids)
    B, T = actions.shape
    if T % family.horizon:
        raise ValueError(f"{T} steps are no whole number of episodes of {family.horizon}")
    states, after = np.zeros((2, B, T, 2), dtype=np.int64)
    rewards = np.zeros((B, T), dtype=np.int64)
    found = np.zeros((B, T), dtype=np.uint8)
    here = env.reset()
    for t in range(T):
        if t % family.horizon == 0:
            here = env.reset()
        states[:, t] = here
        here, reward, _ = env.step(actions[:, t].astype(np.int64))
        after[:, t], rewards[:, t], found[:, t] = here, reward, env.found
    return Paths(family, tuple(map(int, env.task_ids)), states, actions, rewards, after, found)
