"""Darkroom with permuted actions: the goal is known, what the actions do is not."""

from __future__ import annotations

import itertools
import math
from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from cad.config.section import PositiveInt
from cad.envs.families.grid import ACTION_NAMES, GridConfig, GridFamily
from cad.envs.family import Place

if TYPE_CHECKING:
    from cad.envs.arrays import FloatArray, IntArray, NoiseArray


@lru_cache(maxsize=1)
def _permutations() -> tuple[tuple[int, ...], ...]:
    """All orders of the five actions, lexicographic: the canonical order of tasks."""
    return tuple(itertools.permutations(range(len(ACTION_NAMES))))


class DarkroomPermutedConfig(GridConfig):
    """Reach the far corner with mixed-up actions."""

    DEFAULT_HORIZON: ClassVar[int] = 50

    name: Literal["darkroom_permuted"] = Field("darkroom_permuted", description="Task family.")
    horizon: PositiveInt | None = Field(None, description="Steps an episode; default 50.")

    @property
    def least_horizon(self) -> int:
        """Steps from corner to corner."""
        return 2 * (self.size - 1)

    @property
    def family_size(self) -> int:
        """A task a permutation of the actions."""
        return math.factorial(len(ACTION_NAMES))


class DarkroomPermuted(GridFamily[DarkroomPermutedConfig]):
    """Reach the far corner of a room where the buttons are mixed up.

    **Observation** row and column.

    **Action** ``a`` does what Darkroom's action ``permutation[a]`` does.

    **Reward** 1 for every step that ends in the corner (size-1, size-1), else 0.

    **Start** (0, 0).  **Termination** never.  **Truncation** after ``horizon`` steps (50).

    **Task id** 0 to 119, the index of the permutation of the five actions in lexicographic order.
    """

    gymnasium_id = "cad/DarkroomPermuted-v0"
    config_class = DarkroomPermutedConfig

    @property
    def start(self) -> tuple[int, ...]:
        """A corner."""
        return (0, 0)

    @property
    def _corner(self) -> Place:
        return (self.size - 1, self.size - 1)

    def goal(self, task_id: int) -> tuple[int, ...]:
        """The permutation: which of Darkroom's actions each action is."""
        self._check_id(task_id)
        return _permutations()[task_id]

    def optimal_return(self, task_id: int) -> float:
        """See :meth:`TaskFamily.optimal_return`."""
        self._check_id(task_id)
        return self._stays_on(self._corner)

    def describe(self, task_id: int) -> str:
        """See :meth:`TaskFamily.describe`."""
        return "actions " + ", ".join(ACTION_NAMES[action] for action in self.goal(task_id))

    def short_name(self, task_id: int) -> str:
        """See :meth:`TaskFamily.short_name`."""
        return f"task {task_id}"

    def landmarks(self, task_id: int) -> dict[str, Place]:
        """See :meth:`TaskFamily.landmarks`."""
        self._check_id(task_id)
        return {"goal": self._corner}

    def optimal_actions(
        self,
        goals: IntArray,
        states: IntArray,
        hidden: IntArray,
        steps_left: int | IntArray,
    ) -> IntArray:
        """See :meth:`TaskFamily.optimal_actions`: the action that does what is wanted."""
        import numpy as np

        wanted = self._toward(states, np.broadcast_to(self._corner, states.shape))
        does: IntArray = goals.argsort(axis=1)[np.arange(len(goals)), wanted]
        return does

    def transition(
        self,
        goals: IntArray,
        states: IntArray,
        hidden: IntArray,
        actions: IntArray,
        noise: NoiseArray | None = None,
    ) -> tuple[IntArray, FloatArray, IntArray]:
        """See :meth:`TaskFamily.transition`; ``goals`` is (n, 5)."""
        import numpy as np

        after = self._move(states, goals[np.arange(len(goals)), actions])
        row, column = self._corner
        reached = (after[:, 0] == row) & (after[:, 1] == column)
        return after, reached.astype("float32"), hidden
