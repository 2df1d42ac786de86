"""Many environments stepped by one NumPy operation."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from cad.envs.arrays import FlagArray, FloatArray, IntArray
from cad.envs.family import AnyFamily


class BatchedEnv:
    """``B`` environments of one family in lock step: all episodes start and end together.

    There is no automatic reset: after the last step of an episode ``step`` returns the true
    terminal observation, and the caller calls :meth:`reset`.

    Args:
        family: the rules.
        task_ids: (B,) canonical task id of each environment; repeats are fine.
    """

    def __init__(self, family: AnyFamily, task_ids: npt.ArrayLike) -> None:
        self.family = family
        self.task_ids: IntArray = np.asarray(task_ids, dtype=np.int64).ravel()
        self._goals = family.goals(self.task_ids)
        self._steps_taken = 0
        self._states = family.initial_states(len(self))
        self._hidden: FlagArray = np.zeros(len(self), dtype=np.uint8)

    def __len__(self) -> int:
        """Number of environments."""
        return len(self.task_ids)

    @property
    def hidden(self) -> FlagArray:
        """(B,) the part of the state that no observation shows; see :class:`TaskFamily`."""
        return self._hidden

    def reset(self) -> IntArray:
        """Start an episode everywhere; returns the observations, (B, fields) int64."""
        self._steps_taken = 0
        self._states = self.family.initial_states(len(self))
        self._hidden = np.zeros(len(self), dtype=np.uint8)
        return self._states

    def step(self, actions: IntArray) -> tuple[IntArray, FloatArray, bool]:
        """Take one step everywhere.

        Args:
            actions: (B,) integers below ``spaces.n_actions``.

        Returns:
            observations (B, fields) int64, a fresh array that later steps leave alone; rewards (B,)
            float32; whether the episode ended with this step (everywhere, at the horizon).

        Raises ``RuntimeError`` when the episode is already over.
        """
        if self._steps_taken >= self.family.horizon:
            raise RuntimeError("the episode is over; call reset()")
        self._states, rewards, self._hidden = self.family.transition(
            self._goals, self._states, self._hidden, actions
        )
        self._steps_taken += 1
        return self._states, rewards, self._steps_taken == self.family.horizon
