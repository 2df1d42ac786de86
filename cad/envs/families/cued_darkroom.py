"""Cued Darkroom: several invisible goals, and a cue that says which of them counts in an episode."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from cad.config.section import PositiveInt
from cad.envs.draws import Draws, explored
from cad.envs.families.grid import GridConfig, GridFamily
from cad.envs.family import Place, Spaces

if TYPE_CHECKING:
    from cad.envs.arrays import FloatArray, IntArray, NoiseArray

# Ids are whole numbers that JSON and JavaScript keep exactly.
_MOST_TASKS = 2**53


class CuedDarkroomConfig(GridConfig):
    """Remember the invisible goal of each of several cues."""

    DEFAULT_HORIZON: ClassVar[int] = 20
    DEFAULT_TASKS: ClassVar[int] = 640

    name: Literal["cued_darkroom"] = Field("cued_darkroom", description="Task family.")
    n_cues: Annotated[int, Field(ge=1, le=64)] = Field(4, description="Cues, each with a goal of its own.")
    horizon: PositiveInt | None = Field(None, description="Steps an episode; default 20.")

    @property
    def family_size(self) -> int:
        """A task an assignment of goals to cues; 2**53 where there are more."""
        tasks: int = self.size ** (2 * self.n_cues)
        return min(tasks, _MOST_TASKS)

    def in_words(self) -> str:
        """See :meth:`EnvConfig.in_words`."""
        return f"{super().in_words()} with {self.n_cues} cue{'' if self.n_cues == 1 else 's'}"


class SearchThenReturn:
    """Walks to random cells until it has met the goal of a cue; from then on it goes there.

    A source whose histories show both: exploration of what is not known yet, and exploitation of what is.
    """

    title: ClassVar[str] = "search, then return"

    def __init__(self, family: CuedDarkroom, n: int, epsilon: float, rng: Draws) -> None:
        import numpy as np

        self._epsilon, self._rng = epsilon, rng
        self._size, self._n_actions = family.size, family.spaces.n_actions
        self._known = np.full((n, family.n_facts, 2), -1, dtype=np.int64)
        self._rows = np.arange(n)
        self._target = rng.integers(0, family.size, (n, 2))

    def act(self, states: IntArray) -> IntArray:
        """See :meth:`ScriptedLearner.act`."""
        import numpy as np

        known = self._known[self._rows, states[:, 2]]
        searching = known[:, 0] < 0
        arrived = searching & (self._target == states[:, :2]).all(axis=1)
        next_target = self._rng.integers(0, self._size, self._target.shape)
        self._target = np.where(arrived[:, None], next_target, self._target)
        way = np.where(searching[:, None], self._target, known) - states[:, :2]
        # Which coordinate to correct first is drawn, among those that are wrong.
        weights = (way != 0) * self._rng.random(way.shape)
        axis = weights.argmax(axis=1)
        step = way[self._rows, axis]
        actions = np.where(step == 0, 4, 2 * axis + (step < 0))
        return explored(self._rng, actions, self._epsilon, self._n_actions)

    def learn(self, states: IntArray, rewards: FloatArray, after: IntArray) -> None:
        """See :meth:`ScriptedLearner.learn`."""
        rows = self._rows[rewards > 0]
        self._known[rows, states[rows, 2]] = after[rows, :2]


class CuedDarkroom(GridFamily[CuedDarkroomConfig]):
    """Find the invisible goal of each cue, and go there whenever that cue is shown.

    Each episode shows one of ``n_cues`` cues, drawn uniformly, in all of its observations.  What is
    learned about a cue is needed again when that cue returns: ``n_cues`` episodes later on average.
    To behave optimally an agent has to remember log2(size x size) bits a cue: 25 bits for 4 cues on a
    9 x 9 grid.

    **Observation** row, column and cue.  Goals are not seen.

    **Action** 0 row+1, 1 row-1, 2 column+1, 3 column-1, 4 stay; a move off the grid leaves that
    coordinate as it is.

    **Reward** 1 for every step that ends on the goal of the episode's cue, else 0.

    **Start** the middle, (4, 4) of a 9 x 9 grid.  **Termination** never.  **Truncation** after
    ``horizon`` steps (20).

    **Task id** the goals' cells (row x size + column) as digits to the base size x size, that of cue 0
    first.  Where there are more than 2**53 tasks, ids from 0 to 2**53 - 1 name as many of them: the
    cell of each cue is drawn from the id (:mod:`cad.envs.noise`).
    """

    gymnasium_id = "cad/CuedDarkroom-v0"
    config_class = CuedDarkroomConfig
    scripted_learners: ClassVar = {"search": SearchThenReturn}

    @property
    def spaces(self) -> Spaces:
        """See :attr:`TaskFamily.spaces`."""
        grid = super().spaces
        return Spaces(
            (*grid.field_names, "cue"), (*grid.field_sizes, self.n_facts), grid.n_actions, grid.n_rewards
        )

    @property
    def n_facts(self) -> int:
        """A fact a cue: where its goal is."""
        return self.config.n_cues

    @property
    def bits_to_remember(self) -> float:
        """The cell of each goal."""
        return self.n_facts * math.log2(self.size**2)

    def goal(self, task_id: int) -> tuple[int, ...]:
        """Row and column of each cue's goal."""
        if self.size ** (2 * self.n_facts) <= _MOST_TASKS:
            return self._places(task_id, 2 * self.n_facts)
        self._check_id(task_id)
        from cad.envs.noise import noise_keys, uniform

        cells = (uniform(noise_keys("cues", 0, [task_id], range(self.n_facts)), 0) * self.size**2).astype(int)
        return tuple(int(part) for cell in cells for part in divmod(int(cell), self.size))

    def optimal_return(self, task_id: int) -> float:
        """See :meth:`TaskFamily.optimal_return`."""
        goal = self.goal(task_id)
        optima = [self._stays_on(goal[2 * cue : 2 * cue + 2]) for cue in range(self.n_facts)]
        return sum(optima) / len(optima)

    def episode_optimum(self, goals: IntArray, facts: IntArray) -> FloatArray:
        """See :meth:`TaskFamily.episode_optimum`."""
        distances = abs(self._goal_of(goals, facts) - self.start).sum(axis=1).clip(1)
        optima: FloatArray = (self.horizon + 1 - distances).clip(0).astype("float32")
        return optima

    def describe(self, task_id: int) -> str:
        """See :meth:`TaskFamily.describe`."""
        goal = self.goal(task_id)
        cells = [f"({goal[2 * cue]}, {goal[2 * cue + 1]})" for cue in range(self.n_facts)]
        return f"goals {' '.join(cells)}"

    def short_name(self, task_id: int) -> str:
        """See :meth:`TaskFamily.short_name`."""
        return f"task {task_id}"

    def landmarks(self, task_id: int) -> dict[str, Place]:
        """See :meth:`TaskFamily.landmarks`."""
        goal = self.goal(task_id)
        return {f"goal {cue}": (goal[2 * cue], goal[2 * cue + 1]) for cue in range(self.n_facts)}

    @property
    def probed_places(self) -> Mapping[str, slice]:
        """All goals together: a probe that had to tell each one apart would have that many targets."""
        return {"goals" if self.n_facts > 1 else "goal": slice(0, 2 * self.n_facts)}

    def place_needed(self, states: IntArray) -> IntArray:
        """See :meth:`TaskFamily.place_needed`: that of the cue."""
        return states[..., 2]

    def begin(self, goals: IntArray, facts: IntArray) -> tuple[IntArray, IntArray]:
        """See :meth:`TaskFamily.begin`: the cue is that of the fact."""
        import numpy as np

        states, hidden = super().begin(goals, facts)
        return np.column_stack([states, facts]), hidden

    def optimal_actions(
        self,
        goals: IntArray,
        states: IntArray,
        hidden: IntArray,
        steps_left: int | IntArray,
    ) -> IntArray:
        """See :meth:`TaskFamily.optimal_actions`."""
        return self._toward(states[:, :2], self._goal_of(goals, states[:, 2]))

    def transition(
        self,
        goals: IntArray,
        states: IntArray,
        hidden: IntArray,
        actions: IntArray,
        noise: NoiseArray | None = None,
    ) -> tuple[IntArray, FloatArray, IntArray]:
        """See :meth:`TaskFamily.transition`; ``goals`` is (n, 2 x cues)."""
        after = states.copy()
        after[:, :2] = self._move(states[:, :2], actions)
        reached = (after[:, :2] == self._goal_of(goals, states[:, 2])).all(axis=1)
        return after, reached.astype("float32"), hidden

    def _goal_of(self, goals: IntArray, cues: IntArray) -> IntArray:
        """Row and column (n, 2) of the goal of each environment's cue."""
        import numpy as np

        rows = np.arange(len(cues))
        return np.stack([goals[rows, 2 * cues], goals[rows, 2 * cues + 1]], axis=1)
