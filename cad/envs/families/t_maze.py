"""T-maze: a cue at the beginning of a corridor, a choice at its end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from cad.config.section import PositiveInt
from cad.envs.config import EnvConfig
from cad.envs.draws import Draws
from cad.envs.family import Spaces, TaskFamily

if TYPE_CHECKING:
    from cad.envs.arrays import FloatArray, IntArray, NoiseArray

# Tasks whose cues are signs differ in nothing but the order in which episodes show them.
_SIGN_TASKS = 64
# Results keep an episode's kind in 16 bits.
_MOST_EPISODES = 2**15 - 1

_FORWARD, _LEFT, _RIGHT = range(3)
_CORRIDOR, _JUNCTION, _END = range(3)


class TMazeConfig(EnvConfig):
    """Remember a cue to the end of a corridor, and what cues mean from episode to episode."""

    EVALUATED = ("horizon", "corridor")

    name: Literal["t_maze"] = Field("t_maze", description="Task family.")
    corridor: Annotated[int, Field(ge=1, le=1_000_000)] = Field(
        9, description="Steps from the cue to the junction."
    )
    shortest: PositiveInt | None = Field(
        None,
        description="Each episode's corridor is drawn from this length to corridor; default: all are equal.",
    )
    n_cues: Annotated[int, Field(ge=1, le=53)] = Field(6, description="Cues, each of which means a side.")
    sides: Literal["learned", "signs"] = Field(
        "learned",
        description="Sides that cues mean: others in each task, to be learned from rewards; or signs: cues "
        "mean left and right in turns in all tasks, and only the episode's cue has to be remembered.",
    )
    horizon: PositiveInt | None = Field(
        None, description="Steps an episode; default corridor + 1, which leaves no step to lose."
    )

    @property
    def family_size(self) -> int:
        """A task a choice of each cue's side; with signs, as many alike as one needs to hold some out."""
        size: int = 2**self.n_cues
        return size if self.sides == "learned" else _SIGN_TASKS

    @property
    def steps_per_episode(self) -> int:
        """See :attr:`EnvConfig.steps_per_episode`."""
        return self.horizon if self.horizon is not None else self.corridor + 1

    def changed(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """See :meth:`EnvConfig.changed`; where a corridor is given, all are as long."""
        return super().changed({"shortest": None, **settings} if "corridor" in settings else settings)

    def is_mixed(self, key: str) -> bool:
        """See :meth:`EnvConfig.is_mixed`."""
        return key == "corridor" and self.n_corridors > 1

    @property
    def n_corridors(self) -> int:
        """Lengths of corridors."""
        return 1 if self.shortest is None else self.corridor - self.shortest + 1

    @model_validator(mode="after")
    def _corridor_fits(self) -> TMazeConfig:
        if self.n_corridors < 1:
            raise ValueError(f"shortest={self.shortest} is above corridor={self.corridor}")
        if self.n_corridors * self.n_cues > _MOST_EPISODES:
            raise ValueError(
                f"{self.n_corridors} lengths of corridors, each with {self.n_cues} cues, are more than "
                f"{_MOST_EPISODES} kinds of episodes; raise shortest={self.shortest}"
            )
        if self.steps_per_episode <= self.corridor:
            raise ValueError(
                f"horizon={self.horizon}: a corridor of {self.corridor} steps and the choice take "
                f"{self.corridor + 1}; make it at least that"
            )
        return self

    def in_words(self) -> str:
        """See :meth:`EnvConfig.in_words`."""
        return f"{self.name} with {self.n_cues} cues"


class RememberSides:
    """Remembers the episode's cue, tries a side for a cue that it does not know, and keeps what it learns.

    Random actions are choices alone: in a corridor without a step to lose, they would only end the episode.
    """

    title = "remember the cue, learn its side"

    def __init__(self, family: TMaze, n: int, epsilon: float, rng: Draws) -> None:
        import numpy as np

        self._epsilon, self._rng, self._rows = epsilon, rng, np.arange(n)
        self._cue, self._actions = np.zeros((2, n), dtype=np.int64)
        n_cues = family.config.n_cues
        self._side = np.full((n, n_cues), -1, dtype=np.int64)
        if family.config.sides == "signs":
            self._side[:] = _LEFT + np.array(family.goal(family.task_ids[0])[:n_cues])

    def act(self, states: IntArray) -> IntArray:
        """See :meth:`ScriptedLearner.act`."""
        import numpy as np

        place, cue = states.T
        shown = cue < self._side.shape[1]
        self._cue[shown] = cue[shown]
        # Drawn at every step, so that what one agent does depends on no other one's place.
        n = len(states)
        known = self._side[self._rows, self._cue]
        tries = (known < 0) | (self._rng.random(n) < self._epsilon)
        chosen = np.where(tries, self._rng.integers(_LEFT, _RIGHT + 1, n), known)
        self._actions = np.where(place == _JUNCTION, chosen, _FORWARD)
        return self._actions

    def learn(self, states: IntArray, rewards: FloatArray, after: IntArray) -> None:
        """See :meth:`ScriptedLearner.learn`."""
        import numpy as np

        at = np.flatnonzero((states[:, 0] == _JUNCTION) & (self._actions != _FORWARD))
        taken = self._actions[at]
        self._side[at, self._cue[at]] = np.where(rewards[at] > 0, taken, _LEFT + _RIGHT - taken)


class TMaze(TaskFamily[TMazeConfig]):
    """Walk from a cue to a junction, and turn to the side that the cue means.

    Two memories are asked for, and two dials set how long each has to live.  Which **cue** an episode
    shows, drawn uniformly from ``n_cues``, is a fact of the episode: it is seen in the first cell alone and
    needed ``corridor`` steps later.  Which **side** a cue means is a fact of the task: it is learned from
    the reward of a choice and needed again when the cue returns, ``n_cues`` x ``horizon`` steps later on
    average.  To behave optimally an agent remembers little, one bit a cue and the episode's cue, but long.

    What makes it a test of memory, up to 100,000 steps and more:

    * Nothing between the cue and the junction tells one from the other.  An observation says that this is
      the corridor, not where in it, so that one model can be put into corridors of any length, and the
      cells of a long corridor are no observations that it has not met.
    * With ``shortest``, corridors differ from episode to episode, and an agent cannot count on their length.
      Models learn from them sooner: where cue and choice stand in one window, the first half is learned.
    * A turn in the corridor loses a step, and with the default horizon there is none to lose: an agent
      cannot note the cue in its own actions, which it sees again (Ni et al., arXiv:2307.03864, for the
      horizon without slack).  A larger ``horizon`` or a shorter corridor gives slack, and that way out.
    * Guessing is right half of the time, and so is a model that has kept the cue but no sides.  One that has
      lost the cue, and only knows which side is right more often in this task, reaches E[max(k, n - k)] / n
      for k of n cues that mean left: 0.66 with 6 cues.  Memory of both begins above that.
    * An agent that never errs in the corridor is needed to reach its end: evaluate long corridors with
      ``evaluation.greedy``.  For the same reason noise distillation suits short corridors alone: as long
      as there is noise, hardly an episode reaches the junction in time.

    With ``sides: signs`` the second memory is not needed: cue 0 means left, cue 1 right, and so on in turns,
    in every task (the passive T-maze of Ni et al.).  It asks how long a memory lives, and nothing else; the
    source knows it all, so that a model of it remembers, but distils no learning.

    **Observation** place (0 corridor, 1 junction, 2 behind it) and cue (``n_cues`` where none is seen).

    **Action** 0 forward, 1 left, 2 right.  In the corridor only forward moves, at the junction only a turn.

    **Reward** 1 for turning to the side that the episode's cue means, else 0.

    **Start** the first cell of the corridor.  **Termination** never: after the turn, the agent stays behind
    the junction, where nothing happens.  **Truncation** after ``horizon`` steps (``corridor`` + 1).

    **Task id** the sides (0 left, 1 right) as binary digits, that of cue 0 first.  With signs, 64 tasks that
    differ in the order of their episodes' cues alone.
    """

    gymnasium_id = "cad/TMaze-v0"
    config_class = TMazeConfig
    scripted_learners: ClassVar = {"remember": RememberSides}

    @property
    def spaces(self) -> Spaces:
        """See :attr:`TaskFamily.spaces`."""
        return Spaces(("place", "cue"), (3, self.config.n_cues + 1), 3, 2)

    @property
    def n_facts(self) -> int:
        """A fact a cue, which side it means, and a length: what is missing to ``corridor`` x cues + cue."""
        return self.config.n_cues * self.config.n_corridors

    def remembered(self, facts: IntArray) -> IntArray | None:
        """See :meth:`TaskFamily.remembered`: sides are kept by cue; signs are not learned."""
        return facts % self.config.n_cues if self.config.sides == "learned" else None

    @property
    def bits_to_remember(self) -> float:
        """A side a cue; with signs, which side the episode's cue means."""
        return float(self.config.n_cues) if self.config.sides == "learned" else 1.0

    @property
    def steps_between_uses(self) -> float:
        """Until a cue returns; with signs, the corridor (its mean length)."""
        if self.config.sides == "learned":
            return float(self.config.n_cues * self.horizon)
        return self.config.corridor - (self.config.n_corridors - 1) / 2

    @property
    def n_hidden_states(self) -> int:
        """The episode's cue and corridor, and how far the agent has come: corridor, junction, behind it."""
        return self.n_facts * self._cells

    @property
    def _cells(self) -> int:
        return self.config.corridor + 2

    @property
    def start(self) -> tuple[int, ...]:
        """See :attr:`TaskFamily.start`."""
        return (_CORRIDOR, self.config.n_cues)

    def goal(self, task_id: int) -> tuple[int, ...]:
        """Side of each cue: 0 left, 1 right; with signs also the task's number, as nothing else differs."""
        self._check_id(task_id)
        if self.config.sides == "signs":
            return (*(cue % 2 for cue in range(self.config.n_cues)), task_id)
        return tuple(task_id >> place & 1 for place in reversed(range(self.config.n_cues)))

    def optimal_return(self, task_id: int) -> float:
        """See :meth:`TaskFamily.optimal_return`."""
        self._check_id(task_id)
        return 1.0

    def episode_optimum(self, goals: IntArray, facts: IntArray) -> FloatArray:
        """See :meth:`TaskFamily.episode_optimum`."""
        import numpy as np

        return np.ones(len(facts), dtype=np.float32)

    def describe(self, task_id: int) -> str:
        """See :meth:`TaskFamily.describe`."""
        sides = self.goal(task_id)[: self.config.n_cues]
        number = f", order {task_id}" if self.config.sides == "signs" else ""
        return "cues mean " + " ".join(("left", "right")[side] for side in sides) + number

    def short_name(self, task_id: int) -> str:
        """See :meth:`TaskFamily.short_name`."""
        return f"task {task_id}"

    def begin(self, goals: IntArray, facts: IntArray) -> tuple[IntArray, IntArray]:
        """See :meth:`TaskFamily.begin`: in a shorter corridor, the first cell is nearer to the junction."""
        import numpy as np

        shorter_by, cue = np.divmod(facts, self.config.n_cues)
        return np.column_stack([np.full_like(facts, _CORRIDOR), cue]), facts * self._cells + shorter_by

    def optimal_actions(
        self, goals: IntArray, states: IntArray, hidden: IntArray, steps_left: int | IntArray
    ) -> IntArray:
        """See :meth:`TaskFamily.optimal_actions`."""
        import numpy as np

        side = goals[np.arange(len(goals)), hidden // self._cells % self.config.n_cues]
        return np.where(states[:, 0] == _JUNCTION, _LEFT + side, _FORWARD)

    def transition(
        self,
        goals: IntArray,
        states: IntArray,
        hidden: IntArray,
        actions: IntArray,
        noise: NoiseArray | None = None,
    ) -> tuple[IntArray, FloatArray, IntArray]:
        """See :meth:`TaskFamily.transition`; ``goals`` is (n, cues), or one more with signs."""
        import numpy as np

        fact, cell = np.divmod(hidden, self._cells)
        first, cue = np.divmod(fact, self.config.n_cues)
        junction = self.config.corridor
        turned = (cell == junction) & (actions != _FORWARD)
        right = turned & (actions - _LEFT == goals[np.arange(len(goals)), cue])
        moved = turned | ((cell < junction) & (actions == _FORWARD))
        cell = cell + moved
        place = (cell >= junction).astype(np.int64) + (cell > junction)
        after = np.stack([place, np.where(cell == first, cue, self.config.n_cues)], axis=1)
        return after, right.astype(np.float32), hidden + moved
