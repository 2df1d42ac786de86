"""The three task families: canonical task ids, goals, dynamics and exact optima.

Darkroom and Dark Key-to-Door follow Laskin et al., *In-context Reinforcement Learning with
Algorithm Distillation* (arXiv:2210.14215), section 4; Darkroom-permuted hides the meaning of the
actions instead of the goal.  All states are (row, column) pairs of a square grid.
"""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from cad.config.schema import N_ACTIONS, EnvConfig, EnvName, family_size

IntArray = npt.NDArray[np.int64]
FlagArray = npt.NDArray[np.uint8]
FloatArray = npt.NDArray[np.float32]

ACTION_NAMES = ("row+1", "row-1", "column+1", "column-1", "stay")
_MOVES: IntArray = np.array([(1, 0), (-1, 0), (0, 1), (0, -1), (0, 0)], dtype=np.int64)


@lru_cache(maxsize=1)
def _permutations() -> tuple[tuple[int, ...], ...]:
    """All orders of the five actions, lexicographic: the canonical order of permuted tasks."""
    return tuple(itertools.permutations(range(N_ACTIONS)))


@dataclass(frozen=True)
class TaskFamily:
    """A set of tasks with one set of rules.

    Rules (all families): five actions, ``ACTION_NAMES``; a move off the grid leaves that
    coordinate as it is; an episode always lasts ``horizon`` steps.

    * ``darkroom``: start in the middle; reward 1 for every step that *ends* on the goal.
      Task id = row x size + column of the goal.
    * ``darkroom_permuted``: start (0, 0), goal in the opposite corner, same reward; action ``a``
      does what action ``permutation[a]`` does in darkroom.  Task id = index of the permutation in
      lexicographic order.
    * ``dark_key_to_door``: start in the middle; reward 1 for the first step that ends on the key,
      and 1 for the first *later* step that ends on the door (so staying counts when they coincide).
      Task id = ((key_row x size + key_column) x size + door_row) x size + door_column.
    """

    name: EnvName
    size: int
    horizon: int
    task_ids: tuple[int, ...]
    """Canonical ids in use, ascending."""

    n_actions: int = N_ACTIONS

    @property
    def start(self) -> tuple[int, int]:
        """First state (row, column) of every episode."""
        return (0, 0) if self.name == "darkroom_permuted" else (self.size // 2, self.size // 2)

    def goal(self, task_id: int) -> tuple[int, ...]:
        """What is hidden: (row, column); (key_row, key_column, door_row, door_column); permutation.

        Raises ``ValueError`` for an id outside the whole family.
        """
        if not 0 <= task_id < family_size(self.name, self.size):
            raise ValueError(
                f"task id {task_id}: {self.name} of size {self.size} has ids 0 to "
                f"{family_size(self.name, self.size) - 1}"
            )
        if self.name == "darkroom_permuted":
            return _permutations()[task_id]
        digits = []
        for _ in range(2 if self.name == "darkroom" else 4):
            task_id, digit = divmod(task_id, self.size)
            digits.append(digit)
        return tuple(reversed(digits))

    def goals(self, task_ids: npt.ArrayLike) -> IntArray:
        """Goals of many tasks, (n, 2 | 4 | 5) int64: the ``goals`` argument of :meth:`transition`."""
        ids = np.asarray(task_ids, dtype=np.int64).ravel()
        unique, inverse = np.unique(ids, return_inverse=True)
        table: IntArray = np.array([self.goal(int(task)) for task in unique], dtype=np.int64)
        return table[inverse.ravel()]

    def optimal_return(self, task_id: int) -> float:
        """Greatest possible sum of rewards of one episode."""
        goal = self.goal(task_id)
        if self.name == "dark_key_to_door":
            # An episode reaches a cell at step 1 at the earliest, the start cell too (by staying).
            to_key = max(1, _distance(self.start, goal[:2]))
            to_door = to_key + max(1, _distance(goal[:2], goal[2:]))
            return float((to_key <= self.horizon) + (to_door <= self.horizon))
        if self.name == "darkroom_permuted":
            goal = (self.size - 1, self.size - 1)
        return float(max(0, self.horizon + 1 - max(1, _distance(self.start, goal))))

    def describe(self, task_id: int) -> str:
        """The task in words, for tables and messages."""
        goal = self.goal(task_id)
        if self.name == "darkroom":
            return f"goal ({goal[0]}, {goal[1]})"
        if self.name == "dark_key_to_door":
            return f"key ({goal[0]}, {goal[1]}), door ({goal[2]}, {goal[3]})"
        return "actions " + ", ".join(ACTION_NAMES[action] for action in goal)

    def initial_states(self, n: int) -> IntArray:
        """``n`` start states, (n, 2) int64, and nothing found yet."""
        return np.tile(np.array(self.start, dtype=np.int64), (n, 1))

    def transition(
        self, goals: IntArray, states: IntArray, found: FlagArray, actions: IntArray
    ) -> tuple[IntArray, FloatArray, FlagArray]:
        """One step of any number of environments at once; pure, the inputs are not changed.

        Args:
            goals: (n, 2 | 4 | 5), from :meth:`goals`.
            states: (n, 2) row and column.
            found: (n,) uint8; Key-to-Door: 0 nothing, 1 the key, 2 the door too; else always 0.
            actions: (n,) integers in 0..4.

        Returns:
            next states (n, 2) int64, rewards (n,) float32, ``found`` afterwards (n,) uint8.
        """
        if self.name == "darkroom_permuted":
            actions = goals[np.arange(len(goals)), actions]
        after = _MOVES[actions]
        after += states
        np.maximum(after, 0, out=after)
        np.minimum(after, self.size - 1, out=after)
        row, column = after[:, 0], after[:, 1]
        if self.name == "darkroom":
            reached = (row == goals[:, 0]) & (column == goals[:, 1])
        elif self.name == "darkroom_permuted":
            reached = (row == self.size - 1) & (column == self.size - 1)
        else:
            at_key = (row == goals[:, 0]) & (column == goals[:, 1])
            at_door = (row == goals[:, 2]) & (column == goals[:, 3])
            reached = ((found == 0) & at_key) | ((found == 1) & at_door)
            found = found + reached
        return after, reached.astype(np.float32), found


def _distance(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    return abs(a[0] - b[0]) + abs(a[1] - b[1])


def task_family(env: EnvConfig) -> TaskFamily:
    """The family that a config describes; a subset of ``n_tasks`` is drawn with ``split_seed``."""
    whole = range(family_size(env.name, env.size))
    if env.total_tasks < len(whole):
        # A generator of its own: the split's shuffle must not depend on whether a subset was drawn.
        ids = tuple(sorted(random.Random(f"subset {env.split_seed}").sample(whole, env.total_tasks)))
    else:
        ids = tuple(whole)
    return TaskFamily(env.name, env.size, env.steps_per_episode, ids)
