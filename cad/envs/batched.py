"""Many environments stepped by one NumPy operation."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from cad.envs.tasks import FlagArray, FloatArray, IntArray, TaskFamily


class BatchedEnv:
    """``B`` environments of one family in lock step: all episodes start and end together.

    There is no automatic reset: after the last step of an episode ``step`` returns the true
    terminal observation, and the caller calls :meth:`reset`.

    Args:
        family: the rules.
        task_ids: (B,) canonical task id of each environment; repeats are fine.
    """

    def __init__(self, family: TaskFamily, task_ids: npt.ArrayLike) -> None:
        self.family = family
        self.task_ids: IntArray = np.asarray(task_ids, dtype=np.int64).ravel()
        self._goals = family.goals(self.task_ids)
        self._steps_taken = 0
        self._states = family.initial_states(len(self))
        self._found: FlagArray = np.zeros(len(self), dtype=np.uint8)

    def __len__(self) -> int:
        """Number of environments."""
        return len(self.task_ids)

    @property
    def found(self) -> FlagArray:
        """(B,) Key-to-Door: 0 nothing found yet in this episode, 1 the key, 2 the door too; else 0."""
        return self._found

    def reset(self) -> IntArray:
        """Start an episode everywhere; returns the observations, (B, 2) int64 row and column."""
        self._steps_taken = 0
        self._states = self.family.initial_states(len(self))
        self._found = np.zeros(len(self), dtype=np.uint8)
        return self._states

    def step(self, actions: IntArray) -> tuple[IntArray, FloatArray, bool]:
        """Take one step everywhere.

        Args:
            actions: (B,) integers in 0..4.

        Returns:
            observations (B, 2) int64, a fresh array that later steps leave alone; rewards (B,)
            float32; whether the episode ended with this step (everywhere, at the horizon).

        Raises ``RuntimeError`` when the episode is already over.
        """
        if self._steps_taken >= self.family.horizon:
            raise RuntimeError("the episode is over; call reset()")
        self._states, rewards, self._found = self.family.transition(
            self._goals, self._states, self._found, actions
        )
        self._steps_taken += 1
        return self._states, rewards, self._steps_taken == self.family.horizon
