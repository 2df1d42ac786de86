"""Frozen Lake with hidden holes: several attempts to cross it."""

from __future__ import annotations

import itertools
import math
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from cad.config.section import PositiveInt
from cad.envs.draws import Draws, explored
from cad.envs.families.grid import GridConfig, GridFamily
from cad.envs.family import Place

if TYPE_CHECKING:
    import numpy.typing as npt

    from cad.envs.arrays import FloatArray, IntArray, NoiseArray

# Ids are whole numbers that JSON and JavaScript keep exactly.
_MOST_TASKS = 2**53
# Choices of holes up to which all lakes are listed (about a second); beyond, a lake is drawn from its id.
_MOST_LISTED = 200_000

_HOLE = -2

Holes = tuple[int, ...]
"""Cells (row x size + column), ascending."""


class FrozenLakeConfig(GridConfig):
    """Cross a lake without falling into its hidden holes, again and again."""

    DEFAULT_TASKS: ClassVar[int] = 300

    name: Literal["frozen_lake"] = Field("frozen_lake", description="Task family.")
    size: Annotated[int, Field(ge=2, le=100)] = Field(5, description="Rows (and columns) of the square lake.")
    n_holes: PositiveInt | None = Field(None, description="Holes; default a fifth of the cells.")
    horizon: PositiveInt | None = Field(
        None, description="Steps an episode; default 10 x (size - 1), for five straight crossings."
    )
    n_tasks: PositiveInt | None = Field(
        None, description="Use a random subset of this many tasks (drawn with split_seed); default 300."
    )

    @property
    def total_holes(self) -> int:
        """Holes with the default filled in."""
        return self.n_holes if self.n_holes is not None else max(1, self.size**2 // 5)

    @property
    def least_horizon(self) -> int:
        """Steps in which every lake can be crossed."""
        return 4 * (self.size - 1)

    @property
    def lists_lakes(self) -> bool:
        """Whether all lakes are known, so that an id is a place in their list."""
        return 0 < math.comb(self.size**2 - 2, self.total_holes) <= _MOST_LISTED

    @property
    def family_size(self) -> int:
        """A task a lake that can be crossed; 2**53 ids where they are too many to list."""
        return len(all_lakes(self.size, self.total_holes)) if self.lists_lakes else _MOST_TASKS

    @property
    def steps_per_episode(self) -> int:
        """See :attr:`EnvConfig.steps_per_episode`."""
        return self.horizon if self.horizon is not None else 10 * (self.size - 1)

    @model_validator(mode="after")
    def _lake_fits(self) -> FrozenLakeConfig:
        most = self.size**2 // 3
        if self.total_holes > most:
            raise ValueError(
                f"n_holes={self.n_holes}: a lake of size {self.size} has 1 to {most} holes, so that most can "
                "be crossed"
            )
        if self.steps_per_episode < self.least_horizon:
            raise ValueError(
                f"horizon={self.horizon}: a lake of size {self.size} may take {self.least_horizon} steps to "
                "cross; make it at least that"
            )
        return self

    def in_words(self) -> str:
        """See :meth:`EnvConfig.in_words`."""
        return f"{super().in_words()} with {self.total_holes} holes"


@lru_cache(maxsize=4)
def all_lakes(size: int, n_holes: int) -> tuple[Holes, ...]:
    """All lakes that can be crossed within four times (size - 1) steps, in lexicographic order of holes."""
    cells = range(1, size**2 - 1)
    return tuple(holes for holes in itertools.combinations(cells, n_holes) if can_be_crossed(holes, size))


def can_be_crossed(holes: Holes, size: int) -> bool:
    """Whether four times (size - 1) steps lead past ``holes`` from the first cell to the last."""
    # A set of cells is a whole number with a bit a cell: a step grows all of it at once.
    last = 1 << (size**2 - 1)
    free = 2 * last - 1
    for hole in holes:
        free ^= 1 << hole
    left = sum(1 << (row * size) for row in range(size))  # the first column
    reached = 1
    for _ in range(4 * (size - 1)):
        right = (reached & ~(left << (size - 1))) << 1
        reached |= (right | (reached & ~left) >> 1 | reached << size | reached >> size) & free
        if reached & last:
            return True
    return False


@lru_cache(maxsize=4096)
def steps_to_cross(holes: Holes, size: int) -> tuple[int, ...]:
    """Steps from every cell to the last one past ``holes`` (breadth-first search); -1 where no way leads."""
    steps = [-1] * size**2
    steps[-1], border = 0, [size**2 - 1]
    while border:
        cells, border = border, []
        for cell in cells:
            row, column = divmod(cell, size)
            for r, c in ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)):
                other = r * size + c
                if 0 <= r < size and 0 <= c < size and steps[other] < 0 and other not in holes:
                    steps[other] = steps[cell] + 1
                    border.append(other)
    return tuple(steps)


class ExploreThenGo:
    """Takes the shortest way past the holes that it knows; what it has not met, it believes to be ice.

    It finds out what stands in its way by falling into it, and ends on the shortest way that there is.
    """

    title = "explore, then go"

    def __init__(self, family: FrozenLake, n: int, epsilon: float, rng: Draws) -> None:
        import numpy as np

        self._family, self._epsilon, self._rng, self._rows = family, epsilon, rng, np.arange(n)
        self._holes = np.zeros((n, family.size, family.size), dtype=bool)
        self._steps = np.zeros(self._holes.shape)
        self._actions = np.zeros(n, dtype=np.int64)
        self._look(self._rows)

    def act(self, states: IntArray) -> IntArray:
        """See :meth:`ScriptedLearner.act`."""
        import numpy as np

        n_moves = self._family.spaces.n_actions
        reached = np.stack(
            [self._family.moved(states, np.full(len(states), move)) for move in range(n_moves)], axis=1
        )
        left = self._steps[self._rows[:, None], reached[..., 0], reached[..., 1]]
        # Of several shortest ways one is drawn.
        best = (left + 0.5 * self._rng.random(left.shape)).argmin(axis=1)
        self._actions = explored(self._rng, best, self._epsilon, n_moves)
        return self._actions

    def learn(self, states: IntArray, rewards: FloatArray, after: IntArray) -> None:
        """See :meth:`ScriptedLearner.learn`."""
        import numpy as np

        cell = self._family.moved(states, self._actions)
        fell = np.flatnonzero((rewards == 0) & (after != cell).any(axis=1))
        if len(fell):
            new = fell[~self._holes[fell, cell[fell, 0], cell[fell, 1]]]
            self._holes[new, cell[new, 0], cell[new, 1]] = True
            self._look(new)

    def _look(self, rows: IntArray) -> None:
        """Steps from every cell to the goal, past the known holes of some environments."""
        import numpy as np

        holes, size = self._holes[rows], self._family.size
        steps = np.where(holes, np.inf, 4.0 * size**2)
        steps[:, -1, -1] = 0
        while True:
            around = np.pad(steps, ((0, 0), (1, 1), (1, 1)), constant_values=np.inf)
            sides = (around[:, 2:, 1:-1], around[:, :-2, 1:-1], around[:, 1:-1, 2:], around[:, 1:-1, :-2])
            closer = np.where(holes, np.inf, np.minimum(steps, np.minimum.reduce(sides) + 1))
            if np.array_equal(closer, steps):
                break
            steps = closer
        self._steps[rows] = steps


class FrozenLake(GridFamily[FrozenLakeConfig]):
    """Cross a frozen lake with hidden holes as often as an episode allows.

    An **attempt** ends in a hole, or at the goal.  Either way the next one begins at once, within the
    same episode: the observation after the step is the first cell.  Episodes so last ``horizon`` steps,
    whatever happens.  The ice is not slippery.  To behave optimally an agent has to remember the holes
    next to its way; which lake it is takes 15 bits at most on 5 x 5 with 5 holes.  Walking the way shows it
    again, so that little depends on memory beyond an attempt once it is known.

    **Observation** row and column.  Neither holes nor goal are seen.

    **Action** 0 row+1, 1 row-1, 2 column+1, 3 column-1, 4 stay; a move off the grid leaves that
    coordinate as it is.

    **Reward** 1 for every step that ends on the goal (size-1, size-1), else 0.

    **Start** (0, 0).  **Termination** never.  **Truncation** after ``horizon`` steps (40 on 5 x 5).

    **Optimum** ``horizon`` divided by the length of the shortest way (breadth-first search), rounded down.

    **Task id** the place of the lake among all that can be crossed in 4 x (size - 1) steps, in
    lexicographic order of the holes' cells (row x size + column).  Where more than 200,000 choices of
    holes would have to be looked at (5 x 5 with 7, 6 x 6 with 5, and more), ids from 0 to 2**53 - 1 are
    used: the holes are drawn from the id (:mod:`cad.envs.noise`), again until the lake can be crossed.
    Two such ids may name one lake, as two draws may.
    """

    gymnasium_id = "cad/FrozenLake-v0"
    config_class = FrozenLakeConfig
    scripted_learners: ClassVar = {"explore": ExploreThenGo}

    @property
    def start(self) -> tuple[int, ...]:
        """A corner."""
        return (0, 0)

    @property
    def bits_to_remember(self) -> float:
        """Which lake it is; an upper bound, since holes off the way do not matter."""
        if self.config.lists_lakes:
            return math.log2(self.config.family_size)
        return math.log2(math.comb(self.size**2 - 2, self.config.total_holes))

    @property
    def steps_between_uses(self) -> float:
        """Of a straight attempt: it needs them all."""
        return float(2 * (self.size - 1))

    def holes(self, task_id: int) -> Holes:
        """The cells of a task's holes."""
        self._check_id(task_id)
        if self.config.lists_lakes:
            return all_lakes(self.size, self.config.total_holes)[task_id]
        return _drawn_lake(self.size, self.config.total_holes, task_id)

    def goal(self, task_id: int) -> tuple[int, ...]:
        """Row and column of each hole."""
        return tuple(part for hole in self.holes(task_id) for part in divmod(hole, self.size))

    def goals(self, task_ids: npt.ArrayLike) -> IntArray:
        """(n, size x size): steps from each cell to the goal, -1 where no way leads, -2 for a hole."""
        import numpy as np

        ids, inverse = np.unique(np.asarray(task_ids, dtype=np.int64).ravel(), return_inverse=True)
        holes = [self.holes(int(task)) for task in ids]
        steps = np.array([steps_to_cross(lake, self.size) for lake in holes])
        np.put_along_axis(steps, np.array(holes), _HOLE, axis=1)
        return steps[inverse.ravel()]

    def optimal_return(self, task_id: int) -> float:
        """See :meth:`TaskFamily.optimal_return`."""
        return float(self.horizon // steps_to_cross(self.holes(task_id), self.size)[0])

    def describe(self, task_id: int) -> str:
        """See :meth:`TaskFamily.describe`."""
        holes = [f"({row}, {column})" for row, column in self._hole_places(task_id)]
        return f"holes {' '.join(holes)}"

    def short_name(self, task_id: int) -> str:
        """See :meth:`TaskFamily.short_name`."""
        return f"task {task_id}"

    def landmarks(self, task_id: int) -> dict[str, Place]:
        """See :meth:`TaskFamily.landmarks`."""
        holes = {f"hole {number}": place for number, place in enumerate(self._hole_places(task_id))}
        return {"goal": (self.size - 1, self.size - 1), **holes}

    def _hole_places(self, task_id: int) -> list[Place]:
        return [(hole // self.size, hole % self.size) for hole in self.holes(task_id)]

    def moved(self, states: IntArray, actions: IntArray) -> IntArray:
        """Cells (n, 2) that ``actions`` lead to, hole or not."""
        return self._move(states, actions)

    def optimal_actions(
        self, goals: IntArray, states: IntArray, hidden: IntArray, steps_left: int | IntArray
    ) -> IntArray:
        """See :meth:`TaskFamily.optimal_actions`: a shortest way."""
        import numpy as np

        n_moves, rows = self.spaces.n_actions, np.arange(len(states))
        left = np.stack(
            [
                goals[rows, self._cells(self._move(states, np.full_like(rows, move)))]
                for move in range(n_moves)
            ]
        )
        # Holes, and what lies behind them, are on no way.
        best: IntArray = np.where(left < 0, self.size**2, left).argmin(axis=0)
        return best

    def _cells(self, states: IntArray) -> IntArray:
        cells: IntArray = states[:, 0] * self.size + states[:, 1]
        return cells

    def transition(
        self,
        goals: IntArray,
        states: IntArray,
        hidden: IntArray,
        actions: IntArray,
        noise: NoiseArray | None = None,
    ) -> tuple[IntArray, FloatArray, IntArray]:
        """See :meth:`TaskFamily.transition`; ``goals`` are as :meth:`goals` gives them."""
        import numpy as np

        after = self._move(states, actions)
        left = goals[np.arange(len(after)), self._cells(after)]
        after[(left == 0) | (left == _HOLE)] = self.start
        return after, (left == 0).astype("float32"), hidden


@lru_cache(maxsize=100_000)
def _drawn_lake(size: int, n_holes: int, task_id: int) -> Holes:
    """The lake that an id names where there are too many to list."""
    from cad.envs.noise import derive, noise_keys, permutations

    key = noise_keys("lake", 0, [task_id], [0])
    for draw in itertools.count():
        order = permutations(derive(key, draw), size**2 - 2)[0, :n_holes]
        holes = tuple(sorted(int(cell) + 1 for cell in order))
        if can_be_crossed(holes, size):
            return holes
    raise AssertionError  # the loop has no end
