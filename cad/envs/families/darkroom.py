"""Darkroom (Laskin et al., arXiv:2210.14215, section 4): an invisible goal on a grid."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from cad.config.section import PositiveInt
from cad.envs.families.grid import GridConfig, GridFamily

if TYPE_CHECKING:
    from cad.envs.arrays import FloatArray, IntArray, NoiseArray


class DarkroomConfig(GridConfig):
    """Find an invisible goal and stay there."""

    DEFAULT_HORIZON: ClassVar[int] = 20

    name: Literal["darkroom"] = Field("darkroom", description="Task family.")
    horizon: PositiveInt | None = Field(None, description="Steps an episode; default 20.")

    @property
    def family_size(self) -> int:
        """A task a cell."""
        return self.size**2


class Darkroom(GridFamily[DarkroomConfig]):
    """Find an invisible goal in a dark room, and stay there.

    **Observation** row and column.  The goal is not seen.

    **Action** 0 row+1, 1 row-1, 2 column+1, 3 column-1, 4 stay; a move off the grid leaves that
    coordinate as it is.

    **Reward** 1 for every step that ends on the goal, else 0.

    **Start** the middle, (4, 4) of a 9 x 9 grid.  **Termination** never.  **Truncation** after
    ``horizon`` steps (20).

    **Task id** row x size + column of the goal.
    """

    gymnasium_id = "cad/Darkroom-v0"
    config_class = DarkroomConfig
    task_noun = "goal"
    hidden_places: ClassVar = {"goal": slice(0, 2)}

    def goal(self, task_id: int) -> tuple[int, ...]:
        """Row and column of the goal."""
        return self._places(task_id, 2)

    def optimal_return(self, task_id: int) -> float:
        """See :meth:`TaskFamily.optimal_return`."""
        return self._stays_on(self.goal(task_id))

    def describe(self, task_id: int) -> str:
        """See :meth:`TaskFamily.describe`."""
        row, column = self.goal(task_id)
        return f"goal ({row}, {column})"

    def optimal_actions(
        self,
        goals: IntArray,
        states: IntArray,
        hidden: IntArray,
        steps_left: int | IntArray,
    ) -> IntArray:
        """See :meth:`TaskFamily.optimal_actions`."""
        return self._toward(states, goals)

    def transition(
        self,
        goals: IntArray,
        states: IntArray,
        hidden: IntArray,
        actions: IntArray,
        noise: NoiseArray | None = None,
    ) -> tuple[IntArray, FloatArray, IntArray]:
        """See :meth:`TaskFamily.transition`; ``goals`` is (n, 2)."""
        after = self._move(states, actions)
        reached = (after[:, 0] == goals[:, 0]) & (after[:, 1] == goals[:, 1])
        return after, reached.astype("float32"), hidden
