"""What the families on a square grid share: five moves, walls, distances."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Annotated, TypeVar

from pydantic import Field

from cad.envs.config import EnvConfig
from cad.envs.family import Spaces, TaskFamily

if TYPE_CHECKING:
    from cad.envs.arrays import IntArray

ACTION_NAMES = ("row+1", "row-1", "column+1", "column-1", "stay")
_MOVES = ((1, 0), (-1, 0), (0, 1), (0, -1), (0, 0))


class GridConfig(EnvConfig):
    """Settings of a family on a square grid."""

    size: Annotated[int, Field(ge=2, le=100)] = Field(9, description="Rows (and columns) of the square grid.")

    @property
    def least_horizon(self) -> int:
        """Steps from the middle to the corner that is farthest from it."""
        return 2 * (self.size // 2)

    def in_words(self) -> str:
        """See :meth:`EnvConfig.in_words`."""
        return f"{self.name} of size {self.size}"


G = TypeVar("G", bound=GridConfig)


class GridFamily(TaskFamily[G]):
    """A square grid, whose cells are observed as (row, column).

    Action 0 is row+1, 1 row-1, 2 column+1, 3 column-1, 4 stay; a move off the grid leaves that
    coordinate as it is.  Rewards are 0 or 1.
    """

    @property
    def size(self) -> int:
        """Rows (and columns)."""
        return self.config.size

    @property
    def spaces(self) -> Spaces:
        """See :attr:`TaskFamily.spaces`."""
        return Spaces(("row", "column"), (self.size, self.size), len(ACTION_NAMES), 2)

    @property
    def grid_size(self) -> int:
        """See :attr:`TaskFamily.grid_size`."""
        return self.size

    @property
    def start(self) -> tuple[int, ...]:
        """The middle of the grid."""
        return (self.size // 2, self.size // 2)

    def _places(self, task_id: int, n: int) -> tuple[int, ...]:
        """The rows and columns that a task id encodes: ``n`` digits to the base ``size``."""
        self._check_id(task_id)
        digits = []
        for _ in range(n):
            task_id, digit = divmod(task_id, self.size)
            digits.append(digit)
        return tuple(reversed(digits))

    def _move(self, states: IntArray, actions: IntArray) -> IntArray:
        """Cells (n, 2) after ``actions`` (n,), a new array."""
        after: IntArray = self._moves[actions]
        after += states
        return after.clip(0, self.size - 1, out=after)

    def _toward(self, states: IntArray, targets: IntArray) -> IntArray:
        """Actions (n,) that lead from cells (n, 2) to ``targets`` (n, 2), rows first; there they stay."""
        import numpy as np

        row, column = (targets - states).T
        by_column = np.where(column == 0, 4, 2 + (column < 0))
        return np.where(row == 0, by_column, (row < 0).astype(np.int64))

    @cached_property
    def _moves(self) -> IntArray:
        import numpy as np

        return np.array(_MOVES, dtype=np.int64)

    def _stays_on(self, goal: tuple[int, ...]) -> float:
        """Optimal return where every step that ends on ``goal`` is rewarded."""
        # The start cell too is reached at step 1 at the earliest, by staying.
        return float(max(0, self.horizon + 1 - max(1, distance(self.start, goal))))


def distance(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    """Moves between two cells."""
    return abs(a[0] - b[0]) + abs(a[1] - b[1])
