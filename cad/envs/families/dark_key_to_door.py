"""Dark Key-to-Door (Laskin et al., arXiv:2210.14215, section 4): an invisible key, then a door."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from cad.config.section import PositiveInt
from cad.envs.families.grid import GridConfig, GridFamily, distance

if TYPE_CHECKING:
    from cad.envs.arrays import FloatArray, IntArray, NoiseArray

_NOTHING, _KEY = 0, 1  # what an episode has reached; 2 is the door too


class DarkKeyToDoorConfig(GridConfig):
    """Find an invisible key, then an invisible door."""

    DEFAULT_HORIZON: ClassVar[int] = 50

    name: Literal["dark_key_to_door"] = Field("dark_key_to_door", description="Task family.")
    horizon: PositiveInt | None = Field(None, description="Steps an episode; default 50.")

    @property
    def family_size(self) -> int:
        """A task a pair of cells."""
        return self.size**4


class DarkKeyToDoor(GridFamily[DarkKeyToDoorConfig]):
    """Find an invisible key, then an invisible door.

    **Observation** row and column.  Neither key nor door is seen, nor whether the key was reached.

    **Action** 0 row+1, 1 row-1, 2 column+1, 3 column-1, 4 stay; a move off the grid leaves that
    coordinate as it is.

    **Reward** 1 for the first step that ends on the key; 1 for the first *later* step that ends on
    the door (so staying counts when they coincide); else 0.

    **Start** the middle, (4, 4) of a 9 x 9 grid.  **Termination** never.  **Truncation** after
    ``horizon`` steps (50).

    **Task id** ((key_row x size + key_column) x size + door_row) x size + door_column.
    """

    gymnasium_id = "cad/DarkKeyToDoor-v0"
    config_class = DarkKeyToDoorConfig
    hidden_places: ClassVar = {"key": slice(0, 2), "door": slice(2, 4)}

    @property
    def n_hidden_states(self) -> int:
        """Nothing, the key, the door too."""
        return 3

    def goal(self, task_id: int) -> tuple[int, ...]:
        """Row and column of the key, then of the door."""
        return self._places(task_id, 4)

    def optimal_return(self, task_id: int) -> float:
        """See :meth:`TaskFamily.optimal_return`."""
        goal = self.goal(task_id)
        # An episode reaches a cell at step 1 at the earliest, the start cell too (by staying).
        to_key = max(1, distance(self.start, goal[:2]))
        to_door = to_key + max(1, distance(goal[:2], goal[2:]))
        return float((to_key <= self.horizon) + (to_door <= self.horizon))

    def describe(self, task_id: int) -> str:
        """See :meth:`TaskFamily.describe`."""
        goal = self.goal(task_id)
        return f"key ({goal[0]}, {goal[1]}), door ({goal[2]}, {goal[3]})"

    def optimal_actions(
        self,
        goals: IntArray,
        states: IntArray,
        hidden: IntArray,
        steps_left: int | IntArray,
    ) -> IntArray:
        """See :meth:`TaskFamily.optimal_actions`: to the key, then to the door."""
        import numpy as np

        return self._toward(states, np.where(hidden[:, None] == _NOTHING, goals[:, :2], goals[:, 2:]))

    def transition(
        self,
        goals: IntArray,
        states: IntArray,
        hidden: IntArray,
        actions: IntArray,
        noise: NoiseArray | None = None,
    ) -> tuple[IntArray, FloatArray, IntArray]:
        """See :meth:`TaskFamily.transition`; ``goals`` is (n, 4)."""
        after = self._move(states, actions)
        row, column = after[:, 0], after[:, 1]
        at_key = (row == goals[:, 0]) & (column == goals[:, 1])
        at_door = (row == goals[:, 2]) & (column == goals[:, 3])
        reached = ((hidden == _NOTHING) & at_key) | ((hidden == _KEY) & at_door)
        return after, reached.astype("float32"), hidden + reached
