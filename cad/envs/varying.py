"""Environments whose episodes end when they end, stepped by one NumPy operation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from cad.envs.arrays import IntArray
from cad.envs.batched import FactDraws, Outcome, step_noise
from cad.envs.family import AnyFamily
from cad.envs.noise import Keys, noise_keys


class VaryingEnv:
    """``B`` environments of one family, each in an episode and at a step of its own.

    An episode ends where the family says so (it *terminates*), at the latest after ``horizon`` steps (it is
    *truncated*); the environment's next episode begins at once.  What happens in one environment does not
    depend on the others.

    Args:
        family, task_ids, keys, loads: see :class:`~cad.envs.batched.BatchedEnv`.
    """

    def __init__(
        self,
        family: AnyFamily,
        task_ids: npt.ArrayLike,
        keys: Keys | None = None,
        loads: Sequence[int] | None = None,
    ) -> None:
        self.family = family
        self.task_ids: IntArray = np.asarray(task_ids, dtype=np.int64).ravel()
        self.goals = family.goals(self.task_ids)
        if keys is None:
            keys = noise_keys("batch", 0, self.task_ids, np.arange(len(self.task_ids)))
        self._draws, self._keys = FactDraws(family.n_facts, keys, loads), keys
        self._episode, self._steps_taken = np.zeros((2, len(self.task_ids)), dtype=np.int64)
        self._begin()

    def _begin(self) -> None:
        self.facts = self._draws.draw(self._episode)
        """(B,) the fact that each episode needs."""
        self._states, self.hidden = self.family.begin(self.goals, self.facts)

    def __len__(self) -> int:
        """Number of environments."""
        return len(self.task_ids)

    @property
    def episode(self) -> IntArray:
        """(B,) number of the present episode, from 0."""
        return self._episode

    def optimal_actions(self) -> IntArray:
        """(B,) what a policy that knows the tasks does now."""
        left = self.family.horizon - self._steps_taken
        return self.family.optimal_actions(self.goals, self._states, self.hidden, left)

    def reset(self) -> IntArray:
        """Start the next episode everywhere; one in which no step was taken starts again."""
        self._episode = self._episode + (self._steps_taken > 0)
        self._steps_taken = np.zeros_like(self._steps_taken)
        self._begin()
        return self._states

    def advance(self, actions: IntArray) -> Outcome:
        """See :meth:`~cad.envs.batched.Environments.advance`."""
        family, noise = self.family, None
        if family.is_random:
            noise = step_noise(self._keys, self._episode * family.horizon + self._steps_taken)
        after, rewards, hidden = family.transition(self.goals, self._states, self.hidden, actions, noise)
        self._steps_taken = self._steps_taken + 1
        terminated = family.terminates(self.goals, after, hidden)
        truncated = ~terminated & (self._steps_taken >= family.horizon)
        ended = terminated | truncated
        self._states, self.hidden = after, hidden
        any_ended = bool(ended.any())
        if any_ended:
            self._episode = self._episode + ended
            self._steps_taken = np.where(ended, 0, self._steps_taken)
            self.facts = self._draws.draw(self._episode)
            begun, begun_hidden = family.begin(self.goals, self.facts)
            self._states = np.where(ended[:, None], begun, after)
            self.hidden = np.where(ended, begun_hidden, hidden)
        return Outcome(after, rewards, terminated, truncated, hidden, any_ended, self._states)
