"""Random Markov decision processes (Garnet: Archibald, McKinnon and Thomas, 1995)."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, NamedTuple

from pydantic import Field, model_validator

from cad.config.section import PositiveInt
from cad.envs.config import EnvConfig
from cad.envs.draws import Draws, explored
from cad.envs.family import Spaces, TaskFamily

if TYPE_CHECKING:
    import numpy.typing as npt

    from cad.envs.arrays import FloatArray, IntArray, NoiseArray

# Ids are whole numbers that JSON and JavaScript keep exactly.
_MOST_TASKS = 2**53
# Probabilities are whole numbers of this share, so that what follows from a number is exact.
_SHARES = 1000
# Dense rewards are 0 to this number, less 1.
_LEVELS = 5
# What a task's derived keys are for.
_STATES, _CUTS, _REWARDS = range(3)


class RandomMDPConfig(EnvConfig):
    """Learn what actions do in a random Markov decision process, and which way reward lies."""

    DEFAULT_HORIZON: ClassVar[int] = 20
    DEFAULT_TASKS: ClassVar[int] = 300

    name: Literal["random_mdp"] = Field("random_mdp", description="Task family.")
    n_states: Annotated[int, Field(ge=2, le=256)] = Field(16, description="States.")
    n_actions: Annotated[int, Field(ge=2, le=16)] = Field(4, description="Actions.")
    branching: Annotated[int, Field(ge=1, le=8)] = Field(
        2, description="States to which an action can lead from a state."
    )
    rewards: Literal["sparse", "dense"] = Field(
        "sparse",
        description="sparse: 1 for reaching one state. dense: 0 to 4, a number for each state and action.",
    )
    horizon: PositiveInt | None = Field(None, description="Steps an episode; default 20.")
    n_tasks: PositiveInt | None = Field(
        None, description="Use a random subset of this many tasks (drawn with split_seed); default 300."
    )

    @property
    def family_size(self) -> int:
        """Ids, each of which names a process that is drawn from it."""
        return _MOST_TASKS

    @model_validator(mode="after")
    def _branches_fit(self) -> RandomMDPConfig:
        if self.branching >= self.n_states:
            raise ValueError(
                f"branching={self.branching}: an action leads to other states than its own, of which "
                f"n_states={self.n_states} leaves {self.n_states - 1}"
            )
        return self

    def in_words(self) -> str:
        """See :meth:`EnvConfig.in_words`."""
        return f"{self.name} of {self.n_states} states"


class Process(NamedTuple):
    """A decision process of S states, A actions and b branches; all whole numbers.

    ``after`` (S, A, b) are the states that can follow, ``shares`` (S, A, b) their probabilities in
    thousandths, ``rewards`` (S, A, b) what is paid on the way.
    """

    after: IntArray
    shares: IntArray
    rewards: IntArray


class Solution(NamedTuple):
    """Optimal values (H + 1, S) and actions (H, S) with h = 0 ... steps taken of an episode of H."""

    values: NoiseArray
    actions: IntArray


@lru_cache(maxsize=512)
def random_process(config: RandomMDPConfig, task_id: int) -> Process:
    """The process that an id names: a pure function of the id and the family's sizes."""
    import numpy as np

    from cad.envs.noise import derive, noise_keys, permutations, uniform

    S, A, b = config.n_states, config.n_actions, config.branching
    key, pairs = noise_keys("mdp", 0, [task_id], [0]), np.arange(S * A)
    others = permutations(derive(derive(key, _STATES), pairs), S - 1)[:, :b].reshape(S, A, b)
    after = others + (others >= np.arange(S)[:, None, None])
    drawn = uniform(derive(derive(key, _CUTS), pairs)[:, None], np.arange(b - 1)[None])
    cuts = np.sort((drawn * (_SHARES + 1)).astype(np.int64), axis=1).reshape(S, A, b - 1)
    shares = np.diff(cuts, axis=2, prepend=0, append=_SHARES)
    pay = uniform(derive(key, _REWARDS), pairs).reshape(S, A)
    if config.rewards == "dense":
        levels = (pay * _LEVELS).astype(np.int64)
        if not levels.any():
            levels[0, 0] = 1  # a task has something to gain
        rewards = np.broadcast_to(levels[:, :, None], after.shape).copy()
    else:
        reached = _reached(after, shares, config.steps_per_episode)
        rewards = (after == reached[int(pay[0, 0] * len(reached))]).astype(np.int64)
    return Process(after, shares, rewards)


def _reached(after: IntArray, shares: IntArray, steps: int) -> IntArray:
    """States other than the start that can be reached from it within ``steps``, ascending."""
    import numpy as np

    reached = np.zeros(len(after), dtype=bool)
    reached[0] = True
    for _ in range(min(steps, len(after))):
        reached[after[reached][shares[reached] > 0]] = True
    reached[0] = False
    return np.flatnonzero(reached)


@lru_cache(maxsize=512)
def solve(config: RandomMDPConfig, task_id: int) -> Solution:
    """Value iteration over the steps of an episode; exact but for the rounding of float64."""
    import numpy as np

    process, horizon = random_process(config, task_id), config.steps_per_episode
    values = np.zeros((horizon + 1, config.n_states))
    actions = np.zeros((horizon, config.n_states), dtype=np.int64)
    shares = process.shares / _SHARES
    for step in reversed(range(horizon)):
        worth = np.zeros(process.after.shape[:2])
        # Branch by branch: the same sum, in the same order, on every machine.
        for branch in range(config.branching):
            paid = process.rewards[..., branch] + values[step + 1][process.after[..., branch]]
            worth += shares[..., branch] * paid
        values[step], actions[step] = worth.max(axis=1), worth.argmax(axis=1)
    return Solution(values, actions)


class PosteriorSampling:
    """Plans each episode in a process that is drawn from what it has seen (PSRL, Osband et al., 2013).

    It knows the sizes of the family and that branches are a random partition (Garnet).  Its prior is a
    little wider than the truth: Dirichlet(1, ..., 1) over the branches of a state and action, which are
    states drawn uniformly, each by itself, until they are seen (the family's are different ones, never the
    own state).  Where the reward lies is drawn from the states that it could be.
    """

    title = "posterior sampling"

    def __init__(self, family: RandomMDP, n: int, epsilon: float, rng: Draws) -> None:
        import numpy as np

        self._config, self._epsilon, self._rng, self._n = family.config, epsilon, rng, n
        S, A, b = self._config.n_states, self._config.n_actions, self._config.branching
        self._rows, self._step = np.arange(n), 0
        self._after = np.full((n, S, A, b), -1, dtype=np.int64)
        self._counts = np.zeros((n, S, A, b))
        # Dense: the reward of a state and action, sparse: of reaching a state; -1 where unknown.
        self._paid = np.full((n, S, A) if self._dense else (n, S), -1, dtype=np.int64)
        self._plan = np.zeros((family.horizon, n, S), dtype=np.int64)
        self._actions = np.zeros(n, dtype=np.int64)

    @property
    def _dense(self) -> bool:
        return self._config.rewards == "dense"

    def act(self, states: IntArray) -> IntArray:
        """See :meth:`ScriptedLearner.act`."""
        if self._step == 0:
            self._draw_plan()
        planned = self._plan[self._step][self._rows, states[:, 0]]
        self._actions = explored(self._rng, planned, self._epsilon, self._config.n_actions)
        return self._actions

    def learn(self, states: IntArray, rewards: FloatArray, after: IntArray) -> None:
        """See :meth:`ScriptedLearner.learn`."""
        import numpy as np

        place = (self._rows, states[:, 0], self._actions)
        known, reached = self._after[place], after[:, 0]
        seen = known == reached[:, None]
        # Of a branch that is new, the first free place.
        branch = np.where(seen.any(axis=1), seen.argmax(axis=1), (known < 0).argmax(axis=1))
        self._after[(*place, branch)] = reached
        self._counts[(*place, branch)] += 1
        paid = place if self._dense else (self._rows, reached)
        self._paid[paid] = rewards.astype(np.int64)
        self._step = (self._step + 1) % len(self._plan)

    def _draw_plan(self) -> None:
        """Draw a process for each environment; the optimal actions in it (H, n, S)."""
        import numpy as np

        rng, S = self._rng, self._config.n_states
        after = np.where(self._after < 0, rng.integers(0, S, self._after.shape), self._after)
        shares = rng.standard_gamma(1 + self._counts)
        shares /= shares.sum(axis=3, keepdims=True)
        if self._dense:
            unknown = rng.integers(0, _LEVELS, self._paid.shape)
            expected = np.where(self._paid < 0, unknown, self._paid).astype(float)
        else:
            # One state is rewarded: the one that is known, else one of those that were never reached.
            chance = np.where(self._paid < 0, rng.random(self._paid.shape), 2.0 * self._paid - 1)
            goal = chance.argmax(axis=1)
            expected = (shares * (after == goal[:, None, None, None])).sum(axis=3)
        flat = after + (self._rows * S)[:, None, None, None]
        values = np.zeros((self._n, S))
        for step in reversed(range(len(self._plan))):
            worth = expected + (shares * values.ravel()[flat]).sum(axis=3)
            values, self._plan[step] = worth.max(axis=2), worth.argmax(axis=2)


class QLearning:
    """Tabular Q-learning that begins with high values, so that it tries everything (Sutton and Barto, 2.6).

    Discounted, with a step size of 1 / visits^0.7; actions of equal value are drawn.
    """

    title = "optimistic Q-learning"
    _DISCOUNT, _STEP_POWER = 0.9, 0.7

    def __init__(self, family: RandomMDP, n: int, epsilon: float, rng: Draws) -> None:
        import numpy as np

        self._epsilon, self._rng = epsilon, rng
        shape = (n, family.config.n_states, family.config.n_actions)
        # Dense: the greatest reward for ever. Sparse: less than that (5), which would take long to unlearn.
        best = 2.0 if family.config.rewards == "sparse" else (_LEVELS - 1) / (1 - self._DISCOUNT)
        self._values, self._visits = np.full(shape, best), np.zeros(shape)
        self._rows, self._actions = np.arange(n), np.zeros(n, dtype=np.int64)

    def act(self, states: IntArray) -> IntArray:
        """See :meth:`ScriptedLearner.act`."""
        values = self._values[self._rows, states[:, 0]]
        ties = values >= values.max(axis=1, keepdims=True)
        best = (ties * (1 + self._rng.random(values.shape))).argmax(axis=1)
        self._actions = explored(self._rng, best, self._epsilon, values.shape[1])
        return self._actions

    def learn(self, states: IntArray, rewards: FloatArray, after: IntArray) -> None:
        """See :meth:`ScriptedLearner.learn`."""
        place = (self._rows, states[:, 0], self._actions)
        self._visits[place] += 1
        # What comes after the last step of an episode is worth as much as elsewhere: the process is the same.
        target = rewards + self._DISCOUNT * self._values[self._rows, after[:, 0]].max(axis=1)
        step = self._visits[place] ** -self._STEP_POWER
        self._values[place] += step * (target - self._values[place])


class RandomMDP(TaskFamily[RandomMDPConfig]):
    """Find out what actions do in a random process, and collect reward in it.

    From every state each action leads to one of ``branching`` other states, drawn for the task, with
    probabilities that are a random partition of 1 (Garnet).  To behave optimally an agent has to remember
    an action a state, ``n_states`` x log2(``n_actions``) bits at most (fewer where good behaviour keeps to
    some states): 32 bits for 16 states and 4 actions; 256 for 128.

    **Observation** the state.

    **Action** one of ``n_actions``; what they do differs from state to state.

    **Reward** ``sparse``: 1 for every step that ends in the task's rewarded state, which an episode can
    reach, else 0.  ``dense``: a whole number from 0 to 4, drawn for each state and action of the task.

    **Start** state 0.  **Termination** never.  **Truncation** after ``horizon`` steps (20).

    **Optimum** the expectation by value iteration over the steps of an episode, which a lucky one exceeds.

    **Task id** 0 to 2**53 - 1: the process is drawn from the id (:mod:`cad.envs.noise`).
    """

    gymnasium_id = "cad/RandomMDP-v0"
    config_class = RandomMDPConfig
    is_random = True
    scripted_learners: ClassVar = {"posterior_sampling": PosteriorSampling, "q_learning": QLearning}
    reference_learners = ("posterior_sampling", "q_learning")

    @property
    def spaces(self) -> Spaces:
        """See :attr:`TaskFamily.spaces`."""
        config = self.config
        n_rewards = _LEVELS if config.rewards == "dense" else 2
        return Spaces(("state",), (config.n_states,), config.n_actions, n_rewards)

    @property
    def bits_to_remember(self) -> float:
        """An action a state."""
        return self.config.n_states * math.log2(self.config.n_actions)

    @property
    def start(self) -> tuple[int, ...]:
        """See :attr:`TaskFamily.start`."""
        return (0,)

    def goal(self, task_id: int) -> tuple[int, ...]:
        """The id: all else is drawn from it."""
        self._check_id(task_id)
        return (task_id,)

    def goals(self, task_ids: npt.ArrayLike) -> IntArray:
        """(n, 1 + S x A x 3b): the id, and of each state and action what follows, cut points and rewards."""
        import numpy as np

        ids, inverse = np.unique(np.asarray(task_ids, dtype=np.int64).ravel(), return_inverse=True)
        rows = []
        for task in ids:
            self._check_id(int(task))
            process = random_process(self.config, int(task))
            cuts = process.shares.cumsum(axis=2)
            table = np.concatenate([process.after, cuts, process.rewards], axis=2)
            rows.append(np.concatenate([[task], table.ravel()]))
        return np.array(rows)[inverse.ravel()]

    def optimal_return(self, task_id: int) -> float:
        """See :meth:`TaskFamily.optimal_return`."""
        self._check_id(task_id)
        return float(solve(self.config, task_id).values[0, 0])

    def describe(self, task_id: int) -> str:
        """See :meth:`TaskFamily.describe`."""
        return f"process {task_id}"

    def short_name(self, task_id: int) -> str:
        """See :meth:`TaskFamily.short_name`."""
        return f"task {task_id}"

    def optimal_actions(
        self, goals: IntArray, states: IntArray, hidden: IntArray, steps_left: int | IntArray
    ) -> IntArray:
        """See :meth:`TaskFamily.optimal_actions`: those of :func:`solve`."""
        import numpy as np

        ids, inverse = np.unique(goals[:, 0], return_inverse=True)
        step = self.horizon - steps_left
        plans = np.stack([solve(self.config, int(task)).actions[step] for task in ids])
        best: IntArray = plans[inverse.ravel(), states[:, 0]]
        return best

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

        assert noise is not None
        b, rows = self.config.branching, np.arange(len(actions))
        first, cuts = self._branches(goals, states, actions)
        branch = first + (cuts <= noise[:, None] * _SHARES).sum(axis=1)
        return goals[rows, branch][:, None], goals[rows, branch + 2 * b].astype("float32"), hidden

    def noise_cuts(
        self, goals: IntArray, states: IntArray, hidden: IntArray, actions: IntArray
    ) -> NoiseArray:
        """See :meth:`TaskFamily.noise_cuts`: where one branch's share ends."""
        from cad.envs.noise import smallest_reaching

        return smallest_reaching(self._branches(goals, states, actions)[1], _SHARES)

    def _branches(self, goals: IntArray, states: IntArray, actions: IntArray) -> tuple[IntArray, IntArray]:
        """Where in ``goals`` what follows begins (n,), and the cut points (n, branching - 1)."""
        import numpy as np

        b, rows = self.config.branching, np.arange(len(actions))
        first = 1 + (states[:, 0] * self.config.n_actions + actions) * 3 * b
        return first, goals[rows[:, None], first[:, None] + np.arange(b, 2 * b - 1)]
